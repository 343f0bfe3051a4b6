//! A server's certificate and key, and its demands on clients.
//!
//! Owns the configuration of a server's TLS, and the checks before it is used: a server never presents a certificate
//! that has expired or whose key is another's. It must not know when files are read again. Invariant: a configuration
//! is replaced as a whole, so no connection sees a new certificate with old CAs.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::certificate::{Facts, Fingerprint, list_next_update};
use super::files::{FileError, Item, PemFile};
use super::key_verifier::KeyVerifier;
use super::provider::provider;
use super::session::{ClientSession, ServerSession};

/// The files of a server's credentials, and what it demands of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate of the server, then those of the CAs between it and a root.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The certificates of the CAs whose clients are trusted. Without it, clients present no certificate.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must present a certificate.
    pub client_auth: ClientAuth,
    /// The lists of clients' certificates that are revoked.
    pub revocation_lists: Option<PathBuf>,
    /// The oldest accepted version of TLS.
    pub version_min: Version,
}

/// Whether a client must present a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client without a certificate is refused.
    #[default]
    Required,
    /// A client may present a certificate. An invalid one is refused.
    Optional,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    #[default]
    Tls13,
}

impl Files {
    /// Returns the credentials of a server with a certificate, which demands nothing of its clients.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Files {
        Files {
            certificate: certificate.into(),
            key: key.into(),
            client_ca: None,
            client_auth: ClientAuth::default(),
            revocation_lists: None,
            version_min: Version::default(),
        }
    }

    /// Returns the paths of all files.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca).chain(&self.revocation_lists)
    }

    /// Reads the files.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn read(&self) -> Result<Contents, FileError> {
        let read = |option, path: &Option<PathBuf>, wanted| {
            path.as_ref().map(|path| PemFile::read(option, path, wanted)).transpose()
        };
        Ok(Contents {
            certificate: PemFile::read(CERTIFICATE, &self.certificate, Item::Certificate)?,
            key: PemFile::read(KEY, &self.key, Item::PrivateKey)?,
            client_ca: read(CLIENT_CA, &self.client_ca, Item::Certificate)?,
            revocation_lists: read(REVOCATION_LISTS, &self.revocation_lists, Item::RevocationList)?,
            client_auth: self.client_auth,
            version_min: self.version_min,
        })
    }
}

/// The contents of the files of [`Files`]. Equal contents have equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    certificate: PemFile,
    key: PemFile,
    client_ca: Option<PemFile>,
    revocation_lists: Option<PemFile>,
    client_auth: ClientAuth,
    version_min: Version,
}

/// The verified certificate and key of a server, and its demands on clients.
pub struct Credentials {
    /// The configuration of each connection's session.
    pub config: Arc<ServerConfig>,
    /// The facts of the server's certificate.
    pub facts: Facts,
    /// The fingerprint of the server's certificate.
    pub fingerprint: Fingerprint,
}

