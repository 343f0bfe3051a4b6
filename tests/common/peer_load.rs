//! A small server for tests of the load generator, which answers as a test demands, and a way to run the generator
//! against this server.
use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socket2::{Domain, Socket, Type};

/// One request as the peer sees it.
pub struct Request {
    pub id: [u8; 8],
    pub payload_len: usize,
    /// The number of earlier requests of its connection.
    pub number: usize,
}

impl Request {
    /// Returns the correct ack.
    pub fn ack(&self) -> Vec<u8> {
        let mut ack = vec![0, 0, 0, 14, 0x82];
        ack.extend_from_slice(&self.id);
        ack.push(0);
        ack
    }
}

/// Starts a peer. `answer` returns the bytes that answer a request, or `None` to close the connection.
pub fn peer(answer: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> SocketAddr {
    peer_at(IpAddr::V4(Ipv4Addr::LOCALHOST), answer)
}

/// Starts a peer at an address of this host.
pub fn peer_at(ip: IpAddr, answer: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> SocketAddr {
    let address = SocketAddr::new(ip, 0);
    // The standard library's backlog is 128, so that some of a thousand connections would wait for a second.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(4096).unwrap();
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.unwrap(), Arc::clone(&answer));
            // When the connection ends for any reason, its thread ends.
            thread::spawn(move || drop(serve(stream, &*answer)));
        }
    });
    addr
}

/// Starts a peer that acks everything except for one request, which `spoil` answers.
pub fn peer_that_spoils_one(spoil: fn(&Request) -> Option<Vec<u8>>) -> SocketAddr {
    let spoiled = AtomicBool::new(false);
    peer(move |request| {
        if request.number >= 20 && !spoiled.swap(true, Ordering::Relaxed) {
            spoil(request)
        } else {
            Some(request.ack())
        }
    })
}

fn serve(stream: TcpStream, answer: &dyn Fn(&Request) -> Option<Vec<u8>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut output) = (BufReader::with_capacity(64 << 10, &stream), &stream);
    for number in 0.. {
        let mut head = [0; 13];
        input.read_exact(&mut head)?;
        let len = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        assert_eq!(head[4], 0x02, "the generator sends SUBMITs");
        let mut payload = vec![0; len - 13];
        input.read_exact(&mut payload)?;
        let request = Request { id: head[5..].try_into().unwrap(), payload_len: payload.len(), number };
        match answer(&request) {
            Some(bytes) => output.write_all(&bytes)?,
            None => break,
        }
    }
    Ok(())
}

/// The result of a run of `ringpost bench`.
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// The report, or null if none was written.
    pub json: serde_json::Value,
    pub csv: String,
    pub html: String,
}

/// Runs `ringpost bench` with these arguments.
pub fn bench(addr: &str, words: &str) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .args(["bench", "--addr", addr])
        .args(words.split_whitespace())
        .arg("--json")
        .arg(file("json"))
        .arg("--csv")
        .arg(file("csv"))
        .arg("--html")
        .arg(file("html"))
        .output()
        .unwrap();
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap_or_default();
    Outcome {
        code: output.status.code().expect("bench was not killed"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        json: serde_json::from_str(&read("json")).unwrap_or_default(),
        csv: read("csv"),
        html: read("html"),
    }
}

impl Outcome {
    /// Returns the output as one line, because the folding of sentences depends on the width of the terminal.
    pub fn words(&self) -> String {
        self.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Returns a number of the report by its path.
    pub fn number(&self, path: &str) -> f64 {
        self.json.pointer(path).and_then(serde_json::Value::as_f64).unwrap_or_else(|| panic!("{path}: {}", self.json))
    }
}
