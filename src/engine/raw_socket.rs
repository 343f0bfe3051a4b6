//! A socket that no event loop has yet, as it comes from the system or from another shard's thread.

use std::io;
use std::os::fd::OwnedFd;

#[cfg(feature = "sim")]
use crate::sim;

/// A connected or listening socket that no event loop has yet. It may be sent to another thread.
#[derive(Debug)]
pub enum RawSocket {
    /// A socket of the system.
    Os(socket2::Socket),
    /// A socket of a simulated kernel.
    #[cfg(feature = "sim")]
    Sim(sim::kernel::Descriptor),
}

impl RawSocket {
    /// Returns another descriptor of the same listening socket.
    ///
    /// # Errors
    /// There is no free descriptor.
    pub fn try_clone(&self) -> io::Result<RawSocket> {
        Ok(match self {
            RawSocket::Os(socket) => RawSocket::Os(socket.try_clone()?),
            #[cfg(feature = "sim")]
            RawSocket::Sim(descriptor) => RawSocket::Sim(descriptor.try_clone()?),
        })
    }

    /// Makes accepts return immediately if there is no connection.
    ///
    /// # Errors
    /// The system's.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            RawSocket::Os(socket) => socket.set_nonblocking(true),
            #[cfg(feature = "sim")]
            RawSocket::Sim(_) => Ok(()),
        }
    }

    /// Returns the system's socket.
    ///
    /// # Panics
    /// The socket is simulated.
    pub fn os(&self) -> &socket2::Socket {
        match self {
            RawSocket::Os(socket) => socket,
            #[cfg(feature = "sim")]
            RawSocket::Sim(_) => panic!("a simulated socket has no descriptor of the system"),
        }
    }
}

impl From<OwnedFd> for RawSocket {
    fn from(descriptor: OwnedFd) -> Self {
        RawSocket::Os(descriptor.into())
    }
}

impl From<socket2::Socket> for RawSocket {
    fn from(socket: socket2::Socket) -> Self {
        RawSocket::Os(socket)
    }
}

/// A descriptor that is held in reserve.
#[derive(Debug)]
pub enum HeldDescriptor {
    /// A descriptor of the system.
    Os(OwnedFd),
    /// A descriptor of a simulated process.
    #[cfg(feature = "sim")]
    Sim(sim::kernel::Held),
}
