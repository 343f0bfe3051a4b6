//! A client's end of a connection, with or without TLS.
//!
//! With TLS, the client uses this crate's session, which the server uses too. That a session understands other
//! implementations is for other tests. Here it is cut, delayed and starved.

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::peer::Peer;
use crate::sim::trace;
use crate::tls::certificate::{Facts, Fingerprint};
use crate::tls::credentials::Credentials;
use crate::tls::session::ClientSession;

/// A client's end of a connection.
pub struct Wire {
    peer: Peer,
    tls: Option<RefCell<Secured>>,
}

/// The TLS of a client.
struct Secured {
    session: ClientSession,
    /// Bytes from the server that are not opened yet.
    incoming: Vec<u8>,
    /// Payload that the client has not taken yet.
    payload: Vec<u8>,
    /// Records that the kernel has not accepted yet.
    outgoing: Vec<u8>,
    /// The bytes of payload in them.
    sealed: usize,
    /// Whether the stream ends after them, and how.
    ends: Option<StreamEnd>,
}

/// How a client with TLS ends its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// With a close_notify and TCP's FIN.
    Both,
    /// With a close_notify alone.
    Notify,
    /// With TCP's FIN alone.
    Fin,
}

/// The outcome of a receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes for the client.
    Bytes,
    /// Nothing for the client.
    Nothing,
    /// The end of the stream.
    End,
}

impl Wire {
    /// Returns a connection without TLS.
    pub fn plain(peer: Peer) -> Wire {
        Wire { peer, tls: None }
    }

    /// Returns a connection with TLS, whose handshake begins with the first send.
    pub fn secured(peer: Peer) -> Wire {
        let mut outgoing = Vec::new();
        let name = "localhost".try_into().expect("a valid name");
        let session = ClientSession::connect(CONFIGS.1.clone(), name, &mut outgoing).expect("a valid configuration");
        let (incoming, payload) = Default::default();
        let tls = Secured { session, incoming, payload, outgoing, sealed: 0, ends: None };
        Wire { peer, tls: Some(RefCell::new(tls)) }
    }

    /// Returns whether the handshake is not complete.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.borrow().session.is_handshaking())
    }

    /// Returns whether there are records to send.
    pub fn has_records(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.borrow().outgoing.is_empty())
    }

    /// Waits until something arrives, and appends at most `most` bytes of it. Cancel-safe.
    ///
    /// # Errors
    /// The connection was reset, or ended without a close_notify.
    pub async fn receive(&self, buffer: &mut Vec<u8>, most: usize) -> io::Result<Received> {
        let Some(tls) = &self.tls else {
            let received = self.peer.receive(buffer, most).await?;
            return Ok(if received == 0 { Received::End } else { Received::Bytes });
        };
        if tls.borrow().payload.is_empty() && !tls.borrow().session.peer_has_closed() {
            let mut bytes = Vec::new();
            if self.peer.receive(&mut bytes, most).await? == 0 {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            tls.borrow_mut().open(&bytes)?;
        }
        let Secured { payload, session, .. } = &mut *tls.borrow_mut();
        let count = payload.len().min(most);
        buffer.extend(payload.drain(..count));
        Ok(match count {
            0 if session.peer_has_closed() => Received::End,
            0 => Received::Nothing,
            _ => Received::Bytes,
        })
    }

    /// Waits until a part of `bytes` can be sent, and returns how many bytes were. Sends at most `most` bytes, also of
    /// records. Cancel-safe.
    ///
    /// # Errors
    /// The connection was reset, or the server reads no longer.
    pub async fn send(&self, bytes: &[u8], most: usize) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(most)];
        let Some(tls) = &self.tls else { return self.peer.send(bytes).await };
        let part = {
            let tls = &mut *tls.borrow_mut();
            if tls.outgoing.is_empty() && !tls.session.is_handshaking() && tls.ends.is_none() {
                tls.session.send(bytes, &mut tls.outgoing).expect("the session is sound");
                tls.sealed = bytes.len();
            }
            tls.outgoing[..tls.outgoing.len().min(most)].to_vec()
        };
        if part.is_empty() {
            // Until the server has done its part of the handshake.
            return pending().await;
        }
        let sent = self.peer.send(&part).await;
        let tls = &mut *tls.borrow_mut();
        tls.outgoing.drain(..*sent.as_ref().unwrap_or(&tls.outgoing.len()));
        sent?;
        if !tls.outgoing.is_empty() {
            return Ok(0);
        }
        self.shut_down_if_done(tls);
        Ok(std::mem::take(&mut tls.sealed))
    }

    /// Waits until the connection is reset. Cancel-safe.
    pub async fn closed(&self) {
        self.peer.closed().await;
    }

    /// Ends the stream to the server. With TLS, the rest is done by [`Self::send`].
    pub fn end_stream(&self, end: StreamEnd) {
        let Some(tls) = &self.tls else { return self.peer.shut_down_writes() };
        let tls = &mut *tls.borrow_mut();
        tls.ends = Some(end);
        if end != StreamEnd::Fin {
            tls.session.close(&mut tls.outgoing).expect("the session is sound");
        }
        self.shut_down_if_done(tls);
    }

    fn shut_down_if_done(&self, tls: &Secured) {
        if tls.outgoing.is_empty() && matches!(tls.ends, Some(StreamEnd::Both | StreamEnd::Fin)) {
            self.peer.shut_down_writes();
        }
    }

    /// Resets the connection.
    pub fn reset(&self) {
        self.peer.reset();
    }

    /// Breaks the network between the client and the server without a sign for either.
    pub fn vanish(&self) {
        self.peer.vanish();
    }
}

impl Secured {
    /// Law 1, for records: whatever a server sends can be opened.
    fn open(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.incoming.extend_from_slice(bytes);
        let Secured { session, incoming, payload, outgoing, .. } = self;
        match session.receive(incoming, outgoing, |more| payload.extend_from_slice(more)) {
            Ok(used) => {
                incoming.drain(..used);
                Ok(())
            }
            Err(fault) => {
                trace::violated(|| format!("law 1: a client can't open what its server has sent: {fault}"));
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
    }
}

/// Returns what the servers of worlds with TLS present.
pub fn credentials() -> Credentials {
    let certificate = certificate();
    let facts = Facts::of(&certificate).expect("the constants are sound");
    Credentials { config: CONFIGS.0.clone(), facts, fingerprint: Fingerprint::of(&certificate) }
}

fn certificate() -> CertificateDer<'static> {
    CertificateDer::from_slice(include_bytes!("tls/certificate.der"))
}

/// The configurations of servers and clients.
///
/// All lengths are the same in each run, and with them the whole trace: the certificate is a constant one, and neither
/// its signatures (Ed25519) nor the key exchange (X25519) vary in length.
static CONFIGS: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let provider = Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() });
    let certificate = certificate();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(&include_bytes!("tls/key.der")[..]));
    let versions = &[&rustls::version::TLS13];
    let sound = "the constants are sound";
    let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).expect(sound);
    let mut server = server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).expect(sound);
    server.send_tls13_tickets = 0;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect(sound);
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect(sound);
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    (Arc::new(server), Arc::new(client))
});
