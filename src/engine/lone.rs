//! A ring's socket, and what it does while nobody else is busy.
//!
//! What a ring saves it saves for batches. Where one connection has one request on its way, each receive has to
//! be armed, its completion interrupts the thread's sleep, and the thread sleeps again until it is told of
//! the completion: a tenth of a request's CPU. So a socket whose sends have long been alone in their turns
//! is watched by the runtime's epoll, and received from when there is something; until a send has company.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::epoll::Readiness;
use crate::ring::turn;

/// Sends in a row that were alone before the socket is watched: to begin and to end that are two calls.
const ALONE_MIN: u8 = 64;

/// A ring's socket.
pub struct RingSocket {
    descriptor: Rc<OwnedFd>,
    /// Exists for as long as the socket is watched, and until the receive that waits with it has returned: that
    /// receive can be cancelled only through it.
    watched: RefCell<Option<Rc<Readiness<Watched>>>>,
    /// Sends in a row that were alone.
    alone: Cell<u8>,
}

/// The descriptor of a [`RingSocket`], which stays open while epoll knows it.
pub struct Watched(Rc<OwnedFd>);

impl RingSocket {
    pub fn new(descriptor: OwnedFd) -> Self {
        RingSocket { descriptor: Rc::new(descriptor), watched: RefCell::default(), alone: Cell::new(0) }
    }

    /// Sends at once what can be sent, if this send is alone, and says how much that was.
    ///
    /// # Errors
    /// The socket's. They must not be passed over: the kernel tells each only once.
    #[inline]
    pub fn send_alone(&self, bytes: &[u8]) -> io::Result<usize> {
        if !turn::sends_alone() {
            if self.alone.replace(0) >= ALONE_MIN {
                // A receive that is waiting with it holds a reference, and continues.
                self.watched.borrow_mut().take_if(|watched| Rc::strong_count(watched) == 1);
            }
            return Ok(0);
        }
        self.alone.set(self.alone.get().saturating_add(1));
        let sent = send(&*self.descriptor, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        turn::time_passed();
        match sent {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            sent => Ok(sent?),
        }
    }

    /// Returns what the next receive should wait with, or `None` if it should wait with the ring. Call this only
    /// while no receive is waiting.
    #[inline]
    pub fn watched(&self) -> Option<Rc<Readiness<Watched>>> {
        let mut watched = self.watched.borrow_mut();
        if self.alone.get() < ALONE_MIN {
            // It was kept for the last receive, during which a send shared an event-loop iteration with other work.
            watched.take();
            return None;
        }
        if watched.is_none() {
            let descriptor = Watched(self.descriptor.clone());
            // SAFETY: an Rc of an OwnedFd names one open descriptor for as long as the Rc lives.
            *watched = unsafe { Readiness::register(descriptor) }.ok().map(Rc::new);
        }
        watched.clone()
    }

    /// Ends a receive that waits for epoll.
    pub fn cancel(&self) {
        if let Some(watched) = &*self.watched.borrow() {
            watched.cancel();
        }
    }
}

impl AsFd for RingSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::pin::pin;
    use std::time::Duration;

