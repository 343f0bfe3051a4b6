//! The server's side of one connection: what it may do next, and what each violation costs it.
//!
//! A [`Session`] is given the bytes that a connection has received, and produces one ack for each request, in order. It
//! does not read, write, wait or know the time. The caller's sink decides the outcome of a SUBMIT. Invariant: after a
//! violation no further request is accepted.

use std::fmt;

use crate::proto::frame::{FrameError, FrameReader};
use crate::proto::id::Id;
use crate::proto::layout::HEADER_LEN;
use crate::proto::packet::{AckCodes, AckResult, Acks, Kind, Submit};

/// The server's side of one connection.
#[derive(Debug)]
pub struct Session {
    reader: FrameReader,
    violated: bool,
}

/// The outcome of [`Session::receive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The bytes of the input that are finished: whole frames, each of which has its ack.
    pub consumed: usize,
    /// The step that the connection takes once the acks are written.
    pub next: Next,
}

/// The step that a connection takes once the acks are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Reads more. The frame that has begun, if any, will have `frame_len` bytes in total, as far as is known yet.
    Read {
        /// The frame's length in bytes: at least [`HEADER_LEN`], at most the largest allowed frame.
        frame_len: usize,
    },
    /// Closes because the peer violated the protocol. It lingers, so that the acks arrive.
    Close(Violation),
}

impl Session {
    /// Creates a session that accepts frames of up to `frame_len_max` bytes.
    ///
    /// # Panics
    /// If `frame_len_max` is smaller than a header.
    pub fn new(frame_len_max: u32) -> Self {
        Session { reader: FrameReader::new(Kind::COMMANDS, frame_len_max), violated: false }
    }

    /// Processes every whole frame at the start of `input` and appends the ack of each to `acks`.
    ///
    /// `submit` decides the outcome of a SUBMIT. A CONN always succeeds. Bytes after the first violation are ignored.
    ///
    /// # Panics
    /// If it is called after a violation.
    #[inline]
    pub fn receive(
        &mut self,
        input: &[u8],
        acks: &mut Acks,
        mut submit: impl FnMut(Submit<'_>) -> AckResult,
    ) -> Received {
        assert!(!self.violated, "nothing is received after a violation");
        // The number of frames if all have the length of the first one: zero while a large frame is incomplete.
        acks.reserve(input.len() / self.reader.frame_len(input));
        let mut rest = input;
        let next = loop {
            match self.reader.next(&mut rest) {
                Ok(Some(frame)) => match Kind::from_command(frame.command) {
                    Some(Kind::Submit) => {
                        let result = submit(Submit { id: frame.id, payload: frame.body });
                        acks.push(Kind::Submit, frame.id, result);
                    }
                    Some(Kind::Conn) => acks.push(Kind::Conn, frame.id, AckResult::Success),
                    None => unreachable!("the reader accepts only requests"),
                },
                Ok(None) => break Next::Read { frame_len: self.reader.frame_len(rest) },
                Err(error) => break Next::Close(self.violate(error, acks)),
            }
        };
        Received { consumed: input.len() - rest.len(), next }
    }

    /// Ends the session after the peer's last byte. `rest` are the bytes that belong to no whole frame.
    ///
    /// # Errors
    /// The stream ended inside a frame.
    pub fn end(&mut self, rest: &[u8]) -> Result<(), Violation> {
        if rest.is_empty() {
            return Ok(());
        }
        self.violated = true;
        Err(Violation::Truncated { have: rest.len(), frame_len: self.reader.frame_len(rest) })
    }

    #[cold]
    fn violate(&mut self, error: FrameError, acks: &mut Acks) -> Violation {
        self.violated = true;
        match error {
            FrameError::LengthTooSmall { len } => Violation::LengthTooSmall { len },
            FrameError::UnknownCommand { command } => {
                let is_ack = |codes: AckCodes| codes.commands().contains(&command);
                if is_ack(AckCodes::Spec) || is_ack(AckCodes::Published) {
                    Violation::AckFromClient { command }
                } else {
                    Violation::UnknownCommand { command }
                }
            }
            FrameError::TooLarge { len, max, command, id } => {
                let kind = Kind::from_command(command).expect("the command was checked before the length");
                acks.push(kind, id, AckResult::Failure);
                Violation::FrameTooLarge { len, max, id }
            }
        }
    }
}

/// A peer's violation of the protocol. Each one costs the peer its connection and is counted by
/// [`Violation::reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A frame announced fewer bytes than a header has.
    LengthTooSmall {
        /// The announced length in bytes.
        len: u32,
    },
    /// The command does not exist.
    UnknownCommand {
        /// The command byte.
        command: u8,
    },
    /// Only a server sends this command.
    AckFromClient {
        /// The command byte.
        command: u8,
    },
    /// A frame exceeds the limit. It was acked with a failure, and its body is never buffered.
    FrameTooLarge {
        /// The announced length in bytes.
        len: u32,
        /// The limit in bytes.
        max: u32,
        /// The request's ID.
        id: Id,
    },
    /// The stream ended inside a frame. The partial frame is dropped.
    Truncated {
        /// The bytes of the frame that have arrived.
        have: usize,
        /// The frame's length in bytes, as far as it is known.
        frame_len: usize,
    },
}

