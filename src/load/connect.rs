//! The addresses of connections: finds the server, chooses source addresses and ports, and checks the limit of
//! descriptors. It also owns the errors of a run.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::tls::{Channel, TlsClient, TlsFacts};
use crate::host::raise_open_files;
use crate::outbound;
use crate::output::StdoutError;
use crate::tls::client::{Tls, TlsError, TlsOptionsError};

/// The reason why a run could not start or continue.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("could not resolve {addr:?}: {error}; --addr needs HOST:PORT")]
    Resolve { addr: String, error: io::Error },
    #[error("{addr:?} resolves to no address; give --addr another host")]
    NoAddress { addr: String },
    #[error("could not connect to {addr}: {error}; is a server listening there?")]
    Connect { addr: SocketAddr, error: io::Error },
    #[error(transparent)]
    TlsOptions(#[from] TlsOptionsError),
    #[error("could not connect to {addr} with TLS: {error}")]
    Tls { addr: SocketAddr, error: TlsError },
    #[error("could not open connection {number} of {count} to {addr}: {error}{}", connect_more_fix(.error))]
    ConnectMore { addr: SocketAddr, number: usize, count: usize, error: io::Error },
    #[error(
        "{connections} connections need {need} open files, and this process is limited to {limit}; raise the hard \
         limit (see: ulimit -Hn), or use fewer connections (--connections, --idle)"
    )]
    Descriptors { connections: usize, need: u64, limit: u64 },
    #[error("there is no process {pid} to measure (--pid): {error}")]
    NoProcess { pid: u32, error: io::Error },
    #[error("--io uring: the kernel refuses io_uring: {0}; use --io auto, which falls back to epoll")]
    NoUring(#[source] io::Error),
    #[error("the kernel failed to drive the sockets: {0}; try --io epoll")]
    Engine(#[source] io::Error),
    #[error("could not start a thread: {0}; use fewer (--threads)")]
    Thread(#[source] io::Error),
    #[error("could not write the ledger (--ledger): {0}")]
    Ledger(#[source] io::Error),
    #[error(transparent)]
    Table(StdoutError),
    #[error("could not write {path}: {error}")]
    Write { path: String, error: io::Error },
}

/// Opens connections to one server.
#[derive(Clone)]
pub struct Connector {
    /// The server's address.
    pub target: SocketAddr,
    source: Source,
    tls: Option<(TlsClient, TlsFacts)>,
}

/// A connection that is established, with the TLS on it.
pub struct Wire {
    pub socket: TcpStream,
    pub tls: Option<Box<Channel>>,
}

/// The source addresses and ports of connections.
///
/// One pair of addresses can have as many connections to a port as the client's host has ephemeral ports, 28,000 by
/// default, and a closed connection keeps its port for a second or more (TIME_WAIT). Churn and large numbers of idle
/// connections would therefore run out of ports. A rule of the kernel prevents this: a program may itself bind a port
/// that is in TIME_WAIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The kernel chooses address and port.
    Kernel,
    /// IPv4 loopback: one address of 127.1.0.0/16 after another, with ports that the kernel chooses.
    Addresses,
    /// IPv6 loopback, which has one address: one unprivileged port after another, not only the ephemeral ones.
    Ports,
}

impl Connector {
    /// Finds the first address of `addr` that a server listens on, by connecting once. With `rotate` it tries the
    /// address of IPv6 loopback last, since IPv4 loopback has more source addresses. With `tls` it makes a handshake on
    /// that connection.
    ///
    /// # Errors
    /// The name is unknown, no server is listening, or the handshake fails.
    pub fn find(addr: &str, rotate: bool, tls: Option<&Tls>) -> Result<Self, LoadError> {
        let tls = tls.map(|tls| TlsClient::new(tls, addr)).transpose()?;
        let targets = addr.to_socket_addrs().map_err(|error| LoadError::Resolve { addr: addr.to_owned(), error })?;
        // An IPv4-mapped IPv6 address is reached over IPv4 anyway.
        let mut targets: Vec<_> =
            targets.map(|target| SocketAddr::new(target.ip().to_canonical(), target.port())).collect();
        targets.sort_by_key(|target| rotate && target.ip() == Ipv6Addr::LOCALHOST);
        let mut last = LoadError::NoAddress { addr: addr.to_owned() };
        for target in targets {
            match TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) {
                Ok(socket) => {
                    let tls = match tls {
                        Some(tls) => {
                            let handshake = tls.handshake(&socket, CONNECT_TIMEOUT);
                            let mut channel = handshake.map_err(|error| LoadError::Tls { addr: target, error })?;
                            channel.end(&socket);
                            Some((tls, channel.facts()))
                        }
                        None => None,
                    };
                    return Ok(Connector { target, source: Source::choose(target, rotate), tls });
                }
                Err(error) => last = LoadError::Connect { addr: target, error: outbound::explain(target, error) },
            }
        }
        Err(last)
    }

    /// Binds a new socket to the source of connection `number`.
    fn bind(&self, socket: &Socket, number: u64) -> io::Result<()> {
        let source: SocketAddr = match self.source {
            Source::Kernel => return Ok(()),
            Source::Addresses => {
                let [high, low] = (1 + (number % 60_000) as u16).to_be_bytes();
                (Ipv4Addr::new(127, 1, high, low), 0).into()
            }
            Source::Ports => {
                // This allows a port in TIME_WAIT, and one that another program has connections from.
                socket.set_reuse_address(true)?;
                (Ipv6Addr::LOCALHOST, PORT_FIRST + (number % PORTS) as u16).into()
            }
        };
        socket.bind(&source.into())
    }

    /// Creates a socket for connection `number` and connects it with `connect`. Skips source ports that are in use, and
    /// tries at most `attempts_max` ports.
    fn open(
        &self,
        number: u64,
        attempts_max: u64,
        connect: impl Fn(&Socket) -> io::Result<()>,
    ) -> io::Result<TcpStream> {
        let attempts = if self.source == Source::Ports { attempts_max } else { 1 };
        let mut attempt = 1;
        loop {
            let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, Some(Protocol::TCP))?;
            let source = number.wrapping_add((attempt - 1) * PORT_STRIDE);
            match self.bind(&socket, source).and_then(|()| connect(&socket)) {
                Ok(()) => return Ok(socket.into()),
                Err(error) if outbound::is_out_of_ports(&error) && attempt < attempts => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts to open connection `number`. Its socket becomes writable when it is connected.
    ///
    /// # Errors
    /// The connection failed. If no port is free, [`outbound::is_out_of_ports`] recognizes the error.
    pub fn start(&self, number: u64) -> io::Result<TcpStream> {
        self.open(number, START_ATTEMPTS_MAX, |socket| {
            socket.set_nonblocking(true)?;
            match socket.connect(&self.target.into()) {
                Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
                _ => Ok(()),
            }
        })
    }

    /// Begins the handshake of a connection that was started, and appends the bytes to send to `out`. Returns `None` if
    /// the connections are plain.
    ///
    /// # Errors
    /// rustls rejects the configuration.
    pub fn begin_tls(&self, out: &mut Vec<u8>) -> Result<Option<Box<Channel>>, TlsError> {
        self.tls.as_ref().map(|(tls, _)| tls.begin(out).map(Box::new)).transpose()
    }

    /// Returns what client and server have agreed on. `None` if the connections are plain.
    pub fn tls_facts(&self) -> Option<TlsFacts> {
        self.tls.as_ref().map(|(_, facts)| *facts)
    }

    /// Opens connection `number`, waits until it is established, and makes the handshake of TLS. It sends without
    /// delay, and its keepalive detects a server's host that has disappeared.
    ///
    /// # Errors
    /// The connection or its handshake failed, or no port is free.
    pub fn connect(&self, number: u64) -> io::Result<Wire> {
        let socket = self.connect_plain(number)?;
        let tls = self.tls.as_ref().map(|(tls, _)| tls.handshake(&socket, CONNECT_TIMEOUT).map(Box::new)).transpose();
        Ok(Wire { tls: tls.map_err(io::Error::other)?, socket })
    }

    fn connect_plain(&self, number: u64) -> io::Result<TcpStream> {
        let made = self.open(number, CONNECT_ATTEMPTS_MAX, |socket| {
            socket.connect_timeout(&self.target.into(), CONNECT_TIMEOUT)?;
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_keepalive(&outbound::keepalive(outbound::KEEPALIVE))
        });
        made.map_err(|error| match outbound::explain(self.target, error) {
            error if error.kind() == io::ErrorKind::AddrInUse && self.source == Source::Ports => io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{error}; IPv6 loopback has {PORTS} ports in all, 127.0.0.1 has far more"),
            ),
            error => error,
        })
    }
}

impl Source {
    fn choose(target: SocketAddr, rotate: bool) -> Source {
        match target.ip() {
            IpAddr::V4(ip) if rotate && ip.is_loopback() => Source::Addresses,
            IpAddr::V6(ip) if rotate && ip == Ipv6Addr::LOCALHOST => Source::Ports,
            _ => Source::Kernel,
        }
    }
}

/// Raises the soft limit of open files to the hard one, and checks that it is enough for the connections.
///
/// # Errors
/// The limit is too low.
pub fn make_room(connections: usize) -> Result<(), LoadError> {
    let need = connections as u64 + OTHER_DESCRIPTORS;
    match raise_open_files().now {
        Some(limit) if need > limit => Err(LoadError::Descriptors { connections, need, limit }),
        _ => Ok(()),
    }
}

/// Returns how to fix the failure of a connection after others were opened.
fn connect_more_fix(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; use fewer connections, wait a minute, or widen net.ipv4.ip_local_port_range on this host"
        }
        _ => "; the server may limit its connections (--max-connections)",
    }
}

