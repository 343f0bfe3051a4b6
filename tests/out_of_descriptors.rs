//! With no descriptors left the server keeps serving the connections that it has, without spinning;
//! new ones are closed rather than left to hang; and it accepts again by itself.

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::admin::{Metrics, get};
use common::{BINARY, Server, connect, round_trip, submit, wait_until};

/// How long descriptors stay exhausted, the second half of it beside idle connections to the admin address.
const EXHAUSTED: Duration = Duration::from_secs(10);

/// Whether a connection is served; if not, it has been closed.
fn is_served(stream: &mut TcpStream) -> bool {
    let _ = stream.write_all(&submit(9, b"served?"));
    match stream.read(&mut [0; 14]) {
        Ok(14) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("neither served nor closed"),
        Ok(0) | Err(_) => false,
        Ok(count) => panic!("{count} bytes of an ack"),
    }
}

#[test]
fn it_serves_on_turns_others_away_and_recovers() {
    let mut command = Command::new("prlimit");
    command.args(["--nofile=64:64", BINARY, "serve", "--listen", "127.0.0.1:0", "--workers", "2"]);
    // Without its own limit, which would close them before descriptors run out.
    command.args(["--admin", "127.0.0.1:0", "--max-connections", "0"]);
    let server = Server::spawn(command, 1);
    let mut inside: Vec<_> = (0..8).map(|_| server.connect()).collect();
    inside.iter_mut().for_each(|stream| round_trip(stream, 0));
    let mut crowd: Vec<_> = (0..120).map(|_| server.connect()).collect();
    crowd.retain_mut(is_served);
    assert!((15..60).contains(&crowd.len()), "{} got one of 64 descriptors", crowd.len());
    server.wait_for_log("raise RLIMIT_NOFILE");

    let start = Instant::now();
    let cpu_before = cpu_ticks(&server);
    let (mut turned_away, mut slowest) = (0, Duration::ZERO);
    while start.elapsed() < EXHAUSTED / 2 {
        inside.iter_mut().for_each(|stream| round_trip(stream, 1));
        let (asked, mut one_more) = (Instant::now(), server.connect());
        assert!(!is_served(&mut one_more), "there is no descriptor for it");
        turned_away += 1;
        slowest = slowest.max(asked.elapsed());
        sleep(Duration::from_millis(100));
    }
    // The admin address answers meanwhile, and knows as much of the process as ever.
    for _ in 0..20 {
        assert_eq!((get(&server, "/healthz").status, get(&server, "/readyz").status), (200, 200));
        let metrics = Metrics::scrape(&server);
        assert!(metrics.get("process_resident_memory_bytes") > 1e6);
        let open = metrics.get("process_open_fds");
        assert!((55.0..=64.0).contains(&open), "{open} of 64 descriptors");
    }
    // Idle connections to the admin address take each other's places, not the server's.
    let admin = common::admin::address(&server);
    let holders: Vec<TcpStream> = (0..4).map(|_| connect(admin)).collect();
    sleep(Duration::from_millis(200));
    let waiting: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
    while start.elapsed() < EXHAUSTED {
        inside.iter_mut().for_each(|stream| round_trip(stream, 2));
        sleep(Duration::from_millis(100));
    }
    let cpu = cpu_ticks(&server) - cpu_before;
    println!("CPU {cpu} ticks of 10 ms in {EXHAUSTED:?}; {turned_away} turned away, each within {slowest:?}");
    assert!(cpu < 100, "it used {cpu} ticks of 10 ms in {EXHAUSTED:?}: over a tenth of a core");

    drop((crowd, holders, waiting));
    let start = Instant::now();
    wait_until("a new connection is served", || is_served(&mut connect(server.address())));
    println!("served again after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(1), "served again after {:?}", start.elapsed());
    let metrics = Metrics::scrape(&server);
    let failed = metrics.get("ringpost_accept_errors_total{errno=\"EMFILE\"}");
    // 128 accept loops that each rest for 50 ms can fail 2,560 times a second; without a rest, far more.
    assert!((1.0..26_000.0).contains(&failed), "{failed} failed accepts: counted, and not without a rest");
    let closed = metrics.get("ringpost_connections_closed_total{reason=\"out_of_descriptors\"}");
    assert!(closed >= f64::from(turned_away), "{closed} of {turned_away} and more");
    println!("{failed} failed accepts, {closed} turned away in all");
}

fn cpu_ticks(server: &Server) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
