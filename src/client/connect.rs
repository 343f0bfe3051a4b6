//! Connects to one of a name's addresses, makes the handshake of TLS, and explains the error if either fails.
//!
//! This module owns the lookup, the time for each address, and [`ConnectError`]. It does not know what is sent on the
//! connection. Invariant: no address uses up the time of those after it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpStream, ToSocketAddrs, lookup_host};
use tokio::time::{Instant, timeout_at};
#[cfg(feature = "client-tls")]
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::options::Options;
use crate::invalid_option::InvalidOption;
use crate::outbound;
#[cfg(feature = "client-tls")]
use crate::tls::client::{Tls, TlsError, TlsOptionsError};

/// The reason why [`Client::connect`](super::Client::connect) failed, with what was tried and how to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The host is up, but nothing listens on the port.
    #[error("could not connect to {addr}: {attempts}: start the server there, or check the host and the port")]
    Refused {
        /// The address that was asked for.
        addr: String,
        /// The error of each address that was tried.
        attempts: Attempts,
    },
    /// There is no route to the host.
    #[error("could not connect to {addr}: {attempts}: check the address, the network and its routes")]
    Unreachable {
        /// The address that was asked for.
        addr: String,
        /// The error of each address that was tried.
        attempts: Attempts,
    },
    /// Every local port is already in use for connections to the server.
    #[error(
        "could not connect to {addr}: {attempts}: close connections that are no longer needed, wait a minute, or widen \
         net.ipv4.ip_local_port_range"
    )]
    NoLocalPort {
        /// The address that was asked for.
        addr: String,
        /// The error of each address that was tried.
        attempts: Attempts,
    },
    /// No answer arrived in time: the host is off, a firewall drops the packets, or the server's backlog is full.
    #[error(
        "could not connect to {addr} within {timeout:?}: {attempts}: check that the host is up, that no firewall drops \
         the connection, and that the server is not overloaded; a longer connect timeout may help"
    )]
    TimedOut {
        /// The address that was asked for.
        addr: String,
        /// The limit on the time to connect.
        timeout: Duration,
        /// The error of each address that was tried.
        attempts: Attempts,
    },
    /// The lookup of the name failed, or the name has no address.
    #[error("could not look up {addr}: {error}: write HOST:PORT, and check that the host's name is known")]
    Resolve {
        /// The address that was asked for.
        addr: String,
        /// The lookup's error.
        error: io::Error,
    },
    /// The kernel reported another error.
    #[error("could not connect to {addr}: {attempts}: fix the reported error, then retry")]
    Other {
        /// The address that was asked for.
        addr: String,
        /// The error of each address that was tried.
        attempts: Attempts,
    },
    /// The kernel rejected the keepalive.
    #[error("could not set the connection's keepalive: {0}: set the keepalive to 0 to connect without one")]
    Keepalive(#[source] io::Error),
    /// The handshake of TLS failed.
    #[cfg(feature = "client-tls")]
    #[error("could not connect to {addr} with TLS: {error}")]
    Tls {
        /// The address that was asked for.
        addr: String,
        /// The reason.
        error: TlsError,
    },
    /// The host that was asked for can't be in a certificate.
    #[cfg(feature = "client-tls")]
    #[error("could not connect to {addr} with TLS: {error}")]
    ServerName {
        /// The address that was asked for.
        addr: String,
        /// The reason.
        error: TlsOptionsError,
    },
    /// An option is out of range.
    #[error(transparent)]
    Options(#[from] InvalidOption),
}

/// The error of each address that was tried, in order. Empty if the time was over before the name was looked up.
#[derive(Debug)]
pub struct Attempts(
    /// Each address with its error.
    pub Vec<(SocketAddr, io::Error)>,
);

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "the lookup of the host's name took too long");
        }
        for (index, (addr, error)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{addr}: {error}")?;
        }
        Ok(())
    }
}

/// A connection to one of a name's addresses.
pub(super) struct Connected {
    /// The socket, with its options set.
    pub(super) stream: TcpStream,
    #[cfg(feature = "client-tls")]
    until: TimeLimit,
}

/// The limit on the time to connect to `addr`.
struct TimeLimit {
    addr: String,
    timeout: Duration,
    /// `None` if there is no limit.
    deadline: Option<Instant>,
}

impl TimeLimit {
    fn passed(self, attempts: Attempts) -> ConnectError {
        ConnectError::TimedOut { addr: self.addr, timeout: self.timeout, attempts }
    }
}

/// Connects to the first of the name's addresses that answers.
pub(super) async fn connect(
    addr: impl ToSocketAddrs + fmt::Debug,
    options: &Options,
) -> Result<Connected, ConnectError> {
    let timeout = options.connect_timeout;
    let deadline = if timeout.is_zero() { None } else { Instant::now().checked_add(timeout) };
    let until = TimeLimit { addr: name_of(&addr), timeout, deadline };
    let addresses: Vec<SocketAddr> = match before(deadline, lookup_host(addr)).await {
        Some(Ok(addresses)) => addresses.collect(),
        Some(Err(error)) => return Err(ConnectError::Resolve { addr: until.addr, error }),
        None => return Err(until.passed(Attempts(Vec::new()))),
    };
    if addresses.is_empty() {
        let error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        return Err(ConnectError::Resolve { addr: until.addr, error });
    }
    let stream = match try_each(&addresses, deadline).await {
        Ok(stream) => stream,
        Err(attempts) => return Err(classify(until, attempts)),
    };
    // The whole queue is sent in one write, so Nagle's algorithm would only delay it. A failure costs time, not
    // correctness, and the first read or write reports what is wrong.
    let _ = stream.set_nodelay(true);
    if !options.keepalive.is_zero() {
        let keepalive = outbound::keepalive(options.keepalive);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(ConnectError::Keepalive)?;
    }
    Ok(Connected {
        stream,
        #[cfg(feature = "client-tls")]
        until,
    })
}

