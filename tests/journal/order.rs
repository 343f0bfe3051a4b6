//! Pipelined messages of several connections are returned in the order of their connection, with their IDs, payloads,
//! peers and times, however many shards each start had.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::common::kept::{Line, cat, cat_live, expect_sound, journal, serve};
use crate::common::{Server, expect_acks, submit};

const CONNECTIONS: u64 = 6;
const MESSAGES: u64 = 300;

/// Returns the payload that a connection of a start sends as its `number`th message. Lengths differ, and one is empty.
fn message(start: u64, connection: u64, number: u64) -> (u64, Vec<u8>) {
    let id = u64::MAX - ((start * CONNECTIONS + connection) * MESSAGES + number);
    let text = format!("start {start} connection {connection} message {number};");
    (id, text.repeat((number * number % 60) as usize).into_bytes())
}

/// Sends everything, a part of each connection at a time, and returns what each peer has sent.
fn submit_all(server: &Server, start: u64) -> Vec<(SocketAddr, u64)> {
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|connection| (server.connect(), connection)).collect();
    const STEP: u64 = 50;
    for first in (0..MESSAGES).step_by(STEP as usize) {
        for (stream, connection) in &mut streams {
            let frames = (first..first + STEP).flat_map(|number| {
                let (id, payload) = message(start, *connection, number);
                submit(id, &payload)
            });
            stream.write_all(&frames.collect::<Vec<_>>()).unwrap();
        }
    }
    for (stream, connection) in &mut streams {
        expect_acks(stream, (0..MESSAGES).map(|number| message(start, *connection, number).0));
    }
    streams.iter().map(|(stream, connection)| (stream.local_addr().unwrap(), *connection)).collect()
}

/// Fails unless the lines of this start are what was sent, in order per connection.
fn expect_sent(lines: &[&Line], start: u64, peers: &[(SocketAddr, u64)]) {
    let mut by_connection = BTreeMap::<_, Vec<_>>::new();
    for line in lines {
        by_connection.entry((&line.writer, line.connection)).or_default().push(*line);
    }
    assert_eq!(by_connection.len() as u64, CONNECTIONS, "start {start}: a number for each connection");
    for lines in by_connection.values() {
        let (_, connection) = peers.iter().find(|(peer, _)| *peer == lines[0].peer).expect("a peer that has sent");
        assert_eq!(lines.len() as u64, MESSAGES, "start {start}, connection {connection}");
        for (line, number) in lines.iter().zip(0..) {
            let (id, payload) = message(start, *connection, number);
            assert!(
                (line.id, &line.payload, line.peer) == (id, &payload, lines[0].peer),
                "start {start}, connection {connection}, message {number}: {line:?}"
            );
        }
        assert!(lines.is_sorted_by_key(|line| &line.time), "times of one connection");
    }
}

#[test]
fn messages_are_returned_as_they_were_sent_with_any_number_of_shards() {
    let dir = tempfile::tempdir().unwrap();
    let began = SystemTime::now();
    let mut seen: Vec<Line> = Vec::new();
    for (start, workers) in (0..).zip([1, 3, 2]) {
        let server = serve(dir.path(), &format!("--workers {workers} --segment-size 2MiB"));
        let peers = submit_all(&server, start);
        let live = cat_live(dir.path());
        assert!(server.stop().status.success());
        let lines = cat(dir.path());
        assert!(
            live == lines,
            "different results while the server runs and after its end: {} and {}",
            live.len(),
            lines.len()
        );
        let known: BTreeSet<_> = seen.iter().map(|line| &line.writer).collect();
        let (old, new): (Vec<_>, Vec<_>) = lines.iter().partition(|line| known.contains(&line.writer));
        assert!(old.into_iter().eq(&seen), "start {start} changed earlier records");
        expect_sent(&new, start, &peers);
        let writers: BTreeSet<_> = new.iter().map(|line| &line.writer).collect();
        assert!((1..=workers).contains(&writers.len()), "{writers:?}");
        seen = lines;
    }
    assert_eq!(seen.len() as u64, 3 * CONNECTIONS * MESSAGES);
    // Positions count from 1 in each writer, without a gap. Times are those of the test.
    let mut next = BTreeMap::new();
    let times = began..SystemTime::now() + Duration::from_millis(1);
    for line in &seen {
        let next = next.entry(&line.writer).or_insert(1);
        assert_eq!(line.sequence, *next);
        *next += 1;
        assert!(times.contains(&humantime::parse_rfc3339(&line.time).unwrap()), "{}", line.time);
    }
    expect_sound(dir.path());
    // A reader that stopped at a message continues after it.
    let from = &seen[seen.len() / 2];
    let rest = journal(&format!("cat --format json --from {}:{}", from.writer, from.sequence), dir.path()).stdout;
    let rest = rest.lines().map(Line::parse).filter(|line| line.writer == from.writer);
    assert!(rest.eq(seen[seen.len() / 2..].iter().filter(|line| line.writer == from.writer).cloned()));
}
