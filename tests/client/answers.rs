//! Each request goes out as the specification has it, and its ack comes back to whoever sent it.

use crate::common::peer::{CONN, Peer, Request, SUBMIT, ack};
use ringpost::client::{Client, Error, Options};
use ringpost::proto::{AckCodes, AckResult, Id};

#[tokio::test]
async fn one_request_at_a_time() {
    let peer = Peer::start(|mut peer| {
        [0, 1, 0].map(|result| {
            let request = peer.request().unwrap();
            peer.ack(&request, result);
            request
        })
    });
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    assert_eq!(client.conn(b"hello").await.unwrap(), AckResult::Success);
    assert_eq!(client.submit(b"refused").await.unwrap(), AckResult::Failure);
    assert_eq!(client.submit(b"").await.unwrap(), AckResult::Success);
    let request =
        |command, number: u64, payload: &[u8]| Request { command, id: number.to_be_bytes(), payload: payload.to_vec() };
    assert_eq!(peer.join(), [request(CONN, 1, b"hello"), request(SUBMIT, 2, b"refused"), request(SUBMIT, 3, b"")]);
}

#[tokio::test]
async fn published_ack_codes() {
    let peer = Peer::start(|mut peer| {
        for command in [0x80, 0x81] {
            let request = peer.request().unwrap();
            peer.send(&ack(command, request.id, 0));
        }
    });
    let options = Options { ack_codes: AckCodes::Published, ..Options::default() };
    let client = Client::connect(peer.addr, &options).await.unwrap();
    assert_eq!(client.conn(b"").await.unwrap(), AckResult::Success);
    assert_eq!(client.submit(b"").await.unwrap(), AckResult::Success);
    peer.join();
}

/// The peer answers the first request only when it has the last of the window: the client must have
/// sent them all without an ack. More than the window must not come.
#[tokio::test]
async fn the_window_is_filled_and_not_passed() {
    const WINDOW: usize = 8;
    let peer = Peer::start(|mut peer| {
        let requests: Vec<_> = (0..WINDOW).map(|_| peer.request().unwrap()).collect();
        peer.stream.set_nonblocking(true).unwrap();
        assert!(peer.stream.peek(&mut [0]).is_err(), "a request came that the window has no room for");
        peer.stream.set_nonblocking(false).unwrap();
        requests.iter().for_each(|request| peer.ack(request, 0));
        let last = peer.request().unwrap();
        peer.ack(&last, 1);
    });
    let client = Client::connect(peer.addr, &Options { window: WINDOW, ..Options::default() }).await.unwrap();
    let mut tickets = Vec::new();
    for _ in 0..=WINDOW {
        tickets.push(client.send(b"pipelined").await.unwrap());
    }
    for (index, ticket) in tickets.iter_mut().enumerate() {
        assert_eq!(ticket.id(), Id::from_number(index as u64 + 1));
        let expected = if index == WINDOW { AckResult::Failure } else { AckResult::Success };
        assert_eq!(ticket.wait().await.unwrap(), expected);
        assert_eq!(ticket.wait().await.unwrap(), expected, "a ticket says the same once more");
    }
    assert_eq!(client.unacked().written.count(), 0);
    peer.join();
}

/// Acks that arrive byte by byte are put together.
#[tokio::test]
async fn acks_in_pieces() {
    let peer = Peer::start(|mut peer| {
        let requests = [peer.request().unwrap(), peer.request().unwrap()];
        for byte in requests.iter().flat_map(|request| ack(request.command + 0x80, request.id, 0)) {
            peer.send(&[byte]);
        }
    });
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let mut tickets = [client.send(b"1").await.unwrap(), client.send(b"2").await.unwrap()];
    for ticket in &mut tickets {
        assert_eq!(ticket.wait().await.unwrap(), AckResult::Success);
    }
    peer.join();
}

#[tokio::test]
async fn a_payload_over_the_limit_is_refused_and_the_connection_goes_on() {
    let peer = Peer::start(|mut peer| peer.ack_all());
    let client = Client::connect(peer.addr, &Options { frame_len_max: 20, ..Options::default() }).await.unwrap();
    let error = client.submit(b"12345678").await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { payload_len: 8, frame_len_max: 20 }), "{error}");
    assert_eq!(client.submit(b"1234567").await.unwrap(), AckResult::Success);
    client.finish().await.unwrap();
    assert_eq!(peer.join().len(), 1);
}
