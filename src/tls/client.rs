//! TLS of a client: the CAs that it trusts, the certificate that it presents, and the reasons why a connection fails.
//!
//! This module owns the configuration of rustls for clients, and the words for what a server or a certificate lacks. It
//! knows no sockets. Invariants: no session is resumed, and no data is sent before the handshake is done.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::{ClientConfig, Resumption};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, Error, InconsistentKeys, RootCertStore};

use super::fault::{Fault, FaultReason};
use super::files::{self, FileError};
use super::key_verifier::KeyVerifier;
use super::provider::provider;

/// The CAs that a client trusts, and the certificate that it presents. By default it trusts the CAs of the system and
/// presents nothing.
///
/// All files are PEM. Errors name the options of `ringpost submit` for the same files.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct TlsOptions {
    ca: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
    insecure: bool,
}

impl TlsOptions {
    /// Trusts the CAs whose certificates are in this file, instead of the system's. It may also contain a server's own
    /// certificate, if that is self-signed.
    pub fn ca(self, file: impl Into<PathBuf>) -> Self {
        TlsOptions { ca: Some(file.into()), ..self }
    }

    /// Presents this certificate to a server that asks for one. The first file has the certificate and those of its
    /// intermediate CAs, the second one its private key.
    pub fn certificate(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        TlsOptions { certificate: Some((certificate.into(), key.into())), ..self }
    }

    /// Expects this name in the server's certificate: a DNS name or an IP address. The default is the host that is
    /// connected to.
    pub fn server_name(self, name: impl Into<String>) -> Self {
        TlsOptions { server_name: Some(name.into()), ..self }
    }

    /// Accepts any certificate, so that the server may be anybody. Only for tests and measurements.
    pub(crate) fn insecure(self, insecure: bool) -> Self {
        TlsOptions { insecure, ..self }
    }

    /// Logs a warning if any certificate is accepted.
    #[cfg(feature = "bench")]
    pub(crate) fn warn_if_insecure(&self) {
        if self.insecure {
            tracing::warn!("--tls-insecure accepts any certificate, so the server may be anybody");
        }
    }

    /// Reads the files. The result can be used for any number of connections.
    ///
    /// # Errors
    /// A file can't be used, the key is not that of the certificate, the system has no CAs, or the server's name is
    /// invalid.
    pub fn load(&self) -> Result<Tls, TlsOptionsError> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites of TLS 1.2 and 1.3");
        let builder = if self.insecure {
            let verifier = KeyVerifier { certificate: None, algorithms: provider.signature_verification_algorithms };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = files::certificates("--tls-cert", certificate)?;
                let private_key = files::private_key("--tls-key", key)?;
                builder.with_client_auth_cert(chain, private_key).map_err(|error| {
                    let (certificate, key) = (certificate.clone(), key.clone());
                    match error {
                        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                            TlsOptionsError::WrongKey { certificate, key }
                        }
                        error => TlsOptionsError::Unusable { certificate, key, error: error.to_string() },
                    }
                })?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        let server_name = self.server_name.as_deref().map(parse_name).transpose()?;
        Ok(Tls { config: Arc::new(config), server_name })
    }

    fn roots(&self) -> Result<RootCertStore, TlsOptionsError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca {
            for (index, certificate) in files::certificates("--tls-ca", path)?.into_iter().enumerate() {
                roots.add(certificate).map_err(|error| TlsOptionsError::InvalidCa {
                    path: path.clone(),
                    number: index + 1,
                    error: error.to_string(),
                })?;
            }
            return Ok(roots);
        }
        // A system may have certificates that rustls can't parse, next to good ones.
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let error = found.errors.first().map_or_else(|| "its store is empty".to_owned(), ToString::to_string);
            return Err(TlsOptionsError::NoSystemCas { error });
        }
        Ok(roots)
    }
}

/// Loaded [`TlsOptions`]. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// Returns the configuration of new connections.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Returns the name that the certificate of the server at `addr` (`HOST:PORT`) must have.
    ///
    /// # Errors
    /// The host is neither a DNS name nor an IP address.
    pub(crate) fn server_name(&self, addr: &str) -> Result<ServerName<'static>, TlsOptionsError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => parse_name(host_of(addr)),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Returns the host of `HOST:PORT`, without the brackets and the zone of an IPv6 address.
fn host_of(addr: &str) -> &str {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.split('%').next().unwrap_or(address),
        None => host,
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, TlsOptionsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsOptionsError::InvalidName { name: name.to_owned() })
}

