//! A read deadline ends waits, not the connection: a late ack is matched, and heard by whoever asks.

use std::sync::mpsc;
use std::time::Duration;

use crate::common::peer::{Connection, Peer};
use ringpost::client::{Client, Error, Options};
use ringpost::proto::{AckResult, Id};
use tokio::time::Instant;

fn in_ms(ms: u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(ms))
}

/// A peer that answers nothing until it is told to, then everything.
fn silent_until_told() -> (Peer, mpsc::Sender<()>) {
    let (tell, told) = mpsc::channel();
    let peer = Peer::start(move |mut peer: Connection| {
        told.recv().unwrap();
        peer.ack_all();
    });
    (peer, tell)
}

#[tokio::test]
async fn the_connection_goes_on_and_the_late_ack_is_heard() {
    let (peer, tell) = silent_until_told();
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let mut ticket = client.send(b"first").await.unwrap();
    let deadline = in_ms(50);
    client.set_read_deadline(deadline);
    let error = ticket.wait().await.unwrap_err();
    assert!(Instant::now() >= deadline.unwrap());
    let Error::ReadDeadline { unacked } = error else { panic!("{error}") };
    assert_eq!(unacked.bytes_written, 18);
    assert_eq!(unacked.written.iter().collect::<Vec<_>>(), [Id::from_number(1)]);

    // It stays in force, and it does not keep requests from being sent.
    let error = client.submit(b"second, dropped by its sender").await.unwrap_err();
    assert!(matches!(error, Error::ReadDeadline { .. }), "{error}");
    client.set_read_deadline(None);
    tell.send(()).unwrap();
    assert_eq!(ticket.wait().await.unwrap(), AckResult::Success);
    assert_eq!(client.submit(b"third").await.unwrap(), AckResult::Success);
    client.finish().await.unwrap();
    peer.join();
}

#[tokio::test]
async fn it_moves_waits_that_are_under_way() {
    let (peer, tell) = silent_until_told();
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let mut ticket = client.send(b"").await.unwrap();

    // Set while somebody waits without one.
    let (outcome, ()) = tokio::join!(ticket.wait(), async { client.set_read_deadline(in_ms(0)) });
    assert!(matches!(outcome, Err(Error::ReadDeadline { .. })), "{outcome:?}");

    // Moved closer.
    client.set_read_deadline(in_ms(3_600_000));
    let (outcome, ()) = tokio::join!(ticket.wait(), async { client.set_read_deadline(in_ms(0)) });
    assert!(matches!(outcome, Err(Error::ReadDeadline { .. })), "{outcome:?}");

    // Cleared while somebody waits with one: the ack comes behind the old time.
    let old = in_ms(50);
    client.set_read_deadline(old);
    let (outcome, ()) = tokio::join!(ticket.wait(), async {
        client.set_read_deadline(None);
        tokio::time::sleep_until(old.unwrap() + Duration::from_millis(20)).await;
        tell.send(()).unwrap();
    });
    assert_eq!(outcome.unwrap(), AckResult::Success);
    client.close().await;
    peer.join();
}

#[tokio::test]
async fn it_ends_the_wait_for_room_in_the_window() {
    let (peer, tell) = silent_until_told();
    let client = Client::connect(peer.addr, &Options { window: 1, ..Options::default() }).await.unwrap();
    let mut ticket = client.send(b"").await.unwrap();
    client.set_read_deadline(in_ms(50));
    let error = client.send(b"").await.unwrap_err();
    assert!(matches!(error, Error::ReadDeadline { .. }), "{error}");
    assert_eq!(client.unacked().unwritten.count(), 0, "nothing was queued");
    client.set_read_deadline(None);
    tell.send(()).unwrap();
    assert_eq!(ticket.wait().await.unwrap(), AckResult::Success);
    assert_eq!(client.submit(b"").await.unwrap(), AckResult::Success);
    client.close().await;
    peer.join();
}

#[tokio::test]
async fn it_ends_finish_which_can_be_called_again() {
    let (peer, tell) = silent_until_told();
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let _ticket = client.send(b"").await.unwrap();
    client.set_read_deadline(in_ms(50));
    let error = client.finish().await.unwrap_err();
    assert!(matches!(error, Error::ReadDeadline { .. }), "{error}");
    client.set_read_deadline(None);
    tell.send(()).unwrap();
    client.finish().await.unwrap();
    peer.join();
}

#[tokio::test]
async fn an_ack_that_is_there_is_given_also_behind_it() {
    let (peer, tell) = silent_until_told();
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let mut first = client.send(b"").await.unwrap();
    let mut second = client.send(b"").await.unwrap();
    tell.send(()).unwrap();
    second.wait().await.unwrap();
    client.set_read_deadline(in_ms(0));
    assert_eq!(first.wait().await.unwrap(), AckResult::Success);
    client.close().await;
    peer.join();
}
