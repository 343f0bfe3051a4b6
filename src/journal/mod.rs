//! The journal: messages on disk, in group commits, so that an ack can mean that a message is safe.
//!
//! This module owns the layout of everything below a data directory, the order in which it is
//! written, and what may be believed of it after a crash. It does not know the ring or the server:
//! a [`Writer`] drives any [`Storage`], on any single-threaded tokio executor.
//!
//! # What is promised
//!
//! **A record whose [`Appender::settle`] said durable is read back intact, once, in the order of its
//! connection**, after a crash of the process or of the machine, provided that the storage's sync
//! keeps what it has acknowledged. A record that was not acked may be there or not.
//!
//! # Layout
//!
//! ```text
//! DATA-DIR/
//!   start.lock                     held while a process starts, so that two starts don't cross
//!   00069d3c5f3a1000/              a writer: one shard of one process start; 16 hexadecimal digits
//!     lock                         flock, exclusive while the writer lives; says who it is
//!     position                     what is durable, for those who follow a live writer
//!     0000000000.seg               segments, numbered from 0
//!     0000000001.seg
//!     0000000002.seg.tmp           a segment that is being made; no reader looks at it
//! ```
//!
//! A start makes writers of its own and appends to no other: no other writer's tail is ever cut, and a late write
//! of a process that was killed lands in files that nobody else writes; those that may still be written
//! to are not recycled either.
//!
//! A writer's ID is the time of its start in microseconds since 1970, shifted left by 12, and the
//! number of its shard: as text or as a number, IDs sort by start time.
//!
//! All integers are big-endian, as on the wire. A segment is written in whole blocks of 4096 bytes,
//! as O_DIRECT asks for: the header has the first block, and every commit begins at a block.
//!
//! ```text
//!  offset  0          4096          4096 * n
//!          +----------+-------------+-------------+---------------------
//!          | header   | commit      | commit      | zeros to the end
//!          +----------+-------------+-------------+---------------------
//! ```
//!
//! Where `retention` lets a segment go, its file may become the next segment: it is *recycled*, and
//! what it held stands where otherwise zeros do, until commits are written over it. A reader takes none
//! of it for its own: the commits there have another writer's or another segment's number.
//!
//! **Segment header**, 80 bytes, then zeros to the end of its block. Earlier builds write and read only 52 bytes.
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |  0     | 8     | magic, `RINGPOST` |
//! |  8     | 4     | format version: 1, or 2 where the segment was recycled; a reader refuses a later one by name |
//! | 12     | 4     | number of the segment |
//! | 16     | 8     | writer |
//! | 24     | 8     | salt: a random number of the writer, in each of its headers |
//! | 32     | 8     | when the segment was made, nanoseconds since 1970 |
//! | 40     | 8     | length of the segment in bytes |
//! | 48     | 4     | CRC32C of bytes 0 to 48 |
//! | 52     | 16    | ID of the boot on which the segment was made; this and all later fields are zero if the writer doesn't know them |
//! | 68     | 8     | when the segment was made, nanoseconds since that boot |
//! | 76     | 4     | CRC32C of bytes 0 to 76 |
//!
//! **Commit**: a header of 72 bytes, a body, and zeros to the end of the block. What stands behind
//! the body is not looked at: the body's length alone says where the commit ends and, rounded up to
//! a block, where the next one begins. A commit never spans segments.
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |  0     | 4     | magic, `RPCM` |
//! |  4     | 4     | CRC32C of bytes 8 to 72 |
//! |  8     | 8     | commit number, from 1 on, without a gap over all segments of the writer |
//! | 16     | 8     | durable number: the last commit known to be durable when this one was sealed, 0 for none |
//! | 24     | 8     | writer |
//! | 32     | 8     | salt |
//! | 40     | 8     | number of the first commit in this segment |
//! | 48     | 8     | sequence number of its first record; records count from 1, without a gap |
//! | 56     | 4     | number of the segment |
//! | 60     | 4     | length of the body in bytes |
//! | 64     | 4     | records in the body |
//! | 68     | 4     | CRC32C of the body |
//!
//! The header's CRC covers the body's, so each byte of a commit is under a checksum and is summed up
//! once. A header can be believed though its body is torn: that is what its durable number is for.
//! The salt keeps a payload that looks like a header from being taken for one, when a reader
//! searches behind damage: no client knows it.
//!
//! **Body**: entries side by side. Records of one connection that were received at once share what
//! they have in common, in a *source* entry before them; the first entry of a body is one.
//!
//! | entry  | bytes | fields |
//! |--------|------:|--------|
//! | source | 40    | `0x80000000` u32, 2 zero bytes, peer's port u16, peer's address as IPv6 16, receive time in nanoseconds since 1970 u64, connection number u64 |
//! | record | 12 + n | payload's length n u32 (below 2^31), the request's ID 8, payload |
//!
//! A record's sequence number is its place: the commit's first one plus its index.
//!
//! **Position**: one file of 36 bytes, overwritten as commits become durable: durable commit number u64,
//! sequence number of the last durable record u64, the segment that holds it u32, CRC32C of the
//! 20 bytes before u32, where that commit ends in its segment u64, CRC32C of the 32 bytes before u32.
//! It is not synced and may be older than what the disk holds, but is never ahead of it.
//!
//! # Damage
//!
//! A writer's commits are read in the order of their numbers. Where the next one can't be read, the
//! highest durable number that any readable commit header of that writer names decides: a commit up
//! to that number was durable, so its loss is **corruption**; what comes behind it is a **torn
//! tail**, never acked or at least never known to be, and ends the writer whatever follows. In a
//! recycled segment a torn tail shows only where a header of it is whole; where none is, nothing tells
//! it from what was there before, and the writer ends without a word.
//!
//! A block that the disk can't read is also damage, and is reported with the disk's error. A torn tail can't explain
//! it: if it is in the place of the next commit, that commit counts as lost, whether a durable number names it or
//! not.
//!
//! If a writer's directory is copied file by file while the writer lives, the files are from different moments: a
//! later file may prove that a commit was durable although the earlier file was copied before that commit was
//! written. Everything that was acked before the copying began is before that place. A reader treats the place as the
//! end of such a copy, and adds a note, if three conditions hold: the lock file was made later than its text says, so
//! the directory is a copy; the writer does not end as a closed one does; and nothing was ever written in that place.
//! Otherwise it is corruption. In a copy of a killed writer, a commit that the disk lost completely can't be
//! distinguished from this case; in the original it can.
//!
//! # The files
//!
//! * [`id`], [`record`]: what a writer, a position and a record are. `format`: the layout above.
//! * `dir`: the data directory, locks, lists. `position`: the position file. [`watch`]: whether a writer's files are
//!   still in their places.
//! * [`storage`]: the operations that a writer needs from a disk. [`file_storage`]: their implementation on plain
//!   files. [`file_system`]: how a file system treats the writes.
//! * [`writer`]: the writer of a shard. [`appender`]: a connection's access to it. They use `commit` (group commit),
//!   `segments` (making the next segment before it is needed), [`options`] and [`buffer`] (aligned memory).
//! * [`reader`]: all writers, merged. It uses `cursor` (one writer), `scan` (search after damage) and [`no_journal`]
//!   (paths that are not a journal).
//! * [`backup`]: a consistent copy, whether or not servers are writing.
//! * [`retention`]: which old segments are removed or recycled. [`moment`]: the two clocks that their age is known
//!   by.
//! * [`summary`]: the contents of the journal, from headers alone.

pub mod appender;
pub mod backup;
pub mod buffer;
mod clock;
mod commit;
mod cursor;
pub mod dir;
pub mod file_storage;
pub mod file_system;
mod format;
pub mod id;
pub mod moment;
pub mod no_journal;
pub mod options;
pub mod position;
pub mod reader;
pub mod record;
pub mod retention;
mod scan;
mod segments;
pub mod storage;
pub mod summary;
#[cfg(feature = "test-hooks")]
mod test_clock;
pub mod watch;
pub mod writer;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod writer_tests;

pub use appender::{Appender, Batch, Settled};
pub use buffer::Buffer;
pub use commit::condition::Condition;
pub use commit::observer::{Observer, WriterStats};
pub use commit::publish::PUBLISH_INTERVAL;
pub use file_storage::FileStorage;
pub use format::{BLOCK_LEN, FORMAT_VERSION};
pub use id::{Position, WriterId};
pub use options::{DATA_DIR, WriterOptions};
pub use reader::{ReadError, Reader, ReaderOptions, Start};
pub use record::Record;
pub use storage::{Prealloc, Storage};
pub use writer::Writer;
