//! The facts of a certificate: how long it is valid, which kind of key it has, and the identity of its owner.
//!
//! Owns the reading of these facts from DER. It verifies nothing: a client's certificate was verified in the handshake.
//! The names are parsed by webpki, which offers neither the dates nor the kind of key.

use std::fmt;

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The facts of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The first second in which the certificate is valid.
    pub not_before: Time,
    /// The last second in which the certificate is valid.
    pub not_after: Time,
    /// The kind of the certificate's key.
    pub key: KeyKind,
    /// Whether the certificate is that of a CA. `None` for old versions of certificates, which do not say it.
    pub is_ca: Option<bool>,
}

impl Facts {
    /// Returns the facts of a certificate, or `None` if it is malformed.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Facts> {
        let mut outer = Der(Der(certificate).next(SEQUENCE)?);
        let mut fields = Der(outer.next(SEQUENCE)?);
        let is_first_version = fields.next(VERSION).is_none();
        fields.next(INTEGER)?;
        let _signature_algorithm = fields.next(SEQUENCE)?;
        let _issuer = fields.next(SEQUENCE)?;
        let mut validity = Der(fields.next(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let _subject = fields.next(SEQUENCE)?;
        let key = KeyKind::of(fields.next(SEQUENCE)?)?;
        fields.next(ISSUER_ID);
        fields.next(SUBJECT_ID);
        let is_ca = match fields.next(EXTENSIONS) {
            _ if is_first_version => None,
            Some(extensions) => Some(is_ca(extensions)?),
            None => Some(false),
        };
        Some(Facts { not_before, not_after, key, is_ca })
    }
}

/// Returns the time after which a certificate revocation list is no longer valid, if the list has one and is well
/// formed.
pub(super) fn list_next_update(list: &[u8]) -> Option<Time> {
    let mut outer = Der(Der(list).next(SEQUENCE)?);
    let mut fields = Der(outer.next(SEQUENCE)?);
    fields.next(INTEGER);
    let _signature_algorithm = fields.next(SEQUENCE)?;
    let _issuer = fields.next(SEQUENCE)?;
    let _this_update = fields.time()?;
    fields.time()
}

/// A time of a certificate, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Time {
    /// Parses `YYMMDDHHMMSSZ` or, if `has_century`, `YYYYMMDDHHMMSSZ`.
    fn parse(text: &[u8], has_century: bool) -> Option<Time> {
        let digits = text.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
        let two = |at: usize| Some((digits.get(at)? - b'0') * 10 + digits.get(at + 1)? - b'0');
        let (year, rest) = match (has_century, digits.len()) {
            (true, 14) => (u16::from(two(0)?) * 100 + u16::from(two(2)?), 4),
            // RFC 5280: two digits of a year are those of 1950 to 2049.
            (false, 12) => (u16::from(two(0)?) + if two(0)? < 50 { 2000 } else { 1900 }, 2),
            _ => return None,
        };
        let [month, day, hour] = [two(rest)?, two(rest + 2)?, two(rest + 4)?];
        let [minute, second] = [two(rest + 6)?, two(rest + 8)?];
        let is_time = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
        is_time.then_some(Time { year, month, day, hour, minute, second })
    }

