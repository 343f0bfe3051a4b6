//! The limits of a writer.

use std::time::Duration;

use super::format::{BLOCK_LEN, PAYLOAD_LEN_MAX, RECORD_HEAD_LEN, SOURCE_LEN, padded_len};
use crate::proto::{FRAME_LEN_MAX, HEADER_LEN};

/// The limits of a writer.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Bytes of a segment, a multiple of [`BLOCK_LEN`].
    pub segment_len: u64,
    /// Bytes of the largest commit, header and padding included. A record that does not fit into one
    /// is refused: see [`WriterOptions::commit_len_for`].
    pub commit_len_max: usize,
    /// Commits that are written at once.
    pub commits_in_flight: usize,
    /// Bytes gathered and in flight above which [`ready`](super::Appender::ready) waits. What is staged after it
    /// may pass this by one read buffer.
    pub bytes_max: usize,
    /// Free bytes of the file system below which records are refused.
    pub min_free: u64,
    /// How often free space is looked at, and making a segment is tried again.
    pub space_interval: Duration,
    /// The age of a segment's first record at which the writer moves on to the next segment, even if this one is
    /// almost empty. With `None`, the writer fills each segment completely.
    pub roll_age: Option<Duration>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        WriterOptions {
            segment_len: SEGMENT_LEN,
            commit_len_max: COMMIT_LEN_MAX,
            commits_in_flight: COMMITS_IN_FLIGHT,
            bytes_max: BYTES_MAX,
            min_free: MIN_FREE,
            space_interval: SPACE_INTERVAL,
            roll_age: None,
        }
    }
}

impl WriterOptions {
    /// The length of a commit that holds at least one record with a payload of so many bytes.
    pub const fn commit_len_for(payload_len: usize) -> usize {
        padded_len(SOURCE_LEN + RECORD_HEAD_LEN + payload_len)
    }

    /// The least that a segment may have: a header's block and the largest commit.
    pub const fn segment_len_min(&self) -> u64 {
        (BLOCK_LEN + self.commit_len_max.next_multiple_of(BLOCK_LEN)) as u64
    }

    /// Whether the limits fit each other; what is wrong if they don't.
    pub fn check(&self) -> Result<(), &'static str> {
        if !self.segment_len.is_multiple_of(BLOCK_LEN as u64) {
            return Err("a segment's length is a multiple of 4096");
        }
        if self.commit_len_max < WriterOptions::commit_len_for(0) || self.commit_len_max > PAYLOAD_LEN_MAX {
            return Err("a commit has from 4096 bytes to 2 GiB");
        }
        if self.segment_len < self.segment_len_min() {
            return Err("a segment holds a header of 4096 bytes and the largest commit");
        }
        if self.commits_in_flight == 0 || self.bytes_max == 0 || self.space_interval.is_zero() {
            return Err("the commits in flight, the bytes gathered and the interval are at least 1");
        }
        Ok(())
    }
}

/// The default of [`WriterOptions::segment_len`].
pub const SEGMENT_LEN: u64 = 64 << 20;
/// The default of [`WriterOptions::commit_len_max`], which is enough for one message of the default frame limit.
pub const COMMIT_LEN_MAX: usize = (1 << 20) + 4096;
/// The default of [`WriterOptions::commits_in_flight`].
pub const COMMITS_IN_FLIGHT: usize = 4;
/// The largest [`WriterOptions::commits_in_flight`].
pub const COMMITS_IN_FLIGHT_MAX: usize = 64;
/// The default of [`WriterOptions::bytes_max`].
pub const BYTES_MAX: usize = 8 << 20;
/// The default of [`WriterOptions::min_free`].
pub const MIN_FREE: u64 = 64 << 20;
/// The default of [`WriterOptions::space_interval`].
pub const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// The directory of the journal where no other is named.
pub const DATA_DIR: &str = "./ringpost-data";

const _: () = assert!(COMMIT_LEN_MAX >= WriterOptions::commit_len_for(FRAME_LEN_MAX as usize - HEADER_LEN));
