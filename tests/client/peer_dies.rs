//! When a connection fails, every call fails, and each error says what was written and not acked.

use std::time::Duration;

use crate::common::peer::{Connection, Peer};
use ringpost::client::{Cause, Client, Error, Options, Unacked};
use ringpost::proto::{AckResult, Id};
use tokio::time::timeout;

fn ended(error: Error) -> (Cause, Unacked) {
    let Error::Ended { cause, unacked } = error else { panic!("{error}") };
    (cause, unacked)
}

fn ids(first: u64, last: u64) -> Vec<Id> {
    (first..=last).map(Id::from_number).collect()
}

/// However the connection ends, acks that arrived before the end count.
#[tokio::test]
async fn acked_and_unacked_requests_are_distinguished() {
    let deaths: [fn(Connection); 2] = [drop, Connection::reset];
    for death in deaths {
        let peer = Peer::start(move |mut peer: Connection| {
            let requests: Vec<_> = (0..5).map(|_| peer.request().unwrap()).collect();
            peer.ack(&requests[0], 0);
            peer.ack(&requests[1], 1);
            // A reset may discard acks that the client has not read yet. So the client first reports that it has read
            // them.
            assert_eq!(peer.request().unwrap().payload, b"heard");
            death(peer);
        });
        let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
        let mut tickets = Vec::new();
        for _ in 0..5 {
            tickets.push(client.send(b"").await.unwrap());
        }
        assert_eq!(tickets[0].wait().await.unwrap(), AckResult::Success);
        assert_eq!(tickets[1].wait().await.unwrap(), AckResult::Failure);
        let error = client.submit(b"heard").await.unwrap_err();
        let (cause, unacked) = ended(error);
        assert!(matches!(cause, Cause::PeerClosed | Cause::Io { .. }), "{cause}");
        assert_eq!(unacked.written.iter().collect::<Vec<_>>(), ids(3, 6));
        assert_eq!((unacked.partly_written, unacked.unwritten.count()), (None, 0));
        assert_eq!(unacked.bytes_written, 5 * 13 + 18);
        for ticket in &mut tickets[2..] {
            assert_eq!(ended(ticket.wait().await.unwrap_err()).1, unacked);
        }
        assert_eq!(client.close().await, unacked, "the report is the same");
        assert!(matches!(ended(client.finish().await.unwrap_err()).0, Cause::PeerClosed | Cause::Io { .. }));
        peer.join();
    }
}

/// The peer never reads, and its end closes while a frame is partly written.
#[tokio::test]
async fn a_blocked_write_ends_with_the_peer() {
    const LARGE: usize = 1_000_003;
    let (kill, killed) = std::sync::mpsc::channel();
    let peer = Peer::start_on(crate::common::peer::small_listener(), move |peer| {
        killed.recv().unwrap();
        peer.reset();
    });
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let mut tickets = Vec::new();
    // If no room appears within this time, nothing more can be written.
    while let Ok(sent) = timeout(Duration::from_millis(200), client.send(&[0; LARGE])).await {
        tickets.push(sent.unwrap());
    }
    kill.send(()).unwrap();
    let (cause, unacked) = ended(client.send(&[0; LARGE]).await.unwrap_err());
    assert!(matches!(cause, Cause::Io { .. }), "{cause}");
    let partly = unacked.partly_written.expect("a frame is incomplete");
    assert_eq!(unacked.bytes_written, (unacked.written.count() * (LARGE + 13) + partly.bytes_written) as u64);
    assert_eq!(unacked.written.count() + 1 + unacked.unwritten.count(), tickets.len());
    for ticket in &mut tickets {
        assert_eq!(ended(ticket.wait().await.unwrap_err()).1, unacked);
    }
    peer.join();
}

/// A runtime that is shut down ends the driver too. No call may then wait forever.
#[test]
fn the_end_of_the_runtime_is_reported() {
    let peer = Peer::start(|mut peer| peer.drain());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let client = first.block_on(Client::connect(peer.addr, &Options::default())).unwrap();
    let mut ticket = first.block_on(client.send(b"")).unwrap();
    drop(first);
    let (cause, _) = ended(runtime().block_on(ticket.wait()).unwrap_err());
    assert!(matches!(cause, Cause::RuntimeGone), "{cause}");
    peer.join();
}
