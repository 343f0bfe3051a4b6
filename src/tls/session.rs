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
    /// How many bytes of the next records rustls has seen. It panics unless it sees them again.
    seen: usize,
}

/// One end of rustls' unbuffered connections.
pub trait End {
    /// The state that rustls keeps for this end.
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
        Session {
            connection,
            is_handshaking: true,
            peer_has_closed: false,
            is_refreshing: false,
            has_failed: false,
            seen: 0,
        }
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
        // The start of the records that follow the handshake.
        let mut start = 0;
        let (mut payloads, mut has_answered) = (0, false);
        let mut end = self.offered(records, 0, self.seen);
        loop {
            if self.peer_has_closed {
                (used, end) = (records.len(), records.len());
            }
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut records[used..end]);
            let waits = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(|error| Fault::of(&error))?;
                        discard += record.discard;
                        payloads += 1;
                        take(record.payload);
                    }
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
                    if is_new {
                        start = used + discard;
                    }
                    let has_to_look = C::ANSWERS_UPDATES && !is_new && !has_answered && !self.peer_has_closed;
                    let quiet = if has_to_look { count(&records[start..used + discard]) - payloads } else { 0 };
                    has_answered |= !is_new;
                    let must_answer = must_answer(&mut self.is_refreshing, quiet);
                    !must_answer || traffic.refresh_traffic_keys().is_err()
                }
                // Early data never comes, since none was offered.
                Ok(_) => true,
                Err(error) => {
                    self.append_alert(out);
                    return Err(Fault::of(&error));
                }
            };
            used += discard;
            if waits {
                if end == records.len() {
                    break;
                }
                end = self.offered(records, end, end);
            }
        }
        let rest = &records[used..];
        self.seen = rest.len();
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

    /// Returns where the records end that rustls gets next. A record begins at `end`, and rustls has seen `seen` bytes.
    /// During the handshake it gets one more record at a time, because the records after the handshake are counted.
    #[inline]
    fn offered(&self, records: &[u8], mut end: usize, seen: usize) -> usize {
        if !self.is_handshaking {
            return records.len();
        }
        while end <= seen && end < records.len() {
            end += record_len(&records[end..]);
        }
        end.min(records.len())
    }

    /// Appends what rustls has to send after an error: the alert, and whatever came before it.
    fn append_alert(&mut self, out: &mut Vec<u8>) {
        self.has_failed = true;
        // Without anything to send, rustls would look at its input again.
        while self.connection.facts().wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => append(out, |room| data.encode(room)),
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

/// Returns whether an end must get itself new keys, because one of `quiet` records without payload has asked for some.
/// `is_refreshing` says whether the peer has yet to answer the last ones.
///
/// rustls sends its answer before the next payload, but there may be none to send. Own new keys take the answer with
/// them. The peer then answers those, which is no reason for new keys again.
fn must_answer(is_refreshing: &mut bool, quiet: usize) -> bool {
    if quiet > 0 {
        *is_refreshing = !*is_refreshing || quiet > 1;
    }
    quiet > 0 && *is_refreshing
}

/// Returns the number of records in `records`, which are whole.
fn count(mut records: &[u8]) -> usize {
    let mut count = 0;
    while !records.is_empty() {
        records = records.get(record_len(records)..).unwrap_or_default();
        count += 1;
    }
    count
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::aws_lc_rs;
    use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::{ConnectionTrafficSecrets, ContentType, RootCertStore};

    use super::*;

    /// Returns the configurations of two ends that trust each other.
    fn configs(versions: &[&'static rustls::SupportedProtocolVersion]) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
        let mut server = server.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![b"ringpost".to_vec()];
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let mut client = client.with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = server.alpn_protocols.clone();
        (Arc::new(server), Arc::new(client))
    }

    const BOTH: [&[&rustls::SupportedProtocolVersion]; 2] = [&[&rustls::version::TLS13], &[&rustls::version::TLS12]];

    fn name() -> ServerName<'static> {
        "localhost".try_into().unwrap()
    }

    /// One end, with what it has received and not used.
    struct Stream<C> {
        session: Session<C>,
        pending: Vec<u8>,
        payload: Vec<u8>,
    }

    impl<C: End> Stream<C> {
        fn new(session: Session<C>) -> Self {
            Stream { session, pending: Vec::new(), payload: Vec::new() }
        }

        /// Receives `bytes` in pieces of `piece` bytes. Returns what has to be sent.
        fn receive(&mut self, bytes: &[u8], piece: usize) -> Result<Vec<u8>, (Fault, Vec<u8>)> {
            let mut out = Vec::new();
            for part in bytes.chunks(piece) {
                self.pending.extend_from_slice(part);
                let payload = &mut self.payload;
                let received =
                    self.session.receive(&mut self.pending, &mut out, |more| payload.extend_from_slice(more));
                match received {
                    Ok(used) => drop(self.pending.drain(..used)),
                    Err(fault) => return Err((fault, out)),
                }
            }
            Ok(out)
        }
    }

    type Pair = (Stream<UnbufferedServerConnection>, Stream<UnbufferedClientConnection>);

    /// Returns two ends after their handshake, whose bytes arrive in pieces.
    fn pair(versions: &[&'static rustls::SupportedProtocolVersion], piece: usize) -> Pair {
        let (server, client) = configs(versions);
        let mut to_server = Vec::new();
        let client = ClientSession::connect(client, name(), &mut to_server).unwrap();
        let (mut server, mut client) = (Stream::new(ServerSession::accept(server).unwrap()), Stream::new(client));
        while !to_server.is_empty() {
            let to_client = server.receive(&to_server, piece).unwrap();
            to_server = client.receive(&to_client, piece).unwrap();
        }
        assert!(!server.session.is_handshaking() && !client.session.is_handshaking());
        (server, client)
    }

    #[test]
    fn any_pieces_give_the_same_payload_in_both_directions() {
        let long: Vec<u8> = (0..40_000u32).map(|number| number as u8).collect();
        for versions in BOTH {
            for piece in [1, 2, 5, 22, 100, 1000, 16_000, usize::MAX] {
                let (mut server, mut client) = pair(versions, piece);
                for payload in [&b"x"[..], b"", &long, &long[..16 << 10], &long[..(16 << 10) + 1]] {
                    let mut records = Vec::new();
                    client.session.send(payload, &mut records).unwrap();
                    assert!(records.len() <= sealed_len(payload.len()));
                    assert!(server.receive(&records, piece).unwrap().is_empty());
                    assert_eq!(std::mem::take(&mut server.payload), payload);
                    records.clear();
                    server.session.send(payload, &mut records).unwrap();
                    assert!(client.receive(&records, piece).unwrap().is_empty());
                    assert_eq!(std::mem::take(&mut client.payload), payload);
                }
                assert!(server.pending.is_empty() && client.pending.is_empty());
            }
        }
    }

    #[test]
    fn a_close_ends_one_direction_and_what_follows_it_is_ignored() {
        for versions in BOTH {
            let (mut server, mut client) = pair(versions, usize::MAX);
            let mut records = Vec::new();
            client.session.send(b"last", &mut records).unwrap();
            client.session.close(&mut records).unwrap();
            records.extend_from_slice(b"junk that is no record");
            server.receive(&records, usize::MAX).unwrap();
            assert!(server.session.peer_has_closed() && server.pending.is_empty());
            assert_eq!(server.payload, b"last");
            assert!(server.receive(b"more junk", 1).unwrap().is_empty());
            let mut answer = Vec::new();
            server.session.send(b"acks", &mut answer).unwrap();
            server.session.close(&mut answer).unwrap();
            client.receive(&answer, usize::MAX).unwrap();
            assert_eq!(client.payload, b"acks");
            assert!(client.session.peer_has_closed());
        }
    }

    #[test]
    fn every_error_has_its_alert() {
        let (server, client) = configs(BOTH[0]);
        // A plain client.
        let mut stream = Stream::new(ServerSession::accept(server.clone()).unwrap());
        let (fault, alert) = stream.receive(b"\0\0\0\x0d\0\0\0\x02\0\0\0\0", usize::MAX).unwrap_err();
        assert_eq!(fault.reason, FaultReason::NotTls);
        assert_eq!(alert[0], 0x15, "{alert:?}");
        // Only an older version.
        let (_, old) = configs(BOTH[1]);
        let mut hello = Vec::new();
        ClientSession::connect(old, name(), &mut hello).unwrap();
        let mut stream = Stream::new(ServerSession::accept(server.clone()).unwrap());
        let (fault, alert) = stream.receive(&hello, 7).unwrap_err();
        assert_eq!((fault.reason, alert[0]), (FaultReason::Version, 0x15));
        // Another protocol.
        let mut other = (*client).clone();
        other.alpn_protocols = vec![b"http/1.1".to_vec()];
        hello.clear();
        ClientSession::connect(Arc::new(other), name(), &mut hello).unwrap();
        let mut stream = Stream::new(ServerSession::accept(server).unwrap());
        let (fault, alert) = stream.receive(&hello, usize::MAX).unwrap_err();
        assert_eq!(fault.reason, FaultReason::Protocol);
        assert!(!alert.is_empty());
        // A record that was changed on its way.
        let (mut server, mut client) = pair(BOTH[0], usize::MAX);
        let mut records = Vec::new();
        client.session.send(b"message", &mut records).unwrap();
        *records.last_mut().unwrap() ^= 1;
        let (fault, alert) = server.receive(&records, usize::MAX).unwrap_err();
        assert_eq!(fault.reason, FaultReason::Record);
        let (fault, _) = client.receive(&alert, usize::MAX).unwrap_err();
        assert_eq!(fault.reason, FaultReason::Alert);
        server.session.send(b"acks", &mut Vec::new()).unwrap_err();
    }

    /// rustls alone would send the answer only before the next payload.
    #[test]
    fn new_keys_are_answered_without_a_payload_to_send() {
        let (mut server, mut client) = pair(BOTH[0], usize::MAX);
        for piece in [3, usize::MAX, 5, usize::MAX] {
            let mut update = Vec::new();
            match client.session.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => traffic.refresh_traffic_keys().unwrap(),
                state => panic!("{state:?}"),
            }
            client.session.receive(&mut [], &mut update, |_| {}).unwrap();
            let answer = server.receive(&update, usize::MAX).unwrap();
            assert!(!answer.is_empty());
            let again = client.receive(&answer, usize::MAX).unwrap();
            assert!(server.receive(&again, usize::MAX).unwrap().is_empty(), "answers do not go on for ever");
            let mut records = Vec::new();
            client.session.send(b"with new keys", &mut records).unwrap();
            assert!(server.receive(&records, piece).unwrap().is_empty());
            assert_eq!(std::mem::take(&mut server.payload), b"with new keys");
            records.clear();
            server.session.send(b"acks", &mut records).unwrap();
            client.receive(&records, piece).unwrap();
            assert_eq!(std::mem::take(&mut client.payload), b"acks");
        }
    }

    /// A client that has nothing to send asks for new keys as soon as its handshake is complete.
    #[test]
    fn new_keys_are_answered_that_arrive_with_the_end_of_the_handshake() {
        let (server, client) = configs(BOTH[0]);
        let mut to_server = Vec::new();
        let client = ClientSession::connect(client, name(), &mut to_server).unwrap();
        let (mut server, mut client) = (Stream::new(ServerSession::accept(server).unwrap()), Stream::new(client));
        let to_client = server.receive(&to_server, usize::MAX).unwrap();
        let mut to_server = client.receive(&to_client, usize::MAX).unwrap();
        match client.session.connection.process_tls_records(&mut []).state {
            Ok(ConnectionState::WriteTraffic(traffic)) => traffic.refresh_traffic_keys().unwrap(),
            state => panic!("{state:?}"),
        }
        client.session.send(b"with new keys", &mut to_server).unwrap();
        let answer = server.receive(&to_server, usize::MAX).unwrap();
        assert!(!answer.is_empty());
        assert_eq!(server.payload, b"with new keys");
        let again = client.receive(&answer, usize::MAX).unwrap();
        assert!(server.receive(&again, usize::MAX).unwrap().is_empty(), "answers do not go on for ever");
    }

    #[test]
    fn a_flood_of_new_keys_ends_the_connection() {
        let (mut server, mut client) = pair(BOTH[0], usize::MAX);
        for _ in 0..1000 {
            let mut update = Vec::new();
            if let Ok(ConnectionState::WriteTraffic(traffic)) =
                client.session.connection.process_tls_records(&mut []).state
            {
                traffic.refresh_traffic_keys().unwrap();
            }
            client.session.receive(&mut [], &mut update, |_| {}).unwrap();
            match server.receive(&update, usize::MAX) {
                Ok(answer) => assert!(answer.len() < 1000),
                Err((fault, _)) => return assert_eq!(fault.reason, FaultReason::Misbehaved),
            }
        }
        panic!("1,000 new keys without a payload are accepted");
    }

    #[test]
    fn a_handshake_message_without_an_end_is_refused() {
        let (server, _) = configs(BOTH[0]);
        let mut stream = Stream::new(ServerSession::accept(server).unwrap());
        // A ClientHello of 60,000 bytes in records of one byte each.
        let mut bytes = vec![0x16, 3, 1, 0, 4, 1, 0, 0xea, 0x60];
        bytes.extend([0x16, 3, 1, 0, 1, 7].repeat(20_000));
        let (fault, _) = stream.receive(&bytes, 1000).unwrap_err();
        assert_eq!(fault.reason, FaultReason::HandshakeTooLarge);
    }

    #[test]
    fn a_record_that_is_too_large_is_refused() {
        let (mut server, _) = pair(BOTH[0], usize::MAX);
        let mut bytes = vec![0x17, 3, 3, 0xff, 0xff];
        bytes.extend([0; 100]);
        let (fault, alert) = server.receive(&bytes, usize::MAX).unwrap_err();
        assert_eq!(fault.reason, FaultReason::Record, "{fault}");
        assert!(!alert.is_empty());
    }

    /// rustls would index beyond its input after such a message, while something is sent.
    #[test]
    fn a_message_split_over_records_is_refused_after_the_handshake() {
        let (server, client) = configs(BOTH[0]);
        let mut client = (*client).clone();
        client.enable_secret_extraction = true;
        let mut to_server = Vec::new();
        let client = ClientSession::connect(Arc::new(client), name(), &mut to_server).unwrap();
        let (mut server, mut client) = (Stream::new(ServerSession::accept(server).unwrap()), Stream::new(client));
        let to_client = server.receive(&to_server, usize::MAX).unwrap();
        let to_server = client.receive(&to_client, usize::MAX).unwrap();
        server.receive(&to_server, usize::MAX).unwrap();
        let suite = client.session.connection.negotiated_cipher_suite().unwrap().tls13().unwrap();
        let (secrets, _) = client.session.connection.dangerous_into_kernel_connection().unwrap();
        let (sequence, secrets) = secrets.tx;
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv } | ConnectionTrafficSecrets::Aes256Gcm { key, iv }) =
            secrets
        else {
            panic!("another cipher suite")
        };
        // The first two bytes of a KeyUpdate.
        let half = OutboundPlainMessage {
            typ: ContentType::Handshake,
            version: ProtocolVersion::TLSv1_3,
            payload: OutboundChunks::from(&[24, 0][..]),
        };
        let record = suite.aead_alg.encrypter(key, iv).encrypt(half, sequence).unwrap().encode();
        let (fault, _) = server.receive(&record, usize::MAX).unwrap_err();
        assert_eq!(fault.reason, FaultReason::Record);
        server.session.send(b"acks", &mut Vec::new()).unwrap_err();
    }
}
