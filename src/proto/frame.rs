//! Splits a byte stream into whole frames, wherever the stream was cut.
//!
//! [`FrameReader`] owns the checks of a frame's header. It does not know where bytes come from, and it keeps none: it
//! looks at what the caller has received and returns whole frames that borrow from it, so this module never copies a
//! payload. Each check needs as few bytes as possible, and a length is checked before anybody reserves memory for it.

use std::ops::RangeInclusive;

use crate::proto::id::Id;
use crate::proto::layout::{HEADER_LEN, LENGTH_LEN};

/// One whole frame, borrowed from the received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The command byte, one of those that the reader accepts.
    pub command: u8,
    /// The request's ID.
    pub id: Id,
    /// The bytes after the 13-byte header.
    pub body: &'a [u8],
}

/// The reason why a frame's header was rejected. Lengths are in bytes and count the whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The total length is smaller than a header. Checked once 4 bytes have arrived.
    #[error("a frame's header announced {len} bytes; the smallest frame has {HEADER_LEN}")]
    LengthTooSmall {
        /// The announced length.
        len: u32,
    },
    /// The command is not valid in this direction. Checked once 5 bytes have arrived.
    #[error("command {command:#04x} is not valid in this direction")]
    UnknownCommand {
        /// The command byte.
        command: u8,
    },
    /// The total length exceeds the limit. Checked once 13 bytes have arrived, so that the answer can carry the ID.
    #[error("the frame with ID {id} announced {len} bytes; the limit is {max}")]
    TooLarge {
        /// The announced length.
        len: u32,
        /// The limit.
        max: u32,
        /// The command byte.
        command: u8,
        /// The frame's ID.
        id: Id,
    },
}

/// Finds whole frames at the start of a byte slice.
///
/// ```
/// use ringpost::proto::FrameReader;
///
/// let reader = FrameReader::new(0x01..=0x02, 1024);
/// let mut input: &[u8] = b"\0\0\0\x0f\x0200000001hi\0\0\0";
/// let frame = reader.next(&mut input).unwrap().unwrap();
/// assert_eq!(frame.body, b"hi");
/// assert_eq!(reader.next(&mut input), Ok(None)); // three bytes of the next frame
/// assert_eq!(input.len(), 3);
/// ```
#[derive(Debug, Clone)]
pub struct FrameReader {
    command_first: u8,
    command_last: u8,
    frame_len_max: u32,
}

impl FrameReader {
    /// Creates a reader that accepts these commands, and frames of up to `frame_len_max` bytes.
    ///
    /// # Panics
    /// If `frame_len_max` is smaller than a header.
    pub fn new(commands: RangeInclusive<u8>, frame_len_max: u32) -> Self {
        assert!(frame_len_max as usize >= HEADER_LEN);
        FrameReader { command_first: *commands.start(), command_last: *commands.end(), frame_len_max }
    }

