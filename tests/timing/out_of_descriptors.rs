//! Without free descriptors, the server continues to serve its connections without spinning. It closes new connections
//! instead of letting them hang, and accepts again by itself. Clients can't use up the descriptors that the server
//! needs itself.

use std::cell::RefCell;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::common::admin::{Metrics, get};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::common::{BINARY, Server, connect, round_trip, submit, wait_until};

/// How long descriptors stay exhausted. During the second half there are also idle connections to the admin address.
const EXHAUSTED: Duration = Duration::from_secs(10);

/// Returns whether a connection is served. Otherwise it has been closed.
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
fn without_descriptors_a_server_serves_its_connections_closes_others_and_recovers() {
    let _alone = crate::common::alone();
    let server = Server::start(&["--workers", "2", "--admin", "127.0.0.1:0"]);
    // The limit is lowered without the server's knowledge. With its own limit of connections it would close them before
    // descriptors run out.
    limit_descriptors(&server, 64);
    let mut inside: Vec<_> = (0..8).map(|_| server.connect()).collect();
    inside.iter_mut().for_each(|stream| round_trip(stream, 0));
    let mut crowd: Vec<_> = (0..120).map(|_| server.connect()).collect();
    crowd.retain_mut(is_served);
    assert!((15..60).contains(&crowd.len()), "{} got one of 64 descriptors", crowd.len());
    server.wait_for_log("raise RLIMIT_NOFILE");

    let start = Instant::now();
    let cpu_before = cpu_ticks(&server);
    let (mut closed_early, mut slowest) = (0, Duration::ZERO);
    while start.elapsed() < EXHAUSTED / 2 {
        inside.iter_mut().for_each(|stream| round_trip(stream, 1));
        let (asked, mut one_more) = (Instant::now(), server.connect());
        assert!(!is_served(&mut one_more), "there is no descriptor for it");
        closed_early += 1;
        slowest = slowest.max(asked.elapsed());
        sleep(Duration::from_millis(100));
    }
    // At the same time the admin address answers, and still has all figures about the process.
    for _ in 0..20 {
        assert_eq!((get(&server, "/healthz").status, get(&server, "/readyz").status), (200, 200));
        let metrics = Metrics::scrape(&server);
        assert!(metrics.get("process_resident_memory_bytes") > 1e6);
        let open = metrics.get("process_open_fds");
        assert!((55.0..=64.0).contains(&open), "{open} of 64 descriptors");
    }
    // Idle connections to the admin address replace each other, and don't use the server's descriptors.
    let admin = crate::common::admin::address(&server);
    let holders: Vec<TcpStream> = (0..4).map(|_| connect(admin)).collect();
    sleep(Duration::from_millis(200));
    let waiting: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
    while start.elapsed() < EXHAUSTED {
        inside.iter_mut().for_each(|stream| round_trip(stream, 2));
        sleep(Duration::from_millis(100));
    }
    let cpu = cpu_ticks(&server) - cpu_before;
    println!("CPU {cpu} ticks of 10 ms in {EXHAUSTED:?}; {closed_early} closed, each within {slowest:?}");
    assert!(cpu < 100, "it used {cpu} ticks of 10 ms in {EXHAUSTED:?}: over a tenth of a core");

    drop((crowd, holders, waiting));
    let start = Instant::now();
    wait_until("a new connection is served", || is_served(&mut connect(server.address())));
    println!("served again after {:?}", start.elapsed());
    let metrics = Metrics::scrape(&server);
    let failed = metrics.get("ringpost_accept_errors_total{errno=\"EMFILE\"}");
    // 128 accept loops that each rest for 50 ms can fail 2,560 times a second. Without a rest they would fail far more
    // often.
    assert!((1.0..26_000.0).contains(&failed), "{failed} failed accepts: counted, and not without a rest");
    let closed = metrics.get("ringpost_connections_closed_total{reason=\"out_of_descriptors\"}");
    assert!(closed >= f64::from(closed_early), "{closed} of {closed_early} and more");
    println!("{failed} failed accepts, {closed} closed in total");
}

