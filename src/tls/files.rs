//! PEM files of certificates, private keys and certificate revocation lists.
//!
//! Owns the errors about such files: each names the option, the file, what is wrong with it, and how to fix it. It must
//! not know what the contents are used for. Invariant: at most a fixed number of bytes of a file is read.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{Error as PemError, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{option} {path}: {fault}", path = .path.display())]
pub struct FileError {
    /// The option that names the file, such as `--tls-cert`.
    pub option: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The fault of the file, and how to fix it.
    pub fault: FileFault,
}

/// The fault of a file.
#[derive(Debug)]
#[non_exhaustive]
pub enum FileFault {
    /// There is no such file.
    Missing,
    /// The process may not read the file, or may not search one of the directories above it.
    NotPermitted,
    /// The path names a directory, a pipe or a device.
    NotAFile,
    /// The file is larger than this number of bytes.
    TooLarge(u64),
    /// Reading the file failed.
    Unreadable(io::Error),
    /// The file is DER. The text is the command that converts it.
    Der(String),
    /// The file's private key is encrypted. The text is the command that decrypts it.
    Encrypted(String),
    /// A section of the file is damaged.
    Damaged(String),
    /// The file is empty.
    Empty,
    /// The file has no item of the wanted kind.
    Lacks {
        /// The wanted kind.
        wanted: Item,
        /// The contents of the file instead, or an empty string.
        found: &'static str,
    },
    /// The file has several private keys.
    SeveralKeys(usize),
    /// The contents of the file can't be used. The text says why, and how to fix it.
    Unusable(String),
}

/// A kind of item in a PEM file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// A certificate.
    Certificate,
    /// A private key.
    PrivateKey,
    /// A certificate revocation list.
    RevocationList,
}

impl Item {
    fn name(self) -> &'static str {
        match self {
            Item::Certificate => "certificate",
            Item::PrivateKey => "private key",
            Item::RevocationList => "certificate revocation list",
        }
    }

    /// Returns the label in the first line of such a section.
    fn label(self) -> &'static str {
        match self {
            Item::Certificate => "CERTIFICATE",
            Item::PrivateKey => "PRIVATE KEY",
            Item::RevocationList => "X509 CRL",
        }
    }

    /// Returns the largest accepted file. A list may revoke several hundred thousand certificates.
    fn len_max(self) -> u64 {
        match self {
            Item::Certificate | Item::PrivateKey => FILE_LEN_MAX,
            Item::RevocationList => REVOCATION_LISTS_LEN_MAX,
        }
    }

    /// Returns the command of `openssl` that converts a file from DER to PEM.
    fn conversion(self, path: &Path, der: &[u8]) -> String {
        let command = match self {
            // A PKCS #12 file begins with its version, which is 3.
            _ if content(der).is_some_and(|content| content.starts_with(&[2, 1, 3])) => match self {
                Item::PrivateKey => "pkcs12 -nodes -nocerts",
                _ => "pkcs12 -nokeys",
            },
            Item::Certificate => "x509 -inform DER",
            Item::PrivateKey => "pkey -inform DER",
            Item::RevocationList => "crl -inform DER",
        };
        format!("openssl {command} -in {} -out {}", path.display(), renamed(path, "converted"))
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileFault::Missing => write!(out, "there is no such file. Name an existing PEM file"),
            FileFault::NotPermitted => write!(
                out,
                "this process may not read the file (permission denied). Let its user read the file, and search the \
                 directories above it"
            ),
            FileFault::NotAFile => write!(out, "this is not a regular file. Name a PEM file"),
            FileFault::TooLarge(len_max) => {
                write!(out, "the file is larger than {} MiB. Name a PEM file", len_max >> 20)
            }
            FileFault::Unreadable(error) => write!(out, "can't read the file: {error}"),
            FileFault::Der(conversion) => {
                write!(out, "the file is DER, but PEM is needed. Convert it, and name the new file: {conversion}")
            }
            FileFault::Encrypted(decryption) => write!(
                out,
                "the private key is encrypted, and nobody is there to enter its password. Decrypt it, and name the new \
                 file: {decryption}"
            ),
            FileFault::Damaged(how) => write!(out, "the PEM file is damaged: {how}. Copy it again from its source"),
            FileFault::Empty => write!(out, "the file is empty. Name a PEM file"),
            FileFault::Lacks { wanted, found } => {
                let (name, label) = (wanted.name(), wanted.label());
                let but = if found.is_empty() { "" } else { ", but " };
                write!(
                    out,
                    "the file contains no {name}{but}{found}. Name a PEM file with a section that begins with \
                     -----BEGIN {label}-----"
                )
            }
            FileFault::Unusable(text) => out.write_str(text),
            FileFault::SeveralKeys(keys) => {
                write!(out, "the file contains {keys} private keys. Remove all but that of the certificate")
            }
        }
    }
}

