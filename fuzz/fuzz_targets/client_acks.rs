//! A client decodes acks and rejects everything else as the model does, however the stream is cut.
//!
//! The first byte chooses the ack codes. The second is the number of bytes after it that are cuts: each is the length
//! of a piece.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::{ACK_LEN, Ack, AckCodes, AckResult, FrameReader, Kind};
use ringpost_fuzz::{Acks, acks};

fuzz_target!(|input: &[u8]| {
    let [codes, cuts, input @ ..] = input else { return };
    let (codes, offset) = if codes % 2 == 0 { (AckCodes::Spec, 0x80) } else { (AckCodes::Published, 0x7f) };
    let (pieces, stream) = input.split_at(usize::from(*cuts).min(input.len()));
    assert_eq!(run(stream, pieces, codes), acks(stream, offset));
});

/// Decodes `stream` in pieces, as a client does. The rest after the last piece is one more piece.
fn run(stream: &[u8], pieces: &[u8], codes: AckCodes) -> Acks {
    let reader = FrameReader::new(codes.commands(), ACK_LEN as u32);
    let mut decoded = Acks::default();
    let (mut rest, mut received) = (stream, Vec::new());
    for piece in pieces.iter().map(|len| usize::from(*len)).chain([usize::MAX]) {
        let (piece, after) = rest.split_at(piece.min(rest.len()));
        rest = after;
        received.extend_from_slice(piece);
        let mut unread = &received[..];
        loop {
            let frame = match reader.next(&mut unread) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return Acks { is_rejected: true, ..decoded },
            };
            let Ok(ack) = Ack::decode(frame, codes) else { return Acks { is_rejected: true, ..decoded } };
            decoded.acks.push((ack.kind == Kind::Submit, ack.id.0, ack.result == AckResult::Failure));
        }
        let unread_len = unread.len();
        assert!(unread_len < ACK_LEN, "a whole ack is left over");
        received.drain(..received.len() - unread_len);
    }
    decoded
}
