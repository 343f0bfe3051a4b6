//! The admin address: its endpoints, its limits, and its answers during a drain.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::admin::{Metrics, address, get, request};
use crate::common::{PATIENCE, Server, connect, expect_clean_end, ringpost, round_trip, run, wait_until};

fn start(options: &[&str]) -> Server {
    Server::start(&[&["--workers", "1", "--admin", "127.0.0.1:0"], options].concat())
}

#[test]
fn the_endpoints_answer_and_other_paths_list_them() {
    let server = start(&[]);
    let health = get(&server, "/healthz");
    assert_eq!((health.status, health.body.as_str()), (200, "healthy\n"));
    let ready = get(&server, "/readyz");
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
    let metrics = get(&server, "/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);

    let nothing = get(&server, "/nothing");
    assert_eq!(nothing.status, 404);
    assert!(nothing.body.contains("/metrics, /healthz, /readyz, and a page at /"), "{}", nothing.body);
    let posted = request(&server, "POST /metrics HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(posted.status, 405);
    assert!(posted.head.contains("allow: get, head") && posted.body.contains("GET and HEAD"), "{}", posted.body);

    let head = request(&server, "HEAD /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("content-length: 8"), "{}", head.head);

    let ended = server.stop();
    assert!(ended.status.success());
    assert_eq!(ended.stdout, "", "stdout holds more than the listening line");
}

#[test]
fn a_drain_ends_readiness_immediately_and_can_be_observed() {
    let server = start(&["--linger-timeout", "15s", "--drain-timeout", "15s"]);
    let mut idle = server.connect();
    round_trip(&mut idle, 1);
    assert_eq!(get(&server, "/readyz").status, 200);
    server.signal(libc::SIGTERM);
    wait_until("the server is not ready", || get(&server, "/readyz").status == 503);
    assert_eq!(get(&server, "/readyz").body, "draining\n");
    assert_eq!(get(&server, "/healthz").status, 200, "a drain is not a fault");
    expect_clean_end(&mut idle);
    assert_eq!(Metrics::scrape(&server).get("ringpost_connections_open{shard=\"0\"}"), 1.0);
    drop(idle);
    assert!(server.ended().status.success());
}

#[test]
fn slow_admin_clients_delay_no_other_and_are_closed() {
    let server = start(&[]);
    let address = address(&server);
    // One of 64 places is left.
    let mut slow: Vec<TcpStream> = (0..63).map(|_| connect(address)).collect();
    let opened = Instant::now();
    for stream in &mut slow[..30] {
        stream.write_all(b"GET /metrics HT").unwrap();
    }
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(get(&server, "/healthz").status, 200);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "20 answers took {:?}", start.elapsed());

    // The address is full now. Each further connection replaces the oldest one.
    slow.extend((0..100).map(|_| connect(address)));
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(get(&server, "/healthz").status, 200);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "20 answers took {:?}", start.elapsed());
    let rest = slow[0].read(&mut [0; 1]);
    assert!(!matches!(rest, Ok(1..)), "a slow client is closed without an answer: {rest:?}");
    // The newest connections are closed only when their time is over.
    let rest = slow.last_mut().unwrap().read(&mut [0; 1]);
    assert!(!matches!(rest, Ok(1..)), "a slow client is closed without an answer: {rest:?}");
    assert!((4..12).contains(&opened.elapsed().as_secs()), "{:?}", opened.elapsed());
    round_trip(&mut server.connect(), 1);
}

/// The server waits for its address here, as it would for segments that are being preallocated.
#[test]
fn a_starting_server_is_healthy_and_not_ready() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = ringpost(&["serve", "--workers", "1", "--bind-retry", "60s", "--listen", &listen, "--admin"]);
    command.arg(admin.to_string());
    let starting = thread::spawn(move || Server::spawn(command, 1));
    let ask = |path: &str| -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(admin).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    };
    wait_until("the admin address answers", || ask("/healthz").is_some());
    for _ in 0..10 {
        assert_eq!(ask("/healthz"), Some((200, "starting\n".into())));
        assert_eq!(ask("/readyz"), Some((503, "starting\n".into())));
        assert_eq!(ask("/metrics"), Some((503, "starting\n".into())));
        thread::sleep(Duration::from_millis(50));
    }
    drop(taken);
    let server = starting.join().unwrap();
    assert_eq!(ask("/readyz"), Some((200, "ready\n".into())));
    assert!(server.stop().status.success());
}

#[test]
fn an_admin_request_over_the_limit_is_refused() {
    let server = start(&[]);
    let mut stream = connect(address(&server));
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let _ = stream.write_all(long.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(get(&server, "/healthz").status, 200);
}

#[test]
fn an_admin_address_in_use_is_refused_before_any_client_is_served() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let ended = run(ringpost(&["serve", "--listen", "127.0.0.1:0", "--admin", &taken]));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert_eq!(ended.stdout, "");
    let refusal = format!("can't listen on {taken}: Address already in use");
    assert!(ended.log.contains(&refusal) && ended.log.contains("another address with --admin"), "{}", ended.log);
}

#[test]
fn the_admin_address_is_off_by_default() {
    let server = Server::start(&["--workers", "1"]);
    round_trip(&mut server.connect(), 1);
    assert!(!server.log().contains("admin"), "{}", server.log());
}
