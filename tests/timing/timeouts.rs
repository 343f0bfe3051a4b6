//! Each wait for a client has its limit, and is counted by its reason: a frame that does not end, silence if that is
//! limited, acks that are not read. A client within the limits is not affected.

use std::io::{ErrorKind, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::admin::Metrics;
use crate::common::{PATIENCE, Server, expect_acks, expect_clean_end, round_trip, submit};

fn start(options: &[&str]) -> Server {
    Server::start(&[&["--workers", "1", "--admin", "127.0.0.1:0", "--linger-timeout", "200ms"], options].concat())
}

fn closed(server: &Server, reason: &str) -> f64 {
    Metrics::scrape(server).get(&format!("ringpost_connections_closed_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_frame_that_arrives_slowly_is_closed_at_the_frame_timeout() {
    let _alone = crate::common::alone();
    let server = start(&["--frame-timeout", "1s"]);
    let mut bystander = server.connect();
    let mut slow_senders: Vec<_> = (0..50).map(|_| server.connect()).collect();
    let start = Instant::now();
    for (stream, id) in slow_senders.iter_mut().zip(0..) {
        // A whole frame first, which is acked.
        stream.write_all(&submit(id, b"whole")).unwrap();
        expect_acks(stream, [id]);
    }
    // It would take 20 s to arrive.
    for byte in submit(99, &[7; 187]) {
        for stream in &mut slow_senders {
            // Writes to connections that are closed may fail.
            let _ = stream.write_all(&[byte]);
        }
        round_trip(&mut bystander, 1);
        sleep(Duration::from_millis(100));
        if closed(&server, "frame_timeout") == 50.0 {
            break;
        }
    }
    let took = start.elapsed();
    assert_eq!(closed(&server, "frame_timeout"), 50.0, "closed after {took:?}");
    assert!(took > Duration::from_secs(1), "all connections were closed after {took:?}");
    for stream in &mut slow_senders {
        expect_clean_end(stream);
    }
    round_trip(&mut bystander, 2);
    server.wait_for_log("within --frame-timeout");
}

#[test]
fn silence_between_frames_is_unlimited_unless_an_idle_timeout_is_set() {
    let _alone = crate::common::alone();
    let server = start(&["--frame-timeout", "300ms"]);
    let mut silent = server.connect();
    round_trip(&mut silent, 1);
    sleep(Duration::from_millis(1500));
    round_trip(&mut silent, 2);

    let server = start(&["--idle-timeout", "2s"]);
    let (mut silent, mut busy) = (server.connect(), server.connect());
    let silence = Instant::now();
    round_trip(&mut silent, 1);
    // A round trip every 100 ms is well within the timeout.
    for id in 0.. {
        round_trip(&mut busy, id);
        sleep(Duration::from_millis(100));
        if closed(&server, "idle_timeout") == 1.0 {
            break;
        }
        assert!(silence.elapsed() < PATIENCE, "the silent connection is not closed: {}", server.log());
    }
    assert!(silence.elapsed() > Duration::from_secs(2), "closed after {:?}", silence.elapsed());
    expect_clean_end(&mut silent);
    round_trip(&mut busy, 1);
    assert_eq!(closed(&server, "idle_timeout"), 1.0);
}

#[test]
fn a_client_that_reads_no_acks_is_closed_and_a_slow_reader_is_not() {
    let _alone = crate::common::alone();
    let server = start(&["--write-timeout", "1s"]);
    let frames: Vec<u8> = (0..1000).flat_map(|id| submit(id, b"")).collect();
    let stuff = |stream: &mut std::net::TcpStream| {
        let mut at = 0;
        loop {
            match stream.write(&frames[at..]) {
                Ok(count) => at = (at + count) % frames.len(),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => panic!("closed before the write blocked: {error}"),
            }
        }
    };
    let (mut unread, mut slow) = (server.connect(), server.connect());
    for stream in [&mut unread, &mut slow] {
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    }
    let start = Instant::now();
    stuff(&mut unread);
    // Writes on the other connection after it. From here on this one is read.
    stuff(&mut slow);
    let mut read = vec![0; 200_000];
    while closed(&server, "write_timeout") < 1.0 {
        std::io::Read::read_exact(&mut slow, &mut read).expect("a slow reader is not closed");
        sleep(Duration::from_millis(200));
        assert!(start.elapsed() < PATIENCE, "the client that does not read is not closed: {}", server.log());
    }
    assert!(start.elapsed() > Duration::from_millis(700), "{:?}", start.elapsed());
    std::io::Read::read_exact(&mut slow, &mut read).expect("a slow reader is not closed");
    round_trip(&mut server.connect(), 1);
    // The reason in the log depends on which is first: the server or its kernel.
    server.wait_for_log("--write-timeout");
}
