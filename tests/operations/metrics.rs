//! Known conversations change every counter by exact values.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::common::admin::{Metrics, wait_for};
use crate::common::{Server, expect_clean_end, round_trip, submit};

const OPEN: &str = "ringpost_connections_open{shard=\"0\"}";

fn start(options: &[&str]) -> Server {
    Server::start(&[&["--workers", "1", "--admin", "127.0.0.1:0"], options].concat())
}

/// Sends bytes that end the conversation, and reads the acks before its end.
fn violate(server: &Server, bytes: &[u8], acks: usize) {
    let mut stream = server.connect();
    stream.write_all(bytes).unwrap();
    read_acks(&mut stream, acks);
    expect_clean_end(&mut stream);
}

fn read_acks(stream: &mut TcpStream, count: usize) {
    stream.read_exact(&mut vec![0; count * 14]).unwrap();
}

#[test]
fn a_known_conversation_gives_exact_values() {
    let server = start(&[]);
    let idle = Metrics::scrape(&server);
    for family in ["requests", "acks", "connections", "connections_closed", "frames_rejected", "received_bytes"] {
        assert_eq!(idle.counted(&format!("ringpost_{family}_total")), [""; 0]);
    }
    assert_eq!(idle.get("ringpost_buffer_bytes{shard=\"0\"}"), 0.0);

    let mut stream = server.connect();
    let conn = b"\0\0\0\x0f\x0100000000hi";
    stream.write_all(&[conn.to_vec(), submit(1, b"one"), submit(2, b""), submit(3, &[7; 100])].concat()).unwrap();
    read_acks(&mut stream, 4);
    round_trip(&mut stream, 4);
    // The acks are counted when the send has returned, which may be after their arrival.
    wait_for(&server, "ringpost_acks_total{result=\"success\"}", 5.0);
    let metrics = Metrics::scrape(&server);
    assert_eq!(
        metrics.counted("ringpost_requests_total"),
        ["{shard=\"0\",kind=\"conn\"} 1", "{shard=\"0\",kind=\"submit\"} 4"]
    );
    assert_eq!(metrics.counted("ringpost_acks_total"), ["{result=\"success\"} 5"]);
    assert_eq!(metrics.get("ringpost_received_bytes_total"), f64::from(15 + 16 + 13 + 113 + 20));
    assert_eq!(metrics.get("ringpost_sent_bytes_total"), 5.0 * 14.0);
    assert_eq!(metrics.get(OPEN), 1.0);
    assert_eq!(metrics.get("ringpost_connections_total{shard=\"0\"}"), 1.0);
    assert_eq!(metrics.counted("ringpost_connections_closed_total"), [""; 0]);
    let buffers = metrics.get("ringpost_buffer_bytes{shard=\"0\"}");
    assert!((256.0..=512.0).contains(&buffers), "a quiet connection's buffers: {buffers} bytes");

    assert_eq!(metrics.get("ringpost_ack_latency_seconds_count"), 5.0);
    assert_eq!(metrics.get("ringpost_ack_latency_seconds_bucket{le=\"+Inf\"}"), 5.0);
    assert_eq!(metrics.get("ringpost_ack_latency_seconds_bucket{le=\"8.388608\"}"), 5.0);
    assert_eq!(metrics.get("ringpost_ack_latency_seconds_bucket{le=\"0.000001\"}"), 0.0, "no send is that fast");
    let sum = metrics.get("ringpost_ack_latency_seconds_sum");
    assert!((5e-6..5.0).contains(&sum), "{sum}");

    drop(stream);
    wait_for(&server, "ringpost_connections_closed_total{reason=\"client_closed\"}", 1.0);
    let metrics = Metrics::scrape(&server);
    assert_eq!(metrics.get(OPEN), 0.0);
    assert_eq!(metrics.get("ringpost_buffer_bytes{shard=\"0\"}"), 0.0);
}

#[test]
fn each_end_of_a_connection_is_counted_by_its_reason() {
    let server = start(&["--max-frame", "1KiB", "--linger-timeout", "10s"]);
    let good = submit(1, b"good");
    violate(&server, &[&good, &b"\0\0\0\x0c"[..]].concat(), 1);
    violate(&server, &[&good, &b"\0\0\0\x0d\x03"[..]].concat(), 1);
    violate(&server, b"\0\0\0\x0e\x82", 0);
    violate(&server, &[&good, &b"\0\0\x04\x01\x0212345678"[..]].concat(), 2);
    violate(&server, b"\0\0\x04\x01\x0112345678", 1);
    let mut cut_short = server.connect();
    cut_short.write_all(&submit(1, b"cut short")[..15]).unwrap();
    cut_short.shutdown(Shutdown::Write).unwrap();
    expect_clean_end(&mut cut_short);
    let mut reset = server.connect();
    round_trip(&mut reset, 1);
    socket2::SockRef::from(&reset).set_linger(Some(Duration::ZERO)).unwrap();
    drop(reset);
    drop(server.connect());

    wait_for(&server, OPEN, 0.0);
    let metrics = Metrics::scrape(&server);
    assert_eq!(metrics.get("ringpost_connections_total{shard=\"0\"}"), 8.0);
    assert_eq!(
        metrics.counted("ringpost_frames_rejected_total"),
        [
            "{reason=\"ack_from_client\"} 1",
            "{reason=\"frame_too_large\"} 2",
            "{reason=\"length_too_small\"} 1",
            "{reason=\"truncated_frame\"} 1",
            "{reason=\"unknown_command\"} 1",
        ]
    );
    assert_eq!(
        metrics.counted("ringpost_connections_closed_total"),
        [
            "{reason=\"ack_from_client\"} 1",
            "{reason=\"client_closed\"} 1",
            "{reason=\"frame_too_large\"} 2",
            "{reason=\"length_too_small\"} 1",
            "{reason=\"reset\"} 1",
            "{reason=\"truncated_frame\"} 1",
            "{reason=\"unknown_command\"} 1",
        ]
    );
    // A frame over the limit is answered, so it counts as a request.
    assert_eq!(metrics.counted("ringpost_acks_total"), ["{result=\"failure\"} 2", "{result=\"success\"} 4"]);
    assert_eq!(
        metrics.counted("ringpost_requests_total"),
        ["{shard=\"0\",kind=\"conn\"} 1", "{shard=\"0\",kind=\"submit\"} 5"]
    );
    assert_eq!(metrics.get("ringpost_buffer_bytes{shard=\"0\"}"), 0.0);
}