    use super::*;
    use crate::engine::{Engine, Runtime, Socket};

    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (Socket::new(Engine::Uring, listener.accept().unwrap().0.into()).unwrap(), peer)
    }

    /// Receives what the peer sends, and sends it back.
    async fn echo(socket: &Socket, peer: &mut TcpStream, number: u32) {
        peer.write_all(&number.to_be_bytes()).unwrap();
        let (result, bytes) = socket.receive(Vec::with_capacity(16)).await;
        assert_eq!((result.unwrap(), &bytes[..]), (4, &number.to_be_bytes()[..]));
        socket.send_all(bytes).await.0.unwrap();
        let mut back = [0; 4];
        peer.read_exact(&mut back).unwrap();
        assert_eq!(u32::from_be_bytes(back), number);
        crate::ring::round_trip().await;
    }

    fn is_watched(socket: &Socket) -> bool {
        socket.ring_socket().is_some_and(|socket| socket.watched.borrow().is_some())
    }

    #[test]
    fn a_socket_is_watched_while_it_is_alone_and_nothing_is_lost_on_the_way() {
        Runtime::new(Engine::Uring, 8).unwrap().block_on(async {
            let ((socket, mut peer), (other, mut other_peer)) = (pair(), pair());
            for round in 0..5 {
                let begun = round * 1000;
                for number in begun..begun + u32::from(ALONE_MIN) {
                    assert!(!is_watched(&socket), "not yet");
                    echo(&socket, &mut peer, number).await;
                }
                for number in 500..510 {
                    echo(&socket, &mut peer, number).await;
                    assert!(is_watched(&socket));
                }
                // The second of a turn has company.
                peer.write_all(b"some").unwrap();
                other_peer.write_all(b"some").unwrap();
                let (_, bytes) = socket.receive(Vec::with_capacity(16)).await;
                let (_, others) = other.receive(Vec::with_capacity(16)).await;
                crate::ring::round_trip().await;
                let (sent, others) = tokio::join!(other.send_all(others), socket.send_all(bytes));
                sent.0.unwrap();
                others.0.unwrap();
                let mut back = [0; 4];
                peer.read_exact(&mut back).unwrap();
                other_peer.read_exact(&mut back).unwrap();
                assert!(!is_watched(&socket), "no more");
                crate::ring::round_trip().await;
                crate::ring::round_trip().await;
            }
        });
    }

    /// A send that found the socket's error and passed it over would leave the next one with EPIPE.
    #[test]
    fn a_send_that_is_alone_tells_why_it_failed() {
        Runtime::new(Engine::Uring, 8).unwrap().block_on(async {
            let (socket, peer) = pair();
            socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            let error = socket.send_all(b"to nobody".to_vec()).await.0.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
    }

    #[test]
    fn a_receive_of_a_watched_socket_is_cancelled_like_any_other() {
        Runtime::new(Engine::Uring, 8).unwrap().block_on(async {
            let (socket, mut peer) = pair();
            for number in 0..=u32::from(ALONE_MIN) {
                echo(&socket, &mut peer, number).await;
            }
            assert!(is_watched(&socket));
            let mut receive = pin!(socket.receive(Vec::with_capacity(16)));
            assert!(tokio::time::timeout(Duration::from_millis(10), &mut receive).await.is_err());
            socket.handle().cancel_receive().await;
            assert_eq!(receive.await.0.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
            echo(&socket, &mut peer, 7).await;
            drop(peer);
            assert_eq!(socket.receive(Vec::with_capacity(16)).await.0.unwrap(), 0);
        });
    }

    /// A drain and every timeout end a receive this way, no matter what the socket has sent since the receive began.
    #[test]
    fn a_receive_is_cancelled_also_after_a_send_that_had_company() {
        Runtime::new(Engine::Uring, 8).unwrap().block_on(async {
            let ((socket, mut peer), (other, mut other_peer)) = (pair(), pair());
            for number in 0..=u32::from(ALONE_MIN) {
                echo(&socket, &mut peer, number).await;
            }
            assert!(is_watched(&socket));
            for cancel in ["by its handle", "by its task"] {
                let mut receive = pin!(socket.receive(Vec::with_capacity(16)));
                assert!(tokio::time::timeout(Duration::from_millis(10), &mut receive).await.is_err());
                let (others, sent) = (other.send_all(b"some".to_vec()), socket.send_all(b"some".to_vec()));
                let (others, sent) = tokio::join!(others, sent);
                others.0.unwrap();
                sent.0.unwrap();
                match cancel {
                    "by its handle" => socket.handle().cancel_receive().await,
                    _ => socket.cancel().await,
                }
                let ended = tokio::time::timeout(Duration::from_secs(5), &mut receive).await;
                let (result, _) = ended.unwrap_or_else(|_| panic!("a receive that was cancelled {cancel} continues"));
                assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
                for peer in [&mut peer, &mut other_peer] {
                    peer.read_exact(&mut [0; 4]).unwrap();
                }
                // The next round needs the socket to be watched again.
                for number in 0..=u32::from(ALONE_MIN) {
                    echo(&socket, &mut peer, number).await;
                }
                assert!(is_watched(&socket));
            }
        });
    }
}