/// Returns the certificates in a PEM file, which are at least one, in their order.
///
/// # Errors
/// The file can't be read or has no certificate.
pub fn certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    PemFile::read(option, path, Item::Certificate)?.certificates()
}

/// Returns the private key in a PEM file.
///
/// # Errors
/// The file can't be read, or has not exactly one key, or an encrypted one.
pub fn private_key(option: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PemFile::read(option, path, Item::PrivateKey)?.private_key()
}

/// Returns the certificate revocation lists in a PEM file, which are at least one.
///
/// # Errors
/// The file can't be read or has no list.
pub fn revocation_lists(
    option: &'static str,
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    PemFile::read(option, path, Item::RevocationList)?.revocation_lists()
}

/// A PEM file that was read, and is not parsed yet.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PemFile {
    option: &'static str,
    path: PathBuf,
    wanted: Item,
    bytes: Vec<u8>,
}

impl PemFile {
    /// Reads a file.
    ///
    /// # Errors
    /// The file can't be read or is too large.
    pub(super) fn read(option: &'static str, path: &Path, wanted: Item) -> Result<PemFile, FileError> {
        let bytes = read(path, wanted.len_max());
        let bytes = bytes.map_err(|fault| FileError { option, path: path.into(), fault })?;
        Ok(PemFile { option, path: path.into(), wanted, bytes })
    }

    /// Returns the certificates, which are at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, FileError> {
        self.items()
    }

    /// Returns the private key.
    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, FileError> {
        if self.contains("BEGIN ENCRYPTED PRIVATE KEY") || self.contains("Proc-Type: 4,ENCRYPTED") {
            let decrypted = renamed(&self.path, "decrypted");
            let command = format!("openssl pkey -in {} -out {decrypted}", self.path.display());
            return Err(self.error(FileFault::Encrypted(command)));
        }
        let mut keys: Vec<PrivateKeyDer<'static>> = self.items()?;
        match keys.len() {
            1 => Ok(keys.remove(0)),
            several => Err(self.error(FileFault::SeveralKeys(several))),
        }
    }

    /// Returns the certificate revocation lists, which are at least one.
    pub(super) fn revocation_lists(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
        self.items()
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the error that the contents can't be used. The text says why, and how to fix it.
    pub(super) fn unusable(&self, text: impl Into<String>) -> FileError {
        self.error(FileFault::Unusable(text.into()))
    }

    fn error(&self, fault: FileFault) -> FileError {
        FileError { option: self.option, path: self.path.clone(), fault }
    }

    /// Returns all items of the wanted kind, which are at least one.
    fn items<T: PemObject>(&self) -> Result<Vec<T>, FileError> {
        let items: Result<Vec<T>, _> = T::pem_slice_iter(&self.bytes).collect();
        let items = items.map_err(|error| self.error(FileFault::Damaged(description(&error))))?;
        if !items.is_empty() {
            return Ok(items);
        }
        if self.bytes.is_empty() {
            return Err(self.error(FileFault::Empty));
        }
        if content(&self.bytes).is_some() {
            return Err(self.error(FileFault::Der(self.wanted.conversion(&self.path, &self.bytes))));
        }
        Err(self.error(FileFault::Lacks { wanted: self.wanted, found: self.found() }))
    }

    /// Returns the first of the things that a file may contain instead of what is wanted, or an empty string.
    fn found(&self) -> &'static str {
        match <(SectionKind, Vec<u8>)>::pem_slice_iter(&self.bytes).next() {
            Some(Ok((SectionKind::Certificate, _))) => "a certificate",
            Some(Ok((SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _))) => {
                "a private key"
            }
            Some(Ok((SectionKind::PublicKey, _))) => "a public key",
            Some(Ok((SectionKind::Crl, _))) => "a certificate revocation list",
            Some(Ok((SectionKind::Csr, _))) => "a request for a certificate, which a CA has yet to sign",
            _ if self.contains("PRIVATE KEY-----") => "a private key of another format",
            _ if self.contains("TRUSTED CERTIFICATE-----") => "an OpenSSL trusted certificate",
            _ => "",
        }
    }

    fn contains(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

impl fmt::Debug for PemFile {
    /// Omits the contents, which may be secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PemFile").field("option", &self.option).field("path", &self.path).finish_non_exhaustive()
    }
}

