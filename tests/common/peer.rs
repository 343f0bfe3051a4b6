//! A scripted server for one connection. It decodes the wire byte by byte from the specification, and does not use the
//! library, so that a mistake in the library is not made twice.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

pub const CONN: u8 = 0x01;
pub const SUBMIT: u8 = 0x02;
pub const CONN_ACK: u8 = 0x81;
pub const SUBMIT_ACK: u8 = 0x82;

/// No script waits longer than this for bytes, so that a test that hangs fails.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A listener on a free port. A thread serves its first connection.
pub struct Peer<T = ()> {
    pub addr: SocketAddr,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Peer<T> {
    pub fn start(script: impl FnOnce(Connection) -> T + Send + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    pub fn start_on(listener: TcpListener, script: impl FnOnce(Connection) -> T + Send + 'static) -> Self {
        let addr = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            drop(listener);
            stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
            stream.set_nodelay(true).unwrap();
            script(Connection { stream })
        });
        Peer { addr, thread }
    }

    /// Waits for the end of the script, and fails if the script failed.
    pub fn join(self) -> T {
        self.thread.join().expect("the peer's script failed")
    }
}

/// One request, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub command: u8,
    pub id: [u8; 8],
    pub payload: Vec<u8>,
}

impl Request {
    pub fn number(&self) -> u64 {
        u64::from_be_bytes(self.id)
    }
}

/// The peer's end of the connection.
pub struct Connection {
    pub stream: TcpStream,
}

impl Connection {
    /// Returns the next whole request, or `None` if the client has half-closed or closed between two requests.
    pub fn request(&mut self) -> Option<Request> {
        let mut head = [0; 13];
        match self.stream.read(&mut head[..1]).unwrap() {
            0 => return None,
            _ => self.stream.read_exact(&mut head[1..]).unwrap(),
        }
        let frame_len = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        assert!(frame_len >= 13, "a frame with a length of {frame_len} bytes");
        assert!([CONN, SUBMIT].contains(&head[4]), "command {:#x}", head[4]);
        let mut payload = vec![0; frame_len - 13];
        self.stream.read_exact(&mut payload).unwrap();
        Some(Request { command: head[4], id: head[5..].try_into().unwrap(), payload })
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Acks a request as the specification defines it.
    pub fn ack(&mut self, request: &Request, result: u8) {
        self.send(&ack(request.command + 0x80, request.id, result));
    }

    /// Acks every request with 0 until the client half-closes, and returns the requests.
    pub fn ack_all(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        while let Some(request) = self.request() {
            self.ack(&request, 0);
            requests.push(request);
        }
        requests
    }

    /// Reads until the client closes, by FIN or RST.
    pub fn drain(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
            _ => bytes,
        }
    }

    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with RST, as the kernel does for a process that is killed with unread data.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// Returns the bytes of an ack.
pub fn ack(command: u8, id: [u8; 8], result: u8) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 14, command];
    bytes.extend_from_slice(&id);
    bytes.push(result);
    bytes
}

/// Returns a listener whose connections buffer little, so that a client is soon blocked.
pub fn small_listener() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(1).unwrap();
    socket.into()
}

/// Returns an address on which no process listens.
pub fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