    /// Returns the seconds since 1970, which are negative before it.
    pub fn unix_seconds(self) -> i64 {
        // Years that begin in March have their leap day at their end.
        let (year, month) = (i64::from(self.year), i64::from(self.month));
        let (year, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = year * 365 + year / 4 - year / 100 + year / 400 + (months * 153 + 2) / 5 + i64::from(self.day);
        let days = days - DAYS_UNTIL_1970;
        ((days * 24 + i64::from(self.hour)) * 60 + i64::from(self.minute)) * 60 + i64::from(self.second)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Time { year, month, day, hour, minute, second } = self;
        write!(out, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// The kind of a certificate's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyKind {
    /// ECDSA on the curve P-256.
    EcdsaP256,
    /// ECDSA on the curve P-384.
    EcdsaP384,
    /// ECDSA on the curve P-521.
    EcdsaP521,
    /// Ed25519.
    Ed25519,
    /// RSA with this number of bits.
    Rsa(usize),
    /// Another kind.
    Other,
}

impl KeyKind {
    /// Returns the kind of a public key, given the content of its SubjectPublicKeyInfo.
    fn of(info: &[u8]) -> Option<KeyKind> {
        let mut info = Der(info);
        let mut algorithm = Der(info.next(SEQUENCE)?);
        let name = algorithm.next(OBJECT_ID)?;
        Some(if name == RSA {
            let mut bits = Der(info.next(BIT_STRING)?.strip_prefix(&[0])?);
            let modulus = Der(bits.next(SEQUENCE)?).next(INTEGER)?;
            let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
            let significant = &modulus[zeros..];
            KeyKind::Rsa(significant.len() * 8 - significant.first()?.leading_zeros() as usize)
        } else if name == EC {
            match algorithm.next(OBJECT_ID)? {
                P256 => KeyKind::EcdsaP256,
                P384 => KeyKind::EcdsaP384,
                P521 => KeyKind::EcdsaP521,
                _ => KeyKind::Other,
            }
        } else if name == ED25519 {
            KeyKind::Ed25519
        } else {
            KeyKind::Other
        })
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            KeyKind::EcdsaP256 => "ECDSA P-256",
            KeyKind::EcdsaP384 => "ECDSA P-384",
            KeyKind::EcdsaP521 => "ECDSA P-521",
            KeyKind::Ed25519 => "Ed25519",
            KeyKind::Rsa(bits) => return write!(out, "RSA {bits}"),
            KeyKind::Other => "of another kind",
        })
    }
}

/// The identity of a client, from its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The first URI among the certificate's names (SAN), or else the first DNS name, or else the fingerprint. The text
    /// begins with `uri:`, `dns:` or `sha256:`, so that no name of one kind can look like one of another. It is
    /// printable ASCII without spaces.
    pub name: String,
    /// The SHA-256 fingerprint of the certificate.
    pub fingerprint: Fingerprint,
}

impl Identity {
    /// Returns the identity that a certificate gives to its owner.
    pub fn of(certificate: &CertificateDer<'_>) -> Identity {
        let fingerprint = Fingerprint::of(certificate);
        let parsed = EndEntityCert::try_from(certificate);
        let parsed = parsed.ok();
        let is_usable = |name: &&str| name.len() <= NAME_LEN_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
        let uri = parsed.as_ref().and_then(|parsed| parsed.valid_uri_names().find(is_usable));
        let dns = parsed.as_ref().and_then(|parsed| parsed.valid_dns_names().find(is_usable));
        let name = match (uri, dns) {
            (Some(uri), _) => format!("uri:{uri}"),
            (None, Some(dns)) => format!("dns:{dns}"),
            (None, None) => format!("sha256:{fingerprint}"),
        };
        Identity { name, fingerprint }
    }
}