#[cfg(feature = "client-tls")]
impl Connected {
    /// Makes the handshake of TLS, in the time that is left.
    pub(super) async fn handshake(self, tls: &Tls) -> Result<TlsStream<TcpStream>, ConnectError> {
        let Connected { stream, until } = self;
        let name = match tls.server_name(&until.addr) {
            Ok(name) => name,
            Err(error) => return Err(ConnectError::ServerName { addr: until.addr, error }),
        };
        let peer = stream.peer_addr();
        match before(until.deadline, TlsConnector::from(tls.config()).connect(name, stream)).await {
            Some(Ok(stream)) => Ok(stream),
            Some(Err(error)) => Err(ConnectError::Tls { addr: until.addr, error: TlsError::of_handshake(&error) }),
            None => {
                let why = "no answer to the TLS handshake in time (does the server have TLS on this port?)";
                let error = io::Error::new(io::ErrorKind::TimedOut, why);
                Err(until.passed(Attempts(peer.ok().map(|peer| (peer, error)).into_iter().collect())))
            }
        }
    }
}

/// Returns `addr` as `HOST:PORT`. The types that can be looked up have `Debug` in common: a string is `"host:1"`, a
/// pair `("host", 1)`, a socket address `127.0.0.1:1`.
fn name_of(addr: &impl fmt::Debug) -> String {
    let text = format!("{addr:?}").replace('"', "");
    let pair = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).and_then(|text| text.rsplit_once(", "));
    match pair {
        Some((host, port)) if host.contains(':') => format!("[{host}]:{port}"),
        Some((host, port)) => format!("{host}:{port}"),
        None => text,
    }
}

async fn try_each(addresses: &[SocketAddr], deadline: Option<Instant>) -> Result<TcpStream, Attempts> {
    let mut attempts = Attempts(Vec::new());
    for (index, address) in addresses.iter().enumerate() {
        // An equal share of the remaining time, so that one silent address leaves time for the next.
        let left = (addresses.len() - index) as u32;
        let share = deadline.map(|at| Instant::now() + at.saturating_duration_since(Instant::now()) / left);
        match before(share, TcpStream::connect(address)).await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => attempts.0.push((*address, outbound::explain(*address, error))),
            None => attempts.0.push((*address, io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))),
        }
    }
    Err(attempts)
}

/// Returns the error for these attempts. If they failed in different ways, the failure that got furthest decides.
fn classify(until: TimeLimit, attempts: Attempts) -> ConnectError {
    use io::ErrorKind::{
        AddrInUse, AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    let any = |kinds: &[io::ErrorKind]| attempts.0.iter().any(|(_, error)| kinds.contains(&error.kind()));
    let TimeLimit { addr, timeout, .. } = until;
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

async fn before<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(at) => timeout_at(at, future).await.ok(),
        None => Some(future.await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_that_got_furthest_decides_the_error() {
        let classified = |kinds: &[io::ErrorKind]| {
            let attempts = kinds.iter().map(|kind| (([127, 0, 0, 1], 1).into(), io::Error::from(*kind))).collect();
            let until = TimeLimit { addr: "host:1".into(), timeout: Duration::from_secs(1), deadline: None };
            classify(until, Attempts(attempts))
        };
        use io::ErrorKind::*;
        assert!(matches!(classified(&[ConnectionRefused, TimedOut]), ConnectError::TimedOut { .. }));
        assert!(matches!(classified(&[NetworkUnreachable, ConnectionRefused]), ConnectError::Refused { .. }));
        assert!(matches!(classified(&[AddrNotAvailable, AddrInUse]), ConnectError::NoLocalPort { .. }));
        assert!(matches!(classified(&[HostUnreachable, PermissionDenied]), ConnectError::Unreachable { .. }));
        let other = classified(&[PermissionDenied]);
        assert!(matches!(other, ConnectError::Other { .. }));
        assert!(other.to_string().contains("host:1") && other.to_string().contains("127.0.0.1:1: permission denied"));
    }

    #[test]
    fn every_kind_of_address_is_named_as_host_and_port() {
        assert_eq!(name_of(&"host:1"), "host:1");
        assert_eq!(name_of(&("host", 1)), "host:1");
        assert_eq!(name_of(&("::1", 1)), "[::1]:1");
        assert_eq!(name_of(&SocketAddr::from(([127, 0, 0, 1], 1))), "127.0.0.1:1");
    }

    /// Most hosts resolve `localhost` to `::1` and `127.0.0.1`, and a server may listen on only one of them.
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

    /// A listener with a full backlog does not answer. The next address still has its share of the time.
    #[tokio::test]
    async fn silent_address_does_not_use_up_the_time() {
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
