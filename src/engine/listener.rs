//! Listeners: accepts in flight, and the way to end them without losing a connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use socket2::SockRef;

use super::Engine;
use super::socket::Descriptor;
use crate::ring::{self, AddressStorage};

/// A listening socket. Dropping it closes it, and resets what is still queued:
/// [`Listener::stop`] first.
pub struct Listener(Rc<Inner>);

struct Inner {
    engine: Engine,
    descriptor: Descriptor,
}

impl AsFd for Inner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Listener {
    /// Takes over a listening socket in blocking mode.
    ///
    /// # Errors
    /// The engine can't take it.
    ///
    /// # Panics
    /// With [`Engine::Epoll`], outside of its runtime.
    pub fn new(engine: Engine, socket: socket2::Socket) -> io::Result<Self> {
        socket.set_nonblocking(engine == Engine::Epoll)?;
        Ok(Listener(Rc::new(Inner { engine, descriptor: Descriptor::new(engine, socket.into())? })))
    }

    /// So many accepts to keep in flight. Where the engine accepts only what is there already, one does.
    pub fn acceptors(&self, count: u32) -> impl Iterator<Item = Acceptor> {
        let count = if self.0.engine == Engine::Uring { count } else { 1 };
        (0..count).map(|_| Acceptor { listener: self.0.clone(), address: Some(AddressStorage::new()) })
    }

    /// Ends every accept in flight; each gives `ECANCELED`, or the connection that came first.
    pub async fn cancel_accepts(&self) {
        match &self.0.descriptor {
            Descriptor::Uring(_) => ring::cancel_all(self.0.clone()).await,
            Descriptor::Epoll(readiness) => readiness.cancel(),
        }
    }

    /// Accepts what is queued at this moment, and closes the listener. To be called once the
    /// acceptors have ended; a connection that was queued would be reset by a bare close.
    ///
    /// # Errors
    /// What ended it other than an empty queue. The connections before it are in `accepted`.
    pub fn stop(self, accepted: &mut Vec<(OwnedFd, SocketAddr)>) -> io::Result<()> {
        let socket = SockRef::from(&*self.0);
        socket.set_nonblocking(true)?;
        loop {
            match socket.accept() {
                Ok((connection, address)) => {
                    let peer = address.as_socket().expect("a TCP peer has an IP address");
                    accepted.push((connection.into(), canonical(peer)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// One accept in flight.
pub struct Acceptor {
    listener: Rc<Inner>,
    /// What a ring writes the peer's address to.
    address: Option<Box<AddressStorage>>,
}

impl Acceptor {
    /// Waits for a connection, which may become a [`Socket`](super::Socket) of any shard. Not cancel-safe: a
    /// dropped accept swallows a connection. To end it, [`Listener::cancel_accepts`].
    ///
    /// # Errors
    /// The kernel's; `ECANCELED` when it was cancelled.
    ///
    /// # Panics
    /// If a call before it was dropped.
    pub async fn accept(&mut self) -> io::Result<(OwnedFd, SocketAddr)> {
        let (descriptor, peer) = match &self.listener.descriptor {
            Descriptor::Uring(_) => {
                let address = self.address.take().expect("an accept in flight is awaited");
                let (result, address) = ring::accept(self.listener.clone(), address).await;
                self.address = Some(address);
                result?
            }
            Descriptor::Epoll(readiness) => readiness.accept().await?,
        };
        Ok((descriptor, canonical(peer)))
    }
}

/// An IPv4 peer of a dual-stack listener is shown as what it is.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
