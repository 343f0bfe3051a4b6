//! A model of the protocol, written as plainly as possible and without the crate's own code. The targets compare the
//! crate with it.

pub mod journal;

/// The limit for a frame. It is small, so that the fuzzer reaches it.
pub const FRAME_LEN_MAX: u32 = 100;

/// The start of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Head<'a> {
    Incomplete,
    LengthTooSmall,
    UnknownCommand,
    TooLarge,
    Frame { command: u8, id: &'a [u8], body: &'a [u8] },
}

/// Classifies the start of a stream.
pub fn head(stream: &[u8]) -> Head<'_> {
    if stream.len() < 4 {
        return Head::Incomplete;
    }
    let len = stream[..4].iter().fold(0, |sum, byte| sum * 256 + u64::from(*byte));
    if len < 13 {
        return Head::LengthTooSmall;
    }
    if stream.len() < 5 {
        return Head::Incomplete;
    }
    if stream[4] != 1 && stream[4] != 2 {
        return Head::UnknownCommand;
    }
    if stream.len() < 13 {
        return Head::Incomplete;
    }
    if len > u64::from(FRAME_LEN_MAX) {
        return Head::TooLarge;
    }
    if (stream.len() as u64) < len {
        return Head::Incomplete;
    }
    Head::Frame { command: stream[4], id: &stream[5..13], body: &stream[13..len as usize] }
}

/// Returns whether the sink of the targets rejects a message.
pub fn refuses(payload: &[u8]) -> bool {
    payload.first() == Some(&b'!')
}

/// A server's reaction to a whole stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The messages that the sink received.
    pub messages: Vec<Vec<u8>>,
    /// The bytes of all acks.
    pub acks: Vec<u8>,
    /// The reason that the violation is counted under.
    pub violation: Option<&'static str>,
}

/// Returns a server's reaction to `stream`.
pub fn outcome(mut stream: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        match head(stream) {
            Head::Incomplete => {
                outcome.violation = (!stream.is_empty()).then_some("truncated_frame");
                return outcome;
            }
            Head::LengthTooSmall => outcome.violation = Some("length_too_small"),
            Head::UnknownCommand if (0x80..=0x82).contains(&stream[4]) => outcome.violation = Some("ack_from_client"),
            Head::UnknownCommand => outcome.violation = Some("unknown_command"),
            Head::TooLarge => {
                ack(&mut outcome.acks, stream[4], &stream[5..13], 1);
                outcome.violation = Some("frame_too_large");
            }
            Head::Frame { command, id, body } => {
                let refused = command == 2 && refuses(body);
                if command == 2 {
                    outcome.messages.push(body.to_vec());
                }
                ack(&mut outcome.acks, command, id, u8::from(refused));
                stream = &stream[13 + body.len()..];
                continue;
            }
        }
        return outcome;
    }
}

fn ack(acks: &mut Vec<u8>, command: u8, id: &[u8], result: u8) {
    acks.extend_from_slice(&[0, 0, 0, 14, command + 0x80]);
    acks.extend_from_slice(id);
    acks.push(result);
}

/// A client's reaction to a whole stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Acks {
    /// Whether each ack is a SUBMIT's, its ID, and whether it is a failure.
    pub acks: Vec<(bool, [u8; 8], bool)>,
    /// Whether the stream has something else after these acks.
    pub is_rejected: bool,
}

/// Returns a client's reaction to `stream`, where an ack's command is that of its request plus `offset`.
pub fn acks(mut stream: &[u8], offset: u8) -> Acks {
    let mut found = Acks::default();
    while stream.len() >= 4 {
        // A length that no ack has is rejected as soon as the client can know: a short one immediately, and a long one
        // once its whole header has arrived.
        let len = u32::from_be_bytes(stream[..4].try_into().unwrap());
        if len < 13 || (stream.len() >= 5 && stream[4] != offset + 1 && stream[4] != offset + 2) {
            found.is_rejected = true;
            return found;
        }
        if stream.len() < 13 {
            return found;
        }
        if len != 14 {
            found.is_rejected = true;
            return found;
        }
        if stream.len() < 14 {
            return found;
        }
        if stream[13] > 1 {
            found.is_rejected = true;
            return found;
        }
        found.acks.push((stream[4] == offset + 2, stream[5..13].try_into().unwrap(), stream[13] == 1));
        stream = &stream[14..];
    }
    found
}