impl Contents {
    /// Verifies what the files contain, and returns the credentials that they are. `now` decides whether the
    /// certificate and the revocation lists are in date.
    ///
    /// # Errors
    /// The first thing that is wrong with a file.
    pub fn verify(&self, now: UnixTime) -> Result<Credentials, FileError> {
        let provider = provider();
        let chain = self.certificate.certificates()?;
        let facts = self.facts(&chain, now)?;
        let fingerprint = Fingerprint::of(&chain[0]);
        let presented = Arc::new(SingleCertAndKey::from(self.certified_key(chain.clone(), &provider)?));
        let verifier = self.client_verifier(&provider, now)?;
        let config = |verifier| {
            let builder = ServerConfig::builder_with_provider(provider.clone());
            let builder = builder.with_protocol_versions(&self.versions()).expect("the provider has both versions");
            let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(presented.clone());
            config.ignore_client_order = true;
            config.alpn_protocols = vec![ALPN.into()];
            // A resumed session would not be checked against changed CAs and revocation lists, and saves little.
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            Arc::new(config)
        };
        handshake(config(WebPkiClientVerifier::no_client_auth()), &provider, &chain[0])
            .map_err(|why| self.certificate.unusable(format!("a trial handshake failed: {why}. Use another key")))?;
        Ok(Credentials { config: config(verifier), facts, fingerprint })
    }

    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        match self.version_min {
            Version::Tls12 => vec![&TLS13, &TLS12],
            Version::Tls13 => vec![&TLS13],
        }
    }

    /// Returns the facts of the server's certificate, which must be in date. Checks that the whole chain can be parsed.
    fn facts(&self, chain: &[CertificateDer<'static>], now: UnixTime) -> Result<Facts, FileError> {
        let file = &self.certificate;
        let facts = chain.iter().enumerate().map(|(index, certificate)| parse(file, index, certificate));
        let facts = facts.collect::<Result<Vec<_>, _>>()?.swap_remove(0);
        let Facts { not_before, not_after, is_ca, .. } = facts;
        if is_ca.is_none() {
            return Err(file.unusable(
                "the certificate is of version 1, which clients refuse. Have one of version 3 issued, with a \
                 subjectAltName",
            ));
        }
        if not_after.unix_seconds() < now.as_secs() as i64 {
            return Err(file.unusable(format!(
                "the certificate expired at {not_after}. Renew the certificate, or correct this host's clock"
            )));
        }
        if not_before.unix_seconds() > now.as_secs() as i64 {
            return Err(file.unusable(format!(
                "the certificate is valid only from {not_before} on. Correct this host's clock, or wait until then"
            )));
        }
        Ok(facts)
    }

    /// Returns the chain with its key.
    fn certified_key(
        &self,
        chain: Vec<CertificateDer<'static>>,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, FileError> {
        let refused = |error: Error| {
            self.key.unusable(format!(
                "the private key can't be used: {}. Use an ECDSA key of the curve P-256 (openssl genpkey -algorithm EC \
                 -pkeyopt ec_paramgen_curve:P-256), and have a certificate issued for it",
                words(&error)
            ))
        };
        let key = provider.key_provider.load_private_key(self.key.private_key()?).map_err(refused)?;
        let matches = |certificate: &CertificateDer<'static>| {
            CertifiedKey::new(vec![certificate.clone()], key.clone()).keys_match()
        };
        match matches(&chain[0]) {
            Ok(()) => return Ok(CertifiedKey::new(chain, key)),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {}
            Err(error) => return Err(refused(error)),
        }
        Err(match chain.iter().position(|certificate| matches(certificate).is_ok()) {
            Some(index) => self.certificate.unusable(format!(
                "the private key belongs to certificate {} of the file, which must be the first. Move that certificate \
                 to the beginning of the file, before those of CAs",
                index + 1
            )),
            None => self.key.unusable(format!(
                "the private key does not belong to the certificate in {}. Name the key for which that certificate was \
                 issued",
                self.certificate.path().display()
            )),
        })
    }

    /// Returns what verifies the certificates of clients.
    fn client_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
        now: UnixTime,
    ) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
        let Some(file) = &self.client_ca else { return Ok(WebPkiClientVerifier::no_client_auth()) };
        let mut roots = RootCertStore::empty();
        for (index, certificate) in file.certificates()?.into_iter().enumerate() {
            if parse(file, index, &certificate)?.is_ca == Some(false) {
                return Err(file.unusable(format!(
                    "certificate {} of the file is not that of a CA. Name the file of the CA that issues the clients' \
                     certificates",
                    index + 1
                )));
            }
            roots.add(certificate).map_err(|error| unparsable(file, index, &words(&error)))?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        if self.client_auth == ClientAuth::Optional {
            builder = builder.allow_unauthenticated();
        }
        let Some(file) = &self.revocation_lists else {
            return builder.build().map_err(|error| file.unusable(format!("{error}. Name the file of a CA")));
        };
        let lists = file.revocation_lists()?;
        for (index, list) in lists.iter().enumerate() {
            if let Some(end) = list_next_update(list).filter(|end| end.unix_seconds() < now.as_secs() as i64) {
                return Err(file.unusable(format!(
                    "list {} of the file expired at {end}, so the clients of its CA would be refused. Fetch the CA's \
                     current list",
                    index + 1
                )));
            }
        }
        builder.with_crls(lists).enforce_revocation_expiration().build().map_err(|error| {
            let why = match error {
                VerifierBuilderError::InvalidCrl(error) => format!("{error:?}"),
                other => other.to_string(),
            };
            file.unusable(format!("a list in the file can't be used: {why}. Have the CA issue the list again"))
        })
    }
}

