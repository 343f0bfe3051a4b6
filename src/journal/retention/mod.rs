//! Retention: decides which old segments are removed, by the bytes of all messages and by their age, over all writers
//! together.
//!
//! Whole segments are removed, the oldest first. A segment that a live writer writes to, or will write to, is never
//! removed: of a live writer, only segments before the one with its last durable commit are removed, and everything in
//! these is durable. Any segment of a dead writer may be removed, and the writer is removed with its last segment. A
//! writer without a lock file is left alone: the next start decides whether it is dead.
//!
//! An expired segment is removed, or it is recycled: if a writer needs a segment at that moment, the file becomes the
//! writer's next one. Its blocks are allocated, and most of them were written, so it need not be filled. Only segments
//! before the one with the last durable commit are recycled, also those of a dead writer: a late write of a killed
//! process can't reach them.
//!
//! # Order and age
//!
//! File timestamps are not used: a copy, a restore or a wrong clock changes them. Segments are ordered by the starts
//! of their writers, as their IDs show it (a start uses an ID above all others, whatever the clock shows). Among the
//! writers of one start, they are ordered by the last message of each segment, and within one writer by segment
//! number.
//!
//! A segment's last message was received before the segment after the next one was made, because that one is made when
//! the next one is first written to. Segment headers say when the segments were made, by two clocks
//! ([`Moment`](super::moment::Moment)):
//!
//! * On this boot, the age is the time since boot that has passed since then. The wall clock may have been set
//!   meanwhile, or be wrong now.
//! * On an earlier boot, the wall clock counts, as it was last set on that boot. If everything that it showed is
//!   before this program existed, or in the future, the next later plausible time counts. Such segments are removed
//!   by age only once the host has been up for [`CLOCK_GRACE`], since a host's clock is set right within that time.
//!
//! If there is no segment after the next one, the receive time of the last message counts, provided that it is between
//! the time in the segment's header and the present. If nothing is known, the segment stays.

mod enforcer;
mod limits;
mod plan;
#[cfg(test)]
mod tests;

pub use enforcer::{Enforcer, Removed};
pub use limits::{INTERVAL, Retention};
pub use plan::CLOCK_GRACE;
