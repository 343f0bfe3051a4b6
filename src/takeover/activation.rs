//! Sockets from a supervisor, as systemd passes them: `LISTEN_FDS` descriptors from 3 on, for the process that
//! `LISTEN_PID` names. The server listens on all of them, whatever `LISTEN_FDNAMES` calls them.
//!
//! Owns the check of these descriptors. It must not know what they serve. Invariant: a descriptor that this process has
//! opened itself is never taken.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_protocol, socket_type};
use rustix::net::{AddressFamily, SocketType, ipproto};

use crate::host::remove_variables;

/// The reason why a supervisor's sockets can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// The variable is not a number.
    #[error("LISTEN_FDS is {asked:?}, but should be the number of passed sockets. Check what starts this process")]
    Count {
        /// The variable's value.
        asked: String,
    },
    /// A descriptor is not a listening TCP socket.
    #[error(
        "descriptor {number} of LISTEN_FDS is {what}, but should be a listening TCP socket: in systemd's .socket unit, \
         use ListenStream= with a port, and Accept=no"
    )]
    Unfit {
        /// The descriptor.
        number: RawFd,
        /// A description of what the descriptor is.
        what: String,
    },
}

/// Returns the sockets that a supervisor has passed. Removes its variables, so that no child process takes them for its
/// own; for that, call this before there is a second thread. A second call returns no sockets, or an error.
///
/// # Errors
/// One of the descriptors is not a listening TCP socket, or this process has opened it itself.
pub fn take() -> Result<Vec<OwnedFd>, ActivationError> {
    let [count, process] = ["LISTEN_FDS", "LISTEN_PID"].map(|name| env::var(name).ok());
    remove_variables(&["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"]);
    let Some(asked) = count.filter(|_| process.is_some_and(|id| id == std::process::id().to_string())) else {
        return Ok(Vec::new());
    };
    let count = asked.parse::<u16>().map_err(|_| ActivationError::Count { asked })?;
    (FIRST..FIRST + RawFd::from(count)).map(take_one).collect()
}

fn take_one(number: RawFd) -> Result<OwnedFd, ActivationError> {
    let unfit = |what: String| ActivationError::Unfit { number, what };
    // SAFETY: the number is borrowed only for this call, which fails if no such descriptor is open.
    #[allow(unsafe_code)]
    let flags = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).map_err(|_| unfit("not open".into()))?;
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(unfit("a file that this process has opened itself".into()));
    }
    // SAFETY: the descriptor is open and nothing else owns it. It was passed to this process at its start, because
    // everything that this process opens has CLOEXEC, which is set below, so it is taken only once.
    #[allow(unsafe_code)]
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(|error| unfit(error.to_string()))?;
    check(&socket).map_err(|error| unfit(error.to_string()))?;
    Ok(socket)
}

/// Checks that a descriptor is a listening TCP socket. The error says what it is instead.
fn check(socket: &OwnedFd) -> io::Result<()> {
    let kind = socket_type(socket).map_err(|_| io::Error::other("not a socket"))?;
    if !matches!(socket_domain(socket)?, AddressFamily::INET | AddressFamily::INET6) {
        return Err(io::Error::other("a socket of another family"));
    }
    if kind != SocketType::STREAM || socket_protocol(socket)?.is_some_and(|protocol| protocol != ipproto::TCP) {
        return Err(io::Error::other("a socket of another protocol"));
    }
    if !socket_acceptconn(socket)? {
        let address = socket2::SockRef::from(socket).local_addr()?.as_socket();
        let address = address.map_or_else(String::new, |address: SocketAddr| format!(" on {address}"));
        return Err(io::Error::other(format!("a TCP socket{address} that does not listen")));
    }
    Ok(())
}

/// The first descriptor that a supervisor passes.
const FIRST: RawFd = 3;