impl Credentials {
    /// Reads the files and verifies their contents. `now` decides whether they are in date.
    ///
    /// # Errors
    /// The first thing that is wrong with a file.
    pub fn load(files: &Files, now: UnixTime) -> Result<Credentials, FileError> {
        files.read()?.verify(now)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Credentials { facts, fingerprint, config: _ } = self;
        out.debug_struct("Credentials").field("facts", facts).field("fingerprint", fingerprint).finish_non_exhaustive()
    }
}

/// The credentials that a server uses for its next connections. Open connections keep those that they began with.
#[derive(Debug)]
pub struct CurrentCredentials(Mutex<Arc<Credentials>>);

impl CurrentCredentials {
    /// Begins with these credentials.
    pub fn new(credentials: Credentials) -> Self {
        CurrentCredentials(Mutex::new(Arc::new(credentials)))
    }

    /// Returns the credentials for a new connection.
    pub fn get(&self) -> Arc<Credentials> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the credentials.
    pub fn replace(&self, credentials: Credentials) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
    }
}

/// Returns the facts of the certificate at this place of a file.
fn parse(file: &PemFile, index: usize, certificate: &CertificateDer<'static>) -> Result<Facts, FileError> {
    let facts = Facts::of(certificate).ok_or_else(|| unparsable(file, index, "malformed DER"))?;
    // webpki does not parse version 1, which the certificates of old roots may have.
    if facts.is_ca.is_some() {
        ParsedCertificate::try_from(certificate).map_err(|error| unparsable(file, index, &words(&error)))?;
    }
    Ok(facts)
}

fn unparsable(file: &PemFile, index: usize, why: &str) -> FileError {
    let number = index + 1;
    file.unusable(format!("certificate {number} of the file can't be used: {why}. Have the CA issue it again"))
}

/// Returns rustls' words for an error, without those that say which kind of error it is.
fn words(error: &Error) -> String {
    match error {
        Error::General(why) => why.clone(),
        Error::InvalidCertificate(why) => why.to_string(),
        other => other.to_string(),
    }
}

/// Runs a handshake with a client in memory that accepts only this certificate.
fn handshake(
    config: Arc<ServerConfig>,
    provider: &Arc<CryptoProvider>,
    certificate: &CertificateDer<'static>,
) -> Result<(), String> {
    let algorithms = provider.signature_verification_algorithms;
    let verifier = KeyVerifier { certificate: Some(certificate.clone()), algorithms };
    let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13]);
    let client = client.map_err(|error| error.to_string())?.dangerous();
    let mut client = client.with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    client.alpn_protocols = vec![ALPN.into()];
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut server = ServerSession::accept(config).map_err(|error| error.to_string())?;
    let mut client =
        ClientSession::connect(Arc::new(client), name, &mut to_server).map_err(|fault| fault.to_string())?;
    while server.is_handshaking() || client.is_handshaking() {
        if to_server.is_empty() && to_client.is_empty() {
            return Err("neither side continued".into());
        }
        let used = server.receive(&mut to_server, &mut to_client, |_| {}).map_err(|fault| fault.to_string())?;
        to_server.drain(..used);
        let used = client.receive(&mut to_client, &mut to_server, |_| {}).map_err(|fault| fault.to_string())?;
        to_client.drain(..used);
    }
    Ok(())
}

