//! The protocol once more, as plainly as it can be written and without the crate's own code: what
//! the targets compare with.

pub mod journal;

/// The largest frame, small so that the fuzzer reaches it.
pub const FRAME_LEN_MAX: u32 = 100;

/// What stands at the head of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Head<'a> {
    Incomplete,
    LengthTooSmall,
    UnknownCommand,
    TooLarge,
    Frame { command: u8, id: &'a [u8], body: &'a [u8] },
}

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

/// Whether the sink of the targets refuses a message.
pub fn refuses(payload: &[u8]) -> bool {
    payload.first() == Some(&b'!')
}

/// What a server makes of a whole stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The messages that the sink was shown.
    pub messages: Vec<Vec<u8>>,
    pub acks: Vec<u8>,
    /// The name under which the violation is counted.
    pub violation: Option<&'static str>,
}

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
