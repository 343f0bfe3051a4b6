//! The four packets: their names, how each is encoded, and how an ack is decoded.
//!
//! All code that encodes a packet is in this module, so the layout in [the protocol's table](crate::proto) has one
//! writer. It knows neither connections nor sinks. Invariant: [`Acks`] holds whole acks in the order of their requests,
//! the settled ones first.

use std::ops::RangeInclusive;

use bytes::BufMut;

use crate::proto::frame::Frame;
use crate::proto::id::Id;
use crate::proto::layout::{ACK_LEN, HEADER_LEN};

/// The two kinds of request. An ack has the kind of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Opens a conversation, by convention. The server does not interpret its payload.
    Conn = 0x01,
    /// Sends a message.
    Submit = 0x02,
}

impl Kind {
    /// The commands that a server accepts.
    pub const COMMANDS: RangeInclusive<u8> = Kind::Conn as u8..=Kind::Submit as u8;

    /// Returns the kind with this command byte.
    #[inline]
    pub const fn from_command(command: u8) -> Option<Kind> {
        match command {
            0x01 => Some(Kind::Conn),
            0x02 => Some(Kind::Submit),
            _ => None,
        }
    }

    /// Appends a whole request to `out`.
    ///
    /// # Panics
    /// If the frame's length does not fit into 32 bits.
    pub fn encode(self, id: Id, payload: &[u8], out: &mut impl BufMut) {
        let len = u32::try_from(HEADER_LEN + payload.len()).expect("a frame's length fits into 32 bits");
        out.put_u32(len);
        out.put_u8(self as u8);
        out.put_slice(&id.0);
        out.put_slice(payload);
    }
}

/// A message that a client sends to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submit<'a> {
    /// The request's ID. Clients usually keep it unique within a connection, but nothing enforces that.
    pub id: Id,
    /// The message, borrowed from the read buffer. A sink copies what it keeps.
    pub payload: &'a [u8],
}

/// The outcome that an ack reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AckResult {
    /// The server has accepted the request. The meaning of that depends on the server's sink.
    Success = 0,
    /// The server has not accepted the request, for whatever reason.
    Failure = 1,
}

/// The command bytes that acks have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AckCodes {
    /// `0x81` and `0x82`, as in the specification.
    #[default]
    Spec,
    /// `0x80` and `0x81`, from an off-by-one in the published reference sources. Their clients reject anything else.
    Published,
}

impl AckCodes {
    /// Returns the commands of acks under these codes.
    pub const fn commands(self) -> RangeInclusive<u8> {
        let offset = self.offset();
        Kind::Conn as u8 + offset..=Kind::Submit as u8 + offset
    }

    /// Returns the difference between an ack's command and its request's.
    const fn offset(self) -> u8 {
        match self {
            AckCodes::Spec => 0x80,
            AckCodes::Published => 0x7f,
        }
    }
}

/// One connection's unsent acks, encoded one after the other, in the order of their requests.
///
/// An ack is *settled* once its result is final. The settled acks at the start leave in one write, after which the
/// buffer is used again.
#[derive(Debug, Default)]
pub struct Acks {
    bytes: Vec<u8>,
    /// The number of bytes, from the start, that are settled acks.
    settled_len: usize,
    codes: AckCodes,
    counts: AckCounts,
}

/// The number of rarer acks among some acks.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct AckCounts {
    /// Acks of CONNs.
    pub conns: usize,
    /// Acks with [`AckResult::Failure`].
    pub failures: usize,
}

impl Acks {
    /// Creates an empty buffer for acks with these codes.
    pub fn new(codes: AckCodes) -> Self {
        Acks { bytes: Vec::new(), settled_len: 0, codes, counts: AckCounts::default() }
    }

    /// Reserves memory for `count` more acks, so that adding them does not allocate one by one.
    #[inline]
    pub fn reserve(&mut self, count: usize) {
        self.bytes.reserve(count * ACK_LEN);
    }

    /// Adds the ack of a request.
    #[inline]
    pub fn push(&mut self, kind: Kind, id: Id, result: AckResult) {
        let mut ack = [0; ACK_LEN];
        ack[3] = ACK_LEN as u8;
        ack[4] = kind as u8 + self.codes.offset();
        ack[5..13].copy_from_slice(&id.0);
        ack[13] = result as u8;
        self.bytes.extend_from_slice(&ack);
        self.counts.conns += usize::from(kind == Kind::Conn);
        self.counts.failures += usize::from(result == AckResult::Failure);
    }

    /// Settles every ack with its present result.
    #[inline]
    pub fn settle_all(&mut self) {
        self.settled_len = self.bytes.len();
    }