/// The kind of a violation, without its numbers, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// See [`Violation::LengthTooSmall`].
    LengthTooSmall,
    /// See [`Violation::UnknownCommand`].
    UnknownCommand,
    /// See [`Violation::AckFromClient`].
    AckFromClient,
    /// See [`Violation::FrameTooLarge`].
    FrameTooLarge,
    /// See [`Violation::Truncated`].
    Truncated,
}

impl Reason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Reason; 5] = [
        Reason::LengthTooSmall,
        Reason::UnknownCommand,
        Reason::AckFromClient,
        Reason::FrameTooLarge,
        Reason::Truncated,
    ];

    /// Returns the name that logs and metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::LengthTooSmall => "length_too_small",
            Reason::UnknownCommand => "unknown_command",
            Reason::AckFromClient => "ack_from_client",
            Reason::FrameTooLarge => "frame_too_large",
            Reason::Truncated => "truncated_frame",
        }
    }
}

impl Violation {
    /// Returns the reason that the violation is counted under.
    pub const fn reason(&self) -> Reason {
        match self {
            Violation::LengthTooSmall { .. } => Reason::LengthTooSmall,
            Violation::UnknownCommand { .. } => Reason::UnknownCommand,
            Violation::AckFromClient { .. } => Reason::AckFromClient,
            Violation::FrameTooLarge { .. } => Reason::FrameTooLarge,
            Violation::Truncated { .. } => Reason::Truncated,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::LengthTooSmall { len } => {
                write!(f, "a frame's header announced {len} bytes; the smallest frame has {HEADER_LEN}")
            }
            Violation::UnknownCommand { command } => write!(f, "command {command:#04x} does not exist"),
            Violation::AckFromClient { command } => {
                write!(f, "command {command:#04x} is an ack, which only a server sends")
            }
            Violation::FrameTooLarge { len, max, id } => {
                write!(f, "the frame with ID {id} announced {len} bytes; the limit (--max-frame) is {max}")
            }
            Violation::Truncated { have, frame_len } => {
                write!(f, "the stream ended inside a frame, after {have} of at least {frame_len} bytes")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::layout::ACK_LEN;

    const MAX: u32 = 64;

    /// The outcome of a run over a stream: accepted payloads, bytes of acks, the violation, the remaining bytes.
    type Outcome = (Vec<Vec<u8>>, Vec<u8>, Option<Reason>, Vec<u8>);

    /// Feeds `stream` to a session in pieces that end at `cuts`, as a connection does.
    fn run(stream: &[u8], cuts: &[usize]) -> Outcome {
        let (mut session, mut acks) = (Session::new(MAX), Acks::new(AckCodes::Spec));
        let (mut taken, mut violation, mut input) = (Vec::new(), None, Vec::new());
        let mut from = 0;
        for &to in cuts.iter().chain([&stream.len()]) {
            let to = to.clamp(from, stream.len());
            input.extend_from_slice(&stream[from..to]);
            from = to;
            let received = session.receive(&input, &mut acks, |submit| {
                taken.push(submit.payload.to_vec());
                if submit.payload.first() == Some(&b'!') { AckResult::Failure } else { AckResult::Success }
            });
            input.drain(..received.consumed);
            if let Next::Close(found) = received.next {
                violation = Some(found.reason());
                break;
            }
        }
        (taken, acks.take(), violation, input)
    }

    fn request(kind: Kind, id: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        kind.encode(Id::from_number(id), payload, &mut out);
        out
    }

    proptest! {
        /// A stream has the same outcome however it is cut.
        #[test]
        fn outcome_does_not_depend_on_the_cuts(
            frames in prop::collection::vec(
                (any::<bool>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..51)), 0..12),
            tail in prop::collection::vec(any::<u8>(), 0..24),
            mut cuts in prop::collection::vec(0usize..700, 0..40),
        ) {
            let mut stream = Vec::new();
            for (submit, id, payload) in &frames {
                stream.extend(request(if *submit { Kind::Submit } else { Kind::Conn }, *id, payload));
            }
            stream.extend_from_slice(&tail);
            cuts.sort_unstable();
            let whole = run(&stream, &[]);
            let cut = run(&stream, &cuts);
            prop_assert_eq!(&whole.0, &cut.0);
            prop_assert_eq!(&whole.1, &cut.1);
            prop_assert_eq!(whole.2, cut.2);
            let submits: Vec<_> = frames.iter().filter(|frame| frame.0).map(|frame| frame.2.clone()).collect();
            prop_assert!(whole.0.starts_with(&submits), "every good frame before the tail is accepted");
            prop_assert_eq!(whole.1.len() % ACK_LEN, 0);
        }
    }

    #[test]
    fn acks_are_in_order_and_have_the_results_of_the_sink() {
        let mut stream = request(Kind::Conn, 1, b"hello");
        stream.extend(request(Kind::Submit, 2, b"!refused"));
        stream.extend(request(Kind::Submit, 3, b""));
        let (taken, acks, violation, rest) = run(&stream, &[]);
        assert_eq!(taken, [b"!refused".to_vec(), Vec::new()]);
        assert_eq!(
            acks,
            [
                [0, 0, 0, 14, 0x81, 0, 0, 0, 0, 0, 0, 0, 1, 0],
                [0, 0, 0, 14, 0x82, 0, 0, 0, 0, 0, 0, 0, 2, 1],
                [0, 0, 0, 14, 0x82, 0, 0, 0, 0, 0, 0, 0, 3, 0],
            ]
            .concat()
        );
        assert_eq!((violation, rest), (None, Vec::new()));
    }

    #[test]
    fn frame_over_the_limit_is_rejected_by_its_header_alone() {
        let large = request(Kind::Submit, 9, &[0; 52]);
        let (taken, acks, violation, _) = run(&large[..13], &[]);
        assert!(taken.is_empty());
        assert_eq!(acks, [0, 0, 0, 14, 0x82, 0, 0, 0, 0, 0, 0, 0, 9, 1]);
        assert_eq!(violation, Some(Reason::FrameTooLarge));
        let (taken, ..) = run(&request(Kind::Submit, 9, &[0; 51]), &[]);
        assert_eq!(taken.len(), 1, "the largest allowed frame is accepted");
    }

    #[test]
    fn acks_from_before_a_violation_are_kept() {
        for (bad, reason) in [
            (&b"\0\0\0\x0c"[..], Reason::LengthTooSmall),
            (b"\0\0\0\x0d\x7f", Reason::UnknownCommand),
            (b"\0\0\0\x0e\x82", Reason::AckFromClient),
            (b"\0\0\0\x0e\x80", Reason::AckFromClient),
        ] {
            let mut stream = request(Kind::Submit, 1, b"good");
            stream.extend_from_slice(bad);
            stream.extend(request(Kind::Submit, 2, b"too late"));
            let (taken, acks, violation, _) = run(&stream, &[]);
            assert_eq!(taken, [b"good".to_vec()]);
            assert_eq!(acks.len(), ACK_LEN);
            assert_eq!(violation, Some(reason));
        }
    }

    #[test]
    fn end_inside_a_frame_is_reported() {
        let mut session = Session::new(MAX);
        assert_eq!(session.end(b""), Ok(()));
        assert_eq!(session.end(b"\0\0\0\x20\x02"), Err(Violation::Truncated { have: 5, frame_len: 32 }));
    }

    #[test]
    fn reasons_are_numbered_as_listed() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
