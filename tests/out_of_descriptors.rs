//! With no descriptors left the server keeps serving those it has, without spinning, and accepts
//! again by itself.

mod common;

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use common::admin::Metrics;
use common::{BINARY, Server, round_trip};

#[test]
fn it_serves_on_and_recovers() {
    let mut command = Command::new("prlimit");
    command.args(["--nofile=40:40", BINARY, "serve", "--listen", "127.0.0.1:0", "--workers", "1"]);
    // Without its own limit, which would close them before descriptors run out.
    command.args(["--admin", "127.0.0.1:0", "--max-connections", "0"]);
    let server = Server::spawn(command, 1);
    let mut first = server.connect();
    round_trip(&mut first, 0);
    let crowd: Vec<TcpStream> = (0..60).map(|_| server.connect()).collect();
    server.wait_for_log("raise RLIMIT_NOFILE");
    let cpu_before = cpu_ticks(&server);
    sleep(Duration::from_secs(1));
    round_trip(&mut first, 1);
    let used = cpu_ticks(&server) - cpu_before;
    assert!(used < 20, "it used {used} ticks of 10 ms in a second");
    drop(crowd);
    round_trip(&mut server.connect(), 2);
    let failed = Metrics::scrape(&server).get("ringpost_accept_errors_total{errno=\"EMFILE\"}");
    // 64 accept loops that each rest for 50 ms fail 1,280 times a second; without a rest, far more.
    assert!((100.0..5000.0).contains(&failed), "{failed} failed accepts: counted, and not without a rest");
}

fn cpu_ticks(server: &Server) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
