//! A thousand simultaneous connections are spread over both shards, each of which has its own ring and listener.

use std::fs;

use crate::common::{Server, closed_by_shard, expect_acks, has_rings, submit};
use std::io::Write;

#[test]
fn a_thousand_connections_are_spread_over_two_rings_and_two_listeners() {
    let server = Server::start(&["--workers", "2", "--log-level", "debug"]);
    assert_eq!(server.rings(), if has_rings() { 2 } else { 0 });
    assert_eq!(listeners(&server), 2);
    let mut streams: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    for (stream, id) in streams.iter_mut().zip(0..) {
        stream.write_all(&submit(id, b"hello")).unwrap();
    }
    for (stream, id) in streams.iter_mut().zip(0..) {
        expect_acks(stream, [id]);
    }
    drop(streams);
    let ended = server.stop();
    assert!(ended.status.success());
    let by_shard = closed_by_shard(&ended.log, 2);
    assert_eq!(by_shard.iter().sum::<usize>(), 1000);
    // A fair hash gives one of two shards fewer than 400 of 1,000 connections once in some billion runs.
    assert!(by_shard.iter().all(|count| *count >= 400), "{by_shard:?}");
}

/// Counts the listening sockets on the server's port, as the kernel lists them.
fn listeners(server: &Server) -> usize {
    let local = format!(":{:04X}", server.address().port());
    let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", server.pid())).unwrap();
    let listening = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|address| address.ends_with(&local)) && fields.nth(1) == Some("0A")
    };
    sockets.lines().filter(listening).count()
}
