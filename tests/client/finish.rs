//! The three ways to end a connection: finish, close, and dropping the last handle.

use std::sync::mpsc;

use crate::common::peer::Peer;
use ringpost::client::{Cause, Client, Error, Options};
use ringpost::proto::{AckResult, Id};

/// The peer answers only once the client has half-closed. So finish must flush, send FIN, and still receive every ack.
#[tokio::test]
async fn finish_half_closes_and_waits_for_every_ack() {
    let peer = Peer::start(|mut peer| {
        let mut requests = Vec::new();
        while let Some(request) = peer.request() {
            requests.push(request);
        }
        requests.iter().for_each(|request| peer.ack(request, 1));
        assert_eq!(peer.drain(), b"", "the client closes");
        requests.len()
    });
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let mut tickets = Vec::new();
    for _ in 0..50 {
        tickets.push(client.send(b"message").await.unwrap());
    }
    client.finish().await.unwrap();
    assert_eq!(client.unacked().written.count(), 0);
    for ticket in &mut tickets {
        assert_eq!(ticket.wait().await.unwrap(), AckResult::Failure);
    }
    let error = client.submit(b"").await.unwrap_err();
    assert!(matches!(error, Error::Ended { cause: Cause::Finished, .. }), "{error}");
    client.finish().await.unwrap();
    assert_eq!(peer.join(), 50);
}

#[tokio::test]
async fn finish_fails_when_an_ack_is_missing() {
    let peer = Peer::start(|mut peer| {
        let first = peer.request().unwrap();
        while peer.request().is_some() {}
        peer.ack(&first, 0);
    });
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    for _ in 0..3 {
        client.send(b"").await.unwrap();
    }
    let error = client.finish().await.unwrap_err();
    let Error::Ended { cause: Cause::PeerClosed, unacked } = error else { panic!("{error}") };
    assert_eq!(unacked.written.iter().collect::<Vec<_>>(), [2, 3].map(Id::from_number));
    peer.join();
}

#[tokio::test]
async fn nothing_can_be_sent_after_finish() {
    let (release, released) = mpsc::channel::<()>();
    let peer = Peer::start(move |mut peer| {
        released.recv().unwrap();
        peer.ack_all().len()
    });
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let _ticket = client.send(b"").await.unwrap();
    let (finished, ()) = tokio::join!(client.finish(), async {
        let error = client.clone().send(b"").await.unwrap_err();
        assert!(matches!(error, Error::Closing), "{error}");
        release.send(()).unwrap();
    });
    finished.unwrap();
    assert_eq!(peer.join(), 1);
}

#[tokio::test]
async fn close_returns_what_was_not_acked() {
    let peer = Peer::start(|mut peer| peer.drain());
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let mut ticket = client.send(b"").await.unwrap();
    while client.unacked().written.count() == 0 {
        tokio::task::yield_now().await;
    }
    let unacked = client.close().await;
    assert_eq!(unacked.written.iter().collect::<Vec<_>>(), [ticket.id()]);
    let error = ticket.wait().await.unwrap_err();
    assert!(matches!(error, Error::Ended { cause: Cause::Closed, .. }), "{error}");
    assert_eq!(peer.join().len(), 13);
}

/// An ack is outstanding and the peer sends nothing, so only the drop can end the connection.
#[tokio::test]
async fn dropping_the_last_handle_closes_immediately() {
    let peer = Peer::start(|mut peer| peer.drain());
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let clone = client.clone();
    let mut ticket = client.send(b"").await.unwrap();
    drop(client);
    let mut second = clone.send(b"").await.unwrap();
    drop(clone);
    for ticket in [&mut ticket, &mut second] {
        let error = ticket.wait().await.unwrap_err();
        assert!(matches!(error, Error::Ended { cause: Cause::Closed, .. }), "{error}");
    }
    peer.join();
}
