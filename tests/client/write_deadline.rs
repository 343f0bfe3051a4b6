//! A write deadline ends writes that make no progress. Between two frames the connection continues; inside a frame it
//! can only be closed. In both cases the error says what was written.

use std::io::Read;
use std::sync::mpsc;
use std::time::Duration;

use crate::common::peer::{Connection, Peer, Request};
use ringpost::client::{Cause, Client, Error, Options};
use ringpost::proto::{AckResult, Id};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// A few of these fill everything that the kernel buffers for a peer that does not read. No buffer ends at the end of
/// one of them.
const LARGE: usize = 1_000_003;

fn in_ms(ms: u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(ms))
}

/// A peer that reads nothing until the test lets it, and then runs `script`.
fn not_reading<T: Send + 'static>(
    script: impl FnOnce(Connection, usize) -> T + Send + 'static,
) -> (Peer<T>, mpsc::Sender<usize>) {
    let (release, released) = mpsc::channel();
    let peer = Peer::start_on(crate::common::peer::small_listener(), move |connection| {
        let filler = released.recv().unwrap();
        script(connection, filler)
    });
    (peer, release)
}

#[tokio::test]
async fn inside_a_frame_the_connection_can_only_be_closed() {
    let (peer, release) = not_reading(|mut peer, _| peer.drain().len());
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
        let partly = unacked.partly_written.expect("a frame is incomplete");
        assert_eq!(partly.frame_len, frame_len);
        assert_eq!(unacked.bytes_written, (unacked.written.count() * frame_len + partly.bytes_written) as u64);
        assert_eq!(unacked.written.count() + 1 + unacked.unwritten.count(), sent);
        assert_eq!(partly.id.0, (unacked.written.count() as u64 + 1).to_be_bytes());
    }

    client.set_write_deadline(None);
    let error = client.submit(b"").await.unwrap_err();
    assert!(error.to_string().contains("cannot be used any longer"), "{error}");
    let unacked = client.close().await;
    release.send(0).unwrap();
    assert_eq!(peer.join() as u64, unacked.bytes_written, "the reported bytes are those that arrive");
}

/// Returns a connection into which nothing more can be written, so that the next frame is not begun, and the number of
/// bytes of filler that were written.
async fn filled(peer: &Peer<Vec<Request>>) -> (TcpStream, usize) {
    let stream = TcpStream::connect(peer.addr).await.unwrap();
    let mut filler = 0;
    // The kernel continues to move data for a moment after a write first blocks.
    while timeout(Duration::from_millis(50), stream.writable()).await.is_ok() {
        filler += stream.try_write(&[0; 1 << 16]).unwrap_or(0);
    }
    (stream, filler)
}

/// A peer that gets the amount of filler, reads it, and then acks all requests.
fn reading_on_demand() -> (Peer<Vec<Request>>, mpsc::Sender<usize>) {
    not_reading(|mut peer, filler| {
        peer.stream.read_exact(&mut vec![0; filler]).unwrap();
        peer.ack_all()
    })
}

#[tokio::test]
async fn between_frames_the_connection_continues() {
    let (peer, release) = reading_on_demand();
    let (stream, filler) = filled(&peer).await;
    let client = Client::from_stream(stream, &Options::default().window(2)).unwrap();
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

    // The deadline is in force until it is set again.
    let error = client.send(b"").await.unwrap_err();
    assert!(matches!(error, Error::WriteDeadline { .. }), "{error}");
    client.set_write_deadline(None);
    release.send(filler).unwrap();
    for payload in [b"1", b"2", b"3"] {
        assert_eq!(client.submit(payload).await.unwrap(), AckResult::Success);
    }
    client.finish().await.unwrap();
    let requests: Vec<_> = peer.join().into_iter().map(|request| (request.number(), request.payload)).collect();
    assert_eq!(requests, [(1, b"1".to_vec()), (2, b"2".to_vec()), (3, b"3".to_vec())]);
}

#[tokio::test]
async fn finish_reports_withdrawn_requests() {
    let (peer, release) = reading_on_demand();
    let (stream, filler) = filled(&peer).await;
    let client = Client::from_stream(stream, &Options::default()).unwrap();
    let mut ticket = client.send(b"withdrawn").await.unwrap();
    let (finished, ()) = tokio::join!(client.finish(), async {
        client.set_write_deadline(in_ms(20));
        assert!(matches!(ticket.wait().await, Err(Error::WriteDeadline { .. })));
        release.send(filler).unwrap();
    });
    assert!(matches!(finished, Err(Error::WriteDeadline { .. })), "{finished:?}");
    assert_eq!(peer.join(), []);
}

#[tokio::test]
async fn no_request_is_queued_after_the_write_deadline() {
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
