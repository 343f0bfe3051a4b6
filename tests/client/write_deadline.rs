//! A write deadline ends what can't be written: between two frames the connection goes on, inside
//! one only close is left. Either way the error says what was written.

use std::io::Read;
use std::sync::mpsc;
use std::time::Duration;

use crate::common::peer::{Connection, Peer, Request};
use ringpost::client::{Cause, Client, Error, Options};
use ringpost::proto::{AckResult, Id};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// A few of these fill what the kernel buffers on the way to a peer that does not read; no buffer ends
/// where one of them does.
const LARGE: usize = 1_000_003;

fn in_ms(ms: u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(ms))
}

/// A peer that reads nothing until it is told to, and then does what `script` says.
fn not_reading<T: Send + 'static>(
    script: impl FnOnce(Connection, usize) -> T + Send + 'static,
) -> (Peer<T>, mpsc::Sender<usize>) {
    let (tell, told) = mpsc::channel();
    let peer = Peer::start_on(crate::common::peer::small_listener(), move |connection| {
        let filler = told.recv().unwrap();
        script(connection, filler)
    });
    (peer, tell)
}

#[tokio::test]
async fn inside_a_frame_only_close_is_left() {
    let (peer, tell) = not_reading(|mut peer, _| peer.drain().len());
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    client.set_write_deadline(in_ms(200));
    let mut tickets = Vec::new();
    while let Ok(ticket) = client.send(&[0; LARGE]).await {
        tickets.push(ticket);
    }
    let sent = tickets.len();
    let frame_len = LARGE + 13;
    for ticket in &mut tickets {
        let error = ticket.wait().await.unwrap_err();
        let Error::Ended { cause: Cause::WriteDeadline, unacked } = error else { panic!("{error}") };
        let partly = unacked.partly_written.expect("a frame is cut");
        assert_eq!(partly.frame_len, frame_len);
        assert_eq!(unacked.bytes_written, (unacked.written.count() * frame_len + partly.bytes_written) as u64);
        assert_eq!(unacked.written.count() + 1 + unacked.unwritten.count(), sent);
        assert_eq!(partly.id.0, (unacked.written.count() as u64 + 1).to_be_bytes());
    }

    client.set_write_deadline(None);
    let error = client.submit(b"").await.unwrap_err();
    assert!(error.to_string().contains("only close is left"), "{error}");
    let unacked = client.close().await;
    tell.send(0).unwrap();
    assert_eq!(peer.join() as u64, unacked.bytes_written, "what was said to be written is what comes");
}

/// A connection into which nothing more can be written, so that the next frame is not begun, and how
/// many bytes of filler are on the way.
async fn filled(peer: &Peer<Vec<Request>>) -> (TcpStream, usize) {
    let stream = TcpStream::connect(peer.addr).await.unwrap();
    let mut filler = 0;
    // The kernel moves data on for a moment after it first takes no more.
    while timeout(Duration::from_millis(50), stream.writable()).await.is_ok() {
        filler += stream.try_write(&[0; 1 << 16]).unwrap_or(0);
    }
    (stream, filler)
}

/// A peer that, told how much filler there is, reads it and then acks all requests.
fn reading_when_told() -> (Peer<Vec<Request>>, mpsc::Sender<usize>) {
    not_reading(|mut peer, filler| {
        peer.stream.read_exact(&mut vec![0; filler]).unwrap();
        peer.ack_all()
    })
}

#[tokio::test]
async fn between_frames_the_connection_goes_on() {
    let (peer, tell) = reading_when_told();
    let (stream, filler) = filled(&peer).await;
    let client = Client::from_stream(stream, &Options { window: 2, ..Options::default() }).unwrap();
    let mut tickets = [client.send(b"withdrawn").await.unwrap(), client.send(b"withdrawn").await.unwrap()];
    let deadline = in_ms(50);
    client.set_write_deadline(deadline);
    for ticket in &mut tickets {
        let error = ticket.wait().await.unwrap_err();
        assert!(Instant::now() >= deadline.unwrap());
        let Error::WriteDeadline { unacked } = error else { panic!("{error}") };
        assert_eq!((unacked.bytes_written, unacked.written.count(), unacked.partly_written), (0, 0, None));
        assert_eq!(unacked.unwritten.iter().collect::<Vec<_>>(), [1, 2].map(Id::from_number));
    }

    // In force until it is set again.
    let error = client.send(b"").await.unwrap_err();
    assert!(matches!(error, Error::WriteDeadline { .. }), "{error}");
    client.set_write_deadline(None);
    tell.send(filler).unwrap();
    for payload in [b"1", b"2", b"3"] {
        assert_eq!(client.submit(payload).await.unwrap(), AckResult::Success);
    }
    client.finish().await.unwrap();
    let requests: Vec<_> = peer.join().into_iter().map(|request| (request.number(), request.payload)).collect();
    assert_eq!(requests, [(1, b"1".to_vec()), (2, b"2".to_vec()), (3, b"3".to_vec())]);
}

#[tokio::test]
async fn finish_tells_of_withdrawn_requests() {
    let (peer, tell) = reading_when_told();
    let (stream, filler) = filled(&peer).await;
    let client = Client::from_stream(stream, &Options::default()).unwrap();
    let mut ticket = client.send(b"withdrawn").await.unwrap();
    let (finished, ()) = tokio::join!(client.finish(), async {
        client.set_write_deadline(in_ms(20));
        assert!(matches!(ticket.wait().await, Err(Error::WriteDeadline { .. })));
        tell.send(filler).unwrap();
    });
    assert!(matches!(finished, Err(Error::WriteDeadline { .. })), "{finished:?}");
    assert_eq!(peer.join(), []);
}

#[tokio::test]
async fn a_passed_deadline_keeps_requests_from_being_queued() {
    let peer = Peer::start(|mut peer| peer.ack_all());
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    client.set_write_deadline(in_ms(0));
    let error = client.submit(b"").await.unwrap_err();
    assert!(matches!(error, Error::WriteDeadline { .. }), "{error}");
    client.set_write_deadline(in_ms(60_000));
    assert_eq!(client.submit(b"").await.unwrap(), AckResult::Success);
    client.finish().await.unwrap();
    assert_eq!(peer.join().len(), 1);
}
