//! The server's own faults: a sink that panics, a shard that hangs, a shard that dies. The server detects and reports
//! each of them, and limits its effects.
//!
//! Messages cause these faults. Only a build with the feature `test-hooks` reacts to them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::admin::{Metrics, get};
use crate::common::{Server, connect, expect_clean_end, ringpost, round_trip, set_defaults, submit, wait_until};

/// The time that a busy machine may add to a time that is promised.
const SLACK: Duration = Duration::from_secs(2);

fn serve(options: &[&str]) -> Command {
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0"]);
    command.args(options).env("RINGPOST_TEST_FAULTS", "1");
    command
}

fn start(options: &[&str]) -> Server {
    Server::spawn(serve(&[&["--workers", "2", "--admin", "127.0.0.1:0"], options].concat()), 1)
}

/// Opens so many connections that each shard has some.
fn bystanders(server: &Server) -> Vec<TcpStream> {
    let mut streams: Vec<_> = (0..24).map(|_| server.connect()).collect();
    streams.iter_mut().for_each(|stream| round_trip(stream, 1));
    streams
}

fn ask_for(fault: &str, stream: &mut TcpStream) -> Instant {
    stream.write_all(&submit(1, format!("fault: {fault}").as_bytes())).unwrap();
    Instant::now()
}

/// Returns the time since `start` at which `/healthz` answers with `status`, and the text of that answer.
fn health_turns(server: &Server, status: u16, start: Instant) -> (Duration, String) {
    wait_until(&format!("/healthz answers {status}"), || get(server, "/healthz").status == status);
    (start.elapsed(), get(server, "/healthz").body)
}

/// Returns the only error line of a log, besides those of the panic itself.
fn reason(log: &str) -> &str {
    let mut errors = log.lines().filter(|line| line.contains("ERROR") && !line.contains("panicked at"));
    let reason = errors.next().unwrap_or_else(|| panic!("no reason: {log}"));
    assert_eq!(errors.next(), None, "there is one such line");
    reason
}

/// Counts the connections that are answered while a shard hangs: those of the other shard, as soon as it answers.
fn answered(streams: &mut [TcpStream]) -> usize {
    for stream in &mut *streams {
        stream.write_all(&submit(2, b"there?")).unwrap();
    }
    let answered = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let answered = stream.peek(&mut [0; 14]).is_ok_and(|count| count == 14);
        stream.set_nonblocking(false).unwrap();
        answered
    };
    wait_until("the other shard answers", || streams.iter().any(answered));
    // A shard that does not hang answers all of its connections by then.
    thread::sleep(Duration::from_millis(200));
    streams.iter().filter(|stream| answered(stream)).count()
}

#[test]
fn a_sink_that_panics_on_a_message_closes_one_connection() {
    let server = start(&[]);
    let mut others = bystanders(&server);
    for count in 1..=3 {
        let mut victim = server.connect();
        round_trip(&mut victim, 7);
        ask_for("panic", &mut victim);
        expect_clean_end(&mut victim);
        let closed = "ringpost_connections_closed_total{reason=\"panicked\"}";
        crate::common::admin::wait_for(&server, closed, f64::from(count));
        others.iter_mut().for_each(|stream| round_trip(stream, 2));
    }
    assert_eq!(get(&server, "/healthz").status, 200);
    assert_eq!(Metrics::scrape(&server).counted("ringpost_connections_closed_total"), ["{reason=\"panicked\"} 3"]);
    drop(others);
    let ended = server.stop();
    assert!(ended.status.success(), "{}", ended.log);
    let reported =
        ended.log.lines().filter(|line| line.contains("its task panicked") && line.contains("peer=127.0.0.1:"));
    assert_eq!(reported.count(), 3);
}

#[test]
fn a_shard_that_hangs_ends_the_process_with_the_reason() {
    let server = start(&[]);
    let mut others = bystanders(&server);
    let mut hangs = server.connect();
    round_trip(&mut hangs, 0);
    let start = ask_for("spin", &mut hangs);
    thread::sleep(Duration::from_millis(200));
    let served = answered(&mut others);
    assert!((1..24).contains(&served), "{served} of 24 connections are served, not those of one shard");
    let (unhealthy, body) = health_turns(&server, 503, start);
    assert!((1.7..2.1 + SLACK.as_secs_f64()).contains(&unhealthy.as_secs_f64()), "unhealthy after {unhealthy:?}");
    assert!(body.contains("event loop stalled for 2."), "{body}");
    assert_eq!(get(&server, "/readyz").status, 503);
    let ended = server.ended();
    let after = start.elapsed();
    println!("unhealthy after {unhealthy:?}, ended after {after:?}");
    assert_eq!(ended.status.code(), Some(3), "{}", ended.log);
    assert!((4.7..5.1 + SLACK.as_secs_f64()).contains(&after.as_secs_f64()), "ended after {after:?}");
    let reason = reason(&ended.log);
    assert!(reason.contains("event loop stalled for 5.") && reason.contains("--stall-timeout"), "{reason}");
    assert!(ended.log.contains("unhealthy"), "the log reports the stall after two seconds too: {}", ended.log);
}

