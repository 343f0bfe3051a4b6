//! A TLS client whose every step a test takes itself, so that it can misbehave, and servers for it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, ConfigBuilder, Error, RootCertStore, SupportedProtocolVersion,
};

use crate::common::authority::Authority;
use crate::common::{Server, has_rings, ringpost, submit, submit_ack};

/// Returns the engines to test.
pub fn engines() -> impl Iterator<Item = &'static str> {
    ["uring", "epoll"].into_iter().filter(|engine| *engine == "epoll" || has_rings())
}

/// Starts a server with one shard and an admin address, whose certificate is for `localhost`.
pub fn serve(engine: &str, ca: &Authority, options: &[&str]) -> Server {
    ca.sign(|_| {});
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1"]);
    command.args(["--engine", engine, "--tls-cert", &ca.text("certificate.pem"), "--tls-key", &ca.text("key.pem")]);
    command.args(options);
    Server::spawn(command, 1)
}

/// Starts a server like [`serve`] with a journal in a directory.
pub fn serve_journal(engine: &str, ca: &Authority, dir: &tempfile::TempDir, options: &[&str]) -> Server {
    let data_dir = dir.path().to_str().unwrap();
    let journal = ["--sink", "journal", "--data-dir", data_dir, "--segment-size", "8MiB", "--min-free", "0"];
    serve(engine, ca, &[&journal, options].concat())
}

/// Returns the configuration of a client that trusts a CA.
pub fn trusting(ca: &Authority) -> ClientConfig {
    let provider = CryptoProvider { kx_groups: vec![kx_group::X25519], ..default_provider() };
    with_protocol(builder(ca, &TLS13, provider).with_no_client_auth())
}

/// Returns the configuration of a client that trusts a CA, and uses one version of TLS.
pub fn with_version(ca: &Authority, version: &'static SupportedProtocolVersion) -> ClientConfig {
    with_protocol(builder(ca, version, default_provider()).with_no_client_auth())
}

/// Returns the configuration of a client that presents a new certificate of `issuer`.
pub fn presenting(ca: &Authority, issuer: &Authority) -> ClientConfig {
    let (certificate, key) = issuer.sign(|_| {});
    let key = key.serialize_der().try_into().unwrap();
    with_protocol(builder(ca, &TLS13, default_provider()).with_client_auth_cert(vec![certificate], key).unwrap())
}

fn builder(
    ca: &Authority,
    version: &'static SupportedProtocolVersion,
    provider: CryptoProvider,
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.issuer.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    builder.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots)
}

fn with_protocol(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"ringpost".to_vec()];
    config
}

/// A client whose every step a test takes itself.
pub struct ManualClient {
    pub session: ClientConnection,
    pub stream: TcpStream,
    peer_has_closed: bool,
}

/// How a server ended a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a close_notify.
    Closed,
    /// Without any record of its own.
    Bare,
    /// With an alert.
    Alert(AlertDescription),
    /// With a reset, or with an end in the middle of a record.
    Broken,
}

impl ManualClient {
    /// Connects without sending anything.
    pub fn connect(server: &Server, config: &Arc<ClientConfig>) -> ManualClient {
        let mut session = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
        session.set_buffer_limit(None);
        ManualClient { session, stream: server.connect(), peer_has_closed: false }
    }

    /// Connects, and completes the handshake.
    pub fn open(server: &Server, config: &Arc<ClientConfig>) -> ManualClient {
        let mut client = ManualClient::connect(server, config);
        client.shake_hands().unwrap();
        client
    }

    /// Takes the records that the session has ready to be sent.
    pub fn records(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut records).unwrap();
        }
        records
    }

    /// Sends the records that the session has ready.
    pub fn flush(&mut self) {
        let records = self.records();
        self.stream.write_all(&records).unwrap();
    }

    /// Waits for bytes, and opens the records that have arrived. Returns the number of bytes.
    pub fn receive(&mut self) -> Result<usize, Error> {
        let received = self.session.read_tls(&mut self.stream).expect("bytes, or an end");
        self.peer_has_closed |= self.session.process_new_packets()?.peer_has_closed();
        Ok(received)
    }

    /// Completes the handshake.
    pub fn shake_hands(&mut self) -> Result<(), Error> {
        while self.session.is_handshaking() {
            self.flush();
            if self.session.is_handshaking() {
                assert_ne!(self.receive()?, 0, "the server ended the connection in the handshake");
            }
        }
        self.flush();
        Ok(())
    }

    /// Sends plaintext.
    pub fn send(&mut self, plain: &[u8]) {
        self.session.writer().write_all(plain).unwrap();
        self.flush();
    }

    /// Sends a close_notify. The client may still receive.
    pub fn close(&mut self) {
        self.session.send_close_notify();
        self.flush();
    }

    /// Waits for the acks of these SUBMITs, each of which must be a success.
    pub fn expect_acks(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            assert_eq!(self.ack().unwrap(), submit_ack(id, 0), "the ack of {id}");
        }
    }

    /// Waits for an ack. Returns `None` if the server has ended its stream with a close_notify instead.
    pub fn ack(&mut self) -> Option<[u8; 14]> {
        let (mut ack, mut len) = ([0; 14], 0);
        while len < ack.len() {
            match self.session.reader().read(&mut ack[len..]) {
                Ok(0) => {
                    assert_eq!(len, 0, "the stream ended in an ack");
                    return None;
                }
                Ok(count) => len += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(self.receive().unwrap() > 0 || self.peer_has_closed, "the server ended the connection");
                }
                Err(error) => panic!("{error}"),
            }
        }
        Some(ack)
    }

    /// Sends a request, and waits for its ack.
    pub fn round_trip(&mut self, id: u64) {
        self.send(&submit(id, b"payload"));
        self.expect_acks([id]);
    }

    /// Waits until the server ends the connection. Returns how it did that; acks before it fail the test.
    pub fn end(mut self) -> Ending {
        let ending = loop {
            match self.session.read_tls(&mut self.stream) {
                Ok(received) => match self.session.process_new_packets() {
                    Err(Error::AlertReceived(alert)) => break Ending::Alert(alert),
                    Err(error) => panic!("{error}"),
                    Ok(state) => {
                        assert_eq!(state.plaintext_bytes_to_read(), 0, "acks that were not expected");
                        if state.peer_has_closed() {
                            break Ending::Closed;
                        }
                        if received == 0 {
                            break Ending::Bare;
                        }
                    }
                },
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break Ending::Broken,
                Err(error) => panic!("{error}"),
            }
        };
        match self.stream.read_to_end(&mut Vec::new()) {
            Ok(0) => ending,
            Ok(_) => panic!("bytes after the end"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ending::Broken,
            Err(error) => panic!("{error}"),
        }
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}