    /// Settles the acks at the start. Among the SUBMITs that were acked with a preliminary success, the first
    /// `successes` stay successes, and the next `failures` become failures. The result of any other ack is final from
    /// the beginning; such an ack is settled together with those before it.
    ///
    /// # Panics
    /// If there are fewer acks to settle.
    pub fn settle(&mut self, mut successes: u64, mut failures: u64) {
        for ack in self.bytes[self.settled_len..].as_chunks_mut::<ACK_LEN>().0 {
            let submit = ack[4] == Kind::Submit as u8 + self.codes.offset();
            if submit && ack[ACK_LEN - 1] == AckResult::Success as u8 {
                if successes > 0 {
                    successes -= 1;
                } else if failures > 0 {
                    failures -= 1;
                    ack[ACK_LEN - 1] = AckResult::Failure as u8;
                    self.counts.failures += 1;
                } else {
                    break;
                }
            }
            self.settled_len += ACK_LEN;
        }
        assert!(successes == 0 && failures == 0, "only staged requests are settled");
    }

    /// Returns the number of acks, settled or not.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() / ACK_LEN
    }

    /// Returns whether there are no acks.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns whether any ack is settled.
    #[inline]
    pub fn has_settled(&self) -> bool {
        self.settled_len > 0
    }

    /// Returns the bytes of all acks, settled or not.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Settles and removes all acks, for an owned write. Return the memory with [`Self::put_back`].
    #[inline]
    pub fn take(&mut self) -> Vec<u8> {
        self.settle_all();
        self.take_settled().0
    }

    /// Returns the number of rarer acks among all that are in the buffer.
    #[inline]
    pub fn counts(&self) -> AckCounts {
        self.counts
    }

    /// Removes the settled acks, for an owned write, and returns them with the number of rarer acks among them. Return
    /// the memory with [`Self::put_back`].
    #[inline]
    pub fn take_settled(&mut self) -> (Vec<u8>, AckCounts) {
        if self.settled_len == self.bytes.len() {
            self.settled_len = 0;
            return (std::mem::take(&mut self.bytes), std::mem::take(&mut self.counts));
        }
        let rest = self.bytes.split_off(std::mem::take(&mut self.settled_len));
        let counts = self.count(&rest);
        let counts_taken =
            AckCounts { conns: self.counts.conns - counts.conns, failures: self.counts.failures - counts.failures };
        self.counts = counts;
        (std::mem::replace(&mut self.bytes, rest), counts_taken)
    }

    fn count(&self, acks: &[u8]) -> AckCounts {
        let acks = acks.as_chunks::<ACK_LEN>().0;
        AckCounts {
            conns: acks.iter().filter(|ack| ack[4] == Kind::Conn as u8 + self.codes.offset()).count(),
            failures: acks.iter().filter(|ack| ack[ACK_LEN - 1] == AckResult::Failure as u8).count(),
        }
    }

    /// Takes back the memory of [`Self::take_settled`] and discards the acks in it.
    #[inline]
    pub fn put_back(&mut self, mut bytes: Vec<u8>) {
        if self.bytes.is_empty() {
            bytes.clear();
            self.bytes = bytes;
        }
    }

    /// Releases memory beyond what this number of acks needs, unless there are more acks.
    #[inline]
    pub fn shrink_to(&mut self, acks: usize) {
        if self.bytes.capacity() > acks * ACK_LEN {
            self.bytes.shrink_to(acks * ACK_LEN);
        }
    }

    /// Returns the bytes of memory that the buffer holds.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// One ack, as a client decodes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The kind of the request.
    pub kind: Kind,
    /// The ID of the request.
    pub id: Id,
    /// The outcome of the request.
    pub result: AckResult,
}

/// The reason why a frame is not an ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AckError {
    /// The body does not have exactly one byte.
    #[error("an ack for ID {id} has a body of {body_len} bytes; the body of an ack has 1")]
    Length {
        /// The ack's ID.
        id: Id,
        /// The length of its body in bytes.
        body_len: usize,
    },
    /// The command is not an ack's under the codes in use.
    #[error("command {command:#04x} is not an ack")]
    Command {
        /// The command byte.
        command: u8,
    },
    /// The result is neither 0 nor 1.
    #[error("the ack for ID {id} has result {result}; valid results are 0 and 1")]
    Result {
        /// The ack's ID.
        id: Id,
        /// The result byte.
        result: u8,
    },
}

