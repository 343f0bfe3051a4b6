//! The record layer of one connection, without I/O and without a clock.
//!
//! A [`Session`] turns received records into plaintext, and plaintext into records to send. It owns the TLS state of
//! one connection, and its caller owns all bytes and passes them in. It may be given the stream in any pieces.
//!
//! The interface has the shape of the slices that rustls 0.24 takes. Underneath is the unbuffered interface of rustls
//! 0.23: it keeps no bytes of its own between calls, so an idle connection costs little memory.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, CommonState, Error, ProtocolVersion, ServerConfig};

use super::{Fault, FaultReason};

/// The session of a server.
pub type ServerSession = Session<UnbufferedServerConnection>;
/// The session of a client.
pub type ClientSession = Session<UnbufferedClientConnection>;

/// The TLS state of one connection.
pub struct Session<C> {
    connection: C,
    is_handshaking: bool,
    peer_has_closed: bool,
    /// Whether this end has asked its peer for new keys, and the answer has not come.
    is_refreshing: bool,
    /// Whether nothing more can be received or sent.
    has_failed: bool,
}

/// One end of rustls' unbuffered connections.
pub trait End {
    /// What rustls keeps for this end.
    type Data;

    /// Whether this end answers new keys of its peer as soon as it gets them.
    const ANSWERS_UPDATES: bool;

    /// Calls rustls' function of the same name.
    fn process_tls_records<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Returns the facts of the handshake.
    fn facts(&self) -> &CommonState;
}

impl End for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const ANSWERS_UPDATES: bool = true;

    fn process_tls_records<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        (**self).process_tls_records(records)
    }

    fn facts(&self) -> &CommonState {
        self
    }
}

impl End for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    // A client also gets session tickets, which look the same from outside.
    const ANSWERS_UPDATES: bool = false;

    fn process_tls_records<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        (**self).process_tls_records(records)
    }

    fn facts(&self) -> &CommonState {
        self
    }
}

impl ServerSession {
    /// Creates the session of a connection that was accepted. The client speaks first.
    ///
    /// # Errors
    /// The configuration can't be used.
    pub fn accept(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Session::new(UnbufferedServerConnection::new(config)?))
    }
}

impl ClientSession {
    /// Creates the session of a connection to the server with this name, and appends the first records to `out`.
    ///
    /// # Errors
    /// The configuration can't be used.
    pub fn connect(config: Arc<ClientConfig>, name: ServerName<'static>, out: &mut Vec<u8>) -> Result<Self, Fault> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(|error| Fault::of(&error))?;
        let mut session = Session::new(connection);
        session.receive(&mut [], out, |_| {})?;
        Ok(session)
    }
}

impl<C: End> Session<C> {
    fn new(connection: C) -> Self {
        Session { connection, is_handshaking: true, peer_has_closed: false, is_refreshing: false, has_failed: false }
    }

