//! The limits of a writer, and their defaults.
//!
//! The limits depend on each other: [`WriterOptions::check`] is the rule. This module knows the sizes of the format,
//! and no files.

use std::time::Duration;

use super::format::{BLOCK_LEN, PAYLOAD_LEN_MAX, RECORD_HEAD_LEN, SOURCE_LEN, padded_len};
use crate::proto::{FRAME_LEN_MAX, HEADER_LEN};

/// The limits of a writer.
///
/// ```
/// use ringpost::journal::WriterOptions;
///
/// let options = WriterOptions::default().segment_len(8 << 20).commits_in_flight(2);
/// assert_eq!(options.check(), Ok(()));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WriterOptions {
    /// The length of a segment in bytes, a multiple of [`BLOCK_LEN`]. The default is 64 MiB.
    pub segment_len: u64,
    /// The length of the largest commit in bytes, header and padding included. A record that doesn't fit in one fails:
    /// see [`WriterOptions::commit_len_for`]. The default is 1 MiB and 4 KiB.
    pub commit_len_max: usize,
    /// The maximum number of commits that are being written at the same time. It must be 1 on a storage that may report
    /// an error to the wrong sync: see [`storage`](super::storage). The default is 4.
    pub commits_in_flight: usize,
    /// The bytes of records in open commits and in commits in flight from which on
    /// [`ready`](super::Appender::ready) waits. A batch that is staged afterwards may exceed this. The default is
    /// 8 MiB.
    pub bytes_max: usize,
    /// The free bytes of the file system below which records are refused. The default is 64 MiB.
    pub min_free: u64,
    /// How often free space is checked, and the longest time until making a segment is tried again. The default is 1 s.
    pub space_interval: Duration,
    /// The age of a segment's first record at which the writer moves on to the next segment, even if this one is
    /// almost empty. With `None`, the default, the writer fills each segment completely. See
    /// [`Retention::roll_age`](super::retention::Retention::roll_age).
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
    /// Sets the length of a segment in bytes.
    pub fn segment_len(mut self, segment_len: u64) -> Self {
        self.segment_len = segment_len;
        self
    }

    /// Sets the length of the largest commit in bytes.
    pub fn commit_len_max(mut self, commit_len_max: usize) -> Self {
        self.commit_len_max = commit_len_max;
        self
    }

    /// Sets the maximum number of commits that are being written at the same time.
    pub fn commits_in_flight(mut self, commits_in_flight: usize) -> Self {
        self.commits_in_flight = commits_in_flight;
        self
    }

    /// Sets the staged bytes from which on appenders wait.
    pub fn bytes_max(mut self, bytes_max: usize) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// Sets the free bytes of the file system below which records are refused.
    pub fn min_free(mut self, min_free: u64) -> Self {
        self.min_free = min_free;
        self
    }

    /// Sets how often free space is checked.
    pub fn space_interval(mut self, space_interval: Duration) -> Self {
        self.space_interval = space_interval;
        self
    }

    /// Sets the age of a segment's first record at which the writer moves on to the next segment.
    pub fn roll_age(mut self, roll_age: Option<Duration>) -> Self {
        self.roll_age = roll_age;
        self
    }

    /// Returns the length of a commit that has room for at least one record with a payload of this many bytes.
    pub const fn commit_len_for(payload_len: usize) -> usize {
        padded_len(SOURCE_LEN + RECORD_HEAD_LEN + payload_len)
    }

    /// Returns the minimum length of a segment in bytes: a block for the header, and the largest commit.
    pub const fn segment_len_min(&self) -> u64 {
        (BLOCK_LEN + self.commit_len_max.next_multiple_of(BLOCK_LEN)) as u64
    }

    /// Checks that the limits fit each other.
    ///
    /// # Errors
    /// An option is outside its limits. The error names it, and the values that are allowed.
    pub fn check(&self) -> Result<(), &'static str> {
        if !self.segment_len.is_multiple_of(BLOCK_LEN as u64) {
            return Err("the length of a segment must be a multiple of 4096 bytes");
        }
        if self.commit_len_max < WriterOptions::commit_len_for(0) || self.commit_len_max > PAYLOAD_LEN_MAX {
            return Err("the length of the largest commit must be between 4096 bytes and 2 GiB");
        }
        if self.segment_len < self.segment_len_min() {
            return Err("a segment must have room for a header of 4096 bytes and the largest commit");
        }
        if self.commits_in_flight == 0 || self.bytes_max == 0 || self.space_interval.is_zero() {
            return Err("the commits in flight, the staged bytes and the interval of space checks must not be 0");
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
/// The default directory of the journal.
pub const DATA_DIR: &str = "./ringpost-data";

const _: () = assert!(COMMIT_LEN_MAX >= WriterOptions::commit_len_for(FRAME_LEN_MAX as usize - HEADER_LEN));