/// The reason why the options of TLS can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsOptionsError {
    /// A file can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The private key is not that of the certificate.
    #[error(
        "--tls-key {key}: this is not the key of the certificate in {certificate} (--tls-cert): name the key that the \
         certificate was made with; in {certificate}, the client's own certificate must be the first",
        key = .key.display(), certificate = .certificate.display()
    )]
    WrongKey {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the private key.
        key: PathBuf,
    },
    /// The certificate or its key is of a kind that can't be used.
    #[error(
        "--tls-cert {certificate} and --tls-key {key} can't be used: {error}: create a certificate with an ECDSA P-256 \
         key",
        key = .key.display(), certificate = .certificate.display()
    )]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the private key.
        key: PathBuf,
        /// The reason.
        error: String,
    },
    /// A certificate in the file of CAs is damaged.
    #[error(
        "--tls-ca {path}: certificate {number} in it is invalid: {error}: replace or remove it",
        path = .path.display()
    )]
    InvalidCa {
        /// The file of the CAs.
        path: PathBuf,
        /// The certificate's place in the file, from 1.
        number: usize,
        /// The reason.
        error: String,
    },
    /// The system has no CAs.
    #[error(
        "this system has no CA certificates to check a server with: {error}: install them (package ca-certificates), \
         or name the certificate of the server's CA (--tls-ca)"
    )]
    NoSystemCas {
        /// The first error of the search, or that nothing was found.
        error: String,
    },
    /// The server's name is neither a DNS name nor an IP address.
    #[error(
        "{name:?} is neither a DNS name nor an IP address, so no certificate is valid for it: set the name in the \
         server's certificate (--tls-server-name)"
    )]
    InvalidName {
        /// The name.
        name: String,
    },
}

/// The reason why the handshake failed, or a TLS connection ended later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The connection ended before the handshake was done.
    #[error(
        "the server closed the connection during the handshake: if this port has no TLS, connect without it; otherwise \
         the server's log says why"
    )]
    Closed,
    /// The server answered with something that is not TLS.
    #[error("the server's answer is not TLS: connect without TLS, or to the server's port for TLS")]
    NotTls,
    /// The client does not trust the server's certificate.
    #[error(
        "the server's certificate is not signed by a CA that this client trusts: name the certificate of that CA, or \
         the server's own if it is self-signed (--tls-ca)"
    )]
    UnknownIssuer,
    /// The server's certificate has other names.
    #[error(
        "the server's certificate is not valid for {expected:?}, only for {}: connect to one of these names, or set \
         the name to expect (--tls-server-name)", names(.presented)
    )]
    WrongName {
        /// The expected name.
        expected: String,
        /// The names in the certificate.
        presented: Vec<String>,
    },
    /// The server's certificate has expired.
    #[error(
        "the server's certificate expired {days_ago} days ago: renew it on the server, or correct the clock of this \
         host"
    )]
    Expired {
        /// Whole days since then.
        days_ago: u64,
    },
    /// The server's certificate is not valid yet.
    #[error("the server's certificate is not valid yet: correct the clock of this host, or replace the certificate")]
    NotValidYet,
    /// The server presented the certificate of a CA as its own.
    #[error(
        "the server's certificate is that of a CA (basicConstraints CA:TRUE), which no server may use: create one with \
         CA:FALSE for the server"
    )]
    CertificateOfCa,
    /// The server's certificate is rejected for another reason.
    #[error("the server's certificate is rejected: {0}: replace it on the server")]
    Certificate(String),
    /// The server demands a client certificate.
    #[error("the server demands a certificate of the client: name one and its key (--tls-cert, --tls-key)")]
    CertificateRequired,
    /// The server rejected the client's certificate, with this alert.
    #[error(
        "the server rejected the client's certificate (TLS alert {0}): present one that its CA has signed and that is \
         in date (--tls-cert, --tls-key); the server's log says why"
    )]
    CertificateRejected(String),
    /// The server does not offer this protocol.
    #[error("the server does not offer the protocol ringpost (ALPN): check that a Ringpost server is at this address")]
    WrongProtocol,
    /// Server and client have no TLS version, cipher suite or key exchange in common.
    #[error("the server and this client have no TLS version or cipher in common ({0}): enable TLS 1.3 on the server")]
    Incompatible(String),
    /// The server ended the connection with this alert.
    #[error("the server ended the connection with the TLS alert {0}: its log says why")]
    Alert(String),
    /// The server violated TLS, or something on the way changed its bytes.
    #[error("the server violated TLS: {0}: connect again; if this repeats, check what is between client and server")]
    Violation(String),
    /// The kernel reported an error during the handshake.
    #[error("the connection failed during the handshake: {0}: connect again")]
    Io(String),
}