#[test]
fn a_drain_counts_the_connections_that_it_ended_and_closed() {
    let server = start(&["--linger-timeout", "30s", "--drain-timeout", "1s"]);
    let mut polite = server.connect();
    round_trip(&mut polite, 1);
    let mut holds_on = server.connect();
    round_trip(&mut holds_on, 1);
    server.signal(libc::SIGTERM);
    expect_clean_end(&mut polite);
    drop(polite);
    wait_for(&server, "ringpost_connections_closed_total{reason=\"drained\"}", 1.0);
    wait_for(&server, OPEN, 1.0);
    let ended = server.ended();
    assert!(ended.log.contains("cut=1 "), "{}", ended.log);
    assert!(ended.log.contains("cut connections that were still open at the drain deadline connections=1"));
}

#[test]
fn memory_of_a_busy_connection_is_counted_and_released() {
    let server = start(&["--max-frame", "8MiB"]);
    let mut stream = server.connect();
    let frame = submit(1, &vec![7; 4 << 20]);
    let (head, tail) = frame.split_at(3 << 20);
    stream.write_all(head).unwrap();
    let held = || Metrics::scrape(&server).get("ringpost_buffer_bytes{shard=\"0\"}");
    crate::common::wait_until("3 MiB of the frame are held", || held() >= f64::from(3 << 20));
    assert!(held() <= f64::from(6 << 20), "more than twice what has arrived: {}", held());
    stream.write_all(tail).unwrap();
    crate::common::expect_acks(&mut stream, [1]);
    crate::common::wait_until("a large frame's memory is released", || held() <= f64::from(64 << 10) * 2.0);
}

#[test]
fn a_suppressed_line_is_counted() {
    let server = start(&[]);
    for _ in 0..100 {
        violate(&server, b"\0\0\0\0", 0);
    }
    let suppressed = Metrics::scrape(&server).get("ringpost_log_lines_suppressed_total");
    let log = server.stop().log;
    let written = log.lines().filter(|line| line.contains("closing a connection")).count();
    assert!(suppressed > 0.0);
    assert_eq!(suppressed + written as f64, 100.0);
}

#[test]
fn each_shard_counts_its_own() {
    let server = Server::start(&["--workers", "2", "--admin", "127.0.0.1:0"]);
    let mut streams: Vec<_> = (0..40).map(|_| server.connect()).collect();
    for stream in &mut streams {
        round_trip(stream, 1);
    }
    let metrics = Metrics::scrape(&server);
    let both = |family: &str, labels: &str| {
        [0, 1].map(|shard| metrics.get(&format!("ringpost_{family}{{shard=\"{shard}\"{labels}}}")))
    };
    let open = both("connections_open", "");
    assert!(open[0] > 0.0 && open[1] > 0.0, "40 connections on two shards: {open:?}");
    assert_eq!(open[0] + open[1], 40.0);
    assert_eq!(both("requests_total", ",kind=\"submit\""), open, "one request for each connection");
}

#[test]
fn the_process_is_described() {
    let server = start(&[]);
    let metrics = Metrics::scrape(&server);
    let resident = metrics.get("process_resident_memory_bytes");
    assert!((resident / server.memory() as f64 - 1.0).abs() < 0.2, "{resident} of {}", server.memory());
    let open = metrics.get("process_open_fds");
    assert!((open - server.open_files() as f64).abs() <= 2.0, "{open} of {}", server.open_files());
    assert!(metrics.get("process_max_fds") > open);
    assert!((0.0..10.0).contains(&metrics.get("process_cpu_seconds_total")));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - 60.0..=now).contains(&metrics.get("process_start_time_seconds")));
    assert_eq!(metrics.counted("ringpost_build_info"), [format!("{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))]);
}

#[test]
fn the_log_reports_what_a_connection_did() {
    let server = start(&["--log-level", "debug"]);
    let mut stream = server.connect();
    round_trip(&mut stream, 1);
    round_trip(&mut stream, 2);
    drop(stream);
    server.wait_for_log("requests=2 bytes_received=40 end=Finished");
}
