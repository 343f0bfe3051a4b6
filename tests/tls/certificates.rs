//! Certificates for tests, and the certificate that a server presents.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::common::{Server, submit, submit_ack};

/// A certificate of localhost, valid until a day that the caller chooses, and its key.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Pair {
    pub fn new() -> Pair {
        Pair::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new(["localhost".to_string()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Pair { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    /// Writes both files, and returns their paths.
    pub fn write(&self, certificate: &Path, key: &Path) {
        fs::write(certificate, &self.certificate).unwrap();
        fs::write(key, &self.key).unwrap();
    }

    /// Writes both files to a directory.
    pub fn write_to(&self, dir: &Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        self.write(&certificate, &key);
        (certificate, key)
    }
}

/// Returns the certificate of a CA.
pub fn ca() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap().pem()
}

/// A client that trusts one certificate.
pub struct Client(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    pub fn connect(server: &Server, trusted: &Pair) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.certificate.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let config = Arc::new(config.with_no_client_auth());
        let session = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        Client(StreamOwned::new(session, server.connect()))
    }

    /// Sends a request, and waits for its ack.
    pub fn round_trip(&mut self, id: u64) {
        self.0.write_all(&submit(id, b"payload")).unwrap();
        let mut ack = [0; 14];
        self.0.read_exact(&mut ack).unwrap();
        assert_eq!(ack, submit_ack(id, 0));
    }
}

/// Returns the certificate that a server presents to `openssl s_client`.
pub fn presented(server: &Server) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &server.address().to_string(), "-alpn", "ringpost"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let start = text.find("-----BEGIN CERTIFICATE-----").unwrap_or_else(|| panic!("no certificate: {text}"));
    let end = text.find("-----END CERTIFICATE-----").unwrap();
    text[start..end].lines().collect()
}

/// Returns a certificate in the form of [`presented`].
pub fn one_line(pem: &str) -> String {
    pem[..pem.find("-----END CERTIFICATE-----").unwrap()].lines().collect()
}