/// Returns the contents of a regular file of at most `len_max` bytes.
fn read(path: &Path, len_max: u64) -> Result<Vec<u8>, FileFault> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => FileFault::Missing,
        ErrorKind::PermissionDenied => FileFault::NotPermitted,
        _ => FileFault::Unreadable(error),
    };
    // To open a pipe would block until somebody writes to it.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(FileFault::NotAFile);
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(len_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > len_max { Err(FileFault::TooLarge(len_max)) } else { Ok(bytes) }
}

/// Returns the content of a DER sequence as far as the file has it, or `None` if the file does not begin with one.
fn content(bytes: &[u8]) -> Option<&[u8]> {
    let len_len = match bytes {
        [0x30, len @ 0x81..=0x84, ..] => usize::from(len - 0x80),
        // Only keys are shorter than 128 bytes, and they begin with their version. A text may also begin with `0`.
        [0x30, 0x20..=0x7f, 0x02, 0x01, ..] => 0,
        _ => return None,
    };
    bytes.get(2 + len_len..)
}

/// Returns another path for what `made` says.
fn renamed(path: &Path, made: &str) -> String {
    let renamed = path.with_extension("pem");
    if renamed == path { path.with_extension(format!("{made}.pem")) } else { renamed }.display().to_string()
}

fn description(error: &PemError) -> String {
    match error {
        PemError::MissingSectionEnd { .. } => "a section has no -----END line".into(),
        PemError::IllegalSectionStart { .. } => "a -----BEGIN line does not end with five hyphens".into(),
        PemError::Base64Decode(_) => "a section is not valid base64".into(),
        other => other.to_string(),
    }
}

