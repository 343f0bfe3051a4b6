//! From a name to a connected socket, and what to tell the user where that fails.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, ToSocketAddrs, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::invalid_option::InvalidOption;
use crate::outbound;

/// Why there is no connection. Each says what was asked, what came back, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host is there and nothing listens on the port.
    #[error("could not connect to {addr}: {attempts}: start the server there, or check the host and the port")]
    Refused { addr: String, attempts: Attempts },
    /// There is no way to the host.
    #[error("could not connect to {addr}: {attempts}: check the address, the network and its routes")]
    Unreachable { addr: String, attempts: Attempts },
    /// Every local port is already in use for connections to the server.
    #[error(
        "could not connect to {addr}: {attempts}: close connections that are no longer needed, wait a minute, or widen \
         net.ipv4.ip_local_port_range"
    )]
    NoLocalPort { addr: String, attempts: Attempts },
    /// Nothing came back in time: the host is off or filtered, or the server's backlog is full.
    #[error(
        "could not connect to {addr} within {timeout:?}: {attempts}: is the host up, does a firewall drop this, is \
         the server overloaded? A longer connect timeout may help"
    )]
    TimedOut { addr: String, timeout: Duration, attempts: Attempts },
    /// The name could not be turned into an address.
    #[error("could not look up {addr}: {error}: write HOST:PORT, and check that the host's name is known")]
    Resolve { addr: String, error: io::Error },
    /// Anything else that the kernel reported.
    #[error("could not connect to {addr}: {attempts}: see to what the system reports, then try again")]
    Other { addr: String, attempts: Attempts },
    /// The kernel refused the keepalive.
    #[error("could not set the connection's keepalive: {0}: set the keepalive to 0 to connect without one")]
    Keepalive(#[source] io::Error),
    /// An option can't be.
    #[error(transparent)]
    Options(#[from] InvalidOption),
}

/// What came back from each address that was tried.
#[derive(Debug)]
pub struct Attempts(pub Vec<(SocketAddr, io::Error)>);

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "the host's name was not looked up in time");
        }
        for (index, (addr, error)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{addr} says: {error}")?;
        }
        Ok(())
    }
}

/// Connects to the first of the name's addresses that answers. A `timeout` of zero is none.
pub(super) async fn connect(
    addr: impl ToSocketAddrs + fmt::Display,
    timeout: Duration,
) -> Result<TcpStream, ConnectError> {
    let name = addr.to_string();
    let deadline = if timeout.is_zero() { None } else { Instant::now().checked_add(timeout) };
    let addresses: Vec<SocketAddr> = match until(deadline, lookup_host(addr)).await {
        Some(Ok(addresses)) => addresses.collect(),
        Some(Err(error)) => return Err(ConnectError::Resolve { addr: name, error }),
        None => return Err(ConnectError::TimedOut { addr: name, timeout, attempts: Attempts(Vec::new()) }),
    };
    if addresses.is_empty() {
        let error = io::Error::new(io::ErrorKind::NotFound, "it has no address");
        return Err(ConnectError::Resolve { addr: name, error });
    }
    try_each(&addresses, deadline).await.map_err(|attempts| judge(name, timeout, attempts))
}

async fn try_each(addresses: &[SocketAddr], deadline: Option<Instant>) -> Result<TcpStream, Attempts> {
    let mut attempts = Attempts(Vec::new());
    for (index, address) in addresses.iter().enumerate() {
        // An equal share of what is left, so that one silent address leaves time for the next.
        let left = (addresses.len() - index) as u32;
        let share = deadline.map(|at| Instant::now() + at.saturating_duration_since(Instant::now()) / left);
        match until(share, TcpStream::connect(address)).await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => attempts.0.push((*address, outbound::explain(*address, error))),
            None => attempts.0.push((*address, io::Error::new(io::ErrorKind::TimedOut, "nothing in time"))),
        }
    }
    Err(attempts)
}

/// Where several addresses failed in several ways, the failure that got furthest names the error.
fn judge(addr: String, timeout: Duration, attempts: Attempts) -> ConnectError {
    use io::ErrorKind::{
        AddrInUse, AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    let any = |kinds: &[io::ErrorKind]| attempts.0.iter().any(|(_, error)| kinds.contains(&error.kind()));
    if any(&[TimedOut]) {
        ConnectError::TimedOut { addr, timeout, attempts }
    } else if any(&[ConnectionRefused]) {
        ConnectError::Refused { addr, attempts }
    } else if any(&[AddrInUse]) {
        ConnectError::NoLocalPort { addr, attempts }
    } else if any(&[NetworkUnreachable, HostUnreachable, AddrNotAvailable]) {
        ConnectError::Unreachable { addr, attempts }
    } else {
        ConnectError::Other { addr, attempts }
    }
}

async fn until<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(at) => timeout_at(at, future).await.ok(),
        None => Some(future.await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_that_got_furthest_names_the_error() {
        let judged = |kinds: &[io::ErrorKind]| {
            let attempts = kinds.iter().map(|kind| (([127, 0, 0, 1], 1).into(), io::Error::from(*kind))).collect();
            judge("host:1".into(), Duration::from_secs(1), Attempts(attempts))
        };
        use io::ErrorKind::*;
        assert!(matches!(judged(&[ConnectionRefused, TimedOut]), ConnectError::TimedOut { .. }));
        assert!(matches!(judged(&[NetworkUnreachable, ConnectionRefused]), ConnectError::Refused { .. }));
        assert!(matches!(judged(&[AddrNotAvailable, AddrInUse]), ConnectError::NoLocalPort { .. }));
        assert!(matches!(judged(&[HostUnreachable, PermissionDenied]), ConnectError::Unreachable { .. }));
        let other = judged(&[PermissionDenied]);
        assert!(matches!(other, ConnectError::Other { .. }));
        assert!(other.to_string().contains("host:1") && other.to_string().contains("127.0.0.1:1 says"));
    }

    /// Most hosts know `localhost` as `::1` and `127.0.0.1`, and a server may have but one of them.
    #[tokio::test]
    async fn every_address_is_tried() {
        let served = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = served.local_addr().unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let stream = try_each(&[closed, addr], None).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addr);
        let attempts = try_each(&[closed, closed], None).await.unwrap_err();
        assert_eq!(attempts.0.len(), 2);
    }

    /// A backlog that is full answers nothing. The next address still has its share of the time.
    #[tokio::test]
    async fn a_silent_address_does_not_take_all_the_time() {
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        silent.listen(0).unwrap();
        let silent_addr = silent.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&silent_addr, Duration::from_millis(100)) {
            queued.push(stream);
            assert!(queued.len() < 100, "the backlog is never full");
        }
        let served = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = served.local_addr().unwrap();
        let deadline = Instant::now() + Duration::from_millis(400);
        let stream = try_each(&[silent_addr, addr], Some(deadline)).await.unwrap();
        assert!(Instant::now() < deadline);
        assert_eq!(stream.peer_addr().unwrap(), addr);
    }
}
