//! `ringpost health`: asks a server's admin address whether the server is healthy or ready. A container image with only
//! this binary has no other program for a health check.
//!
//! Owns a small HTTP client. It must not know the server, whose own view of its health is `crate::health`. Invariant:
//! the command ends within its timeout.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::output::print;

/// The options of `ringpost health`.
#[derive(Debug)]
pub struct Options {
    /// The server's admin address.
    pub admin: SocketAddr,
    /// Whether to ask if the server accepts new connections (`/readyz`), not only if it is healthy (`/healthz`).
    pub ready: bool,
    /// The time limit of the answer.
    pub timeout: Duration,
}

/// Asks the server and prints its answer. Returns exit code 0 if the answer is yes, and 1 otherwise.
///
/// # Errors
/// Returns an error if there is no answer, or if stdout can't be written.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let path = if options.ready { "/readyz" } else { "/healthz" };
    match ask(options.admin, path, options.timeout) {
        Ok((200, body)) => {
            print(format!("{body}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok((status, body)) => {
            print(format!("{status}: {body}\n"))?;
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            bail!("no answer from {}{path}: {error}. Is a server running with this --admin address?", options.admin)
        }
    }
}

/// Returns the status and the body of the answer. A connection to an unspecified address (`0.0.0.0`, `[::]`), as
/// servers bind it, reaches this host.
fn ask(admin: SocketAddr, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&admin, timeout)?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut rest = stream.take(ANSWER_LEN_MAX);
    loop {
        // Each byte may arrive in time although the whole answer is too late.
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        rest.get_ref().set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        let mut chunk = [0; 1024];
        match rest.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.trim_end().to_owned()))
}

/// The default admin address. A server listens there only with `--admin`.
pub const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8889);

/// The most bytes that are read of an answer.
const ANSWER_LEN_MAX: u64 = 16 << 10;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\na: b\r\n\r\nhealthy\n"), Some((200, "healthy".into())));
        assert_eq!(parse(b"HTTP/1.1 503 x\r\n\r\n"), Some((503, String::new())));
        for text in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0\r\n\r\n", "HTTP/1.1 yes OK\r\n\r\n"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn an_answer_that_arrives_byte_by_byte_is_too_late() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(b"H").is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        });
        let error = ask(address, "/healthz", Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
