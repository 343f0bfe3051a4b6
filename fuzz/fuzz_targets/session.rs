//! A session takes, acks and judges as the model does, however the stream is cut.
//!
//! The input's first byte says how many bytes behind it are cuts: each is the length of a piece.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::{AckCodes, AckResult, Acks, Next, Session};
use ringpost_fuzz::{FRAME_LEN_MAX, Outcome, outcome, refuses};

fuzz_target!(|input: &[u8]| {
    let Some((&cuts, input)) = input.split_first() else { return };
    let (pieces, stream) = input.split_at(usize::from(cuts).min(input.len()));
    assert_eq!(run(stream, pieces), outcome(stream));
});

/// Feeds `stream` in pieces, as a connection does; what is left goes in one.
fn run(stream: &[u8], pieces: &[u8]) -> Outcome {
    let (mut session, mut acks) = (Session::new(FRAME_LEN_MAX), Acks::new(AckCodes::Spec));
    let mut outcome = Outcome::default();
    let (mut rest, mut gathered) = (stream, Vec::new());
    for piece in pieces.iter().map(|len| usize::from(*len)).chain([usize::MAX]) {
        let (piece, behind) = rest.split_at(piece.min(rest.len()));
        rest = behind;
        gathered.extend_from_slice(piece);
        let received = session.receive(&gathered, &mut acks, |submit| {
            outcome.messages.push(submit.payload.to_vec());
            if refuses(submit.payload) { AckResult::Failure } else { AckResult::Success }
        });
        gathered.drain(..received.consumed);
        let counts = acks.counts();
        let bytes = acks.take();
        let of = |at: usize, value: u8| bytes.chunks(14).filter(|ack| ack[at] == value).count();
        assert_eq!((counts.conns, counts.failures), (of(4, 0x81), of(13, 1)), "the acks' own counts");
        outcome.acks.extend_from_slice(&bytes);
        acks.put_back(bytes);
        match received.next {
            Next::Read { frame_len } => assert!(frame_len > gathered.len() && frame_len <= FRAME_LEN_MAX as usize),
            Next::Close(violation) => {
                outcome.violation = Some(violation.reason().name());
                return outcome;
            }
        }
    }
    outcome.violation = session.end(&gathered).err().map(|violation| violation.reason().name());
    outcome
}
