//! A read deadline ends waits, not the connection. A late ack is matched, and a later call can still get it.

use std::sync::mpsc;
use std::time::Duration;

use crate::common::peer::{Connection, Peer};
use ringpost::client::{Client, Error, Options};
use ringpost::proto::{AckResult, Id};
use tokio::time::Instant;

fn in_ms(ms: u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(ms))
}

/// A peer that answers nothing until the test lets it, and then everything.
fn silent_until_released() -> (Peer, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel();
    let peer = Peer::start(move |mut peer: Connection| {
        released.recv().unwrap();
        peer.ack_all();
    });
    (peer, release)
}

#[tokio::test]
async fn the_connection_continues_and_the_late_ack_is_received() {
    let (peer, release) = silent_until_released();
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let mut ticket = client.send(b"first").await.unwrap();
    let deadline = in_ms(50);
    client.set_read_deadline(deadline);
    let error = ticket.wait().await.unwrap_err();
    assert!(Instant::now() >= deadline.unwrap());
    let Error::ReadDeadline { unacked } = error else { panic!("{error}") };
    assert_eq!(unacked.bytes_written, 18);
    assert_eq!(unacked.written.iter().collect::<Vec<_>>(), [Id::from_number(1)]);

    // The deadline stays in force, and requests can still be sent.
    let error = client.submit(b"second, dropped by its sender").await.unwrap_err();
    assert!(matches!(error, Error::ReadDeadline { .. }), "{error}");
    client.set_read_deadline(None);
    release.send(()).unwrap();
    assert_eq!(ticket.wait().await.unwrap(), AckResult::Success);
    assert_eq!(client.submit(b"third").await.unwrap(), AckResult::Success);
    client.finish().await.unwrap();
    peer.join();
}

#[tokio::test]
async fn a_new_read_deadline_applies_to_waits_in_progress() {
    let (peer, release) = silent_until_released();
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let mut ticket = client.send(b"").await.unwrap();

    // The deadline is set while a call waits without one.
    let (outcome, ()) = tokio::join!(ticket.wait(), async { client.set_read_deadline(in_ms(0)) });
    assert!(matches!(outcome, Err(Error::ReadDeadline { .. })), "{outcome:?}");

    // The deadline is moved closer.
    client.set_read_deadline(in_ms(3_600_000));
    let (outcome, ()) = tokio::join!(ticket.wait(), async { client.set_read_deadline(in_ms(0)) });
    assert!(matches!(outcome, Err(Error::ReadDeadline { .. })), "{outcome:?}");

    // The deadline is cleared while a call waits with one. The ack arrives after the old deadline.
    let old = in_ms(50);
    client.set_read_deadline(old);
    let (outcome, ()) = tokio::join!(ticket.wait(), async {
        client.set_read_deadline(None);
        tokio::time::sleep_until(old.unwrap() + Duration::from_millis(20)).await;
        release.send(()).unwrap();
    });
    assert_eq!(outcome.unwrap(), AckResult::Success);
    client.close().await;
    peer.join();
}

#[tokio::test]
async fn a_read_deadline_ends_the_wait_for_room_in_the_window() {
    let (peer, release) = silent_until_released();
    let client = Client::connect(peer.addr, &Options::default().window(1)).await.unwrap();
    let mut ticket = client.send(b"").await.unwrap();
    client.set_read_deadline(in_ms(50));
    let error = client.send(b"").await.unwrap_err();
    assert!(matches!(error, Error::ReadDeadline { .. }), "{error}");
    assert_eq!(client.unacked().unwritten.count(), 0, "nothing was queued");
    client.set_read_deadline(None);
    release.send(()).unwrap();
    assert_eq!(ticket.wait().await.unwrap(), AckResult::Success);
    assert_eq!(client.submit(b"").await.unwrap(), AckResult::Success);
    client.close().await;
    peer.join();
}

#[tokio::test]
async fn a_read_deadline_ends_finish_which_can_be_called_again() {
    let (peer, release) = silent_until_released();
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let _ticket = client.send(b"").await.unwrap();
    client.set_read_deadline(in_ms(50));
    let error = client.finish().await.unwrap_err();
    assert!(matches!(error, Error::ReadDeadline { .. }), "{error}");
    client.set_read_deadline(None);
    release.send(()).unwrap();
    client.finish().await.unwrap();
    peer.join();
}

#[tokio::test]
async fn an_ack_that_has_arrived_is_returned_after_the_deadline_too() {
    let (peer, release) = silent_until_released();
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let mut first = client.send(b"").await.unwrap();
    let mut second = client.send(b"").await.unwrap();
    release.send(()).unwrap();
    second.wait().await.unwrap();
    client.set_read_deadline(in_ms(0));
    assert_eq!(first.wait().await.unwrap(), AckResult::Success);
    client.close().await;
    peer.join();
}
