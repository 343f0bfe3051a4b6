//! A socket's or a listener's descriptor, as its engine needs it, and the calls that each engine makes on it.
//!
//! It hides the engines from [`Socket`](super::Socket) and [`Listener`](super::Listener), and knows nothing of the
//! rules for their use.

use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SocketFlags, acceptfrom_with, recv};
use socket2::SockRef;

use super::event_loop::EventLoop;
use super::raw_socket::RawSocket;
use super::tcp;
use crate::readiness::Readiness;
use crate::ring::RingSocket;
#[cfg(feature = "sim")]
use crate::sim;

/// A descriptor that an event loop uses.
pub enum Descriptor {
    /// A ring's.
    Uring(RingSocket),
    /// One that is registered with epoll.
    Epoll(Readiness),
    /// One of a simulated kernel.
    #[cfg(feature = "sim")]
    Sim(sim::socket::Socket),
}

impl Descriptor {
    /// Prepares a descriptor for the engine of `event_loop`.
    ///
    /// # Errors
    /// epoll can't watch another socket. A ring never fails here.
    pub fn new(event_loop: &EventLoop, socket: RawSocket) -> io::Result<Self> {
        Ok(match (event_loop, socket) {
            (EventLoop::Uring(event_loop), RawSocket::Os(socket)) => {
                Descriptor::Uring(RingSocket::new(event_loop.clone(), socket.into()))
            }
            (EventLoop::Epoll, RawSocket::Os(socket)) => Descriptor::Epoll(Readiness::new(socket.into())?),
            #[cfg(feature = "sim")]
            (EventLoop::Sim(event_loop), RawSocket::Sim(descriptor)) => {
                Descriptor::Sim(sim::socket::Socket::new(*event_loop, descriptor))
            }
            #[cfg(feature = "sim")]
            _ => panic!("a socket of another engine"),
        })
    }

    /// Cancels every op in progress. The ops end even if the returned future is dropped.
    pub fn cancel(&self) -> impl Future<Output = ()> + use<> {
        let op = match self {
            Descriptor::Uring(socket) => Some(socket.cancel()),
            Descriptor::Epoll(readiness) => {
                readiness.cancel();
                None
            }
            #[cfg(feature = "sim")]
            Descriptor::Sim(socket) => {
                socket.cancel();
                None
            }
        };
        async {
            if let Some(op) = op {
                op.await;
            }
        }
    }

    /// Waits until there may be something to receive or to accept.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Descriptor::Uring(socket) => socket.readable().await,
            Descriptor::Epoll(readiness) => readiness.readable().await,
            #[cfg(feature = "sim")]
            Descriptor::Sim(socket) => socket.readable().await,
        }
    }

    /// Waits for bytes and appends them to `buffer`, within its capacity.
    #[inline]
    pub async fn receive(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Descriptor::Uring(socket) => socket.receive(buffer).await,
            Descriptor::Epoll(readiness) => readiness.receive(buffer).await,
            #[cfg(feature = "sim")]
            Descriptor::Sim(socket) => socket.receive(buffer).await,
        }
    }

    /// Receives without waiting.
    pub fn receive_now(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let mut receive = || {
            let received = retry_on_intr(|| recv(self, spare_capacity(buffer), RecvFlags::DONTWAIT));
            received.map(|(count, _)| count).map_err(io::Error::from)
        };
        match self {
            Descriptor::Uring(socket) => {
                socket.event_loop().forget_time();
                receive()
            }
            Descriptor::Epoll(readiness) => readiness.try_read(receive),
            #[cfg(feature = "sim")]
            Descriptor::Sim(socket) => socket.receive_now(buffer),
        }
    }

    /// Sends all of `buffer` if that needs no op. Returns how many bytes were sent.
    #[inline]
    pub fn send_without_op(&self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Descriptor::Uring(socket) => socket.send_if_only(buffer),
            _ => Ok(0),
        }
    }

    /// Sends the bytes of `buffer` from `from` on, or a part of them.
    #[inline]
    pub async fn send(&self, buffer: Vec<u8>, from: usize) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Descriptor::Uring(socket) => socket.send(buffer, from).await,
            Descriptor::Epoll(readiness) => (readiness.send(&buffer[from..]).await, buffer),
            #[cfg(feature = "sim")]
            Descriptor::Sim(socket) => (socket.send(&buffer[from..]).await, buffer),
        }
    }

    /// Accepts a connection that is queued already.
    pub fn accept(&self) -> io::Result<(RawSocket, SocketAddr)> {
        let accept = || retry_on_intr(|| acceptfrom_with(self, SocketFlags::CLOEXEC)).map_err(io::Error::from);
        let (socket, peer) = match self {
            Descriptor::Uring(_) => accept()?,
            Descriptor::Epoll(readiness) => readiness.try_read(accept)?,
            #[cfg(feature = "sim")]
            Descriptor::Sim(socket) => {
                let (socket, peer) = socket.accept()?;
                return Ok((RawSocket::Sim(socket), peer));
            }
        };
        let peer: Option<SocketAddr> = peer.and_then(|peer| peer.try_into().ok());
        Ok((socket.into(), peer.expect("a TCP peer has an IP address")))
    }

    /// Returns the number of bytes that can be read without waiting.
    pub fn readable_bytes(&self) -> io::Result<u64> {
        #[cfg(feature = "sim")]
        if let Descriptor::Sim(socket) = self {
            return Ok(socket.readable_bytes() as u64);
        }
        Ok(rustix::io::ioctl_fionread(self)?)
    }

    /// Returns whether the peer's kernel has not acknowledged all that was sent.
    pub fn has_unacknowledged(&self) -> bool {
        #[cfg(feature = "sim")]
        if let Descriptor::Sim(socket) = self {
            return socket.has_unacknowledged();
        }
        tcp::unacknowledged_bytes(self).is_ok_and(|bytes| bytes > 0)
    }

    /// Returns the bytes that the peer's kernel has acknowledged, if the kernel reports them.
    pub fn bytes_acked(&self) -> Option<u64> {
        #[cfg(feature = "sim")]
        if let Descriptor::Sim(socket) = self {
            return Some(socket.bytes_acked());
        }
        tcp::bytes_acked(self)
    }

    /// Returns the bytes received from the peer, if the kernel reports them.
    pub fn bytes_received(&self) -> Option<u64> {
        #[cfg(feature = "sim")]
        if let Descriptor::Sim(socket) = self {
            return Some(socket.bytes_received());
        }
        tcp::bytes_received(self)
    }

    /// Ends the stream to the peer.
    pub fn shut_down_writes(&self) -> io::Result<()> {
        #[cfg(feature = "sim")]
        if let Descriptor::Sim(socket) = self {
            return socket.shut_down_writes();
        }
        SockRef::from(self).shutdown(Shutdown::Write)
    }

    /// Ends both directions.
    pub fn shut_down(&self) {
        #[cfg(feature = "sim")]
        if let Descriptor::Sim(socket) = self {
            return socket.shut_down();
        }
        // An error means that the peer has closed the connection already, so there is nothing left to end.
        let _ = SockRef::from(self).shutdown(Shutdown::Both);
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Descriptor::Uring(socket) => socket.as_fd(),
            Descriptor::Epoll(readiness) => readiness.as_fd(),
            #[cfg(feature = "sim")]
            Descriptor::Sim(_) => panic!("a simulated socket has no descriptor of the system"),
        }
    }
}
