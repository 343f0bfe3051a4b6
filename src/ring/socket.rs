//! A ring's socket, and how it avoids the ring while its connection is the only busy one.
//!
//! A ring saves system calls by batches. If one connection has one request in flight, there is no batch: each receive
//! must be submitted, its completion interrupts the thread's sleep, and the thread sleeps again until it is woken for
//! the completion. That costs a tenth of a request's CPU. So a send that is the only one of its event-loop iteration is
//! a plain system call, and a socket with many such sends in a row receives with the runtime's epoll, until one of its
//! sends shares an iteration.
//!
//! Owns the descriptor and that decision. It must not know the epoll engine. Invariant: a receive that waits on epoll
//! can always be cancelled, whatever is sent meanwhile.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::event_loop::EventLoop;
use super::ops;
use crate::readiness::Readiness;

/// A ring's socket.
pub struct RingSocket {
    descriptor: Rc<OwnedFd>,
    event_loop: EventLoop,
    /// Exists while the socket is registered with epoll: until a send shares an iteration, and until the receive that
    /// waits on epoll has returned, which can be cancelled only through it.
    readiness: RefCell<Option<Rc<Readiness<Rc<OwnedFd>>>>>,
    /// Sends in a row that were the only ones of their iterations.
    only_sends: Cell<u8>,
}

impl RingSocket {
    /// Takes over a socket, for tasks of this event loop.
    pub fn new(event_loop: EventLoop, descriptor: OwnedFd) -> Self {
        RingSocket {
            descriptor: Rc::new(descriptor),
            event_loop,
            readiness: RefCell::default(),
            only_sends: Cell::new(0),
        }
    }

    /// Waits for bytes from the peer and appends them to `buffer`, within its capacity. Returns 0 at the end of the
    /// stream. At most one receive may be in progress.
    #[inline]
    pub async fn receive(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        match self.readiness() {
            Some(readiness) => readiness.receive(buffer).await,
            None => ops::receive(self.descriptor.clone(), buffer).await,
        }
    }

    /// Waits until the socket has something to receive or to accept, or has failed. May be dropped: it holds no data.
    pub async fn readable(&self) -> io::Result<()> {
        ops::readable(self.descriptor.clone()).await
    }

    /// Sends what the socket has room for without the ring, if this is the only send of the event-loop iteration.
    /// Returns how many bytes were sent. [`Self::send`] sends the rest.
    ///
    /// # Errors
    /// The socket's. The caller must not ignore it, because the kernel reports each error only once.
    #[inline]
    pub fn send_if_only(&self, bytes: &[u8]) -> io::Result<usize> {
        if !self.event_loop.is_only_send() {
            if self.only_sends.replace(0) >= ONLY_SENDS_MIN {
                // A receive that waits on epoll holds a reference, and continues.
                self.readiness.borrow_mut().take_if(|readiness| Rc::strong_count(readiness) == 1);
            }
            return Ok(0);
        }
        self.only_sends.set(self.only_sends.get().saturating_add(1));
        let sent = send(&*self.descriptor, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        self.event_loop.forget_time();
        match sent {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            sent => Ok(sent?),
        }
    }

    /// Sends the bytes of `buffer` after the first `from`, or a part of them, through the ring.
    #[inline]
    pub async fn send(&self, buffer: Vec<u8>, from: usize) -> (io::Result<usize>, Vec<u8>) {
        ops::send(self.descriptor.clone(), buffer, from).await
    }

    /// Cancels every op in progress, wherever it waits. The ops end even if the returned future is dropped.
    pub fn cancel(&self) -> impl Future<Output = ()> + use<> {
        if let Some(readiness) = &*self.readiness.borrow() {
            readiness.cancel();
        }
        ops::cancel_all(self.descriptor.clone())
    }

    /// Returns the event loop that the socket belongs to.
    pub fn event_loop(&self) -> &EventLoop {
        &self.event_loop
    }

    /// Returns what the next receive should wait with, or `None` if it should wait with the ring. Call this only while
    /// no receive is waiting.
    #[inline]
    fn readiness(&self) -> Option<Rc<Readiness<Rc<OwnedFd>>>> {
        let mut readiness = self.readiness.borrow_mut();
        if self.only_sends.get() < ONLY_SENDS_MIN {
            // It was kept for the last receive, during which a send shared an event-loop iteration.
            readiness.take();
            return None;
        }
        if readiness.is_none() {
            *readiness = Readiness::of_shared(self.descriptor.clone()).ok().map(Rc::new);
        }
        readiness.clone()
    }
}

impl AsFd for RingSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Sends in a row that must be the only ones of their iterations before the socket is registered with epoll. To
/// register and to deregister it are two system calls.
const ONLY_SENDS_MIN: u8 = 64;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::pin::pin;
    use std::time::Duration;

    use super::*;
    use crate::ring::{Runtime, round_trip};

    /// Runs a test with the event loop of a new runtime.
    fn run<F: Future<Output = ()>>(test: impl FnOnce(EventLoop) -> F) {
        let runtime = Runtime::new(8).unwrap();
        runtime.block_on(test(runtime.event_loop().clone()));
    }

