//! Checks the files of TLS as the server would read them: with `--user`, as that user.
//!
//! Owns the findings about the certificate and its key. `tls` knows what makes the files valid.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::pki_types::UnixTime;

use super::finding::Finding;
use crate::confine::user;
use crate::serve::tls::EXPIRY_WARNING_DAYS;
use crate::serve::{Options, Tls};
use crate::tls::certificate::{Facts, KeyKind};
use crate::tls::credentials::Credentials;
use crate::tls::files::{FileError, FileFault};

/// Returns the findings about TLS.
pub fn findings(config: &Options, now: UnixTime) -> Vec<Finding> {
    let Some(tls) = &config.tls else {
        return vec![Finding::ok("tls", "None", "The server encrypts nothing without --tls-cert")];
    };
    match user::try_as(config.user.as_ref(), || Credentials::load(&tls.files, now)) {
        Ok(Ok(credentials)) => {
            let mut findings = vec![files(tls), expiry(&credentials.facts, &tls.files.certificate, now)];
            findings.push(key_kind(&credentials.facts));
            findings.extend(key_mode(&tls.files.key));
            findings
        }
        Ok(Err(error)) => vec![unusable(&error)],
        Err(error) => vec![Finding::problem(
            "files",
            error.to_string(),
            "The server stops with the same error, before it reads the files of TLS",
            vec!["ringpost serve --user NAME  # as root, with another user".into()],
        )],
    }
}

fn files(tls: &Tls) -> Finding {
    let paths: Vec<_> = tls.files.paths().map(|path| path.display().to_string()).collect();
    let means = format!(
        "The files are valid, and a trial handshake succeeds; client certificates: {}",
        tls.client_certificates()
    );
    Finding::ok("files", paths.join(" "), means)
}

fn unusable(error: &FileError) -> Finding {
    let path = error.path.display();
    let fix = match error.fault {
        FileFault::NotPermitted => vec![
            format!("namei -l {path}  # shows owners and modes on the way to the file"),
            format!("setfacl -m u:USER:r {path}  # as root, for the user of the server"),
        ],
        FileFault::Missing => vec![format!("namei -l {path}  # shows which part of the path is missing")],
        _ => vec![format!("openssl storeutl -noout -text {path}  # shows what the file contains")],
    };
    Finding::problem("files", error.to_string(), "The server stops with the same error", fix)
}

fn expiry(facts: &Facts, path: &Path, now: UnixTime) -> Finding {
    const CHECK: &str = "certificate";
    let days = facts.not_after.unix_seconds().saturating_sub(now.as_secs() as i64) / 86_400;
    let found = format!("Valid until {}, for {days} more days", facts.not_after);
    if days >= EXPIRY_WARNING_DAYS {
        return Finding::ok(CHECK, found, "The server uses a renewed certificate within a minute, without a restart");
    }
    let means = "Clients will refuse the server, and a restarted server will not start";
    Finding::advice(CHECK, found, means, vec![format!("# Replace {} with a renewed certificate", path.display())])
}

fn key_kind(facts: &Facts) -> Finding {
    const CHECK: &str = "key";
    let found = facts.key.to_string();
    match facts.key {
        KeyKind::EcdsaP256 => Finding::ok(CHECK, found, "No other kind of key makes handshakes cheaper"),
        KeyKind::Rsa(_) => Finding::advice(
            CHECK,
            found,
            "A handshake costs about three times as much CPU time as with ECDSA P-256",
            vec![
                "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem  # for the next \
                  certificate"
                    .into(),
            ],
        ),
        _ => Finding::ok(CHECK, found, "Clients may have to support this kind of key; all support ECDSA P-256"),
    }
}

/// Returns a finding about a key that every user can read.
fn key_mode(key: &Path) -> Option<Finding> {
    let mode = fs::metadata(key).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        let found = format!("{} has mode {:o}", key.display(), mode & 0o777);
        let fix = vec![format!("chmod o= {}", key.display())];
        Finding::advice("key's readers", found, "Every user of this host can read the private key", fix)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tempfile::TempDir;

    use super::*;
    use crate::doctor::finding::Level;
    use crate::server::TlsMode;
    use crate::tls::credentials::Files;

    /// The first of January of 2026.
    const NOW: u64 = 1_767_225_600;

    /// A server whose certificate is valid in 2026.
    fn server() -> (TempDir, Options) {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(["localhost".into()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2025, 1, 1), date_time_ymd(2027, 1, 1));
        let key = KeyPair::generate().unwrap();
        fs::write(dir.path().join("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        let files = Files::new(dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let (handshake_timeout, handshakes_max) = (Duration::from_secs(10), 256);
        let tls = Tls { files, mode: TlsMode::Require, handshake_timeout, handshakes_max };
        (dir, Options { tls: Some(tls), ..Options::default() })
    }

    fn level(findings: &[Finding], check: &str) -> Option<Level> {
        Some(findings.iter().find(|finding| finding.check == check)?.level)
    }

    #[test]
    fn a_certificate_that_ends_soon_is_advice_and_an_expired_one_a_problem() {
        let (_dir, options) = server();
        let at = |days: u64| findings(&options, UnixTime::since_unix_epoch(Duration::from_secs(NOW + days * 86_400)));
        assert!(at(0).iter().all(|finding| finding.level == Level::Ok), "{:?}", at(0));
        assert_eq!(level(&at(365 - 14), "certificate"), Some(Level::Ok));
        assert_eq!(level(&at(365 - 13), "certificate"), Some(Level::Advice));
        let expired = at(366);
        assert_eq!((expired.len(), level(&expired, "files")), (1, Some(Level::Problem)));
        assert!(expired[0].stops_serve && expired[0].found.contains("the certificate expired"), "{expired:?}");
    }

    #[test]
    fn a_key_that_everybody_can_read_is_advice() {
        let (dir, options) = server();
        fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
        let findings = findings(&options, UnixTime::since_unix_epoch(Duration::from_secs(NOW)));
        assert_eq!(level(&findings, "key's readers"), Some(Level::Advice));
    }

    #[test]
    fn rsa_is_advice() {
        let (_dir, options) = server();
        let facts = Credentials::load(&options.tls.unwrap().files, UnixTime::now()).unwrap().facts;
        assert_eq!(key_kind(&facts).level, Level::Ok);
        assert_eq!(key_kind(&Facts { key: KeyKind::Rsa(2048), ..facts }).level, Level::Advice);
    }

    #[test]
    fn without_tls_there_is_nothing_to_check() {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        assert_eq!(level(&findings(&Options::default(), now), "tls"), Some(Level::Ok));
    }
}