impl TlsError {
    /// Returns the reason why a handshake failed.
    pub(crate) fn of_handshake(error: &io::Error) -> TlsError {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match (rustls_error(error), error.kind()) {
            (Some(error), _) => TlsError::of_first_bytes(error),
            (None, UnexpectedEof | ConnectionReset | BrokenPipe) => TlsError::Closed,
            (None, _) => TlsError::Io(error.to_string()),
        }
    }

    /// Returns the reason why a connection ended after its handshake, if TLS is the reason.
    pub(crate) fn of_stream(error: &io::Error) -> Option<TlsError> {
        rustls_error(error).map(TlsError::from)
    }

    /// Returns the reason why a session failed in its handshake.
    #[cfg(feature = "bench")]
    pub(crate) fn of_first_fault(fault: Fault) -> TlsError {
        match fault {
            Fault { error: Some(error), .. } => TlsError::of_first_bytes(&error),
            Fault { reason: FaultReason::NotTls, .. } => TlsError::NotTls,
            fault => fault.into(),
        }
    }

    /// Returns the reason why rustls rejects the bytes of a handshake. A server without TLS sends its own protocol.
    fn of_first_bytes(error: &Error) -> TlsError {
        match error {
            Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => TlsError::NotTls,
            error => error.into(),
        }
    }
}

fn rustls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

impl From<&Error> for TlsError {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => error.into(),
            Error::AlertReceived(alert) => (*alert).into(),
            Error::NoApplicationProtocol => TlsError::WrongProtocol,
            Error::PeerIncompatible(what) => TlsError::Incompatible(format!("{what:?}")),
            error => TlsError::Violation(error.to_string()),
        }
    }
}

impl From<Fault> for TlsError {
    fn from(fault: Fault) -> Self {
        match &fault.error {
            Some(error) => error.into(),
            None => TlsError::Violation(fault.to_string()),
        }
    }
}

impl From<&CertificateError> for TlsError {
    fn from(error: &CertificateError) -> Self {
        match error {
            // A CA of the same name that has another key, such as one that was created again, has a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsError::UnknownIssuer,
            CertificateError::NotValidForNameContext { expected, presented } => TlsError::WrongName {
                expected: expected.to_str().into_owned(),
                presented: presented.iter().map(|name| bare_name(name)).collect(),
            },
            CertificateError::ExpiredContext { time, not_after } => {
                TlsError::Expired { days_ago: time.as_secs().saturating_sub(not_after.as_secs()) / 86_400 }
            }
            CertificateError::NotValidYetContext { .. } => TlsError::NotValidYet,
            CertificateError::Other(other)
                if matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
            {
                TlsError::CertificateOfCa
            }
            error => TlsError::Certificate(error.to_string()),
        }
    }
}

impl From<AlertDescription> for TlsError {
    fn from(alert: AlertDescription) -> Self {
        let name = format!("{alert:?}");
        match alert {
            AlertDescription::CertificateRequired => TlsError::CertificateRequired,
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => TlsError::CertificateRejected(name),
            AlertDescription::NoApplicationProtocol => TlsError::WrongProtocol,
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity => TlsError::Incompatible(name),
            _ => TlsError::Alert(name),
        }
    }
}

/// Returns a name as people write it. webpki describes it as `DnsName("localhost")` or `IpAddress(127.0.0.1)`.
fn bare_name(described: &str) -> String {
    let inner = described.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')')).unwrap_or(described);
    inner.trim_matches('"').to_owned()
}

/// Returns the first few names of a certificate, in one phrase.
fn names(presented: &[String]) -> String {
    let shown = presented.iter().take(NAMES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match presented.len() {
        0 => "no name at all".to_owned(),
        count if count > NAMES_SHOWN => format!("{shown} and {} others", count - NAMES_SHOWN),
        _ => shown,
    }
}

/// The name of the protocol in the handshake (ALPN).
const ALPN: &[u8] = b"ringpost";
/// How many names of a certificate an error lists.
const NAMES_SHOWN: usize = 5;
