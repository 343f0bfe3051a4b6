//! Where connections come from: the server's address, source addresses, and room for descriptors.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

/// Why a run could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("could not resolve {addr:?}: {error}; --addr takes HOST:PORT")]
    Resolve { addr: String, error: io::Error },
    #[error("{addr:?} has no address")]
    NoAddress { addr: String },
    #[error("could not connect to {addr}: {error}; is a server listening there?")]
    Connect { addr: SocketAddr, error: io::Error },
    #[error(
        "could not make connection {number} of {count} to {addr}: {error}; \
         the server may limit its connections, or this host its ports (net.ipv4.ip_local_port_range)"
    )]
    ConnectMore { addr: SocketAddr, number: usize, count: usize, error: io::Error },
    #[error(
        "{connections} connections need {need} open files, and this process may have {limit}: \
         raise the hard limit (ulimit -Hn), or ask for fewer"
    )]
    Descriptors { connections: usize, need: u64, limit: u64 },
    #[error("no process {pid} to measure (--pid): {error}")]
    NoProcess { pid: u32, error: io::Error },
    #[error("io_uring was asked for and the kernel refuses it: {0}; --io auto takes epoll then")]
    NoUring(#[source] io::Error),
    #[error("the kernel could not drive the sockets: {0}; --io epoll may do")]
    Engine(#[source] io::Error),
    #[error("could not start a thread: {0}")]
    Thread(#[source] io::Error),
    #[error("could not write the ledger: {0}")]
    Ledger(#[source] io::Error),
    #[error("could not write {path}: {error}")]
    Write { path: String, error: io::Error },
}

/// Makes connections to one server.
#[derive(Debug, Clone, Copy)]
pub struct Connector {
    pub target: SocketAddr,
    /// Connections over IPv4 loopback take source addresses of 127.1.0.0/16 in turn. One address
    /// has 28,000 ports, and a closed connection keeps its port for a second or more (TIME_WAIT), so
    /// churn and large numbers of idle connections would run out of them.
    rotate: bool,
}

impl Connector {
    /// Finds the first address of `addr` where somebody listens, by connecting once.
    ///
    /// # Errors
    /// There is no such name, or nobody listens.
    pub fn find(addr: &str, rotate: bool) -> Result<Self, LoadError> {
        let targets = addr.to_socket_addrs().map_err(|error| LoadError::Resolve { addr: addr.to_owned(), error })?;
        let mut last = LoadError::NoAddress { addr: addr.to_owned() };
        for target in targets {
            match TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) {
                Ok(_) => {
                    let loopback = matches!(target.ip(), IpAddr::V4(ip) if ip.is_loopback());
                    return Ok(Connector { target, rotate: rotate && loopback });
                }
                Err(error) => last = LoadError::Connect { addr: target, error },
            }
        }
        Err(last)
    }

    /// A socket for connection `number` of the run, not connected yet.
    fn socket(&self, number: u64) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, Some(Protocol::TCP))?;
        if self.rotate {
            let host = 1 + (number % 60_000) as u16;
            let [high, low] = host.to_be_bytes();
            socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0)).into())?;
        }
        Ok(socket)
    }

    /// Begins to make connection `number`; when it is made, it becomes writable.
    pub fn start(&self, number: u64) -> io::Result<TcpStream> {
        let socket = self.socket(number)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.target.into()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
            _ => Ok(socket.into()),
        }
    }

    /// Makes connection `number`, and waits for it. It sends without delay.
    pub fn connect(&self, number: u64) -> io::Result<TcpStream> {
        let socket = self.socket(number)?;
        socket.connect_timeout(&self.target.into(), CONNECT_TIMEOUT)?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    }
}

/// Raises the soft limit of open files to the hard one and says whether the connections fit.
///
/// # Errors
/// They don't.
pub fn make_room(connections: usize) -> Result<(), LoadError> {
    let limit = getrlimit(Resource::Nofile);
    let need = connections as u64 + OTHER_DESCRIPTORS;
    // Should the kernel refuse, the old limit holds, and is the one to be compared with.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    match if raised.is_ok() { limit.maximum } else { limit.current } {
        Some(limit) if need > limit => Err(LoadError::Descriptors { connections, need, limit }),
        _ => Ok(()),
    }
}

/// How long one connection is waited for.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Standard streams, epoll instances, files of /proc, and some room.
const OTHER_DESCRIPTORS: u64 = 64;

#[cfg(test)]
mod tests {
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
        let error = Connector::find("localhost:1", false).unwrap_err().to_string();
        assert!(error.contains(":1: ") && error.contains("listening"), "{error}");
        let error = Connector::find("localhost", false).unwrap_err().to_string();
        assert!(error.contains("HOST:PORT"), "{error}");
    }
}
