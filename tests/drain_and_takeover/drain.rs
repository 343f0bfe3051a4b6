//! SIGTERM loses no ack. Everything in the sockets at that moment is answered, queued connections are accepted, and
//! every connection ends cleanly.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::admin::{Metrics, get};
use crate::common::{PATIENCE, Server, expect_acks, expect_clean_end, submit, submit_ack, wait_until};

/// Returns the kernel's one-letter state of a process.
fn state(server: &Server) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    stat[stat.rfind(')').unwrap() + 2..].chars().next().unwrap()
}

#[test]
fn everything_that_arrived_before_the_signal_is_answered() {
    for round in 0..20 {
        // With one accept at a time, most of the new connections are still queued when the signal arrives.
        let accepts = if round % 2 == 0 { "64" } else { "1" };
        let server = Server::start(&["--workers", "2", "--accepts", accepts]);
        let mut open: Vec<_> = (0..40).map(|_| server.connect()).collect();
        for stream in &mut open {
            stream.write_all(&submit(0, b"served")).unwrap();
            expect_acks(stream, [0]);
        }
        server.signal(libc::SIGSTOP);
        wait_until("the server is stopped", || state(&server) == 'T');
        for stream in &mut open {
            stream.write_all(&(1..=50).flat_map(|id| submit(id, b"waiting")).collect::<Vec<_>>()).unwrap();
        }
        let mut queued: Vec<_> = (0..10).map(|_| server.connect()).collect();
        for stream in &mut queued {
            stream.write_all(&submit(7, b"queued")).unwrap();
        }
        server.signal(libc::SIGTERM);
        server.signal(libc::SIGCONT);
        for stream in &mut open {
            expect_acks(stream, 1..=50);
            expect_clean_end(stream);
        }
        for stream in &mut queued {
            expect_acks(stream, [7]);
            expect_clean_end(stream);
        }
        drop((open, queued));
        let ended = server.ended();
        assert!(ended.status.success(), "round {round}: {}", ended.log);
    }
}

#[test]
fn under_200_pipelining_and_2000_idle_connections_no_answered_request_loses_its_ack() {
    const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
    crate::common::raise_descriptor_limit();
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let server = Server::start(&["--workers", "2"]);
        let mut idle: Vec<_> = (0..2000).map(|_| server.connect()).collect();
        for (stream, id) in idle.iter_mut().zip(0..) {
            crate::common::round_trip(stream, id);
        }
        let pipelining: Vec<_> = (0..200)
            .map(|_| {
                let stream = server.connect();
                thread::spawn(move || pipeline_to_the_end(stream))
            })
            .collect();
        // Long enough for each connection to get an ack, and different every time.
        thread::sleep(Duration::from_millis(150 + round * 7));
        server.signal(libc::SIGTERM);
        let start = Instant::now();
        // Idle clients see the server's FIN, and close.
        let mut acked = idle.len() as u64;
        for mut stream in idle {
            expect_clean_end(&mut stream);
        }
        for client in pipelining {
            let acks = client.join().unwrap();
            assert!(acks >= 1);
            acked += acks;
        }
        let ended = server.ended();
        slowest = slowest.max(start.elapsed());
        assert!(ended.status.success(), "round {round}: {}", ended.log);
        assert!(start.elapsed() < DRAIN_TIMEOUT, "round {round}: {:?}", start.elapsed());
        assert!(!ended.log.contains("cut a connection"), "round {round}: {}", ended.log);
        assert_eq!(requests(&ended.log), acked, "round {round}: a request was answered whose ack did not arrive");
    }
    println!("the slowest exit was {slowest:?} after the signal");
}

/// Returns the number of requests that the server has answered, by its own count.
fn requests(log: &str) -> u64 {
    let line = log.lines().find(|line| line.contains(" stopped ")).expect("the last line");
    let (_, count) = line.split_once(" requests=").unwrap();
    count.split(' ').next().unwrap().parse().unwrap()
}