impl Ack {
    /// Decodes an ack from a frame.
    ///
    /// # Errors
    /// The frame is not an ack under `codes`.
    pub fn decode(frame: Frame<'_>, codes: AckCodes) -> Result<Ack, AckError> {
        let id = frame.id;
        let kind = frame
            .command
            .checked_sub(codes.offset())
            .and_then(Kind::from_command)
            .ok_or(AckError::Command { command: frame.command })?;
        let &[result] = frame.body else {
            return Err(AckError::Length { id, body_len: frame.body.len() });
        };
        let result = match result {
            0 => AckResult::Success,
            1 => AckResult::Failure,
            _ => return Err(AckError::Result { id, result }),
        };
        Ok(Ack { kind, id, result })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::frame::FrameReader;

    #[test]
    fn packets_are_encoded_as_specified() {
        let mut out = Vec::new();
        Kind::Submit.encode(Id(*b"00000001"), b"hello", &mut out);
        assert_eq!(out, b"\x00\x00\x00\x12\x0200000001hello");
        let mut acks = Acks::new(AckCodes::Spec);
        acks.push(Kind::Conn, Id(*b"00000000"), AckResult::Success);
        acks.push(Kind::Submit, Id(*b"00000001"), AckResult::Failure);
        assert_eq!(acks.as_bytes(), b"\0\0\0\x0e\x8100000000\0\0\0\0\x0e\x8200000001\x01");
        let mut acks = Acks::new(AckCodes::Published);
        acks.push(Kind::Conn, Id(*b"00000000"), AckResult::Success);
        acks.push(Kind::Submit, Id(*b"00000001"), AckResult::Success);
        assert_eq!(acks.as_bytes(), b"\0\0\0\x0e\x8000000000\0\0\0\0\x0e\x8100000001\0");
    }

    #[test]
    fn frame_that_is_not_an_ack_is_rejected_with_its_reason() {
        let frame = |command, body| Frame { command, id: Id::from_number(7), body };
        let spec = AckCodes::Spec;
        assert_eq!(Ack::decode(frame(0x80, b"\0"), spec), Err(AckError::Command { command: 0x80 }));
        assert_eq!(Ack::decode(frame(0x02, b"\0"), spec), Err(AckError::Command { command: 0x02 }));
        assert_eq!(Ack::decode(frame(0x82, b""), spec), Err(AckError::Length { id: Id::from_number(7), body_len: 0 }));
        assert_eq!(
            Ack::decode(frame(0x82, b"\x02"), spec),
            Err(AckError::Result { id: Id::from_number(7), result: 2 })
        );
    }

    #[test]
    fn acks_leave_in_order_once_they_are_settled() {
        let mut acks = Acks::new(AckCodes::Spec);
        let id = Id::from_number;
        acks.push(Kind::Conn, id(0), AckResult::Success);
        for number in 1..=4 {
            acks.push(Kind::Submit, id(number), AckResult::Success);
        }
        acks.push(Kind::Submit, id(5), AckResult::Failure);
        acks.push(Kind::Submit, id(6), AckResult::Success);
        let mut leave = |successes, failures| {
            acks.settle(successes, failures);
            let (bytes, counts) = acks.take_settled();
            (bytes.chunks(ACK_LEN).map(|ack| (ack[4], ack[13])).collect::<Vec<_>>(), counts)
        };
        let counts = |conns, failures| AckCounts { conns, failures };
        assert_eq!(leave(0, 0), (vec![(0x81, 0)], counts(1, 0)));
        assert_eq!(leave(1, 0), (vec![(0x82, 0)], counts(0, 0)));
        assert_eq!(leave(1, 1), (vec![(0x82, 0), (0x82, 1)], counts(0, 1)));
        assert_eq!(leave(1, 0), (vec![(0x82, 0), (0x82, 1)], counts(0, 1)), "with the final result after it");
        assert_eq!(leave(0, 1), (vec![(0x82, 1)], counts(0, 1)));
        assert!(acks.is_empty());
        acks.push(Kind::Submit, id(7), AckResult::Success);
        assert!(!acks.has_settled());
        acks.settle_all();
        assert_eq!(acks.take_settled().0.len(), ACK_LEN);
    }

    proptest! {
        #[test]
        fn requests_survive_the_round_trip(
            id in any::<[u8; 8]>(),
            payload in prop::collection::vec(any::<u8>(), 0..400),
            submit in any::<bool>(),
        ) {
            let kind = if submit { Kind::Submit } else { Kind::Conn };
            let mut out = Vec::new();
            kind.encode(Id(id), &payload, &mut out);
            let mut input = &out[..];
            let frame = FrameReader::new(Kind::COMMANDS, 1024).next(&mut input).unwrap().unwrap();
            prop_assert!(input.is_empty());
            prop_assert_eq!(frame, Frame { command: kind as u8, id: Id(id), body: &payload });
        }

        #[test]
        fn acks_survive_the_round_trip(
            id in any::<[u8; 8]>(),
            submit in any::<bool>(),
            failed in any::<bool>(),
            published in any::<bool>(),
        ) {
            let ack = Ack {
                kind: if submit { Kind::Submit } else { Kind::Conn },
                id: Id(id),
                result: if failed { AckResult::Failure } else { AckResult::Success },
            };
            let codes = if published { AckCodes::Published } else { AckCodes::Spec };
            let mut acks = Acks::new(codes);
            acks.push(ack.kind, ack.id, ack.result);
            let frame = FrameReader::new(codes.commands(), ACK_LEN as u32).next(&mut acks.as_bytes()).unwrap().unwrap();
            prop_assert_eq!(Ack::decode(frame, codes), Ok(ack));
        }
    }
}