/// The SHA-256 fingerprint of a certificate. It is shown in hexadecimal digits without colons.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Returns the fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        let sha256 = TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3").common.hash_provider;
        Fingerprint(sha256.hash(certificate).as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The rest of some DER.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Returns the content of the next element, if it has this tag.
    fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        let [first, len, rest @ ..] = self.0 else { return None };
        let (len, rest) = match len {
            0..=0x7f => (usize::from(*len), rest),
            0x81..=0x84 => {
                let (len, rest) = rest.split_at_checked(usize::from(len - 0x80))?;
                (len.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        (*first == tag).then(|| {
            self.0 = rest;
            content
        })
    }

    fn time(&mut self) -> Option<Time> {
        match self.next(UTC_TIME) {
            Some(text) => Time::parse(text, false),
            None => Time::parse(self.next(GENERALIZED_TIME)?, true),
        }
    }
}

/// Returns whether extensions say that the certificate is that of a CA, or `None` if they are malformed.
fn is_ca(extensions: &[u8]) -> Option<bool> {
    let mut extensions = Der(Der(extensions).next(SEQUENCE)?);
    while let Some(extension) = extensions.next(SEQUENCE) {
        let mut extension = Der(extension);
        if extension.next(OBJECT_ID)? == BASIC_CONSTRAINTS {
            let _is_critical = extension.next(BOOLEAN);
            let mut constraints = Der(Der(extension.next(OCTET_STRING)?).next(SEQUENCE)?);
            return Some(constraints.next(BOOLEAN).is_some_and(|is_ca| is_ca != [0]));
        }
    }
    Some(false)
}

/// The tags of DER.
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The tags of a certificate's optional fields.
const VERSION: u8 = 0xa0;
const ISSUER_ID: u8 = 0x81;
const SUBJECT_ID: u8 = 0x82;
const EXTENSIONS: u8 = 0xa3;
/// The names of keys' algorithms and of curves.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
/// The name of the extension that says whether a certificate is that of a CA.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
/// The days from the first of March of year 0, less one, to 1970.
const DAYS_UNTIL_1970: i64 = 719_469;
/// The longest name that identifies a client. SPIFFE permits as many bytes.
const NAME_LEN_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use rcgen::string::Ia5String;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType, date_time_ymd};

    use super::*;
    use crate::tls::files::certificates;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn openssl(dir: &Path, words: &str) -> String {
        let output = Command::new("openssl").args(words.split(' ')).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn dates_are_read_in_both_formats() {
        let shown = |year, month, day| {
            let der = certificate(|params| {
                params.not_before = date_time_ymd(1951, 2, 3);
                params.not_after = date_time_ymd(year, month, day);
            });
            let facts = Facts::of(&der).unwrap();
            assert_eq!(facts.not_before.to_string(), "1951-02-03 00:00:00 UTC");
            (facts.not_after.to_string(), facts.not_after.unix_seconds())
        };
        assert_eq!(shown(1970, 1, 1), ("1970-01-01 00:00:00 UTC".into(), 0));
        assert_eq!(shown(2049, 12, 31), ("2049-12-31 00:00:00 UTC".into(), 2_524_521_600));
        assert_eq!(shown(2050, 1, 1), ("2050-01-01 00:00:00 UTC".into(), 2_524_608_000));
        assert_eq!(shown(2096, 2, 29), ("2096-02-29 00:00:00 UTC".into(), 3_981_312_000));
        assert_eq!(shown(2100, 3, 1), ("2100-03-01 00:00:00 UTC".into(), 4_107_542_400));
        assert_eq!(shown(9999, 12, 31).1, 253_402_214_400);
    }

    #[test]
    fn dates_agree_with_openssl() {
        let dir = tempfile::tempdir().unwrap();
        openssl(dir.path(), "req -x509 -newkey ed25519 -nodes -keyout key.pem -out cert.pem -subj /CN=x -days 20000");
        let facts = Facts::of(&certificates("", &dir.path().join("cert.pem")).unwrap()[0]).unwrap();
        let end = openssl(dir.path(), "x509 -in cert.pem -noout -enddate -dateopt iso_8601");
        assert_eq!(end.trim().replace('Z', " UTC"), format!("notAfter={}", facts.not_after));
        let length = facts.not_after.unix_seconds() - facts.not_before.unix_seconds();
        assert_eq!(length, 20_000 * 86_400);
    }

    #[test]
    fn malformed_dates_are_no_dates() {
        let parse = |text: &str, has_century| Time::parse(text.as_bytes(), has_century);
        assert!(parse("260131235959Z", false).is_some() && parse("20260131235959Z", true).is_some());
        for text in ["", "Z", "260131235959", "2601312359Z", "26013123595\u{e4}Z", "261331235959Z", "260131245959Z"] {
            assert_eq!(parse(text, false), None, "{text}");
        }
        assert_eq!(parse("260131235959Z", true), None);
    }

    #[test]
    fn kinds_of_keys_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |key: &str| {
            openssl(dir.path(), &format!("req -x509 -newkey {key} -nodes -keyout key.pem -out cert.pem -subj /CN=x"));
            Facts::of(&certificates("", &dir.path().join("cert.pem")).unwrap()[0]).unwrap().key
        };
        assert_eq!(kind("rsa:2048"), KeyKind::Rsa(2048));
        assert_eq!(kind("rsa:1030").to_string(), "RSA 1030");
        assert_eq!(kind("ed25519"), KeyKind::Ed25519);
        assert_eq!(kind("ec -pkeyopt ec_paramgen_curve:P-256"), KeyKind::EcdsaP256);
        assert_eq!(kind("ec -pkeyopt ec_paramgen_curve:P-384"), KeyKind::EcdsaP384);
        assert_eq!(kind("ec -pkeyopt ec_paramgen_curve:P-521"), KeyKind::EcdsaP521);
        assert_eq!(kind("ec -pkeyopt ec_paramgen_curve:secp256k1"), KeyKind::Other);
    }

    #[test]
    fn a_ca_is_recognized() {
        let is_ca = |kind: IsCa| Facts::of(&certificate(|params| params.is_ca = kind)).unwrap().is_ca;
        assert_eq!(is_ca(IsCa::Ca(BasicConstraints::Unconstrained)), Some(true));
        assert_eq!(is_ca(IsCa::ExplicitNoCa), Some(false));
        assert_eq!(is_ca(IsCa::NoCa), Some(false));
    }

    #[test]
    fn no_cut_and_no_changed_byte_causes_a_panic() {
        let der = certificate(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)));
        for len in 0..der.len() {
            assert_eq!(Facts::of(&CertificateDer::from(&der[..len])), None);
            for byte in [0, 1, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = der.to_vec();
                changed[len] = byte;
                let _ = Facts::of(&CertificateDer::from(changed));
            }
        }
    }

    #[test]
    fn a_client_is_identified_by_uri_then_name_then_fingerprint() {
        let name = |names: &[&str]| {
            let der = certificate(|params| {
                params.subject_alt_names = names
                    .iter()
                    .map(|name| match name.contains(':') {
                        true => SanType::URI(Ia5String::try_from(*name).unwrap()),
                        false => SanType::DnsName(Ia5String::try_from(*name).unwrap()),
                    })
                    .collect();
            });
            let identity = Identity::of(&der);
            assert_eq!(identity.fingerprint.to_string().len(), 64);
            (identity.name, identity.fingerprint.to_string())
        };
        assert_eq!(name(&["a.example", "spiffe://x/y", "spiffe://z"]).0, "uri:spiffe://x/y");
        assert_eq!(name(&["a.example", "b.example"]).0, "dns:a.example");
        assert_eq!(name(&["x: y\n", "b.example"]).0, "dns:b.example", "a name that could forge a log line is ignored");
        assert_eq!(name(&["sha256:00"]).0, "uri:sha256:00");
        assert_eq!(name(&[&format!("x:{}", "y".repeat(2047)), "spiffe://x"]).0, "uri:spiffe://x");
        let (nameless, fingerprint) = name(&[]);
        assert_eq!(nameless, format!("sha256:{fingerprint}"));
    }

    #[test]
    fn fingerprints_agree_with_openssl() {
        let dir = tempfile::tempdir().unwrap();
        openssl(dir.path(), "req -x509 -newkey ed25519 -nodes -keyout key.pem -out cert.pem -subj /CN=x");
        let fingerprint = Fingerprint::of(&certificates("", &dir.path().join("cert.pem")).unwrap()[0]);
        let theirs = openssl(dir.path(), "x509 -in cert.pem -noout -fingerprint -sha256");
        let theirs = theirs.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
        assert_eq!(theirs, fingerprint.to_string());
    }
}
