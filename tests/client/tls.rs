//! `ringpost submit` over TLS: every line arrives, and each mistake in its options or certificates says how to fix it.

use std::process::Output;

use crate::common::authority::Authority;
use crate::common::peer;
use crate::common::submit::submit;
use crate::common::tls_front::TlsFront;
use crate::common::{BINARY, Server, ringpost, run};

/// Checks that nothing was sent, and returns stderr.
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("sent=0 acked=0 failed=0 "), "{output:?}");
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(stderr.starts_with("error: no line was sent: "), "{stderr}");
    stderr
}

#[test]
fn every_line_is_acked_over_tls() {
    let (ca, clients) = (Authority::new("servers"), Authority::new("clients"));
    clients.sign(|_| {});
    let server = Server::start(&["--workers", "1"]);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");
    let lines = std::fs::read_to_string(file).unwrap().lines().count();
    for (version, demands) in [(&rustls::version::TLS13, true), (&rustls::version::TLS12, false)] {
        let front = TlsFront::start(ca.server_with(|_| {}, version, demands.then_some(&clients)), server.address());
        let mut command = ringpost(&["submit", "--addr", &front.addr, "--tls", "--tls-ca", &ca.text("ca.pem"), file]);
        // The certificate and the key come from the environment.
        if demands {
            command.env("RINGPOST_CLIENT_TLS_CERT", clients.path("certificate.pem"));
            command.env("RINGPOST_CLIENT_TLS_KEY", clients.path("key.pem"));
        }
        let ended = run(command);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
        assert!(ended.stdout.starts_with(&format!("sent={lines} acked={lines} failed=0 ")), "{}", ended.stdout);
        assert_eq!(ended.log, "");
        assert_eq!(front.full_handshakes(), 1);
    }
    let log = server.stop().log;
    assert!(log.contains(&format!("requests={} failures=0", 2 * lines)), "{log}");
}

#[test]
fn every_line_is_acked_by_a_server_with_tls() {
    let ca = Authority::new("servers");
    ca.sign(|_| {});
    let (certificate, key) = (ca.text("certificate.pem"), ca.text("key.pem"));
    let server = Server::start(&["--workers", "1", "--tls-cert", &certificate, "--tls-key", &key]);
    let addr = format!("localhost:{}", server.address().port());
    let output = submit(&addr, &["--tls", "--tls-ca", &ca.text("ca.pem")], &b"a line\n".repeat(10_000));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.starts_with(b"sent=10000 acked=10000 failed=0 "), "{output:?}");
    let plain = submit(&addr, &[], b"1\n");
    assert!(String::from_utf8_lossy(&plain.stderr).contains("its answer is a TLS alert"), "{plain:?}");
    assert!(server.stop().log.contains("requests=10000 failures=0"));
}

#[test]
fn insecure_accepts_any_certificate_with_a_warning() {
    let server = Server::start(&["--workers", "1"]);
    let front = TlsFront::start(Authority::new("unknown").server(), server.address());
    let output = submit(&front.addr, &["--tls", "--tls-insecure"], b"1\n2\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("WARN") && stderr.contains("--tls-insecure accepts any certificate"), "{stderr}");
}

#[test]
fn options_without_tls_and_options_that_exclude_each_other_are_refused() {
    for (arguments, named) in [
        (&["--tls-ca", "ca.pem"][..], "--tls"),
        (&["--tls-cert", "c.pem", "--tls-key", "k.pem"], "--tls"),
        (&["--tls-server-name", "example.com"], "--tls"),
        (&["--tls-insecure"], "--tls"),
        (&["--tls", "--tls-cert", "c.pem"], "--tls-key"),
        (&["--tls", "--tls-key", "k.pem"], "--tls-cert"),
        (&["--tls", "--tls-insecure", "--tls-ca", "ca.pem"], "--tls-ca"),
    ] {
        for command in ["submit", "bench"] {
            let output = std::process::Command::new(BINARY).arg(command).args(arguments).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
            let words: Vec<_> = stderr.split(|c: char| c.is_whitespace() || c == '\'').collect();
            assert!(words.contains(&named), "{arguments:?}: {stderr}");
        }
    }
}

#[test]
fn each_mistake_is_reported_with_its_fix() {
    let (ca, other) = (Authority::new("servers"), Authority::new("others"));
    other.sign(|_| {});
    let server = Server::start(&["--workers", "1"]);
    let front = TlsFront::start(ca.server(), server.address());
    let port = front.addr.rsplit_once(':').unwrap().1;
    let trust = ["--tls", "--tls-ca", &ca.text("ca.pem")];

    let untrusted = failure(&submit(&front.addr, &["--tls", "--tls-ca", &other.text("ca.pem")], b"1\n"));
    assert!(untrusted.contains(&format!("could not connect to {} with TLS: ", front.addr)), "{untrusted}");
    assert!(untrusted.contains("not signed by a CA that this client trusts"), "{untrusted}");
    let name = failure(&submit(format!("127.0.0.1:{port}"), &trust, b"1\n"));
    assert!(
        name.contains("not valid for \"127.0.0.1\", only for localhost") && name.contains("--tls-server-name"),
        "{name}"
    );
    let named =
        submit(format!("127.0.0.1:{port}"), &[&trust[..], &["--tls-server-name", "localhost"]].concat(), b"1\n");
    assert_eq!(named.status.code(), Some(0), "{named:?}");

    let plain = failure(&submit(format!("localhost:{}", server.address().port()), &trust, b"1\n"));
    assert!(plain.contains("with TLS: ") && plain.contains("connect without"), "{plain}");
    let closed = failure(&submit(peer::closed_port(), &trust, b"1\n"));
    assert!(closed.contains("start the server there"), "{closed}");

    let missing = failure(&submit(&front.addr, &["--tls", "--tls-ca", "/does/not/exist"], b"1\n"));
    assert!(missing.contains("--tls-ca /does/not/exist: there is no such file"), "{missing}");
    let pair = ["--tls-cert", &ca.text("certificate.pem"), "--tls-key", &other.text("key.pem")];
    let wrong_key = failure(&submit(&front.addr, &[&trust[..], &pair[..]].concat(), b"1\n"));
    assert!(wrong_key.contains("not the key of the certificate"), "{wrong_key}");

    let mut command = ringpost(&["submit", "--addr", &front.addr, "--tls"]);
    let empty = ca.write("empty.pem", "");
    let no_cas = run({
        command.env_remove("SSL_CERT_DIR").env("SSL_CERT_FILE", empty);
        command
    });
    assert_eq!(no_cas.status.code(), Some(1));
    assert!(no_cas.log.contains("no CA certificates") && no_cas.log.contains("--tls-ca"), "{}", no_cas.log);
}

#[test]
fn a_plain_submit_to_a_tls_port_says_so() {
    let server = Server::start(&["--workers", "1"]);
    let front = TlsFront::start(Authority::new("servers").server(), server.address());
    let output = submit(&front.addr, &[], b"1\n");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("its answer is a TLS alert"), "{stderr}");
}
