//! An ack that is not the expected one ends the connection, and the error says what arrived.

use crate::common::peer::{CONN_ACK, Peer, SUBMIT_ACK, ack};
use ringpost::client::{Cause, Client, Error, Options, ProtocolError};
use ringpost::proto::{FrameError, Id};

/// Sends two requests, makes the peer answer with `answer`, and returns why the connection ended.
async fn cause_of(answer: Vec<u8>) -> Cause {
    let peer = Peer::start(move |mut peer| {
        peer.request().unwrap();
        peer.request().unwrap();
        peer.send(&answer);
        peer.half_close();
        peer.drain();
    });
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let mut tickets = [client.send(b"1").await.unwrap(), client.send(b"2").await.unwrap()];
    let mut last = None;
    for ticket in &mut tickets {
        last = ticket.wait().await.err().or(last);
    }
    // If both requests were acked, the client reads the bytes after the acks with the next request.
    let error = match last {
        Some(error) => error,
        None => client.submit(b"3").await.unwrap_err(),
    };
    let Error::Ended { cause, .. } = error else { panic!("{error}") };
    let again = client.submit(b"").await.unwrap_err();
    assert!(matches!(again, Error::Ended { .. }), "{again}");
    peer.join();
    cause
}

fn id(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

fn protocol_error(cause: Cause) -> ProtocolError {
    let Cause::Protocol(error) = cause else { panic!("{cause}") };
    error
}

/// Returns the command and ID of the ack that arrived, and the ID of the expected one.
fn unexpected(cause: Cause) -> (Id, Option<Id>) {
    let ProtocolError::Unexpected { got, expected } = protocol_error(cause) else { panic!("another error") };
    (got.id, expected.map(|(_, id)| id))
}

#[tokio::test]
async fn acks_out_of_order_end_the_connection() {
    let answer = [ack(SUBMIT_ACK, id(2), 0), ack(SUBMIT_ACK, id(1), 0)].concat();
    assert_eq!(unexpected(cause_of(answer).await), (Id::from_number(2), Some(Id::from_number(1))));
}

#[tokio::test]
async fn an_ack_for_an_id_that_was_never_sent_ends_the_connection() {
    let cause = cause_of(ack(SUBMIT_ACK, id(77), 0)).await;
    assert_eq!(unexpected(cause), (Id::from_number(77), Some(Id::from_number(1))));
}

#[tokio::test]
async fn the_same_ack_twice_ends_the_connection() {
    let answer = [ack(SUBMIT_ACK, id(1), 0), ack(SUBMIT_ACK, id(1), 0)].concat();
    assert_eq!(unexpected(cause_of(answer).await), (Id::from_number(1), Some(Id::from_number(2))));
}

#[tokio::test]
async fn an_ack_without_a_request_ends_the_connection() {
    let answer = [ack(SUBMIT_ACK, id(1), 0), ack(SUBMIT_ACK, id(2), 0), ack(SUBMIT_ACK, id(2), 0)].concat();
    assert_eq!(unexpected(cause_of(answer).await), (Id::from_number(2), None));
}

#[tokio::test]
async fn an_ack_for_the_other_kind_of_request_ends_the_connection() {
    let cause = cause_of(ack(CONN_ACK, id(1), 0)).await;
    assert!(cause.to_string().contains("ack codes"), "{cause}");
    assert_eq!(unexpected(cause), (Id::from_number(1), Some(Id::from_number(1))));
}

#[tokio::test]
async fn acks_of_a_wrong_length_end_the_connection() {
    let mut short = ack(SUBMIT_ACK, id(1), 0);
    short[3] = 12;
    let error = protocol_error(cause_of(short).await);
    assert_eq!(error, ProtocolError::Frame(FrameError::LengthTooSmall { len: 12 }));

    let mut without_result = ack(SUBMIT_ACK, id(1), 0);
    without_result[3] = 13;
    without_result.truncate(13);
    let error = protocol_error(cause_of(without_result).await);
    assert!(matches!(error, ProtocolError::Ack(_)), "{error}");

    let mut long = ack(SUBMIT_ACK, id(1), 0);
    long[3] = 15;
    long.push(0);
    let error = protocol_error(cause_of(long).await);
    assert!(matches!(error, ProtocolError::Frame(FrameError::TooLarge { len: 15, .. })), "{error}");
}

#[tokio::test]
async fn an_unknown_command_or_result_ends_the_connection() {
    let error = protocol_error(cause_of(ack(0x02, id(1), 0)).await);
    assert_eq!(error, ProtocolError::Frame(FrameError::UnknownCommand { command: 2 }));
    let error = protocol_error(cause_of(ack(SUBMIT_ACK, id(1), 2)).await);
    assert!(error.to_string().contains("result 2"), "{error}");
}

#[tokio::test]
async fn a_connection_that_ends_inside_an_ack_is_reported() {
    let error = protocol_error(cause_of(ack(SUBMIT_ACK, id(1), 0)[..9].to_vec()).await);
    assert_eq!(error, ProtocolError::Truncated { have: 9 });
}