    /// Opens the whole records at the start of `records`, and passes each payload to `take`. Appends to `out` whatever
    /// the peer must get before anything is waited for: parts of the handshake, answers, an alert. Returns how many
    /// bytes of `records` are used up; the rest belongs at the start of the next call's `records`, unchanged.
    ///
    /// The records are decrypted in place. After the peer has closed its direction, all that follows is used up and
    /// ignored.
    ///
    /// # Errors
    /// The connection can only be closed, after `out` was sent. Payloads may have been taken before.
    pub fn receive(
        &mut self,
        records: &mut [u8],
        out: &mut Vec<u8>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<usize, Fault> {
        let mut used = 0;
        let mut brought_payload = false;
        loop {
            if self.peer_has_closed {
                used = records.len();
            }
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut records[used..]);
            let waits = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(|error| Fault::of(&error))?;
                        discard += record.discard;
                        take(record.payload);
                    }
                    brought_payload = true;
                    false
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(out, |room| data.encode(room));
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // The caller sends `out` before it waits for anything.
                    data.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_has_closed = true;
                    false
                }
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    let is_new = std::mem::take(&mut self.is_handshaking);
                    // A record without payload is mostly a KeyUpdate. rustls sends its answer before the next payload,
                    // and this end may have none to send. New keys of its own take the answer with them.
                    let brought_update = C::ANSWERS_UPDATES && used + discard > 0 && !brought_payload && !is_new;
                    if brought_update && !self.peer_has_closed {
                        self.is_refreshing = !self.is_refreshing;
                        !self.is_refreshing || traffic.refresh_traffic_keys().is_err()
                    } else {
                        true
                    }
                }
                // Early data never comes, since none was offered.
                Ok(_) => true,
                Err(error) => {
                    self.append_alert(&mut records[used..], out);
                    return Err(Fault::of(&error));
                }
            };
            used += discard;
            if waits {
                break;
            }
        }
        let rest = &records[used..];
        if !self.is_handshaking && rest.len() >= record_len(rest) {
            // A message that goes on in the next record. rustls could not encrypt meanwhile, and nobody splits the few
            // bytes of the messages that may still come.
            self.has_failed = true;
            return Err(Fault { reason: FaultReason::Record, error: None });
        }
        if self.is_handshaking && rest.len() > HANDSHAKE_LEN_MAX {
            self.has_failed = true;
            return Err(Fault { reason: FaultReason::HandshakeTooLarge, error: None });
        }
        Ok(used)
    }

    /// Appends the alert that follows an error in `records`.
    fn append_alert(&mut self, records: &mut [u8], out: &mut Vec<u8>) {
        self.has_failed = true;
        loop {
            match self.connection.process_tls_records(records).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => append(out, |room| data.encode(room)),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                _ => return,
            }
        }
    }

    /// Appends `payload` to `out` as records.
    ///
    /// # Errors
    /// The handshake is not complete, or the session has failed.
    pub fn send(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        if payload.is_empty() {
            return Ok(());
        }
        self.write(out, sealed_len(payload.len()), |mut traffic, room| traffic.encrypt(payload, room))
    }

    /// Appends to `out` the record that ends the stream to the peer. The peer may still send.
    ///
    /// # Errors
    /// The handshake is not complete, or the session has failed.
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.write(out, sealed_len(ALERT_LEN), |mut traffic, room| traffic.queue_close_notify(room))
    }

    /// Appends what `seal` writes, which needs about `room` bytes.
    fn write(
        &mut self,
        out: &mut Vec<u8>,
        mut room: usize,
        mut seal: impl FnMut(WriteTraffic<'_, C::Data>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Fault> {
        if self.is_handshaking || self.has_failed {
            return Err(Fault { reason: FaultReason::Internal, error: None });
        }
        loop {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    let start = out.len();
                    out.resize(start + room, 0);
                    match seal(traffic, &mut out[start..]) {
                        Ok(len) => {
                            out.truncate(start + len);
                            return Ok(());
                        }
                        Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                            out.truncate(start);
                            room = required_size;
                        }
                        Err(EncryptError::EncryptExhausted) => {
                            out.truncate(start);
                            break;
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => append(out, |room| data.encode(room)),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_has_closed = true,
                _ => break,
            }
        }
        self.has_failed = true;
        Err(Fault { reason: FaultReason::Internal, error: None })
    }

    /// Returns whether nothing but the handshake can be sent and received yet.
    #[inline]
    pub fn is_handshaking(&self) -> bool {
        self.is_handshaking
    }

    /// Returns whether the peer has ended its direction in good order. This end may still send.
    #[inline]
    pub fn peer_has_closed(&self) -> bool {
        self.peer_has_closed
    }

    /// Returns the version of the protocol, once it is agreed on.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.connection.facts().protocol_version()
    }

    /// Returns the name of the cipher suite, once it is agreed on.
    pub fn cipher_suite(&self) -> Option<&'static str> {
        self.connection.facts().negotiated_cipher_suite().and_then(|suite| suite.suite().as_str())
    }

    /// Returns the peer's certificate, if it has presented one and the handshake is complete.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.connection.facts().peer_certificates()?.first()
    }
}

/// Returns the bytes of the record at the start of `records`, its header included, as far as is known.
#[inline]
pub fn record_len(records: &[u8]) -> usize {
    match records {
        [_, _, _, high, low, ..] => RECORD_HEADER_LEN + usize::from(u16::from_be_bytes([*high, *low])),
        _ => RECORD_HEADER_LEN,
    }
}

/// Returns the most bytes of the records of a payload.
fn sealed_len(payload: usize) -> usize {
    payload + payload.div_ceil(PAYLOAD_LEN_MAX).max(1) * RECORD_OVERHEAD
}

/// Appends what `encode` writes.
fn append(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = out.len();
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = encode(&mut []) {
        out.resize(start + required_size, 0);
        let written = encode(&mut out[start..]).unwrap_or(0);
        out.truncate(start + written);
    }
}

/// The first byte that a TLS client sends: the type of a handshake record. A frame that begins with it would have at
/// least 352 MiB.
pub const FIRST_BYTE: u8 = 0x16;
/// The most bytes of a record, its header included: 16 KiB of payload, and what TLS 1.2 allows to add.
pub const RECORD_LEN_MAX: usize = RECORD_HEADER_LEN + PAYLOAD_LEN_MAX + 2048;
/// The most bytes of a record's payload.
const PAYLOAD_LEN_MAX: usize = 16 << 10;
/// The bytes of a record's header.
const RECORD_HEADER_LEN: usize = 5;
/// The bytes that a record has besides its payload: with TLS 1.3, a header, a type and a tag; with TLS 1.2, a header,
/// a nonce and a tag.
const RECORD_OVERHEAD: usize = RECORD_HEADER_LEN + 8 + 16;
/// The bytes of an alert.
const ALERT_LEN: usize = 2;
/// The most bytes of records whose handshake message is not complete.
pub const HANDSHAKE_LEN_MAX: usize = 64 << 10;
