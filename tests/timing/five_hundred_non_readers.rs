//! Five hundred clients that send without ever reading use no more memory than allowed, and each is closed after the
//! write timeout. A good load beside them is not affected.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::admin::Metrics;
use crate::common::good_load::{expect_unharmed, measure};
use crate::common::{PATIENCE, Server, submit, wait_until};

const NON_READERS: usize = 500;
const MEMORY_MAX: u64 = 16 << 20;
const ROUNDS: usize = 2;
const HELD: &str = "ringpost_buffer_bytes{shard=\"0\"}";
const CUT: &str = "ringpost_connections_closed_total{reason=\"write_timeout\"}";

/// Returns a connection with small buffers in the kernel, so that 500 of them do not exhaust it, and with segments of a
/// network's size, by which the server's kernel sizes its buffers. Over loopback the kernel would buffer megabytes of
/// acks, and the test would measure how fast they are written.
fn connect(server: &Server) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.set_send_buffer_size(32 << 10).unwrap();
    socket.set_tcp_mss(1400).unwrap();
    socket.connect(&server.address().into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

/// Sends as much as the server accepts until each client is closed, and watches the buffers. Returns the most memory
/// that they used. `stuck` becomes true when no client can send.
fn send_without_reading(server: &Server, mut streams: Vec<TcpStream>, cut_in_all: f64, stuck: &AtomicBool) -> f64 {
    let frames: Vec<u8> = (0..5000).flat_map(|id| submit(id, b"")).collect();
    let (mut at, mut most): (_, f64) = (vec![0; streams.len()], 0.0);
    let start = Instant::now();
    loop {
        let mut sent = 0;
        for (stream, at) in streams.iter_mut().zip(&mut at) {
            match stream.write(&frames[*at..]) {
                Ok(count) => {
                    *at = (*at + count) % frames.len();
                    sent += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The connection is closed, as the counter must show.
                Err(_) => {}
            }
        }
        stuck.fetch_or(sent == 0, Ordering::Relaxed);
        let metrics = Metrics::scrape(server);
        most = most.max(metrics.get(HELD));
        if metrics.get(CUT) >= cut_in_all {
            return most;
        }
        assert!(start.elapsed() < PATIENCE, "{:?}", metrics.counted("ringpost_connections_closed_total"));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn clients_that_never_read_are_closed_within_the_memory_limit_and_a_good_load_is_not_affected() {
    let _alone = crate::common::alone();
    crate::common::raise_descriptor_limit();
    let memory_max = MEMORY_MAX.to_string();
    let options = ["--workers", "1", "--write-timeout", "2s", "--max-memory", &memory_max, "--admin", "127.0.0.1:0"];
    let server = Server::start(&options);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    without.push(measure(server.address(), Duration::from_millis(1200)));
    let resident_before = server.memory();
    let (mut most_held, mut most_resident): (f64, u64) = (0.0, 0);
    for round in 1..=ROUNDS {
        let streams: Vec<_> = (0..NON_READERS).map(|_| connect(&server)).collect();
        let (start, stuck) = (Instant::now(), AtomicBool::new(false));
        thread::scope(|scope| {
            let server = &server;
            let (stuck, cut_in_all) = (&stuck, (round * NON_READERS) as f64);
            let attack = scope.spawn(move || send_without_reading(server, streams, cut_in_all, stuck));
            // Until then the result depends on how fast the server answers, which takes a debug build a second.
            while !stuck.load(Ordering::Relaxed) && !attack.is_finished() {
                thread::sleep(Duration::from_millis(10));
            }
            with.push(measure(server.address(), Duration::from_millis(1200)));
            most_resident = most_resident.max(server.memory());
            most_held = most_held.max(attack.join().unwrap());
        });
        println!("round {round}: all connections were closed after {:?}", start.elapsed());
        without.push(measure(server.address(), Duration::from_millis(1200)));
    }
    let grown = most_resident.saturating_sub(resident_before);
    println!("buffers used at most {most_held} bytes of {MEMORY_MAX}; resident memory grew by {grown}");
    assert!(most_held <= MEMORY_MAX as f64);
    assert!(most_held >= MEMORY_MAX as f64 / 4.0, "the attack uses most of the memory that it may: {most_held}");
    // The memory of a connection besides its buffers, and what the allocator keeps.
    assert!(grown <= MEMORY_MAX + (NON_READERS as u64 * (16 << 10)), "resident memory grew by {grown}");
    wait_until("all memory is released", || Metrics::scrape(&server).get(HELD) < 20_000.0);
    expect_unharmed(&without, &with);
}
