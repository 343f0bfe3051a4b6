//! Listeners, and how to close them without losing a connection.
//!
//! Both engines wait until there is a connection, and then accept every queued connection. A ring's own ACCEPT costs
//! more: the kernel creates a socket and a file before it looks for a connection, so an ACCEPT that has to wait creates
//! them twice.
//!
//! Owns the listening socket. It must not know shards or admission. Invariant: a connection is accepted, or stays
//! queued until [`Listener::stop`] accepts it.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use super::descriptor::Descriptor;
use super::event_loop::EventLoop;
use super::raw_socket::RawSocket;

/// A listening socket. Dropping it closes it, which resets the connections that are still queued, so call
/// [`Listener::stop`] first.
pub struct Listener(Rc<Inner>);

struct Inner {
    event_loop: EventLoop,
    descriptor: Descriptor,
    /// Whether accepts have been cancelled. A wait that begins later is cancelled too.
    cancelled: Cell<bool>,
}

impl Listener {
    /// Takes over a listening socket.
    ///
    /// # Errors
    /// The engine can't watch another socket.
    ///
    /// # Panics
    /// With an event loop of epoll, outside of its runtime.
    pub fn new(event_loop: &EventLoop, socket: RawSocket) -> io::Result<Self> {
        socket.set_nonblocking()?;
        Ok(Listener(Rc::new(Inner {
            event_loop: event_loop.clone(),
            descriptor: Descriptor::new(event_loop, socket)?,
            cancelled: Cell::new(false),
        })))
    }

    /// Returns an acceptor that accepts at most `in_a_row` connections before it lets the thread's other tasks run.
    pub fn acceptor(&self, in_a_row: u32) -> Acceptor {
        Acceptor { listener: self.0.clone(), in_a_row, left: in_a_row }
    }

    /// Cancels the acceptor's wait with `ECANCELED`, either now or the next time that it would wait: the acceptor may
    /// be yielding to other tasks at this moment, and then has no wait to cancel.
    pub async fn cancel_accepts(&self) {
        self.0.cancelled.set(true);
        self.0.descriptor.cancel().await;
    }

    /// Accepts every connection that is queued at this moment, and closes the listener. Call it after the acceptor has
    /// ended. Closing alone would reset queued connections.
    ///
    /// # Errors
    /// The accept that failed for another reason than an empty queue. The connections before it are in `accepted`.
    pub fn stop(self, accepted: &mut Vec<(RawSocket, SocketAddr)>) -> io::Result<()> {
        loop {
            match self.0.accept_now() {
                Ok(connection) => accepted.push(connection),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Accepts connections one by one.
pub struct Acceptor {
    listener: Rc<Inner>,
    in_a_row: u32,
    /// How many connections may still be accepted before other tasks run.
    left: u32,
}

impl Acceptor {
    /// Waits for a connection, which may become a [`Socket`](super::Socket) of any shard.
    /// [`Listener::cancel_accepts`] ends the wait. Cancel-safe.
    ///
    /// # Errors
    /// The kernel's; `ECANCELED` after [`Listener::cancel_accepts`].
    pub async fn accept(&mut self) -> io::Result<(RawSocket, SocketAddr)> {
        loop {
            if self.left == 0 {
                self.listener.event_loop.round_trip().await;
                self.left = self.in_a_row;
            }
            match self.listener.accept_now() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.listener.connectable().await?;
                    self.left = self.in_a_row;
                }
                result => {
                    self.left -= 1;
                    return result;
                }
            }
        }
    }
}

impl Inner {
    /// Accepts a connection that is queued already.
    fn accept_now(&self) -> io::Result<(RawSocket, SocketAddr)> {
        let (socket, peer) = self.descriptor.accept()?;
        Ok((socket, canonical(peer)))
    }

    /// Waits until there may be a connection.
    async fn connectable(&self) -> io::Result<()> {
        if self.cancelled.get() {
            return Err(io::Error::from_raw_os_error(libc::ECANCELED));
        }
        self.descriptor.readable().await
    }
}

/// Returns the IPv4 address of an IPv4 peer of a dual-stack listener.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;
    use crate::engine::{Engine, Runtime};

    fn listener(event_loop: &EventLoop) -> (Listener, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (Listener::new(event_loop, socket2::Socket::from(listener).into()).unwrap(), address)
    }

    /// A drain cancels accepts only once. An acceptor that is letting other tasks run at that moment has no wait to
    /// cancel, and begins one afterwards.
    #[test]
    fn an_acceptor_ends_also_if_it_was_not_waiting_when_it_was_cancelled() {
        for engine in [Engine::Uring, Engine::Epoll] {
            let runtime = Runtime::new(engine, 8).unwrap();
            runtime.block_on(async {
                let (listener, address) = listener(&runtime.event_loop());
                let mut acceptor = listener.acceptor(1);
                let _client = TcpStream::connect(address).unwrap();
                acceptor.accept().await.unwrap();
                {
                    // The acceptor yields now, because it has accepted as many connections in a row as it may.
                    let mut accept = pin!(acceptor.accept());
                    assert!(matches!(accept.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
                    listener.cancel_accepts().await;
                    let ended = tokio::time::timeout(Duration::from_secs(5), accept).await;
                    let error =
                        ended.unwrap_or_else(|_| panic!("the acceptor still waits on {}", engine.name())).unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
                }
                let _queued = TcpStream::connect(address).unwrap();
                let mut accepted = Vec::new();
                listener.stop(&mut accepted).unwrap();
                assert_eq!(accepted.len(), 1, "queued connections are left to `stop`");
            });
        }
    }
}
