//! The IDs of writers and the positions of records, and how they are written as text.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// The ID of a writer, which is one shard of one process start: the time of the start in microseconds since 1970,
/// shifted left by [`SHARD_BITS`], plus the shard's number. As text, it is 16 hexadecimal digits. IDs sort by start
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriterId(pub u64);

impl WriterId {
    /// Returns the ID of the writer of a shard that starts at this time, in microseconds since 1970.
    ///
    /// # Panics
    /// The time is later than [`MICROS_MAX`], or the shard's number is not below [`SHARDS_MAX`].
    pub fn new(micros: u64, shard: usize) -> Self {
        assert!(micros <= MICROS_MAX, "the time of a start has {} bits", 64 - SHARD_BITS);
        assert!(shard < SHARDS_MAX, "a shard's number has {SHARD_BITS} bits");
        WriterId(micros << SHARD_BITS | shard as u64)
    }

    /// Returns when the writer started, in nanoseconds since 1970.
    pub fn started_nanos(self) -> u64 {
        (self.0 >> SHARD_BITS) * 1000
    }

    /// Returns the number of the writer's shard.
    pub fn shard(self) -> usize {
        (self.0 & (SHARDS_MAX as u64 - 1)) as usize
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is not a writer's ID, or not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a position: write WRITER:SEQ (16 hexadecimal digits and a number)")]
pub struct PositionError {
    text: String,
}

impl FromStr for WriterId {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || PositionError { text: text.to_owned() };
        let digits = text.len() == 16 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !digits {
            return Err(error());
        }
        u64::from_str_radix(text, 16).map(WriterId).map_err(|_: ParseIntError| error())
    }
}

/// The place of a record in the journal: its writer, and its sequence number in that writer. As text, it is
/// `WRITER:SEQ`, which `ringpost journal cat --from` accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The writer of the record.
    pub writer: WriterId,
    /// The sequence number. A writer numbers its records from 1 on, without a gap.
    pub sequence: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.writer, self.sequence)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || PositionError { text: text.to_owned() };
        let (writer, sequence) = text.split_once(':').ok_or_else(error)?;
        let writer = writer.parse().map_err(|_| error())?;
        let sequence = sequence.parse().map_err(|_: ParseIntError| error())?;
        Ok(Position { writer, sequence })
    }
}

/// Bits of a [`WriterId`] that number the shard.
pub const SHARD_BITS: u32 = 12;
/// The most shards that a process may have with a journal.
pub const SHARDS_MAX: usize = 1 << SHARD_BITS;
/// The latest time that fits in an ID, in microseconds since 1970: in the year 2112.
pub const MICROS_MAX: u64 = u64::MAX >> SHARD_BITS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_positions_survive_the_round_trip_as_text_and_ids_sort_by_time() {
        let early = WriterId::new(1_700_000_000_000_000, SHARDS_MAX - 1);
        let late = WriterId::new(1_700_000_000_000_001, 0);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!((early.started_nanos(), early.shard()), (1_700_000_000_000_000_000, 4095));
        let position = Position { writer: late, sequence: 7 };
        assert_eq!(position.to_string().parse(), Ok(position));
        for bad in ["", "1:2", "00069d3c5f3a1000", "00069D3C5F3A1000:1", "00069d3c5f3a1000:-1", "00069d3c5f3a1000:"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