/// The application protocol (ALPN) of a client that speaks Ringpost's protocol. A client that names none is accepted.
pub const ALPN: &[u8] = b"ringpost";
/// The options that name the files, for errors.
const CERTIFICATE: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const CLIENT_CA: &str = "--tls-client-ca";
const REVOCATION_LISTS: &str = "--tls-crl";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
    };
    use tempfile::TempDir;

    use super::super::{Fault, FaultReason};
    use super::*;

    /// A day in November of 2026.
    const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_795_755_600));

    /// A directory of files, and a CA.
    struct Fixture {
        dir: TempDir,
        ca: CertifiedIssuer<'static, KeyPair>,
    }

    impl Fixture {
        /// Begins with a server's certificate and key.
        fn new() -> Fixture {
            let fixture = Fixture { dir: tempfile::tempdir().unwrap(), ca: ca("ca") };
            let (certificate, key) = fixture.issue("localhost", |_| {});
            fixture.file("server.pem", certificate.pem() + &fixture.ca.pem());
            fixture.file("server.key", key.serialize_pem());
            fixture.file("ca.pem", fixture.ca.pem());
            fixture
        }

        fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (rcgen::Certificate, KeyPair) {
            issue(&self.ca, name, change)
        }

        fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
            fs::write(self.dir.path().join(name), contents).unwrap();
            self.dir.path().join(name)
        }

        fn files(&self) -> Files {
            Files::new(self.dir.path().join("server.pem"), self.dir.path().join("server.key"))
        }

        /// Returns files with client certificates.
        fn mutual(&self) -> Files {
            Files { client_ca: Some(self.dir.path().join("ca.pem")), ..self.files() }
        }

        fn error(&self, files: &Files) -> String {
            let error = Credentials::load(files, NOW).unwrap_err().to_string();
            error.replace(&format!("{}/", self.dir.path().display()), "")
        }

        /// Returns a revocation list with these serial numbers.
        fn list(&self, revoked: &[u64], next_update: i32) -> String {
            let revoked = revoked.iter().map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: date_time_ymd(2025, 1, 2),
                reason_code: None,
                invalidity_date: None,
            });
            let list = CertificateRevocationListParams {
                this_update: date_time_ymd(2025, 1, 1),
                next_update: date_time_ymd(next_update, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: revoked.collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            list.signed_by(&self.ca).unwrap().pem().unwrap()
        }
    }

    fn ca(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn issue(
        ca: &Issuer<'_, KeyPair>,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_string()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, ca).unwrap(), key)
    }

    /// The outcome of a handshake: the versions and the client's certificate, or what each side reports.
    fn outcome(
        credentials: &Credentials,
        versions: &[&'static SupportedProtocolVersion],
        certificate: Option<(rcgen::Certificate, KeyPair)>,
    ) -> Result<ServerSession, Fault> {
        let provider = provider();
        let any = KeyVerifier { certificate: None, algorithms: provider.signature_verification_algorithms };
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let client = client.dangerous().with_custom_certificate_verifier(Arc::new(any));
        let client = match certificate {
            None => client.with_no_client_auth(),
            Some((certificate, key)) => {
                client.with_client_auth_cert(vec![certificate.der().clone()], key.into()).unwrap()
            }
        };
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let mut client = ClientSession::connect(Arc::new(client), name, &mut to_server).unwrap();
        let mut server = ServerSession::accept(credentials.config.clone()).unwrap();
        while server.is_handshaking() || client.is_handshaking() {
            let used = server.receive(&mut to_server, &mut to_client, |_| {})?;
            to_server.drain(..used);
            let used = client.receive(&mut to_client, &mut to_server, |_| {})?;
            to_client.drain(..used);
        }
        Ok(server)
    }

    #[test]
    fn valid_files_serve() {
        let fixture = Fixture::new();
        let credentials = Credentials::load(&fixture.files(), NOW).unwrap();
        assert_eq!(credentials.facts.key.to_string(), "ECDSA P-256");
        let server = outcome(&credentials, &[&TLS13, &TLS12], None).unwrap();
        assert_eq!(server.version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(server.cipher_suite(), Some("TLS13_AES_128_GCM_SHA256"));
        let fault = outcome(&credentials, &[&TLS12], None).err().unwrap();
        assert_eq!(fault.reason, FaultReason::Version);
        let files = Files { version_min: Version::Tls12, ..fixture.files() };
        let server = outcome(&Credentials::load(&files, NOW).unwrap(), &[&TLS12], None).unwrap();
        assert_eq!(server.version(), Some(rustls::ProtocolVersion::TLSv1_2));
        assert_eq!(server.cipher_suite(), Some("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"));
    }

    #[test]
    fn no_session_can_be_resumed() {
        let fixture = Fixture::new();
        let config = Credentials::load(&fixture.files(), NOW).unwrap().config.clone();
        assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
        assert!(!config.session_storage.can_cache() && !config.ticketer.enabled());
    }

    #[test]
    fn a_certificate_out_of_date_is_refused() {
        let fixture = Fixture::new();
        let at = |from: i32, until: i32| {
            let (certificate, key) = fixture.issue("localhost", |params| {
                params.not_before = date_time_ymd(from, 1, 1);
                params.not_after = date_time_ymd(until, 1, 1);
            });
            fixture.file("server.pem", certificate.pem());
            fixture.file("server.key", key.serialize_pem());
            Credentials::load(&fixture.files(), NOW).map(|_| ()).map_err(|_| fixture.error(&fixture.files()))
        };
        assert_eq!(at(2026, 2027), Ok(()));
        let expired = "--tls-cert server.pem: the certificate expired at 2026-01-01 00:00:00 UTC. Renew the \
                       certificate, or correct this host's clock";
        assert_eq!(at(2025, 2026), Err(expired.into()));
        let early = at(2027, 2028).unwrap_err();
        assert!(early.contains("valid only from 2027-01-01 00:00:00 UTC on. Correct this host's clock"), "{early}");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let fixture = Fixture::new();
        fixture.file("server.key", KeyPair::generate().unwrap().serialize_pem());
        let expected = "--tls-key server.key: the private key does not belong to the certificate in server.pem. Name \
                        the key for which that certificate was issued";
        assert_eq!(fixture.error(&fixture.files()), expected);
        let (certificate, key) = fixture.issue("localhost", |_| {});
        fixture.file("server.pem", fixture.ca.pem() + &certificate.pem());
        fixture.file("server.key", key.serialize_pem());
        let error = fixture.error(&fixture.files());
        assert!(error.contains("the private key belongs to certificate 2 of the file, which must be the first"));
    }

    #[test]
    fn keys_of_openssl_are_used_or_refused_with_a_reason() {
        let fixture = Fixture::new();
        let make = |key: &str, more: &str| {
            let words =
                format!("req -x509 -nodes -keyout server.key -out server.pem -subj /CN=x -days 9 -newkey {key}{more}");
            let mut command = Command::new("openssl");
            let output = command.args(words.split(' ')).current_dir(&fixture.dir).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let (files, now) = (fixture.files(), UnixTime::now());
            Credentials::load(&files, now).map(|credentials| credentials.facts.key).map_err(|error| error.to_string())
        };
        use super::super::certificate::KeyKind;
        assert_eq!(make("rsa:2048", ""), Ok(KeyKind::Rsa(2048)));
        assert_eq!(make("ed25519", ""), Ok(KeyKind::Ed25519));
        assert_eq!(make("ec", " -pkeyopt ec_paramgen_curve:P-384"), Ok(KeyKind::EcdsaP384));
        for key in ["rsa:1024", "ed448"] {
            let error = make(key, "").unwrap_err();
            assert!(error.contains("--tls-key") && error.contains("Use an ECDSA key of the curve P-256"), "{error}");
        }
    }

    #[test]
    fn a_malformed_certificate_is_refused() {
        let fixture = Fixture::new();
        let text = |der: &[u8]| {
            let pem = fixture.ca.pem();
            let line = pem.lines().nth(1).unwrap();
            let encoded = if der.is_empty() { line } else { "AAAA" };
            format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n")
        };
        for der in [&[][..], &[0]] {
            let whole = fs::read_to_string(fixture.dir.path().join("server.pem")).unwrap();
            let files = Files { certificate: fixture.file("chain.pem", whole + &text(der)), ..fixture.files() };
            let error = fixture.error(&files);
            assert!(error.contains("--tls-cert chain.pem: certificate 3 of the file can't be used"), "{error}");
        }
    }

    #[test]
    fn clients_are_verified() {
        let fixture = Fixture::new();
        let other = ca("other");
        let versions: [&'static SupportedProtocolVersion; 1] = [&TLS13];
        let required = Credentials::load(&fixture.mutual(), NOW).unwrap();
        let optional = Files { client_auth: ClientAuth::Optional, ..fixture.mutual() };
        let optional = Credentials::load(&optional, NOW).unwrap();
        for (credentials, accepts_none) in [(&required, false), (&optional, true)] {
            let known = outcome(credentials, &versions, Some(fixture.issue("client", |_| {}))).unwrap();
            assert!(known.peer_certificate().is_some());
            let unknown = outcome(credentials, &versions, Some(issue(&other, "client", |_| {}))).err().unwrap();
            assert_eq!(unknown.reason, FaultReason::Certificate, "{unknown}");
            assert_eq!(outcome(credentials, &versions, None).is_ok(), accepts_none);
        }
    }

    #[test]
    fn a_file_of_cas_has_only_cas() {
        let fixture = Fixture::new();
        let (certificate, _) = fixture.issue("client", |_| {});
        fixture.file("ca.pem", fixture.ca.pem() + &certificate.pem());
        let error = fixture.error(&fixture.mutual());
        assert!(error.contains("--tls-client-ca ca.pem: certificate 2 of the file is not that of a CA"), "{error}");
    }

    #[test]
    fn revoked_clients_are_refused() {
        let fixture = Fixture::new();
        let files = |list: String| Files { revocation_lists: Some(fixture.file("list.pem", list)), ..fixture.mutual() };
        let client = |serial: u64| fixture.issue("client", |params| params.serial_number = Some(serial.into()));
        let credentials = Credentials::load(&files(fixture.list(&[7], 2096)), NOW).unwrap();
        assert!(outcome(&credentials, &[&TLS13], Some(client(8))).is_ok());
        let revoked = outcome(&credentials, &[&TLS13], Some(client(7))).err().unwrap();
        assert_eq!(revoked.reason, FaultReason::Certificate, "{revoked}");
        let other = Fixture { dir: tempfile::tempdir().unwrap(), ca: ca("other") };
        let credentials = Credentials::load(&files(other.list(&[], 2096)), NOW).unwrap();
        let unknown = outcome(&credentials, &[&TLS13], Some(client(8))).err().unwrap();
        assert_eq!(unknown.reason, FaultReason::Certificate, "no list of this CA: {unknown}");
        let expired = fixture.error(&files(fixture.list(&[], 2096) + &fixture.list(&[], 2026)));
        assert!(expired.contains("--tls-crl list.pem: list 2 of the file expired at 2026-01-01"), "{expired}");
    }

    #[test]
    fn a_list_that_expires_while_the_server_runs_refuses_all() {
        let fixture = Fixture::new();
        let lists = Some(fixture.file("list.pem", fixture.list(&[], 2026)));
        let files = Files { revocation_lists: lists, ..fixture.mutual() };
        let then = UnixTime::since_unix_epoch(Duration::from_secs(1_767_000_000));
        let credentials = Credentials::load(&files, then).unwrap();
        let refused = outcome(&credentials, &[&TLS13], Some(fixture.issue("client", |_| {}))).err().unwrap();
        assert_eq!(refused.reason, FaultReason::Certificate, "{refused}");
    }

    #[test]
    fn a_replacement_is_seen_by_the_next_connection() {
        let fixture = Fixture::new();
        let current = CurrentCredentials::new(Credentials::load(&fixture.files(), NOW).unwrap());
        let before = current.get();
        let (certificate, key) = fixture.issue("localhost", |_| {});
        fixture.file("server.pem", certificate.pem());
        fixture.file("server.key", key.serialize_pem());
        current.replace(Credentials::load(&fixture.files(), NOW).unwrap());
        assert_ne!(before.fingerprint, current.get().fingerprint);
        assert_eq!(current.get().fingerprint, Fingerprint::of(certificate.der()));
    }

    #[test]
    fn no_secret_is_shown() {
        let fixture = Fixture::new();
        let credentials = Credentials::load(&fixture.files(), NOW).unwrap();
        let shown = format!("{credentials:?} {:?}", fixture.files().read().unwrap());
        assert!(shown.contains("EcdsaP256") && shown.len() < 2000, "{shown}");
    }
}