    /// Returns the next whole frame, if one has arrived, and advances `input` past it.
    ///
    /// `Ok(None)` means that the frame is incomplete. `input` is then unchanged, and [`Self::frame_len`] returns how
    /// many bytes the frame will have.
    ///
    /// # Errors
    /// The header at the start of `input` is invalid. `input` is unchanged, and nothing after this point can be read.
    #[inline]
    pub fn next<'a>(&self, input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, FrameError> {
        let Some((head, _)) = input.split_first_chunk::<HEADER_LEN>() else {
            return self.check_partial(input).map(|()| None);
        };
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let command = head[4];
        let id = Id([head[5], head[6], head[7], head[8], head[9], head[10], head[11], head[12]]);
        self.check_length(len)?;
        self.check_command(command)?;
        if len > self.frame_len_max {
            return Err(FrameError::TooLarge { len, max: self.frame_len_max, command, id });
        }
        let Some((whole, rest)) = input.split_at_checked(len as usize) else {
            return Ok(None);
        };
        *input = rest;
        Ok(Some(Frame { command, id, body: &whole[HEADER_LEN..] }))
    }

    /// Returns the total length of the frame at the start of `input`, as far as it is known: at least [`HEADER_LEN`],
    /// and never more than the limit. The header is not checked.
    pub fn frame_len(&self, input: &[u8]) -> usize {
        match input.first_chunk::<LENGTH_LEN>() {
            Some(len) => (u32::from_be_bytes(*len).min(self.frame_len_max) as usize).max(HEADER_LEN),
            None => HEADER_LEN,
        }
    }

    /// Checks a header of which only a part has arrived.
    #[cold]
    fn check_partial(&self, input: &[u8]) -> Result<(), FrameError> {
        if let Some(len) = input.first_chunk::<LENGTH_LEN>() {
            self.check_length(u32::from_be_bytes(*len))?;
        }
        if let Some(&command) = input.get(LENGTH_LEN) {
            self.check_command(command)?;
        }
        Ok(())
    }

    #[inline]
    fn check_length(&self, len: u32) -> Result<(), FrameError> {
        if (len as usize) < HEADER_LEN { Err(FrameError::LengthTooSmall { len }) } else { Ok(()) }
    }

    #[inline]
    fn check_command(&self, command: u8) -> Result<(), FrameError> {
        if (self.command_first..=self.command_last).contains(&command) {
            Ok(())
        } else {
            Err(FrameError::UnknownCommand { command })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u32 = 300;

    fn reader() -> FrameReader {
        FrameReader::new(1..=2, MAX)
    }

    fn head(len: u32, command: u8) -> Vec<u8> {
        let mut head = len.to_be_bytes().to_vec();
        head.push(command);
        head.extend_from_slice(b"ABCDEFGH");
        head
    }

    /// Command, ID and body.
    type Owned = (u8, Vec<u8>, Vec<u8>);

    /// Restates the rules as plainly as possible: what is at the start of the stream.
    fn naive(stream: &[u8]) -> Result<Option<Owned>, &'static str> {
        if stream.len() < 4 {
            return Ok(None);
        }
        let len = stream[..4].iter().fold(0u64, |sum, byte| sum * 256 + u64::from(*byte));
        if len < 13 {
            return Err("length");
        }
        if stream.len() < 5 {
            return Ok(None);
        }
        if stream[4] != 1 && stream[4] != 2 {
            return Err("command");
        }
        if stream.len() < 13 {
            return Ok(None);
        }
        if len > u64::from(MAX) {
            return Err("large");
        }
        if (stream.len() as u64) < len {
            return Ok(None);
        }
        Ok(Some((stream[4], stream[5..13].to_vec(), stream[13..len as usize].to_vec())))
    }

    fn named(error: FrameError) -> &'static str {
        match error {
            FrameError::LengthTooSmall { .. } => "length",
            FrameError::UnknownCommand { .. } => "command",
            FrameError::TooLarge { .. } => "large",
        }
    }

    proptest! {
        /// For headers near every limit, cut anywhere, the reader agrees with the naive model.
        #[test]
        fn reader_agrees_with_the_naive_model(
            len in prop_oneof![0u32..20, 290u32..310, any::<u32>()],
            command in prop_oneof![0u8..4, any::<u8>()],
            body in prop::collection::vec(any::<u8>(), 0..320),
            cut in 0usize..340,
        ) {
            let mut stream = head(len, command);
            stream.extend_from_slice(&body);
            stream.truncate(cut);
            let mut rest = &stream[..];
            match (reader().next(&mut rest), naive(&stream)) {
                (Ok(None), Ok(None)) => {
                    prop_assert_eq!(rest.len(), stream.len());
                    let need = reader().frame_len(rest);
                    prop_assert!(need > stream.len() && need <= MAX as usize);
                }
                (Ok(Some(frame)), Ok(Some((command, id, body)))) => {
                    prop_assert_eq!(frame.command, command);
                    prop_assert_eq!(&frame.id.0[..], &id[..]);
                    prop_assert_eq!(frame.body, &body[..]);
                    prop_assert_eq!(rest, &stream[13 + body.len()..]);
                }
                (Err(error), Err(name)) => {
                    prop_assert_eq!(named(error), name);
                    prop_assert_eq!(rest.len(), stream.len());
                }
                (ours, naive) => prop_assert!(false, "{ours:?}, but the model returns {naive:?}"),
            }
        }
    }

    #[test]
    fn every_truncation_of_a_good_frame_is_incomplete() {
        let mut frame = head(20, 2);
        frame.extend_from_slice(b"payload");
        for cut in 0..frame.len() {
            let mut input = &frame[..cut];
            assert_eq!(reader().next(&mut input), Ok(None), "cut at {cut}");
            assert_eq!(reader().frame_len(input), if cut < 4 { HEADER_LEN } else { 20 });
        }
        let mut input = &frame[..];
        assert_eq!(reader().next(&mut input).unwrap().unwrap().body, b"payload");
        assert!(input.is_empty());
    }

    #[test]
    fn header_is_checked_as_early_as_possible_and_in_order() {
        let small_and_unknown = head(12, 9);
        assert_eq!(reader().next(&mut &small_and_unknown[..3]), Ok(None));
        assert_eq!(reader().next(&mut &small_and_unknown[..4]), Err(FrameError::LengthTooSmall { len: 12 }));
        assert_eq!(reader().next(&mut &small_and_unknown[..]), Err(FrameError::LengthTooSmall { len: 12 }));

        let large_and_unknown = head(u32::MAX, 9);
        assert_eq!(reader().next(&mut &large_and_unknown[..4]), Ok(None));
        assert_eq!(reader().next(&mut &large_and_unknown[..5]), Err(FrameError::UnknownCommand { command: 9 }));

        let large = head(MAX + 1, 2);
        assert_eq!(reader().next(&mut &large[..12]), Ok(None));
        assert_eq!(
            reader().next(&mut &large[..13]),
            Err(FrameError::TooLarge { len: MAX + 1, max: MAX, command: 2, id: Id(*b"ABCDEFGH") })
        );
    }
}