/// Sets a running server's limit of open files, and returns the old limit.
fn limit_descriptors(server: &Server, limit: u64) -> u64 {
    let pid = Pid::from_raw(server.pid() as i32);
    // The hard limit stays, since an ordinary user can't raise it again.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum }).unwrap();
    before.current.or(maximum).expect("a limit")
}

/// Returns the limit of open files at which a server has no free descriptor.
fn least_limit(server: &Server) -> u64 {
    let is_open = |number: &u64| fs::symlink_metadata(format!("/proc/{}/fd/{number}", server.pid())).is_ok();
    (0..).find(|number| !is_open(number)).unwrap()
}

/// Sends SUBMITs of 16 KiB in bursts of 64, and returns how many were acked with 0.
fn submit_many(stream: &mut TcpStream, bursts: u64) -> u64 {
    let burst: Vec<u8> = (0..64).flat_map(|id| submit(id, &[7; 16 << 10])).collect();
    let mut good = 0;
    for _ in 0..bursts {
        let mut sender = stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| sender.write_all(&burst).unwrap());
            let mut acks = [0; 64 * 14];
            stream.read_exact(&mut acks).unwrap();
            good += acks.chunks(14).filter(|ack| ack[13] == 0).count() as u64;
        });
    }
    good
}

#[test]
fn clients_can_not_use_up_the_servers_own_descriptors() {
    let _alone = crate::common::alone();
    crate::common::raise_descriptor_limit();
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("prlimit");
    command.args(["--nofile=300:300", BINARY, "serve", "--listen", "127.0.0.1:0", "--workers", "2"]);
    command.args(["--admin", "127.0.0.1:0", "--max-connections", "0", "--segment-size", "2MiB", "--min-free", "0"]);
    command.args(["--data-dir", dir.path().to_str().unwrap(), "--retain-bytes", "16MiB"]);
    let server = Server::spawn(command, 1);
    let admin = crate::common::admin::address(&server);
    let mut crowd: Vec<_> = (0..500).map(|_| server.connect()).collect();
    crowd.retain_mut(is_served);
    assert!((50..270).contains(&crowd.len()), "{} of 500 got in with 300 descriptors", crowd.len());
    server.wait_for_log(&format!("room for {} connections", crowd.len()));
    // These are more connections than the admin address accepts at the same time.
    let holders: Vec<TcpStream> = (0..80).map(|_| connect(admin)).collect();
    // Both shards have connections. Each shard needs new segments, and recycles old ones.
    for stream in crowd.iter_mut().take(8) {
        assert_eq!(submit_many(stream, 8), 8 * 64, "{}", server.log());
    }
    drop(holders);
    assert_eq!(Metrics::scrape(&server).get("ringpost_accept_errors_total{errno=\"EMFILE\"}"), 0.0);
    assert!(!server.log().contains("Too many open files"), "{}", server.log());
    drop(crowd);
    assert!(server.stop().status.success());
}

#[test]
fn a_shard_without_a_descriptor_for_a_segment_accepts_messages_again_when_there_is_one() {
    let _alone = crate::common::alone();
    let mut refused = 0;
    // The limit goes down until not even the descriptor of a closed segment can be reused.
    for fewer in [20, 10, 1, 0] {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().to_str().unwrap();
        let options = ["--workers", "1", "--admin", "127.0.0.1:0", "--segment-size", "2MiB", "--data-dir", data_dir];
        let server = Server::start(&options);
        let mut stream = server.connect();
        round_trip(&mut stream, 1);
        sleep(Duration::from_millis(300));
        let before = limit_descriptors(&server, least_limit(&server) - fewer);
        let good = submit_many(&mut stream, 10);
        println!("{fewer} numbers fewer: {good} of 640 acked with 0 meanwhile");
        refused += 640 - good;
        limit_descriptors(&server, before);
        let stream = RefCell::new(stream);
        wait_until("messages are accepted again", || submit_many(&mut stream.borrow_mut(), 1) == 64);
        let mut stream = stream.into_inner();
        assert_eq!(get(&server, "/healthz").status, 200, "{}", server.log());
        assert_eq!(submit_many(&mut stream, 5), 5 * 64);
        drop(stream);
        assert!(server.stop().status.success());
    }
    assert!(refused > 0, "no segment was refused, so the test proves nothing");
}

fn cpu_ticks(server: &Server) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
