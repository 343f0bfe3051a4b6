//! Each request is sent as the specification defines it, and its ack is returned to the caller that sent it.

use crate::common::peer::{CONN, Peer, Request, SUBMIT, ack};
use ringpost::client::{Client, Error, Options};
use ringpost::proto::{AckCodes, AckResult, Id};

#[tokio::test]
async fn each_request_is_sent_as_specified_and_gets_its_ack() {
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
async fn acks_with_the_published_codes_are_accepted() {
    let peer = Peer::start(|mut peer| {
        for command in [0x80, 0x81] {
            let request = peer.request().unwrap();
            peer.send(&ack(command, request.id, 0));
        }
    });
    let options = Options::default().ack_codes(AckCodes::Published);
    let client = Client::connect(peer.addr, &options).await.unwrap();
    assert_eq!(client.conn(b"").await.unwrap(), AckResult::Success);
    assert_eq!(client.submit(b"").await.unwrap(), AckResult::Success);
    peer.join();
}

/// The peer answers the first request only when it has received the last one of the window. So the client must have
/// sent the whole window without an ack, and must not send more than the window.
#[tokio::test]
async fn the_client_fills_the_window_and_does_not_exceed_it() {
    const WINDOW: usize = 8;
    let peer = Peer::start(|mut peer| {
        let requests: Vec<_> = (0..WINDOW).map(|_| peer.request().unwrap()).collect();
        peer.stream.set_nonblocking(true).unwrap();
        assert!(peer.stream.peek(&mut [0]).is_err(), "the client sent a request beyond its window");
        peer.stream.set_nonblocking(false).unwrap();
        requests.iter().for_each(|request| peer.ack(request, 0));
        let last = peer.request().unwrap();
        peer.ack(&last, 1);
    });
    let client = Client::connect(peer.addr, &Options::default().window(WINDOW)).await.unwrap();
    let mut tickets = Vec::new();
    for _ in 0..=WINDOW {
        tickets.push(client.send(b"pipelined").await.unwrap());
    }
    for (index, ticket) in tickets.iter_mut().enumerate() {
        assert_eq!(ticket.id(), Id::from_number(index as u64 + 1));
        let expected = if index == WINDOW { AckResult::Failure } else { AckResult::Success };
        assert_eq!(ticket.wait().await.unwrap(), expected);
        assert_eq!(ticket.wait().await.unwrap(), expected, "a ticket returns the same result again");
    }
    assert_eq!(client.unacked().written.count(), 0);
    peer.join();
}

/// Acks that arrive byte by byte are reassembled.
#[tokio::test]
async fn acks_that_arrive_byte_by_byte_are_reassembled() {
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
async fn a_payload_over_the_limit_is_refused_and_the_connection_continues() {
    let peer = Peer::start(|mut peer| peer.ack_all());
    let client = Client::connect(peer.addr, &Options::default().frame_len_max(20)).await.unwrap();
    let error = client.submit(b"12345678").await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { payload_len: 8, frame_len_max: 20 }), "{error}");
    assert_eq!(client.submit(b"1234567").await.unwrap(), AckResult::Success);
    client.finish().await.unwrap();
    assert_eq!(peer.join().len(), 1);
}
