//! Bad files of TLS: the server ends with exit code 1 before it binds anything, and names the file and the fix.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rcgen::date_time_ymd;

use crate::certificates::{Pair, ca, one_line, presented};
use crate::common::requirement::{ROOT, is_root};
use crate::common::{Ended, Server, ringpost, run};

/// Runs a server whose address is in use, so that it would report this if it had come to bind it.
fn refused(options: &[&str]) -> String {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = ringpost(&["serve", "--sink", "discard", "--bind-retry", "0"]);
    command.args(["--listen", &taken.local_addr().unwrap().to_string()]).args(options);
    let Ended { status, stdout, log } = run(command);
    assert_eq!((status.code(), &*stdout), (Some(1), ""), "{log}");
    log
}

fn openssl(dir: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn bad_files_end_the_start_with_the_file_and_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    Pair::new().write_to(dir.path());
    let expired = Pair::with(|params| params.not_after = date_time_ymd(2020, 1, 1));
    expired.write(&dir.path().join("expired.pem"), &dir.path().join("expired.key"));
    fs::write(at("empty.pem"), "").unwrap();
    fs::write(at("other.key"), Pair::new().key).unwrap();
    openssl(dir.path(), "x509 -in cert.pem -outform DER -out cert.der");
    openssl(dir.path(), "pkcs8 -topk8 -in key.pem -passout pass:x -out encrypted.key");
    let cases = [
        ("missing.pem", "key.pem", "--tls-cert {}/missing.pem: there is no such file"),
        ("cert.pem", "missing.key", "--tls-key {}/missing.key: there is no such file"),
        (".", "key.pem", "--tls-cert {}/.: this is not a regular file"),
        ("empty.pem", "key.pem", "--tls-cert {}/empty.pem: the file is empty"),
        ("key.pem", "cert.pem", "--tls-cert {}/key.pem: the file contains no certificate, but a private key"),
        ("cert.pem", "cert.pem", "--tls-key {}/cert.pem: the file contains no private key, but a certificate"),
        ("cert.der", "key.pem", "Convert it, and name the new file: openssl x509 -inform DER -in {}/cert.der -out "),
        ("cert.pem", "encrypted.key", "openssl pkey -in {}/encrypted.key -out {}/encrypted.pem"),
        ("cert.pem", "other.key", "the private key does not belong to the certificate in {}/cert.pem"),
        ("expired.pem", "expired.key", "the certificate expired at 2020-01-01 00:00:00 UTC. Renew"),
    ];
    for (certificate, key, expected) in cases {
        let log = refused(&["--tls-cert", &at(certificate), "--tls-key", &at(key)]);
        let expected = expected.replace("{}", dir.path().to_str().unwrap());
        assert!(log.contains(&expected), "{expected:?} is not in {log}");
    }
    let valid = ["--tls-cert", &at("cert.pem"), "--tls-key", &at("key.pem")];
    let log = refused(&[&valid[..], &["--tls-client-ca", &at("cert.pem")]].concat());
    assert!(log.contains("cert.pem: certificate 1 of the file is not that of a CA. Name"), "{log}");
    fs::write(at("ca.pem"), ca()).unwrap();
    let log = refused(&[&valid[..], &["--tls-client-ca", &at("ca.pem"), "--tls-crl", &at("ca.pem")]].concat());
    assert!(log.contains("ca.pem: the file contains no certificate revocation list, but a certificate"), "{log}");
}

#[test]
fn options_of_tls_without_a_certificate_are_refused() {
    let Ended { status, log, .. } = run(ringpost(&["serve", "--tls-cert", "a"]));
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("--tls-cert: name the file of its private key with --tls-key"), "{log}");
    let mut command = ringpost(&["serve"]);
    command.env("RINGPOST_TLS", "require");
    let Ended { status, log, .. } = run(command);
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("RINGPOST_TLS sets --tls"), "{log}");
}

#[test]
fn valid_files_are_presented() {
    let dir = tempfile::tempdir().unwrap();
    let pair = Pair::new();
    let (certificate, key) = pair.write_to(dir.path());
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0"]);
    command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
    let server = Server::spawn(command, 1);
    assert_eq!(presented(&server), one_line(&pair.certificate));
    let ended = server.stop();
    assert!(ended.log.contains("TLS certificate") && ended.log.contains("ECDSA P-256"), "{}", ended.log);
}

#[test]
fn the_user_who_serves_must_be_able_to_read_the_key() {
    if !ROOT.is_met(is_root()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let (certificate, key) = Pair::new().write_to(dir.path());
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let options = ["--user", "65534", "--tls-cert", certificate, "--tls-key", key];
    let log = refused(&options);
    assert!(log.contains(&format!("--tls-key {key}: this process may not read the file")), "{log}");
    let doctor = |expected: i32| {
        let mut command = ringpost(&["doctor", "--sink", "discard", "--listen", "127.0.0.1:0"]);
        command.args(options);
        let Ended { status, stdout, .. } = run(command);
        assert_eq!(status.code(), Some(expected), "{stdout}");
        stdout
    };
    let report = doctor(1);
    assert!(report.contains("may not read the file") && report.contains(&format!("namei -l {key}")), "{report}");

    chown(key, Some(65534), None).unwrap();
    doctor(0);
    let server = Server::start(&options);
    server.signal(libc::SIGHUP);
    server.wait_for_log("reloaded the TLS files");
    assert!(server.stop().status.success());
}
