//! Bursts of connects and resets, and connects to a full backlog, leak nothing. The next good connection is served.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::admin::Metrics;
use crate::common::{Server, round_trip, wait_until};
use socket2::{Domain, SockRef, Socket, Type};

/// The allowed growth of the resident memory, in bytes: below 100 bytes a connection.
const GROWTH_MAX: u64 = 2 << 20;

/// Simultaneous connects: as many as the backlog of one listener holds (`--backlog`), in case the server does not get
/// to accept. If the backlog is full, the kernel drops the last packet of the handshake, and a reset after it leaves no
/// connection to accept.
const AT_ONCE: usize = 4000;

/// Connects and resets, `count` times on each of four threads.
fn burst(server: &Server, count: usize) {
    let address = server.address();
    let clients = [(); 4].map(|()| {
        thread::spawn(move || {
            for _ in 0..count {
                let stream = TcpStream::connect(address).expect("the server accepts");
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        })
    });
    clients.into_iter().for_each(|client| client.join().unwrap());
}

fn good_connection(server: &Server, limit: Duration) {
    let start = Instant::now();
    round_trip(&mut server.connect(), 1);
    assert!(start.elapsed() < limit, "a good connection was served after {:?}", start.elapsed());
}

#[test]
fn twenty_thousand_resets_leak_nothing() {
    let _alone = crate::common::alone();
    let server = Server::start(&["--workers", "2", "--admin", "127.0.0.1:0"]);
    let mut bystander = server.connect();
    round_trip(&mut bystander, 0);
    let files_before = server.open_files();
    let all_gone = || server.open_files() == files_before;
    // A reset connection may still be queued. Then it is accepted like any other, or the accept fails because it was
    // aborted.
    let counted = || {
        let metrics = Metrics::scrape(&server);
        let of_shard = |shard| metrics.get(&format!("ringpost_connections_total{{shard=\"{shard}\"}}"));
        let aborted = metrics.get("ringpost_accept_errors_total{errno=\"ECONNABORTED\"}");
        (of_shard(0) + of_shard(1) + aborted) as usize
    };
    let mut connected = 1;
    // The first round fills what is kept for reuse. On a busy machine more connections may be open at a time in the
    // second round than in the first. A leak grows in each round.
    let mut growths = Vec::new();
    let mut memory_before = server.memory();
    while growths.iter().skip(1).all(|growth| *growth >= GROWTH_MAX) {
        assert!(growths.len() < 5, "memory grew by {growths:?} bytes");
        let start = Instant::now();
        for _ in 0..20_000 / AT_ONCE {
            burst(&server, AT_ONCE / 4);
            connected += AT_ONCE;
            wait_until("each connection is counted", || counted() == connected);
        }
        println!("20,000 connects and resets in {:?}", start.elapsed());
        good_connection(&server, Duration::from_secs(2));
        connected += 1;
        wait_until("every reset connection is closed", all_gone);
        let memory = server.memory();
        growths.push(memory.saturating_sub(memory_before));
        memory_before = memory;
    }
    println!("memory grew by {growths:?} bytes to {memory_before}");
    round_trip(&mut bystander, 1);
    drop(bystander);
    assert!(server.stop().status.success());
}

#[test]
fn connects_to_a_full_backlog_leak_nothing() {
    let _alone = crate::common::alone();
    let server = Server::start(&["--workers", "1", "--backlog", "8"]);
    let files_before = server.open_files();
    for round in 0..5 {
        // A stopped server accepts nothing. The backlog has room for nine connections, and the SYNs of the others are
        // dropped.
        server.signal(libc::SIGSTOP);
        let sockets: Vec<_> = (0..200)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&server.address().into());
                socket
            })
            .collect();
        thread::sleep(Duration::from_millis(50));
        let connected = sockets.iter().filter(|socket| socket.peer_addr().is_ok()).count();
        assert!(connected < 200, "round {round}: the backlog was not full");
        for (index, socket) in sockets.iter().enumerate() {
            let linger = (index % 2 == 0).then_some(Duration::ZERO);
            socket.set_linger(linger).unwrap();
        }
        drop(sockets);
        server.signal(libc::SIGCONT);
        // A SYN that arrives at a full backlog is sent again after 1 s.
        good_connection(&server, Duration::from_secs(4));
        wait_until("the backlog is empty", || server.open_files() == files_before);
    }
    assert!(server.stop().status.success());
}