/// The largest file of certificates or of a key. The certificates of all public CAs have a quarter of this size.
const FILE_LEN_MAX: u64 = 1 << 20;
/// The largest file of certificate revocation lists.
const REVOCATION_LISTS_LEN_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyIdMethod, KeyPair};
    use rcgen::{CertificateRevocationListParams, KeyUsagePurpose, SerialNumber, date_time_ymd};
    use tempfile::TempDir;

    use super::*;

    /// A directory with a certificate, its key and a revocation list of its own.
    struct Fixture {
        dir: TempDir,
        certificate: String,
        key: String,
        list: String,
    }

    impl Fixture {
        fn new() -> Fixture {
            let mut params = CertificateParams::new(["localhost".to_string()]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let list = CertificateRevocationListParams {
                this_update: date_time_ymd(2026, 1, 1),
                next_update: date_time_ymd(2046, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: Vec::new(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            Fixture {
                dir: tempfile::tempdir().unwrap(),
                certificate: issuer.pem(),
                key: issuer.key().serialize_pem(),
                list: list.signed_by(&issuer).unwrap().pem().unwrap(),
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
            fs::write(self.path(name), contents).unwrap();
            self.path(name)
        }

        /// Runs `openssl` in the directory.
        fn openssl(&self, words: &str) {
            let mut command = Command::new("openssl");
            let output = command.args(words.split(' ')).current_dir(&self.dir).output().unwrap();
            assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    fn of_certificate(path: &Path) -> String {
        certificates("--tls-cert", path).unwrap_err().to_string()
    }

    fn of_key(path: &Path) -> String {
        private_key("--tls-key", path).unwrap_err().to_string()
    }

    /// Runs the command that an error ends with, and returns the file that it has made.
    fn run(fixture: &Fixture, error: &str) -> PathBuf {
        let (_, words) = error.split_once("openssl ").unwrap();
        fixture.openssl(words);
        words.rsplit(' ').next().unwrap().into()
    }

    #[test]
    fn each_kind_is_read_from_a_file_that_has_all() {
        let fixture = Fixture::new();
        let Fixture { certificate, key, list, .. } = &fixture;
        let path = fixture.file("all.pem", format!("a comment\n{key}{certificate}{list}\r\n{certificate}"));
        assert_eq!(certificates("", &path).unwrap().len(), 2);
        assert!(matches!(private_key("", &path), Ok(PrivateKeyDer::Pkcs8(_))));
        assert_eq!(revocation_lists("", &path).unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        let fixture = Fixture::new();
        let path = fixture.path("missing.pem");
        let expected = format!("--tls-cert {}: there is no such file. Name an existing PEM file", path.display());
        assert_eq!(of_certificate(&path), expected);
        assert!(of_certificate(fixture.dir.path()).ends_with("this is not a regular file. Name a PEM file"));
        let path = fixture.file("empty.pem", "");
        assert!(of_certificate(&path).ends_with("the file is empty. Name a PEM file"));
        let path = fixture.file("large.pem", vec![b'x'; 1 + (1 << 20)]);
        assert!(of_key(&path).ends_with("the file is larger than 1 MiB. Name a PEM file"));
        let error = revocation_lists("--tls-crl", &path).unwrap_err().to_string();
        assert!(error.contains("contains no certificate revocation list. Name"), "{error}");
        let path = fixture.file("large.crl", vec![b'x'; 1 + (16 << 20)]);
        let error = revocation_lists("--tls-crl", &path).unwrap_err().to_string();
        assert!(error.contains("larger than 16 MiB"), "{error}");
    }

    #[test]
    fn der_is_an_error_with_the_command_that_converts_it() {
        let fixture = Fixture::new();
        fixture.file("cert.pem", &fixture.certificate);
        fixture.file("key.pem", &fixture.key);
        fixture.file("list.pem", &fixture.list);
        fixture.openssl("x509 -in cert.pem -outform DER -out cert.crt");
        fixture.openssl("pkey -in key.pem -outform DER -out key.der");
        fixture.openssl("ec -in key.pem -outform DER -out sec1.der");
        fixture.openssl("genpkey -algorithm ed25519 -outform DER -out ed25519.der");
        fixture.openssl("crl -in list.pem -outform DER -out der.pem");
        fixture.openssl("pkcs12 -export -in cert.pem -inkey key.pem -passout pass: -out both.p12");
        let error = of_certificate(&fixture.path("cert.crt"));
        assert!(error.contains("the file is DER, but PEM is needed"), "{error}");
        assert_eq!(certificates("", &run(&fixture, &error)).unwrap().len(), 1);
        for name in ["key.der", "sec1.der", "ed25519.der"] {
            let error = of_key(&fixture.path(name));
            assert!(error.contains("the file is DER, but PEM is needed"), "{error}");
            private_key("", &run(&fixture, &error)).unwrap();
        }
        let error = revocation_lists("", &fixture.path("der.pem")).unwrap_err().to_string();
        assert_eq!(revocation_lists("", &run(&fixture, &error)).unwrap().len(), 1);
        assert_eq!(run(&fixture, &error), fixture.path("der.converted.pem"), "the file itself is not overwritten");
        let bundle = fixture.path("both.p12");
        assert!(of_certificate(&bundle).contains("openssl pkcs12 -nokeys -in "));
        assert!(of_key(&bundle).contains("openssl pkcs12 -nodes -nocerts -in "));
    }

    #[test]
    fn an_encrypted_key_is_an_error_with_the_command_that_decrypts_it() {
        let fixture = Fixture::new();
        fixture.file("key.pem", &fixture.key);
        fixture.openssl("pkcs8 -topk8 -in key.pem -passout pass:x -out encrypted.pem");
        fixture.openssl("ec -in key.pem -aes128 -passout pass:x -out legacy.key");
        for name in ["encrypted.pem", "legacy.key"] {
            let error = of_key(&fixture.path(name));
            assert!(error.contains("the private key is encrypted"), "{error}");
            let made = run(&fixture, &format!("{error} -passin pass:x").replace("-out", "-passin pass:x -out"));
            assert_eq!(made, Path::new("pass:x"), "no other file");
        }
        private_key("", &fixture.path("encrypted.decrypted.pem")).unwrap();
        private_key("", &fixture.path("legacy.pem")).unwrap();
    }

    #[test]
    fn a_file_of_another_kind_is_named() {
        let fixture = Fixture::new();
        let Fixture { certificate, key, list, .. } = &fixture;
        let error = of_certificate(&fixture.file("key.pem", key));
        assert!(error.contains("the file contains no certificate, but a private key. Name a PEM file"), "{error}");
        let error = of_key(&fixture.file("cert.pem", certificate));
        assert!(error.contains("the file contains no private key, but a certificate. Name a PEM file"), "{error}");
        let error = of_certificate(&fixture.file("list.pem", list));
        assert!(error.contains("no certificate, but a certificate revocation list"), "{error}");
        fixture.openssl("req -new -key key.pem -subj /CN=x -out request.pem");
        let error = of_certificate(&fixture.path("request.pem"));
        assert!(error.contains("but a request for a certificate"), "{error}");
        let openssh = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
        let error = of_key(&fixture.file("openssh.pem", openssh));
        assert!(error.contains("but a private key of another format"), "{error}");
        let error = of_key(&fixture.file("two.pem", format!("{key}{key}")));
        assert!(error.contains("the file contains 2 private keys"), "{error}");
        assert!(of_key(&fixture.file("text.pem", "0123 hello")).contains("contains no private key. Name"));
    }

    #[test]
    fn a_damaged_section_is_an_error() {
        let fixture = Fixture::new();
        let certificate = &fixture.certificate;
        let cut = &certificate[..certificate.len() - 40];
        let error = of_certificate(&fixture.file("cut.pem", cut));
        assert!(error.contains("damaged: a section has no -----END line"), "{error}");
        let error = of_certificate(&fixture.file("torn.pem", format!("{certificate}{cut}")));
        assert!(error.contains("damaged"), "a chain without its last certificate: {error}");
        let error = of_certificate(&fixture.file("base64.pem", certificate.replace("MII", "M!!")));
        assert!(error.contains("a section is not valid base64"), "{error}");
        let error =
            of_certificate(&fixture.file("begin.pem", certificate.replacen("CERTIFICATE-----", "CERTIFICATE---", 1)));
        assert!(error.contains("does not end with five hyphens"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let fixture = Fixture::new();
        let path = fixture.file("key.pem", &fixture.key);
        let shown = format!("{:?}", PemFile::read("", &path, Item::PrivateKey).unwrap());
        assert!(shown.contains("key.pem") && !shown.contains("bytes"), "{shown}");
    }
}
