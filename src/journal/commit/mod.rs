//! Group commit: records are collected in one commit while earlier commits are written, and an ack waits for its own
//! commit and for every earlier one.
//!
//! No timer delays a commit. While fewer than [`WriterOptions::commits_in_flight`] commits are in flight, the open
//! commit is sealed and written as soon as the connections that are ready now have been served. While that many are in
//! flight, records are collected until one of these commits is finished.
//!
//! # Files
//!
//! * `writer_core`: the shared state, staging, sealing, writing. It uses all files below.
//! * `builder` (one open commit), `in_flight` (the commits that are being written), `condition` (whether records are
//!   accepted, as a state machine), `segment` (the segments that are open), `write` (one write), `outcome`, `observer`.
//! * `publish`: the task that publishes the durable position. It uses `writer_core`.
//!
//! # Invariants
//!
//! * Commit numbers and sequence numbers are assigned when a commit is sealed, so both have no gap on disk, whatever
//!   fails before.
//! * A commit's outcome is reported after that of every earlier one.
//! * **The first error of a commit's write or sync is final**: it fails every commit that has no outcome yet, and
//!   every later record. Nothing is tried again, because a second sync would acknowledge data that the failed one has
//!   dropped. The exception is a write that runs out of space, below.
//! * Without space for a segment, staged records fail, and so do later ones, until there is a segment again.
//!   Durable records stay durable.
//!
//! # Which errors are final
//!
//! "Final" means until a restart. An error is final only for the data that it concerns, and only if the write or the
//! sync of that data itself reports it.
//!
//! | what fails | with | then |
//! |------------|------|------|
//! | a commit's write | no space (ENOSPC, EDQUOT) | every commit from it on fails, the journal is cut back, and records are refused until a new segment is made |
//! | a commit's write | interrupted (EINTR, EAGAIN) | the write is repeated with the same bytes, at most 16 times in a row |
//! | a commit's write | anything else, or less than a block written twice in a row | **final** |
//! | a commit's sync | anything | **final** |
//! | a commit's task | a panic, or the end of its runtime | **final** |
//! | cutting back: truncating and syncing a file, removing a name, syncing the directory | no space, no descriptor, no memory, interrupted | tried again |
//! | cutting back | anything else | **final**: a commit that was answered with a failure might come back |
//! | making a segment: recycling an old one, or opening, filling and renaming a file, writing and syncing its header | anything | the segment is removed and made again; records are refused only if no segment is left |
//! | the sync of the directory after that | anything | the segment is removed and made again: nothing was written to it yet, and the new segment's name changes the directory again |
//! | publishing the position | anything | tried again; readers wait meanwhile |
//! | reading the free space | anything | treated as enough space |
//! | truncating the unused rest of a segment at shutdown | anything | logged; readers accept the files as they are |
//!
//! # A commit that runs out of space
//!
//! A segment's blocks are allocated before its first commit. A file system that copies on write (btrfs, ZFS,
//! bcachefs), a thin volume, or a file system without `fallocate` may still need new blocks for each write. When such
//! a write fails, its effect on the file is unknown: nothing, some blocks, or, if only the sync after it ran out of
//! space, the whole commit, which may even reach the disk later from the page cache. Later commits may have been
//! written completely. None of that may ever be found after commits that are acked later, so the writer goes back to
//! what is durable:
//!
//! 1. No further commit is started. Commits before the refused one keep their outcome. The refused commit and all
//!    later ones fail, in their order.
//! 2. When the last write in flight has ended (so that nothing can reach the file late), the segment of the last
//!    durable commit is truncated at the end of that commit, and synced. That drops blocks and pages alike. Later
//!    segments hold nothing durable: they are removed, and the directory is synced.
//! 3. A new segment is made, as for any full disk, with blocks that are allocated but not written: a file system that
//!    copies on write can fill those without new blocks. Commit and sequence numbers continue after the last durable
//!    ones, so the numbers of the failed commits are used again.
//!
//! It makes no difference whether the write itself ran out of space or the sync after it did. The page cache makes no
//! difference either: commits before the refused one were synced by their own writes, one at a time
//! ([`file_system`](super::file_system)), so the error can't affect them, and nothing of the refused commit is kept.
//!
//! A crash before the end of step 2 leaves commits after the durable ones that no later commit calls durable. They
//! are a torn tail, or messages that were answered with a failure and exist nevertheless, which is allowed. After
//! step 2 the failed commits are gone, and the files read as if those commits had never been written. So no commit
//! number is ever used for two commits that a reader can find, and the rule of [Damage](super#damage) still holds.
//!
//! [`WriterOptions::commits_in_flight`]: super::WriterOptions::commits_in_flight

mod builder;
pub mod condition;
mod in_flight;
pub mod observer;
pub mod outcome;
pub mod publish;
pub mod segment;
pub mod write;
pub mod writer_core;