/// Keeps 32 SUBMITs in flight until the server ends the conversation. Returns how many were acked.
fn pipeline_to_the_end(stream: TcpStream) -> u64 {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sender = stream.try_clone().unwrap();
    sender.write_all(&(0..32).flat_map(|id| submit(id, b"pipelined")).collect::<Vec<_>>()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut acked = 0;
    loop {
        let mut ack = [0; 14];
        let mut len = 0;
        while len < ack.len() {
            match reader.read(&mut ack[len..]).expect("no reset before the last ack") {
                0 => {
                    assert_eq!(len, 0, "an end inside an ack");
                    return acked;
                }
                count => len += count,
            }
        }
        assert_eq!(ack, submit_ack(acked, 0));
        acked += 1;
        // After the server has closed, it does not read what is sent. Nothing is lost, because none of it is acked.
        let _ = sender.write_all(&submit(acked + 31, b"pipelined"));
    }
}

#[test]
fn an_idle_client_that_never_closes_does_not_outlast_the_linger() {
    let server = Server::start(&["--linger-timeout", "200ms"]);
    let mut idle = server.connect();
    crate::common::round_trip(&mut idle, 1);
    let start = Instant::now();
    let ended = server.stop();
    assert!(ended.status.success());
    assert!((0.2..2.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    expect_clean_end(&mut idle);
    assert!(ended.log.contains("cut=0 "), "{}", ended.log);
}

#[test]
fn a_second_signal_ends_the_drain_immediately() {
    for (signal, code) in [(libc::SIGTERM, 128 + libc::SIGTERM), (libc::SIGINT, 128 + libc::SIGINT)] {
        let server = Server::start(&["--linger-timeout", "10s"]);
        let mut idle = server.connect();
        crate::common::round_trip(&mut idle, 1);
        server.signal(libc::SIGTERM);
        server.wait_for_log("draining");
        let start = Instant::now();
        server.signal(signal);
        assert_eq!(server.ended().status.code(), Some(code));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}

/// A client behind a load balancer has seen the connection open before the drain, and its request is in flight.
#[test]
fn the_first_request_of_a_connection_accepted_just_before_the_drain_is_answered() {
    let server = Server::start(&["--workers", "1", "--admin", "127.0.0.1:0"]);
    let open = |count: f64| {
        wait_until("all connections are accepted", || {
            Metrics::scrape(&server).get("ringpost_connections_open{shard=\"0\"}") == count
        });
    };
    let mut early = server.connect();
    open(1.0);
    thread::sleep(Duration::from_millis(1500));
    let (mut silent, mut late, mut partial) = (server.connect(), server.connect(), server.connect());
    let frame = submit(7, b"on its way");
    partial.write_all(&frame[..20]).unwrap();
    open(4.0);
    let start = Instant::now();
    server.signal(libc::SIGTERM);
    server.wait_for_log("draining");
    expect_clean_end(&mut early);
    let took = start.elapsed();
    assert!(took < Duration::from_millis(700), "a silent connection ends immediately, not after {took:?}");
    late.write_all(&frame).unwrap();
    partial.write_all(&frame[20..]).unwrap();
    for stream in [&mut late, &mut partial] {
        expect_acks(stream, [7]);
        expect_clean_end(stream);
    }
    expect_clean_end(&mut silent);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "the linger lasts too long: {took:?}");
    drop((early, silent, late, partial));
    let ended = server.ended();
    assert!(ended.status.success(), "{}", ended.log);
    assert!(ended.log.contains("cut=0 "), "{}", ended.log);
}

#[test]
fn during_the_drain_delay_clients_are_served_and_readiness_is_off() {
    let server = Server::start(&["--workers", "1", "--drain-delay", "2s", "--admin", "127.0.0.1:0"]);
    let mut old = server.connect();
    crate::common::round_trip(&mut old, 1);
    let start = Instant::now();
    server.signal(libc::SIGTERM);
    wait_until("the server is not ready", || get(&server, "/readyz").status == 503);
    assert!(get(&server, "/readyz").body.contains("--drain-delay"));
    assert_eq!(get(&server, "/healthz").status, 200);
    while start.elapsed() < Duration::from_millis(1500) {
        crate::common::round_trip(&mut server.connect(), 1);
        crate::common::round_trip(&mut old, 2);
        thread::sleep(Duration::from_millis(50));
    }
    expect_clean_end(&mut old);
    let took = start.elapsed().as_secs_f64();
    assert!((1.9..6.0).contains(&took), "the drain began after {took} s");
    drop(old);
    let ended = server.ended();
    assert!(ended.status.success(), "{}", ended.log);
}

#[test]
fn a_second_signal_ends_the_drain_delay_and_a_third_one_the_drain() {
    let server = Server::start(&["--workers", "1", "--drain-delay", "10m", "--linger-timeout", "10s"]);
    let mut idle = server.connect();
    crate::common::round_trip(&mut idle, 1);
    server.signal(libc::SIGTERM);
    server.wait_for_log("draining after --drain-delay");
    crate::common::round_trip(&mut idle, 2);
    server.signal(libc::SIGTERM);
    expect_clean_end(&mut idle);
    server.signal(libc::SIGINT);
    assert_eq!(server.ended().status.code(), Some(128 + libc::SIGINT));
}