    fn pair(event_loop: &EventLoop) -> (RingSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (RingSocket::new(event_loop.clone(), listener.accept().unwrap().0.into()), peer)
    }

    async fn send_all(socket: &RingSocket, bytes: Vec<u8>) -> io::Result<()> {
        let sent = socket.send_if_only(&bytes)?;
        if sent < bytes.len() {
            assert_eq!(socket.send(bytes.clone(), sent).await.0?, bytes.len() - sent);
        }
        Ok(())
    }

    /// Receives what the peer sends, and sends it back.
    async fn echo(socket: &RingSocket, peer: &mut TcpStream, number: u32) {
        peer.write_all(&number.to_be_bytes()).unwrap();
        let (result, bytes) = socket.receive(Vec::with_capacity(16)).await;
        assert_eq!((result.unwrap(), &bytes[..]), (4, &number.to_be_bytes()[..]));
        send_all(socket, bytes).await.unwrap();
        let mut back = [0; 4];
        peer.read_exact(&mut back).unwrap();
        assert_eq!(u32::from_be_bytes(back), number);
        round_trip().await;
    }

    fn is_on_epoll(socket: &RingSocket) -> bool {
        socket.readiness.borrow().is_some()
    }

    /// Echoes until the socket receives on epoll.
    async fn move_to_epoll(socket: &RingSocket, peer: &mut TcpStream) {
        for number in 0..=u32::from(ONLY_SENDS_MIN) {
            echo(socket, peer, number).await;
        }
        assert!(is_on_epoll(socket));
    }

    #[test]
    fn a_socket_is_on_epoll_while_its_sends_are_the_only_ones_and_loses_no_byte_on_the_way() {
        run(async |event_loop| {
            let ((socket, mut peer), (other, mut other_peer)) = (pair(&event_loop), pair(&event_loop));
            for round in 0..5 {
                let begun = round * 1000;
                for number in begun..begun + u32::from(ONLY_SENDS_MIN) {
                    assert!(!is_on_epoll(&socket), "too early");
                    echo(&socket, &mut peer, number).await;
                }
                for number in 500..510 {
                    echo(&socket, &mut peer, number).await;
                    assert!(is_on_epoll(&socket));
                }
                // The second send of an iteration shares it.
                peer.write_all(b"some").unwrap();
                other_peer.write_all(b"some").unwrap();
                let (_, bytes) = socket.receive(Vec::with_capacity(16)).await;
                let (_, others) = other.receive(Vec::with_capacity(16)).await;
                round_trip().await;
                let (others, sent) = tokio::join!(send_all(&other, others), send_all(&socket, bytes));
                others.unwrap();
                sent.unwrap();
                let mut back = [0; 4];
                peer.read_exact(&mut back).unwrap();
                other_peer.read_exact(&mut back).unwrap();
                assert!(!is_on_epoll(&socket), "it went back to the ring");
                round_trip().await;
                round_trip().await;
            }
        });
    }

    /// A send that ignored the socket's error would leave the next one with EPIPE.
    #[test]
    fn a_send_without_the_ring_reports_why_it_failed() {
        run(async |event_loop| {
            let (socket, peer) = pair(&event_loop);
            socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            let error = send_all(&socket, b"to nobody".to_vec()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
    }

    #[test]
    fn a_receive_on_epoll_is_cancelled_like_any_other() {
        run(async |event_loop| {
            let (socket, mut peer) = pair(&event_loop);
            move_to_epoll(&socket, &mut peer).await;
            let mut receive = pin!(socket.receive(Vec::with_capacity(16)));
            assert!(tokio::time::timeout(Duration::from_millis(10), &mut receive).await.is_err());
            socket.cancel().await;
            assert_eq!(receive.await.0.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
            echo(&socket, &mut peer, 7).await;
            drop(peer);
            assert_eq!(socket.receive(Vec::with_capacity(16)).await.0.unwrap(), 0);
        });
    }

    /// A drain and every timeout end a receive this way, whatever the socket has sent since the receive began.
    #[test]
    fn a_receive_on_epoll_is_cancelled_also_after_a_send_that_shared_an_iteration() {
        run(async |event_loop| {
            let ((socket, mut peer), (other, mut other_peer)) = (pair(&event_loop), pair(&event_loop));
            for _ in 0..2 {
                move_to_epoll(&socket, &mut peer).await;
                let mut receive = pin!(socket.receive(Vec::with_capacity(16)));
                assert!(tokio::time::timeout(Duration::from_millis(10), &mut receive).await.is_err());
                let (others, sent) = (send_all(&other, b"some".to_vec()), send_all(&socket, b"some".to_vec()));
                let (others, sent) = tokio::join!(others, sent);
                others.unwrap();
                sent.unwrap();
                socket.cancel().await;
                let ended = tokio::time::timeout(Duration::from_secs(5), &mut receive).await;
                let (result, _) = ended.expect("the receive was cancelled");
                assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
                for peer in [&mut peer, &mut other_peer] {
                    peer.read_exact(&mut [0; 4]).unwrap();
                }
            }
        });
    }
}
