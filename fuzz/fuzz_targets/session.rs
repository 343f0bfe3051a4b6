//! A session accepts, acks and rejects as the model does, however the stream is cut.
//!
//! The input's first byte is the number of bytes after it that are cuts: each is the length of a piece.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::{AckCodes, AckResult, Acks, Next, Session};
use ringpost_fuzz::{FRAME_LEN_MAX, Outcome, outcome, refuses};

fuzz_target!(|input: &[u8]| {
    let Some((&cuts, input)) = input.split_first() else { return };
    let (pieces, stream) = input.split_at(usize::from(cuts).min(input.len()));
    assert_eq!(run(stream, pieces), outcome(stream));
});

/// Feeds `stream` to a session in pieces, as a connection does. The rest after the last piece is one more piece.
fn run(stream: &[u8], pieces: &[u8]) -> Outcome {
    let (mut session, mut acks) = (Session::new(FRAME_LEN_MAX), Acks::new(AckCodes::Spec));
    let mut outcome = Outcome::default();
    let (mut rest, mut received_bytes) = (stream, Vec::new());
    for piece in pieces.iter().map(|len| usize::from(*len)).chain([usize::MAX]) {
        let (piece, after) = rest.split_at(piece.min(rest.len()));
        rest = after;
        received_bytes.extend_from_slice(piece);
        let received = session.receive(&received_bytes, &mut acks, |submit| {
            outcome.messages.push(submit.payload.to_vec());
            if refuses(submit.payload) { AckResult::Failure } else { AckResult::Success }
        });
        received_bytes.drain(..received.consumed);
        let counts = acks.counts();
        let bytes = acks.take();
        let of = |at: usize, value: u8| bytes.chunks(14).filter(|ack| ack[at] == value).count();
        assert_eq!((counts.conns, counts.failures), (of(4, 0x81), of(13, 1)), "the counts of the acks");
        outcome.acks.extend_from_slice(&bytes);
        acks.put_back(bytes);
        match received.next {
            Next::Read { frame_len } => {
                assert!(frame_len > received_bytes.len() && frame_len <= FRAME_LEN_MAX as usize)
            }
            Next::Close(violation) => {
                outcome.violation = Some(violation.reason().name());
                return outcome;
            }
        }
    }
    outcome.violation = session.end(&received_bytes).err().map(|violation| violation.reason().name());
    outcome
}
