//! What one connection may do next, and what each violation costs it.
//!
//! A [`Session`] is fed what a connection has received and answers with acks, in the order of the
//! requests, one for each. It does not read, write, wait or know the time; what becomes of a SUBMIT
//! is for the caller's sink to say. Its invariant: after a violation nothing more is taken.

use std::fmt;

use super::{AckCodes, AckResult, Acks, FrameError, FrameReader, HEADER_LEN, Id, Kind, Submit};

/// The server's side of one connection.
#[derive(Debug)]
pub struct Session {
    reader: FrameReader,
    violated: bool,
}

/// What [`Session::receive`] made of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the input that are done with: whole frames, each of them answered.
    pub consumed: usize,
    /// What comes next, once the acks are written.
    pub next: Next,
}

/// What a connection does once the acks are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read on. The frame that has begun, if any, will have `frame_len` bytes in all, as far as can
    /// be told yet.
    Read {
        /// Bytes, at least [`HEADER_LEN`], at most the largest allowed frame.
        frame_len: usize,
    },
    /// Close, lingering so that the acks arrive: the peer broke the protocol.
    Close(Violation),
}

impl Session {
    /// A session that takes frames of up to `frame_len_max` bytes.
    ///
    /// # Panics
    /// If `frame_len_max` has no room for a frame's head.
    pub fn new(frame_len_max: u32) -> Self {
        Session { reader: FrameReader::new(Kind::COMMANDS, frame_len_max), violated: false }
    }

    /// Takes every whole frame at the head of `input` and appends the ack of each to `acks`.
    ///
    /// `submit` says what becomes of a SUBMIT; a CONN is always a success. Behind the first
    /// violation nothing is looked at.
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
        // As many as there are if all frames are like the first: none while a large one is under way.
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
                    None => unreachable!("the reader lets only requests pass"),
                },
                Ok(None) => break Next::Read { frame_len: self.reader.frame_len(rest) },
                Err(error) => break Next::Close(self.violate(error, acks)),
            }
        };
        Received { consumed: input.len() - rest.len(), next }
    }

    /// The peer has sent its last byte, and `rest` of it is in no whole frame: was it inside one?
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
                let kind = Kind::from_command(command).expect("the command was judged before the length");
                acks.push(kind, id, AckResult::Failure);
                Violation::FrameTooLarge { len, max, id }
            }
        }
    }
}

/// How a peer broke the protocol. Each costs it the connection; [`Violation::reason`] counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A frame said to be smaller than its own head.
    LengthTooSmall { len: u32 },
    /// A command that is none.
    UnknownCommand { command: u8 },
    /// A command that only a server sends.
    AckFromClient { command: u8 },
    /// A frame over the limit. It was answered with a failure; its body is never buffered.
    FrameTooLarge { len: u32, max: u32, id: Id },
    /// The stream ended inside a frame; the part is dropped.
    Truncated { have: usize, frame_len: usize },
}

/// Why a peer lost its connection, without the numbers: what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    LengthTooSmall,
    UnknownCommand,
    AckFromClient,
    FrameTooLarge,
    Truncated,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 5] = [
        Reason::LengthTooSmall,
        Reason::UnknownCommand,
        Reason::AckFromClient,
        Reason::FrameTooLarge,
        Reason::Truncated,
    ];

    /// The name that logs and metrics use.
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
    /// What it is counted as.
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
                write!(f, "it announced a frame of {len} bytes; the smallest has {HEADER_LEN}")
            }
            Violation::UnknownCommand { command } => write!(f, "it sent command {command:#04x}, which is none"),
            Violation::AckFromClient { command } => {
                write!(f, "it sent command {command:#04x}, which only a server sends")
            }
            Violation::FrameTooLarge { len, max, id } => {
                write!(f, "it announced a frame of {len} bytes for ID {id}; the limit (--max-frame) is {max}")
            }
            Violation::Truncated { have, frame_len } => {
                write!(f, "it ended the stream inside a frame: {have} of at least {frame_len} bytes had come")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u32 = 64;

    /// What a run over a stream gave: taken payloads, ack bytes, the violation, the bytes left over.
    type Outcome = (Vec<Vec<u8>>, Vec<u8>, Option<Reason>, Vec<u8>);

    /// Feeds `stream` in pieces that end at `cuts`, as a connection does.
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
        /// However a stream is cut, the same is taken, acked and judged as in one piece.
        #[test]
        fn the_cutting_does_not_matter(
            frames in prop::collection::vec((any::<bool>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..51)), 0..12),
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
            prop_assert!(whole.0.starts_with(&submits), "every good frame before the tail is taken");
            prop_assert_eq!(whole.1.len() % super::super::ACK_LEN, 0);
        }
    }

    #[test]
    fn acks_come_in_order_with_the_sinks_results() {
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
    fn a_frame_over_the_limit_is_refused_from_its_head_alone() {
        let large = request(Kind::Submit, 9, &[0; 52]);
        let (taken, acks, violation, _) = run(&large[..13], &[]);
        assert!(taken.is_empty());
        assert_eq!(acks, [0, 0, 0, 14, 0x82, 0, 0, 0, 0, 0, 0, 0, 9, 1]);
        assert_eq!(violation, Some(Reason::FrameTooLarge));
        let (taken, ..) = run(&request(Kind::Submit, 9, &[0; 51]), &[]);
        assert_eq!(taken.len(), 1, "the largest allowed frame passes");
    }

    #[test]
    fn what_was_owed_before_a_violation_stays_owed() {
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
            assert_eq!(acks.len(), super::super::ACK_LEN);
            assert_eq!(violation, Some(reason));
        }
    }

    #[test]
    fn an_end_inside_a_frame_is_told() {
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
