//! `ringpost bench` over TLS: every mode checks every ack, and the report says which TLS was used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::authority::Authority;
use crate::common::peer_load::{Request, bench, peer, peer_that_spoils_one};
use crate::common::tls_front::TlsFront;
use crate::common::{Server, admin};

/// Runs `bench` against a TLS server in front of `backend`.
fn run(ca: &Authority, front: &TlsFront, words: &str) -> crate::common::peer_load::Outcome {
    bench(&front.addr, &format!("--tls --tls-ca {} --warmup 0s --duration 300ms {words}", ca.text("ca.pem")))
}

#[test]
fn requests_of_all_sizes_are_acked_in_closed_and_open_loops() {
    let ca = Authority::new("servers");
    for (version, name) in [(&rustls::version::TLS13, "TLS 1.3"), (&rustls::version::TLS12, "TLS 1.2")] {
        let payload = Arc::new(AtomicU64::new(0));
        let sum = Arc::clone(&payload);
        let backend = peer(move |request: &Request| {
            sum.fetch_add(request.payload_len as u64, Ordering::Relaxed);
            Some(request.ack())
        });
        let front = TlsFront::start(ca.server_with(|_| {}, version, None), backend);
        for io in ["uring", "epoll"] {
            for load in ["--connections 4 --window 64 --payload 0..40000", "--connections 7 --rate 3000"] {
                let before = payload.load(Ordering::Relaxed);
                let outcome = run(&ca, &front, &format!("--io {io} {load}"));
                assert_eq!(outcome.code, 0, "{io} {load}: {}{}", outcome.stdout, outcome.stderr);
                assert!(outcome.number("/latency/count") > 100.0, "{}", outcome.stdout);
                assert!(payload.load(Ordering::Relaxed) > before);
                assert_eq!(outcome.json["settings"]["tls"]["version"], name);
                let suite = outcome.json["settings"]["tls"]["cipher_suite"].as_str().unwrap();
                assert!(suite.starts_with("TLS"), "{suite}");
                assert!(outcome.words().contains(&format!("{name} ({suite})")), "{}", outcome.stdout);
                assert!(outcome.html.contains(suite));
            }
        }
    }
}

/// The server finds nothing to complain about: no handshake failed, and each connection ended with a close_notify.
#[test]
fn a_ringpost_server_serves_every_mode() {
    let ca = Authority::new("servers");
    ca.sign(|_| {});
    let (certificate, key) = (ca.text("certificate.pem"), ca.text("key.pem"));
    let admin = ["--admin", "127.0.0.1:0"];
    let server =
        Server::start(&[&["--workers", "1", "--tls-cert", &certificate, "--tls-key", &key], &admin[..]].concat());
    let tls = format!("--tls --tls-ca {} --warmup 0s --duration 200ms", ca.text("ca.pem"));
    let addr = format!("localhost:{}", server.address().port());
    for mode in [
        "--io uring --window 64 --payload 0..40000",
        "--io epoll --window 64 --payload 0..40000",
        "--io uring --rate 2000",
        "--churn --connections 4",
        "--idle 10",
    ] {
        let outcome = bench(&addr, &format!("{tls} {mode}"));
        assert_eq!(outcome.code, 0, "{mode}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.number("/latency/count") > 5.0, "{mode}: {}", outcome.stdout);
    }
    let metrics = admin::get(&server, "/metrics").body;
    let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    let sum = |name: &str| metrics.lines().filter(|line| line.starts_with(name)).map(value).sum::<f64>();
    assert!(sum("ringpost_tls_handshakes_total") > 150.0, "{metrics}");
    assert_eq!(sum("ringpost_tls_failures_total"), 0.0, "{metrics}");
    assert_eq!(sum("ringpost_tls_truncated_total"), 0.0, "{metrics}");
}

#[test]
fn churn_makes_a_full_handshake_for_each_request() {
    let ca = Authority::new("servers");
    let front = TlsFront::start(ca.server(), peer(|request| Some(request.ack())));
    let outcome = run(&ca, &front, "--churn --connections 4");
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    let (requests, handshakes) = (outcome.number("/latency/count"), outcome.number("/handshakes"));
    assert!(requests > 10.0, "{requests}");
    // The handshakes of the last connections may end after the measured time.
    assert!((requests - 4.0..=requests).contains(&handshakes), "{handshakes} handshakes for {requests} requests");
    // One more connection found the server.
    assert_eq!(front.full_handshakes() as f64, requests + 1.0);
    assert!(outcome.words().contains("handshakes"), "{}", outcome.stdout);
}

#[test]
fn idle_connections_carry_a_request_at_both_ends() {
    let ca = Authority::new("servers");
    let front = TlsFront::start(ca.server(), peer(|request| Some(request.ack())));
    let outcome = run(&ca, &front, "--idle 20 --threads 2");
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.number("/latency/count"), 40.0);
    assert_eq!(front.full_handshakes(), 21);
}

/// A fault is found in decrypted acks too, and a connection that the server closes ends with its reason.
#[test]
fn wrong_acks_and_lost_connections_are_faults() {
    let ca = Authority::new("servers");
    for io in ["uring", "epoll"] {
        let wrong = peer_that_spoils_one(|request| {
            let mut ack = request.ack();
            ack[13] = 1;
            Some(ack)
        });
        let outcome = run(&ca, &TlsFront::start(ca.server(), wrong), &format!("--io {io} --connections 2 --window 8"));
        assert_eq!((outcome.code, outcome.number("/faults/kinds/refused")), (1, 1.0), "{}", outcome.stdout);
        assert_eq!(outcome.number("/faults/total"), 1.0, "{}", outcome.stdout);

        let too_long = peer_that_spoils_one(|request| {
            let mut ack = request.ack();
            ack[3] = 15;
            Some(ack)
        });
        let outcome = run(&ca, &TlsFront::start(ca.server(), too_long), &format!("--io {io} --window 64"));
        assert_eq!((outcome.code, outcome.number("/faults/kinds/wrong length")), (1, 1.0), "{}", outcome.stdout);
        assert_eq!(outcome.number("/faults/kinds/connection lost"), 1.0, "{}", outcome.stdout);

        let closes = peer_that_spoils_one(|_| None);
        let outcome = run(&ca, &TlsFront::start(ca.server(), closes), &format!("--io {io} --connections 2"));
        assert_eq!((outcome.code, outcome.number("/faults/kinds/connection lost")), (1, 1.0), "{}", outcome.stdout);
    }
    let closes = peer(|_| None);
    let outcome = run(&ca, &TlsFront::start(ca.server(), closes), "--churn --connections 2");
    assert!(outcome.code == 1 && outcome.number("/faults/kinds/connection lost") > 1.0, "{}", outcome.stdout);
}

#[test]
fn a_handshake_that_fails_ends_the_run_with_its_reason() {
    let (ca, other) = (Authority::new("servers"), Authority::new("others"));
    let backend = peer(|request| Some(request.ack()));
    let outcome = run(&other, &TlsFront::start(ca.server(), backend), "");
    assert_eq!(outcome.code, 1);
    assert!(
        outcome.stderr.contains("with TLS: ") && outcome.stderr.contains("not signed by a CA"),
        "{}",
        outcome.stderr
    );
    let closes = peer(|_| None);
    let outcome = bench(&format!("localhost:{}", closes.port()), "--tls --tls-insecure");
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("during the handshake"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--tls-insecure accepts any certificate"), "{}", outcome.stderr);
}