/// The first port that [`Source::Ports`] binds: the first that needs no privilege.
const PORT_FIRST: u16 = 1024;
/// How many ports [`Source::Ports`] uses.
const PORTS: u64 = (1 << 16) - PORT_FIRST as u64;
/// The distance between the ports that one connection tries. It has no common divisor with [`PORTS`], so that all ports
/// are reached, and is large, so that the port of the next connection is still free.
const PORT_STRIDE: u64 = 25_771;
/// How many ports [`Connector::start`] tries: only a few, because other connections wait meanwhile.
const START_ATTEMPTS_MAX: u64 = 16;
/// How many ports [`Connector::connect`] tries.
const CONNECT_ATTEMPTS_MAX: u64 = 4096;
/// How long to wait for one connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The descriptors that are not connections: standard streams, epoll instances, files of /proc, and some reserve.
const OTHER_DESCRIPTORS: u64 = 64;

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit};

    use super::*;

    #[test]
    fn more_connections_than_descriptors_are_refused_with_the_limit() {
        make_room(1).unwrap();
        let Some(limit) = getrlimit(Resource::Nofile).maximum else { return };
        let error = make_room(limit as usize).unwrap_err().to_string();
        assert!(error.contains(&limit.to_string()) && error.contains("ulimit -Hn"), "{error}");
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let error = Connector::find("localhost:1", false, None).map(drop).unwrap_err().to_string();
        assert!(error.contains(":1: ") && error.contains("listening"), "{error}");
        let error = Connector::find("localhost", false, None).map(drop).unwrap_err().to_string();
        assert!(error.contains("HOST:PORT"), "{error}");
    }
}
