//! The four packets: what they are called, how each is written, how an ack is read.
//!
//! Everything that puts a packet's bytes together stands here, so the layout in
//! [the module's table](super) has one writer.

use std::fmt;
use std::ops::RangeInclusive;

use bytes::BufMut;

use super::{ACK_LEN, Frame, HEADER_LEN, ID_LEN};

/// A request's serial number on its connection: eight opaque bytes, echoed in its ack.
///
/// Clients that write decimal ASCII and clients that write a big-endian counter both exist; it is
/// shown as 16 hexadecimal digits, which suits either.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub [u8; ID_LEN]);

impl Id {
    /// The ID of a client that counts: `number`, big-endian.
    pub const fn from_number(number: u64) -> Self {
        Id(number.to_be_bytes())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

/// The two requests. Their acks are named by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Opens a conversation, by convention; its payload is not interpreted.
    Conn = 0x01,
    /// Hands a message over.
    Submit = 0x02,
}

impl Kind {
    /// The commands that a server takes.
    pub const COMMANDS: RangeInclusive<u8> = Kind::Conn as u8..=Kind::Submit as u8;

    /// The kind with this command byte.
    #[inline]
    pub const fn from_command(command: u8) -> Option<Kind> {
        match command {
            0x01 => Some(Kind::Conn),
            0x02 => Some(Kind::Submit),
            _ => None,
        }
    }

    /// Appends a whole request.
    ///
    /// # Panics
    /// If the frame would pass 4 GiB, which its length can't say.
    pub fn encode(self, id: Id, payload: &[u8], out: &mut impl BufMut) {
        let len = u32::try_from(HEADER_LEN + payload.len()).expect("a frame's length fits 32 bits");
        out.put_u32(len);
        out.put_u8(self as u8);
        out.put_slice(&id.0);
        out.put_slice(payload);
    }
}

/// A message that a client asks the server to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submit<'a> {
    /// The request's ID, unique only within its connection, and there only by custom.
    pub id: Id,
    /// The message. Borrowed from the read buffer: a sink copies what it keeps.
    pub payload: &'a [u8],
}

/// What an ack says of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AckResult {
    /// The server took it, in the sense that its sink gives to that.
    Success = 0,
    /// The server did not take it, whatever the reason.
    Failure = 1,
}

/// Which command bytes acks bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AckCodes {
    /// `0x81` and `0x82`, as the specification has it.
    #[default]
    Spec,
    /// `0x80` and `0x81`: an off-by-one in the published reference sources, whose clients fail on
    /// anything else.
    Published,
}

impl AckCodes {
    /// The commands that acks of these codes bear.
    pub const fn commands(self) -> RangeInclusive<u8> {
        let offset = self.offset();
        Kind::Conn as u8 + offset..=Kind::Submit as u8 + offset
    }

    /// An ack's command is its request's plus this.
    const fn offset(self) -> u8 {
        match self {
            AckCodes::Spec => 0x80,
            AckCodes::Published => 0x7f,
        }
    }
}

/// The acks that one connection is owed next, encoded side by side, in the order of their requests.
///
/// An ack is *settled* once what it says is known; those at the head that are leave in one write, and
/// the buffer comes back empty.
#[derive(Debug, Default)]
pub struct Acks {
    bytes: Vec<u8>,
    /// How many of the bytes, from the head, are settled acks.
    settled_len: usize,
    codes: AckCodes,
    counts: AckCounts,
}

/// How many acks of some are of the rarer kinds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct AckCounts {
    /// Acks of CONNs.
    pub conns: usize,
    /// Acks that say [`AckResult::Failure`].
    pub failures: usize,
}

impl Acks {
    /// No acks yet; `codes` for those to come.
    pub fn new(codes: AckCodes) -> Self {
        Acks { bytes: Vec::new(), settled_len: 0, codes, counts: AckCounts::default() }
    }

    /// Makes room for `count` more, so that adding them does not allocate one by one.
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

    /// Settles every ack as it stands.
    #[inline]
    pub fn settle_all(&mut self) {
        self.settled_len = self.bytes.len();
    }

    /// Settles the acks at the head: of the SUBMITs that were taken for the time being, `successes` stay
    /// successes, and `failures` behind those become failures. Any other ack is known as it stands, and
    /// is settled when those before it are.
    ///
    /// # Panics
    /// There are fewer to settle.
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
        assert!(successes == 0 && failures == 0, "only what was staged is settled");
    }

    /// How many acks are in here.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() / ACK_LEN
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether some may leave.
    #[inline]
    pub fn has_settled(&self) -> bool {
        self.settled_len > 0
    }

    /// Their bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All acks, settled or not, for an owned write. [`Self::put_back`] returns the memory.
    #[inline]
    pub fn take(&mut self) -> Vec<u8> {
        self.settle_all();
        self.take_settled().0
    }

    /// How many of them are of the rarer kinds.
    #[inline]
    pub fn counts(&self) -> AckCounts {
        self.counts
    }

    /// The settled acks, for an owned write, and how many are of the rarer kinds. [`Self::put_back`]
    /// returns the memory.
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

    /// Gives the memory of [`Self::take_settled`] back; the acks in it are gone.
    #[inline]
    pub fn put_back(&mut self, mut bytes: Vec<u8>) {
        if self.bytes.is_empty() {
            bytes.clear();
            self.bytes = bytes;
        }
    }

    /// Bytes that the buffer holds memory for.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// One ack, as a client reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The kind of request that it answers.
    pub kind: Kind,
    /// The ID of that request.
    pub id: Id,
    /// The answer.
    pub result: AckResult,
}

/// Why a frame is no ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// The body is not the one byte of a result.
    #[error("an ack for ID {id} has a body of {body_len} bytes; an ack has 1")]
    Length { id: Id, body_len: usize },
    /// The command is not an ack's under these codes.
    #[error("command {command:#04x} is no ack")]
    Command { command: u8 },
    /// The result is neither 0 nor 1.
    #[error("the ack for ID {id} has result {result}; a server sends 0 or 1")]
    Result { id: Id, result: u8 },
}

impl Ack {
    /// Reads an ack from a frame.
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
    use crate::proto::FrameReader;

    #[test]
    fn packets_have_the_bytes_of_the_specification() {
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
    fn an_ack_that_is_none_is_named() {
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
        assert_eq!(leave(1, 0), (vec![(0x82, 0), (0x82, 1)], counts(0, 1)), "with what was known behind it");
        assert_eq!(leave(0, 1), (vec![(0x82, 1)], counts(0, 1)));
        assert!(acks.is_empty());
        acks.push(Kind::Submit, id(7), AckResult::Success);
        assert!(!acks.has_settled());
        acks.settle_all();
        assert_eq!(acks.take_settled().0.len(), ACK_LEN);
    }

    proptest! {
        #[test]
        fn requests_survive_the_round_trip(id in any::<[u8; 8]>(), payload in prop::collection::vec(any::<u8>(), 0..400), submit in any::<bool>()) {
            let kind = if submit { Kind::Submit } else { Kind::Conn };
            let mut out = Vec::new();
            kind.encode(Id(id), &payload, &mut out);
            let mut input = &out[..];
            let frame = FrameReader::new(Kind::COMMANDS, 1024).next(&mut input).unwrap().unwrap();
            prop_assert!(input.is_empty());
            prop_assert_eq!(frame, Frame { command: kind as u8, id: Id(id), body: &payload });
        }

        #[test]
        fn acks_survive_the_round_trip(id in any::<[u8; 8]>(), submit in any::<bool>(), failed in any::<bool>(), published in any::<bool>()) {
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
