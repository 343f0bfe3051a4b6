//! The server stops reading from a client that sends without ever reading, and continues to serve other clients. At its
//! deadline, the drain closes that connection and logs it, and the server exits with 0.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use crate::common::{Server, round_trip, submit};

#[test]
fn a_client_that_never_reads_is_throttled_and_closed_at_the_drain_deadline() {
    let server = Server::start(&["--workers", "1", "--drain-timeout", "700ms"]);
    let mut bystander = server.connect();
    round_trip(&mut bystander, 0);
    let memory_before = server.memory();

    let mut silent = server.connect();
    silent.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let frames: Vec<u8> = (0..1000).flat_map(|id| submit(id, b"")).collect();
    let mut taken = 0;
    let len = frames.len();
    let stopped = loop {
        match silent.write(&frames[taken % len..]) {
            Ok(count) => taken += count,
            Err(error) => break error,
        }
        assert!(taken < 1 << 30, "the server never stops reading");
    };
    assert!(matches!(stopped.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stopped}");
    round_trip(&mut bystander, 1);
    let grown = server.memory().saturating_sub(memory_before);
    assert!(grown < 4 << 20, "one connection used {grown} bytes");

    drop(bystander);
    let start = Instant::now();
    let ended = server.stop();
    let took = start.elapsed();
    assert!(ended.status.success(), "{}", ended.log);
    assert!((0.7..1.6).contains(&took.as_secs_f64()), "{took:?}");
    assert!(ended.log.contains(&format!("peer={}", silent.local_addr().unwrap())), "{}", ended.log);
    assert!(ended.log.contains("cut=1 "), "{}", ended.log);
    assert!(!ended.log.contains("left"), "the closed connection has ended: {}", ended.log);
}
