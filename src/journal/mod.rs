//! The journal: messages on disk, in group commits, so that an ack can mean that a message is safe.
//!
//! This module owns the layout of everything below a data directory, the order in which it is written, and the rules
//! that decide what a crash has left intact. It does not know the ring or the server: a [`Writer`] drives any
//! [`Storage`], on any single-threaded tokio executor.
//!
//! # Guarantee
//!
//! **A record that [`Appender::settle`] reported as durable is read back intact, once, and in the order of its
//! connection**, after a crash of the process or of the machine, provided that the storage keeps what its sync has
//! acknowledged. A record that was not acked may or may not be there.
//!
//! # Layout
//!
//! ```text
//! DATA-DIR/
//!   start.lock                     locked while a process starts, so that two starts don't overlap
//!   00069d3c5f3a1000/              a writer: one shard of one process start; 16 hexadecimal digits
//!     lock                         locked exclusively (flock) while the writer is alive; names its process
//!     position                     what is durable, for readers that follow a live writer
//!     0000000000.seg               segments, numbered from 0
//!     0000000001.seg
//!     0000000002.seg.tmp           a segment that is being prepared; readers ignore it
//! ```
//!
//! A start creates writers of its own and appends to no other. So the tail of another writer is never cut, and a late
//! write of a killed process goes to files that no other process writes to. Files that such a write could still reach
//! are not recycled either.
//!
//! A writer's ID is the time of its start in microseconds since 1970, shifted left by 12, plus the number of its shard.
//! As text and as numbers, IDs sort by start time.
//!
//! All integers are big-endian, as on the wire. A segment is written in whole blocks of 4096 bytes, because O_DIRECT
//! requires that. The header occupies the first block, and every commit begins at a block boundary.
//!
//! ```text
//!  offset  0          4096          4096 * n
//!          +----------+-------------+-------------+---------------------
//!          | header   | commit      | commit      | zeros to the end
//!          +----------+-------------+-------------+---------------------
//! ```
//!
//! When `retention` expires a segment, its file may become the next segment: it is *recycled*. Until commits overwrite
//! it, its old content is where other segments have zeros. A reader does not mistake old commits for new ones, because
//! they name another writer or another segment.
//!
//! **Segment header**, 80 bytes, then zeros to the end of its block. Earlier builds write and read only 52 bytes.
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |  0     | 8     | magic, `RINGPOST` |
//! |  8     | 4     | format version: 1, or 2 if the segment was recycled; a reader refuses a later version |
//! | 12     | 4     | number of the segment |
//! | 16     | 8     | writer |
//! | 24     | 8     | salt: a random number of the writer, in each of its headers |
//! | 32     | 8     | when the segment was created, nanoseconds since 1970 |
//! | 40     | 8     | length of the segment in bytes |
//! | 48     | 4     | CRC32C of bytes 0 to 48 |
//! | 52     | 16    | ID of the boot on which the segment was created, or 0 if unknown, like all later fields |
//! | 68     | 8     | when the segment was created, nanoseconds since that boot |
//! | 76     | 4     | CRC32C of bytes 0 to 76 |
//!
//! **Commit**: a header of 72 bytes, a body, and zeros to the end of the block. Readers ignore the bytes after the
//! body: the body's length alone determines where the commit ends and, rounded up to a block, where the next one
//! begins. A commit never spans segments.
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |  0     | 4     | magic, `RPCM` |
//! |  4     | 4     | CRC32C of bytes 8 to 72 |
//! |  8     | 8     | commit number, from 1 on, without a gap over all segments of the writer |
//! | 16     | 8     | durable number: the last commit known to be durable when this one was sealed, or 0 |
//! | 24     | 8     | writer |
//! | 32     | 8     | salt |
//! | 40     | 8     | number of the first commit in this segment |
//! | 48     | 8     | sequence number of its first record; records are numbered from 1 on, without a gap |
//! | 56     | 4     | number of the segment |
//! | 60     | 4     | length of the body in bytes |
//! | 64     | 4     | records in the body |
//! | 68     | 4     | CRC32C of the body |
//!
//! The header's CRC covers the body's CRC, so each byte of a commit is covered by a checksum and is read once for it. A
//! header is valid even if its body is torn: its durable number is needed in exactly that case. When a reader searches
//! after damage, the salt distinguishes headers from payloads that look like headers, because no client knows the salt.
//!
//! **Body**: a sequence of entries. Records of one connection that were received by the same read share a *source*
//! entry before them. The first entry of a body is a source.
//!
//! | entry  | bytes | fields |
//! |--------|------:|--------|
//! | source | 40    | `0x80000000` u32, 2 zero bytes, port u16, address 16, receive time u64, connection u64 |
//! | record | 12 + n | payload's length n u32 (below 2^31), the request's ID 8, payload |
//!
//! A peer's address is an IPv6 address; an IPv4 address is mapped to one (`::ffff:192.0.2.1`). The receive time is in
//! nanoseconds since 1970. The connection has a number that is unique within its writer.
//!
//! A record's sequence number follows from its place: the commit's first sequence number plus the record's index.
//!
//! **Position**: one file of 36 bytes, overwritten as commits become durable. It is not synced, and may be older than
//! what the disk holds, but it is never ahead of it.
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |  0     | 8     | number of the last durable commit |
//! |  8     | 8     | sequence number of the last durable record |
//! | 16     | 4     | number of the segment that holds that commit |
//! | 20     | 4     | CRC32C of bytes 0 to 20 |
//! | 24     | 8     | where that commit ends in its segment, in bytes |
//! | 32     | 4     | CRC32C of bytes 0 to 32 |
//!
//! # Damage
//!
//! A writer's commits are read in the order of their numbers. If the next commit can't be read, the highest durable
//! number in any readable commit header of that writer decides. A commit up to that number was durable, so its loss is
//! **corruption**. A later commit is a **torn tail**: it was never acked, or at least never known to be, and the writer
//! ends there whatever follows. In a recycled segment, a torn tail is visible only if one of its headers is intact.
//! Without one, nothing distinguishes it from the old content, and the writer ends without a note.
//!
//! A block that the disk can't read is also damage, and is reported with the disk's error. A torn tail can't explain
//! such a block: if it is in the place of the next commit, that commit counts as lost, whether or not a durable number
//! covers it.
//!
//! If a writer's directory is copied file by file while the writer lives, the files are from different moments: a
//! later file may prove that a commit was durable although the earlier file was copied before that commit was
//! written. Everything that was acked before the copying began is before that place. A reader treats the place as the
//! end of such a copy, and adds a note, if three conditions hold: the lock file was created later than its text says,
//! so the directory is a copy; the writer does not end as a closed one does; and nothing was ever written in that
//! place. Otherwise it is corruption. In a copy of a killed writer, a commit that the disk lost completely can't be
//! distinguished from this case; in the original it can.
//!
//! # The files
//!
//! * [`id`], [`record`]: IDs of writers, positions, and records. `format`: the layout above.
//! * [`layout`]: the names in a data directory, and lists of what is there. [`dir`]: who may write there, and what
//!   happens to the files of dead writers. [`position`]: the position file. [`watch`]: whether a writer's files are
//!   still in their places.
//! * [`storage`]: the operations that a writer needs from a disk. [`file_storage`]: their implementation on plain
//!   files. [`file_system`]: how a file system treats the writes.
//! * [`writer`]: the writer of a shard. [`appender`]: a connection's access to it. They use `commit` (group commit),
//!   `segments` (preparing the next segment before it is needed), [`options`] and [`buffer`] (aligned memory).
//! * [`reader`]: all writers, merged. It uses `cursor` (one writer), `segment_file` (one segment), `salvage` (the
//!   search after damage) and [`no_journal`] (paths that are not a journal). [`error`]: what a reader reports besides
//!   records.
//! * [`backup`]: a consistent copy, whether or not servers are writing.
//! * [`retention`]: which old segments are removed or recycled. [`moment`]: the two clocks that their age is known
//!   by.
//! * [`summary`]: the contents of the journal, from headers alone.

pub mod appender;
pub mod backup;
pub mod buffer;
mod commit;
mod cursor;
pub mod dir;
pub mod error;
pub mod file_storage;
pub mod file_system;
mod format;
pub mod id;
pub mod layout;
pub mod moment;
pub mod no_journal;
pub mod options;
pub mod position;
pub mod reader;
pub mod record;
pub mod retention;
mod salvage;
mod segment_file;
mod segments;
pub mod storage;
pub mod summary;
pub mod watch;
pub mod writer;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod writer_tests;

pub use appender::{Appender, Batch, Settled};
pub use buffer::Buffer;
pub use commit::condition::Condition;
pub use commit::observer::{Observer, WriterStats};
pub use commit::publish::PUBLISH_INTERVAL;
pub use error::{Damage, Note, ReadError};
pub use file_storage::FileStorage;
pub use format::{BLOCK_LEN, FORMAT_VERSION};
pub use id::{Position, WriterId};
pub use options::{DATA_DIR, WriterOptions};
pub use reader::{Reader, ReaderOptions, Start};
pub use record::Record;
pub use storage::{Prealloc, Storage};
pub use writer::Writer;
