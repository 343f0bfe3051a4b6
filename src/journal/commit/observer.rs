//! The reports of a writer about itself: calls of an observer as events happen, and figures on request.

use std::time::{Duration, Instant};

use super::super::position::Durable;
use super::condition::Condition;

/// The figures of a writer, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriterStats {
    /// Bytes of the records in open commits.
    pub open_bytes: usize,
    /// Bytes of the records in commits that are being written.
    pub in_flight_bytes: usize,
    /// The number of commits that are being written.
    pub commits_in_flight: usize,
    /// The last durable commit.
    pub durable: Durable,
    /// The number of segments that were made so far.
    pub segments: u32,
    /// The number of these that were recycled.
    pub recycled: u32,
    /// The free bytes of the file system at the last check, if they are known.
    pub free_space: Option<u64>,
    /// When the oldest record that has no outcome yet was staged.
    pub oldest: Option<Instant>,
}

/// A receiver of a writer's events, for metrics and health. It is called on the writer's thread and must not block or
/// call the writer.
pub trait Observer: 'static {
    /// Handles a commit of `bytes` bytes, padding included, that holds `records` records. It took `elapsed` from the
    /// seal to the end of the sync. The commit is durable once every earlier commit is.
    fn committed(&self, bytes: usize, records: u32, elapsed: Duration) {
        let _ = (bytes, records, elapsed);
    }

    /// Handles a change of the writer's condition.
    fn condition(&self, condition: &Condition) {
        let _ = condition;
    }
}

/// Ignores all events.
impl Observer for () {}
