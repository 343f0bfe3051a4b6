//! A write that the disk refuses is final for its shard. Until a restart every message there is acked with 1,
//! connections stay open, and health reports the reason. Every message that was acked before is there after the
//! restart.
//!
//! `RINGPOST_TEST_FAILING_WRITE` makes a write fail. Only a build with the feature `test-hooks` reads it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use crate::common::admin::get;
use crate::common::kept::{cat, expect_sound, ids_by_peer, serve, text};
use crate::common::{Server, ringpost, round_trip, submit, submit_ack};

const CONNECTIONS: usize = 16;
/// The number of SUBMITs in flight.
const BURST: u64 = 8;
const BURSTS: u64 = 40;
/// The number of the commit whose write fails.
const FAILING: &str = "25";

/// Sends bursts until the end, and returns the result that each SUBMIT was acked with.
fn submit_bursts(stream: &mut TcpStream) -> Vec<u8> {
    let mut results = Vec::new();
    for burst in 0..BURSTS {
        let ids = burst * BURST..(burst + 1) * BURST;
        stream.write_all(&ids.clone().flat_map(|id| submit(id, b"to a disk that fails")).collect::<Vec<_>>()).unwrap();
        for id in ids {
            let mut ack = [0; 14];
            stream.read_exact(&mut ack).expect("the connection stays open");
            assert_eq!(ack[..13], submit_ack(id, 0)[..13]);
            results.push(ack[13]);
        }
    }
    results
}

#[test]
fn a_failed_write_stops_its_shard_and_loses_no_acked_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2"]);
    command.args(["--data-dir", text(dir.path())]).env("RINGPOST_TEST_FAILING_WRITE", FAILING);
    let server = Server::spawn(command, 1);
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut stream = server.connect();
            thread::spawn(move || (submit_bursts(&mut stream), stream))
        })
        .collect();
    let clients: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();

    let mut acked: Vec<(SocketAddr, Vec<u64>)> = Vec::new();
    let (mut failed, mut served) = (0, 0);
    for (results, mut stream) in clients {
        let good = results.iter().take_while(|result| **result == 0).count();
        assert!(results[good..].iter().all(|result| *result == 1), "a success after a failure: {results:?}");
        acked.push((stream.local_addr().unwrap(), (0..good as u64).collect()));
        let lost = good < results.len();
        *(if lost { &mut failed } else { &mut served }) += 1;
        // The connection is still open, and served as before.
        stream.write_all(&submit(9999, b"")).unwrap();
        let mut ack = [0; 14];
        stream.read_exact(&mut ack).unwrap();
        assert_eq!(ack, submit_ack(9999, u8::from(lost)));
    }
    assert!(failed > 0 && served > 0, "{failed} connections of the shard that failed, {served} of the other");

    for path in ["/readyz", "/healthz"] {
        let answer = get(&server, path);
        assert_eq!(answer.status, 503, "{path}: {}", answer.body);
        assert!(answer.body.contains(" refuses messages until a restart: writing commit "), "{}", answer.body);
        assert!(answer.body.contains("Input/output error"), "{}", answer.body);
    }
    server.wait_for_log("reason=writing commit ");
    let ended = server.stop();
    assert!(ended.status.success(), "{}", ended.log);

    let server = serve(dir.path(), "--workers 2 --admin 127.0.0.1:0");
    assert_eq!(get(&server, "/readyz").status, 200);
    for _ in 0..8 {
        round_trip(&mut server.connect(), 1);
    }
    expect_sound(dir.path());
    let kept = ids_by_peer(&cat(dir.path()));
    let mut messages = 0;
    for (peer, acked) in acked {
        let kept = kept.get(&peer).map_or(&[][..], |kept| kept);
        assert!(kept.starts_with(&acked), "{peer}: acked up to {:?}, kept {kept:?}", acked.last());
        messages += acked.len();
    }
    println!("{messages} acked, all kept; {failed} connections refused, {served} still served");
}