#[test]
fn a_shard_that_recovers_is_healthy_again() {
    let server = start(&["--stall-timeout", "60s"]);
    let mut slow = server.connect();
    let start = ask_for("spin 3000", &mut slow);
    health_turns(&server, 503, start);
    let (healthy, body) = health_turns(&server, 200, start);
    assert!((2.9..3.5 + SLACK.as_secs_f64()).contains(&healthy.as_secs_f64()), "healthy after {healthy:?}");
    assert_eq!(body, "healthy\n");
    crate::common::expect_acks(&mut slow, [1]);
    server.wait_for_log("event loop runs again");
    drop(slow);
    assert!(server.stop().status.success());
}

#[test]
fn without_a_stall_timeout_a_hanging_shard_is_only_reported_unhealthy() {
    let server = start(&["--stall-timeout", "0"]);
    let mut slow = server.connect();
    let start = ask_for("spin 7000", &mut slow);
    health_turns(&server, 503, start);
    let (healthy, _) = health_turns(&server, 200, start);
    assert!(healthy > Duration::from_millis(6900), "{healthy:?}");
    round_trip(&mut server.connect(), 1);
}

/// Asks for a panic in a server with some other clients, and checks how the process ends. `drained` looks at the server
/// while it drains, at the client that asked, and at the others. Returns the log, and the time of the request.
fn check_end_by_panic(
    panic: &str,
    drained: impl FnOnce(&Server, &mut TcpStream, &mut [TcpStream]),
) -> (String, Instant) {
    let server = start(&["--linger-timeout", "1s"]);
    let mut others = bystanders(&server);
    let mut asks = server.connect();
    let start = ask_for(panic, &mut asks);
    let (unhealthy, body) = health_turns(&server, 503, start);
    assert!(unhealthy < Duration::from_millis(250) + SLACK, "{unhealthy:?}");
    assert!(body.starts_with("shard ") && body.contains(" panicked: a fault for a test"), "{body}");
    drained(&server, &mut asks, &mut others);
    let ended = server.ended();
    let after = start.elapsed();
    println!("unhealthy after {unhealthy:?}, ended after {after:?}");
    assert_eq!(ended.status.code(), Some(3), "{}", ended.log);
    assert!(after < Duration::from_secs(2) + SLACK, "ended after {after:?}");
    assert!(reason(&ended.log).contains("panicked: a fault for a test"), "{}", ended.log);
    // No client keeps a connection that is not served any longer.
    for stream in &mut others {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    (ended.log, start)
}

#[test]
fn a_server_whose_shard_loses_a_task_drains() {
    let (log, _) = check_end_by_panic("panic task", |server, asks, others| {
        assert_eq!(get(server, "/readyz").body, "draining\n");
        crate::common::expect_acks(asks, [1]);
        expect_clean_end(asks);
        others.iter_mut().for_each(expect_clean_end);
    });
    assert!(log.contains("cut=0 "), "{log}");
}

#[test]
fn a_shard_whose_thread_panics_ends_the_process_after_the_others_drain() {
    let (_, start) = check_end_by_panic("panic shard", |_, _, _| {});
    assert!(start.elapsed() < Duration::from_secs(3) + SLACK);
}

#[test]
fn a_log_that_nobody_reads_does_not_keep_a_hanging_server_alive() {
    let mut command = serve(&["--workers", "1", "--stall-timeout", "1s", "--log-level", "debug"]);
    set_defaults(&mut command);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 64];
    let len = child.stdout.as_mut().unwrap().read(&mut line).unwrap();
    let line = str::from_utf8(&line[..len]).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
    // Each leaves a line of more than 100 bytes in the log. The pipe holds 64 KiB.
    for _ in 0..1000 {
        drop(connect(address));
    }
    // The full pipe alone affects no client.
    let mut client = connect(address);
    round_trip(&mut client, 1);
    let start = ask_for("spin", &mut client);
    while child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(15) {
        thread::sleep(Duration::from_millis(5));
    }
    let code = child.try_wait().unwrap().map(|status| status.code());
    let _ = child.kill();
    let _ = child.wait();
    println!("ended after {:?}", start.elapsed());
    assert_eq!(code, Some(Some(3)));
}
