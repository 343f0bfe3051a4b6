//! Certificates for tests, and the certificate that a server presents.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

use crate::common::Server;

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
