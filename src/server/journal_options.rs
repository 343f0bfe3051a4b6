//! The options of a server's journal.

use std::path::PathBuf;

use crate::invalid_option::InvalidOption;
use crate::journal::id::SHARDS_MAX;
use crate::journal::layout::Access;
use crate::journal::options as writer;
use crate::journal::retention::Retention;
use crate::journal::{BLOCK_LEN, DATA_DIR, WriterOptions};
use crate::proto::HEADER_LEN;

/// The options of a server's journal, which has one writer per shard.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JournalOptions {
    /// The journal's directory. It is created if it does not exist.
    pub data_dir: PathBuf,
    /// The users who may read the journal besides the server's own.
    pub access: Access,
    /// The limits beyond which the oldest segments are removed.
    pub retention: Retention,
    /// Bytes of a segment, a multiple of 4096. Each shard has one, and the next one ready.
    pub segment_len: u64,
    /// Bytes of the largest group of messages in one write, header and padding included. One frame may need more.
    pub(crate) commit_len_max: usize,
    /// Free bytes of the file system below which messages are refused.
    pub min_free: u64,
    /// Commits that a shard writes at the same time.
    pub commits_in_flight: usize,
    /// Bytes that a shard gathers and writes before it stops reading. `None` is 8 MiB.
    pub journal_memory: Option<usize>,
}

impl Default for JournalOptions {
    fn default() -> Self {
        JournalOptions {
            data_dir: DATA_DIR.into(),
            access: Access::default(),
            retention: Retention::default(),
            segment_len: writer::SEGMENT_LEN,
            commit_len_max: writer::COMMIT_LEN_MAX,
            min_free: writer::MIN_FREE,
            commits_in_flight: writer::COMMITS_IN_FLIGHT,
            journal_memory: None,
        }
    }
}

impl JournalOptions {
    /// Returns the options of a journal in this directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        JournalOptions { data_dir: data_dir.into(), ..JournalOptions::default() }
    }

    /// Sets what is kept.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Sets the bytes of a segment.
    pub fn segment_len(mut self, segment_len: u64) -> Self {
        self.segment_len = segment_len;
        self
    }

    /// Sets the free bytes of the file system below which messages are refused.
    pub fn min_free(mut self, min_free: u64) -> Self {
        self.min_free = min_free;
        self
    }

    /// Returns the bytes that a shard gathers and writes before it stops reading.
    pub fn bytes_max(&self) -> usize {
        self.journal_memory.unwrap_or(writer::BYTES_MAX)
    }

    /// Returns the options of each shard's writer, for frames of at most `frame_len_max` bytes.
    pub fn writer_options(&self, frame_len_max: u32) -> WriterOptions {
        let frame = WriterOptions::commit_len_for(frame_len_max as usize - HEADER_LEN);
        WriterOptions {
            segment_len: self.segment_len,
            commit_len_max: frame.max(self.commit_len_max),
            commits_in_flight: self.commits_in_flight,
            bytes_max: self.bytes_max(),
            min_free: self.min_free,
            space_interval: writer::SPACE_INTERVAL,
            roll_age: self.retention.roll_age(),
        }
    }

    /// Checks every option, for so many `shards` with frames of at most `frame_len_max` bytes.
    ///
    /// # Errors
    /// The first option whose value is refused.
    pub fn validate(&self, shards: usize, frame_len_max: u32) -> Result<(), InvalidOption> {
        if frame_len_max > FRAME_LEN_MAX {
            let rule = "must be at most 1 GiB with a journal; use a smaller limit, or set `sink` to discard";
            return Err(InvalidOption::new("frame_len_max", frame_len_max, rule));
        }
        let min = self.writer_options(frame_len_max).segment_len_min();
        if self.segment_len < min || !self.segment_len.is_multiple_of(BLOCK_LEN as u64) {
            let rule = format!("must be a multiple of {BLOCK_LEN} bytes, and at least {min} with this `frame_len_max`");
            return Err(InvalidOption::new("segment_len", self.segment_len, rule));
        }
        if !(1..=writer::COMMITS_IN_FLIGHT_MAX).contains(&self.commits_in_flight) {
            let rule = format!("must be from 1 to {}", writer::COMMITS_IN_FLIGHT_MAX);
            return Err(InvalidOption::new("commits_in_flight", self.commits_in_flight, rule));
        }
        if self.bytes_max() < JOURNAL_MEMORY_MIN {
            let rule = format!("must be at least {JOURNAL_MEMORY_MIN} bytes");
            return Err(InvalidOption::new("journal_memory", self.bytes_max(), rule));
        }
        if shards > SHARDS_MAX {
            let rule = format!("must be at most {SHARDS_MAX} with a journal; use fewer, or set `sink` to discard");
            return Err(InvalidOption::new("shards", shards, rule));
        }
        Ok(())
    }
}

/// The least [`JournalOptions::journal_memory`]: what one full read buffer of the default size adds.
pub const JOURNAL_MEMORY_MIN: usize = 72 << 10;
/// The largest frame that a journal's format holds.
const FRAME_LEN_MAX: u32 = 1 << 30;
