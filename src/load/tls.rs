//! TLS between the bytes of a socket and the frames of a connection. Each connection makes a full handshake.
//!
//! It owns the session and the records that have arrived in part. It knows nothing of acks, and only the handshake
//! before a run uses a socket.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SendFlags;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ProtocolVersion};
use serde::Serialize;

use super::acks::StreamLost;
use super::event::Event;
use super::faults::CLOSED_BY_SERVER;
use crate::tls::client::{Tls, TlsError, TlsOptionsError};
use crate::tls::session::ClientSession;

/// TLS of all connections of a run.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsClient {
    /// Returns TLS to the server that the user named as `addr` (`HOST:PORT`).
    ///
    /// # Errors
    /// No certificate can be valid for the host.
    pub fn new(tls: &Tls, addr: &str) -> Result<Self, TlsOptionsError> {
        Ok(TlsClient { config: tls.config(), name: tls.server_name(addr)? })
    }

    /// Begins the handshake of a connection, and appends the bytes to send to `out`.
    ///
    /// # Errors
    /// rustls rejects the configuration.
    pub fn begin(&self, out: &mut Vec<u8>) -> Result<Channel, TlsError> {
        let session = ClientSession::connect(Arc::clone(&self.config), self.name.clone(), out);
        Ok(Channel { session: session.map_err(TlsError::from)?, records: Vec::new() })
    }

    /// Makes the handshake on a connected socket, which must block. Each wait for the server lasts at most `timeout`.
    ///
    /// # Errors
    /// The handshake failed.
    pub fn handshake(&self, mut socket: &TcpStream, timeout: Duration) -> Result<Channel, TlsError> {
        let mut out = Vec::new();
        let mut channel = self.begin(&mut out)?;
        let mut input = [0; 4096];
        let mut exchange = || {
            socket.set_read_timeout(Some(timeout))?;
            loop {
                socket.write_all(&out)?;
                out.clear();
                if !channel.session.is_handshaking() {
                    return socket.set_read_timeout(None);
                }
                let received = match socket.read(&mut input)? {
                    0 => return Err(ErrorKind::UnexpectedEof.into()),
                    len => channel.receive(&input[..len], &mut out, |_| {}),
                };
                if let Err(error) = received {
                    // The alert for the server.
                    let _ = socket.write_all(&out);
                    return Err(io::Error::other(error));
                }
            }
        };
        match exchange() {
            Ok(()) => Ok(channel),
            Err(error) => Err(match error.get_ref().and_then(|error| error.downcast_ref()) {
                Some(error) => TlsError::clone(error),
                None if error.kind() == ErrorKind::WouldBlock => TlsError::Io("no answer in time".to_owned()),
                None => TlsError::of_handshake(&error),
            }),
        }
    }
}

/// The TLS of one connection.
pub struct Channel {
    session: ClientSession,
    /// The beginning of a record whose end has not arrived yet.
    records: Vec<u8>,
}

impl Channel {
    /// Decrypts bytes that have arrived, and passes each payload to `take`. Appends what the server must get to `out`.
    ///
    /// # Errors
    /// The connection can't continue. `out` then has an alert for the server.
    #[inline]
    fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>, take: impl FnMut(&[u8])) -> Result<(), TlsError> {
        self.records.extend_from_slice(bytes);
        let is_first = self.session.is_handshaking();
        match self.session.receive(&mut self.records, out, take) {
            Ok(used) => {
                self.records.drain(..used);
                Ok(())
            }
            Err(fault) if is_first => Err(TlsError::of_first_fault(fault)),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Appends the records of `frames` to `out`.
    ///
    /// # Errors
    /// The handshake is not done, or the session has failed.
    #[inline]
    pub fn send(&mut self, frames: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.session.send(frames, out).map_err(TlsError::from)
    }

    /// Decrypts bytes that have arrived, and passes each payload to `on`, or the end of the connection. Appends the
    /// answer for the server to `out`. Returns whether the connection continues.
    #[inline]
    pub fn deliver(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        mut on: impl FnMut(Event<'_>) -> Result<(), StreamLost>,
    ) -> bool {
        let mut is_lost = false;
        let received = self.receive(bytes, out, |payload| {
            is_lost = is_lost || on(Event::Received(payload)).is_err();
        });
        if is_lost {
            return false;
        }
        let why = match received {
            Err(error) => format!("TLS: {error}"),
            Ok(()) if self.session.peer_has_closed() => CLOSED_BY_SERVER.to_owned(),
            Ok(()) => return true,
        };
        let _ = on(Event::Ended(why));
        false
    }

    /// Sends a close_notify, if the kernel has room for it. Everything before it must have been sent.
    pub fn end(&mut self, socket: &TcpStream) {
        let mut out = Vec::new();
        if self.session.close(&mut out).is_ok() {
            let _ = rustix::net::send(socket, &out, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    /// Returns whether requests can't be sent yet.
    #[inline]
    pub fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Returns what client and server have agreed on.
    pub fn facts(&self) -> TlsFacts {
        TlsFacts {
            version: match self.session.version() {
                Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
                _ => "TLS 1.2",
            },
            cipher_suite: self.session.cipher_suite().unwrap_or_default(),
        }
    }
}

/// The version and the cipher suite of connections.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TlsFacts {
    pub version: &'static str,
    /// The suite's name in the standard.
    pub cipher_suite: &'static str,
}

impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.cipher_suite)
    }
}
