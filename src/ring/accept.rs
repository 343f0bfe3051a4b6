//! Listeners on the ring: accepts in flight, and the way to end them without losing a connection.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::{opcode, squeue, types};
use socket2::{SockAddr, SockAddrStorage, SockRef};

use super::{Socket, submit};

/// A listening socket in blocking mode. Dropping it closes it, and resets what is still queued:
/// [`Listener::stop`] first.
pub struct Listener(Rc<OwnedFd>);

impl Listener {
    /// Takes over a listening socket.
    pub fn new(socket: socket2::Socket) -> Self {
        Listener(Rc::new(socket.into()))
    }

    /// One more accept to keep in flight.
    pub fn acceptor(&self) -> Acceptor {
        Acceptor { listener: self.0.clone(), address: Some(Box::new(AddressStorage::new())) }
    }

    /// Ends every accept in flight; each gives `ECANCELED`, or the connection that came first.
    pub async fn cancel_accepts(&self) {
        let fd = types::Fd(self.0.as_raw_fd());
        // That there was none in flight is no error.
        let _ = submit(self.0.clone(), (), cancel_all(fd)).await;
    }

    /// Accepts what is queued at this moment, and closes the listener. To be called once the
    /// acceptors have ended; a connection that was queued would be reset by a bare close.
    ///
    /// # Errors
    /// What ended it other than an empty queue. The connections before it are in `accepted`.
    pub fn stop(self, accepted: &mut Vec<(Socket, SocketAddr)>) -> io::Result<()> {
        let socket = SockRef::from(&*self.0);
        socket.set_nonblocking(true)?;
        loop {
            match socket.accept() {
                Ok((connection, address)) => {
                    let peer = address.as_socket().expect("a TCP peer has an IP address");
                    accepted.push((Socket::new(connection.into()), canonical(peer)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// One accept in flight, and the memory that the kernel writes the peer's address to.
pub struct Acceptor {
    listener: Rc<OwnedFd>,
    address: Option<Box<AddressStorage>>,
}

struct AddressStorage {
    storage: MaybeUninit<SockAddrStorage>,
    len: libc::socklen_t,
}

impl Acceptor {
    /// Waits for a connection. Not cancel-safe: a dropped accept swallows a connection. To end it,
    /// [`Listener::cancel_accepts`].
    ///
    /// # Errors
    /// The kernel's; `ECANCELED` when it was cancelled.
    ///
    /// # Panics
    /// If a call before it was dropped.
    pub async fn accept(&mut self) -> io::Result<(Socket, SocketAddr)> {
        let mut address = self.address.take().expect("an accept in flight is awaited");
        address.len = size_of::<SockAddrStorage>() as libc::socklen_t;
        let entry = opcode::Accept::new(
            types::Fd(self.listener.as_raw_fd()),
            address.storage.as_mut_ptr().cast(),
            &raw mut address.len,
        )
        .flags(libc::SOCK_CLOEXEC)
        .build();
        let (result, address) = submit(self.listener.clone(), address, entry).await;
        let peer = result.as_ref().ok().map(|_| address.peer());
        self.address = Some(address);
        let descriptor = result?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
        Ok((Socket::new(descriptor), peer.expect("an accept that succeeded has a peer")))
    }
}

impl AddressStorage {
    fn new() -> Self {
        AddressStorage { storage: MaybeUninit::zeroed(), len: 0 }
    }

    fn peer(&self) -> SocketAddr {
        // SAFETY: zeroed memory is a valid storage, and an accept has since written `len` bytes of an
        // address to it.
        let address = unsafe { SockAddr::new(self.storage.assume_init_read(), self.len) };
        canonical(address.as_socket().expect("a TCP peer has an IP address"))
    }
}

/// An IPv4 peer of a dual-stack listener is shown as what it is.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// Cancels all that is in flight on a descriptor.
pub(super) fn cancel_all(fd: types::Fd) -> squeue::Entry {
    opcode::AsyncCancel2::new(types::CancelBuilder::fd(fd).all()).build()
}
