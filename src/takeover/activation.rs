//! Sockets from a supervisor, as systemd hands them over: `LISTEN_FDS` of them from descriptor 3 on, for
//! the process that `LISTEN_PID` names. `LISTEN_FDNAMES` is not looked at: all are listened on.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_protocol, socket_type};
use rustix::net::{AddressFamily, SocketType, ipproto};

/// What is wrong with a supervisor's sockets.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    #[error("LISTEN_FDS is {asked:?}: it should be how many sockets are handed over. Look at who starts this process")]
    Count { asked: String },
    #[error(
        "descriptor {number} of LISTEN_FDS is {what}, but should be a TCP socket that listens: in systemd's .socket \
         unit, ListenStream= with a port, and Accept=no"
    )]
    Unfit { number: RawFd, what: String },
}

/// The sockets that a supervisor has handed over, if it has. Its variables are removed, so that no
/// child takes them for its own. To be called once, first of all: before any thread is started or any
/// file opened.
///
/// # Errors
/// One of them is not a TCP socket that listens.
pub fn take() -> Result<Vec<OwnedFd>, ActivationError> {
    let [count, process] = ["LISTEN_FDS", "LISTEN_PID"].map(|name| env::var(name).ok());
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        if env::var_os(name).is_some() {
            // SAFETY: nobody else reads or writes the environment: the process has one thread so far.
            #[allow(unsafe_code)]
            unsafe {
                env::remove_var(name);
            }
        }
    }
    let Some(asked) = count.filter(|_| process.is_some_and(|id| id == std::process::id().to_string())) else {
        return Ok(Vec::new());
    };
    let count = asked.parse::<u16>().map_err(|_| ActivationError::Count { asked })?;
    (FIRST..FIRST + RawFd::from(count)).map(take_one).collect()
}

fn take_one(number: RawFd) -> Result<OwnedFd, ActivationError> {
    let unfit = |what: String| ActivationError::Unfit { number, what };
    // SAFETY: the number is borrowed for this call alone, which fails where no such descriptor is open.
    #[allow(unsafe_code)]
    let open = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) });
    open.map_err(|_| unfit("not open".into()))?;
    // SAFETY: it is open, and it is nobody else's: it was open at the start of this process, whose
    // supervisor says that it is for this.
    #[allow(unsafe_code)]
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    what_is_wrong(&socket).map_err(|error| unfit(error.to_string()))?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(|error| unfit(error.to_string()))?;
    Ok(socket)
}

fn what_is_wrong(socket: &OwnedFd) -> io::Result<()> {
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

/// The first descriptor that is handed over.
const FIRST: RawFd = 3;
