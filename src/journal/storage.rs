//! The operations that a writer needs from a disk, on the files of one writer's directory.
//!
//! A storage may complete operations in any order, and reports what really happened. It does not know the journal's
//! format. **The writer relies on this:** when [`Storage::sync`] has returned, every write to that file that had
//! completed before the sync was started survives a crash. When [`Storage::sync_dir`] has returned, so does every
//! rename and removal before it.
//!
//! If the kernel reports a write-back error only once per file (Linux does so for buffered writes), two concurrent
//! syncs may both need to see it: the writer treats the first error as final, but it believes a sync that has succeeded
//! before. A storage of that kind must run one sync at a time, or needs a writer with one commit in flight
//! ([`WriterOptions::commits_in_flight`](super::WriterOptions::commits_in_flight)).

use std::io;
use std::rc::Rc;

use super::buffer::Buffer;
use super::moment::BootTime;
use super::position::Durable;
use super::watch::MissingFile;
use crate::clock::wall_nanos;

/// How the blocks of a new segment are preallocated. Which one is faster depends on the length of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prealloc {
    /// Zeros are written to all blocks. The disk writes the file twice, but a commit's sync has no metadata to write.
    ZeroFilled,
    /// Blocks are only allocated. With each commit the file system notes that its blocks are in use, and the commit's
    /// sync waits for that.
    Unwritten,
}

/// The files of one writer. All names are within its directory. Offsets and lengths are in bytes.
///
/// All futures are awaited on the writer's thread. An operation whose future was dropped may still be executed.
pub trait Storage: 'static {
    /// An open segment.
    type File: 'static;

    /// Creates a file of `len` bytes that read as zeros, with disk space for all of them. It replaces a file of that
    /// name.
    ///
    /// # Errors
    /// [`StorageFull`](io::ErrorKind::StorageFull) or [`QuotaExceeded`](io::ErrorKind::QuotaExceeded) mean that there
    /// is no space. The writer tries again after any error.
    fn create(&self, name: &str, len: u64, prealloc: Prealloc) -> impl Future<Output = io::Result<Self::File>>;

    /// Renames a segment of `len` bytes that is no longer kept to `name`, and opens it. It replaces a file of that
    /// name. Its blocks must be allocated and written; its content is arbitrary. Returns `None` if there is no such
    /// segment, or it can't be renamed. The default implementation returns `None`.
    fn recycle(&self, name: &str, len: u64) -> impl Future<Output = Option<Self::File>> {
        let _ = (name, len);
        std::future::ready(None)
    }

    /// Writes the bytes of the buffer from `from` on, at `offset`. Both are multiples of a block, and so is the
    /// buffer's length. Returns the number of bytes that were written, which may be less, and the buffer.
    ///
    /// # Errors
    /// `StorageFull` and `QuotaExceeded` mean that there is no space, and the writer recovers. `Interrupted` and
    /// `WouldBlock` make it repeat the write. Every other error is final.
    fn write_at(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: Buffer,
        from: usize,
    ) -> impl Future<Output = (io::Result<usize>, Buffer)>;

    /// Makes completed writes durable, and what [`Self::create`] and [`Self::recycle`] did. A storage whose operations
    /// are already durable when they return has nothing to do.
    ///
    /// # Errors
    /// Every error is final for the writer, except while a segment is made.
    fn sync(&self, file: &Self::File) -> impl Future<Output = io::Result<()>>;

    /// Truncates a file that is not being written to. The change is durable when this returns.
    fn truncate(&self, file: &Self::File, len: u64) -> impl Future<Output = io::Result<()>>;

    /// Renames a file. [`Self::sync_dir`] makes this durable.
    fn rename(&self, from: &str, to: &str) -> impl Future<Output = io::Result<()>>;

    /// Removes a file. [`Self::sync_dir`] makes this durable.
    fn remove(&self, name: &str) -> impl Future<Output = io::Result<()>>;

    /// Makes renames and removals durable.
    fn sync_dir(&self) -> impl Future<Output = io::Result<()>>;

    /// Returns how many bytes of the file system are free for new files.
    fn free_space(&self) -> impl Future<Output = io::Result<u64>>;

    /// Publishes how far the writer is durable, for readers and retention. This need not survive a crash.
    fn publish(&self, durable: Durable) -> impl Future<Output = io::Result<()>>;

    /// Checks whether these open segments, by their numbers, and the writer's other files are still in their places.
    /// Returns one that is not. The default implementation checks nothing.
    ///
    /// # Errors
    /// It can't be checked.
    fn missing_file(
        &self,
        segments: Vec<(u32, Rc<Self::File>)>,
    ) -> impl Future<Output = io::Result<Option<MissingFile>>> {
        let _ = segments;
        std::future::ready(Ok(None))
    }

    /// Returns whether overwriting a block that was written before needs a new block, so that a segment of such blocks
    /// does not guarantee space.
    fn copies_on_write(&self) -> bool {
        false
    }

    /// Returns the time of the wall clock, in nanoseconds since 1970.
    fn now(&self) -> u64 {
        wall_nanos()
    }

    /// Returns the time since the host's boot, for segment headers. `None` omits it.
    fn boot_time(&self) -> Option<BootTime> {
        None
    }
}
