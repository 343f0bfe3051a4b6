//! What a writer needs of a disk: the files of one writer's directory.
//!
//! A storage may complete operations in any order, and holds nothing back: what it reports is what
//! happened. **What the writer relies on:** when [`Storage::sync`] has returned, every write to that
//! file that had completed before it was asked for survives a crash; when [`Storage::sync_dir`] has,
//! so does every rename before it. A storage whose kernel reports a failed write only once per file
//! (Linux does so for buffered writes) must not let one sync hear the error of another's write: the writer treats the
//! first error as final, but a sync that said success before is believed. Such a storage needs a writer with one commit
//! in flight ([`WriterOptions::commits_in_flight`](super::WriterOptions::commits_in_flight)), or a sync at a time.

use std::io;

use super::buffer::Buffer;
use super::id::now_nanos;
use super::moment::BootTime;
use super::position::Durable;

/// How a new file comes to read as zeros, each of which is the faster one for some commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// They are written: the disk writes the file twice, and a commit's sync has no metadata to write.
    Written,
    /// Blocks are only set aside for them: with each commit the file system notes that its blocks are in
    /// use, which its sync waits for.
    Promised,
}

/// The files of one writer. All names are within its directory.
pub trait Storage: 'static {
    /// An open segment.
    type File: 'static;

    /// Makes a file of `len` bytes that read as zeros, with room on the disk for all of them; one of
    /// that name is replaced.
    fn create(&self, name: &str, len: u64, zeros: Zeros) -> impl Future<Output = io::Result<Self::File>>;

    /// Gives a file of `len` bytes that held a segment which is not kept any longer, under this name; one
    /// of that name is replaced. Its room on the disk is its own, and what it holds is anything. `None`
    /// where there is no such file, or it can't be had.
    fn recycle(&self, name: &str, len: u64) -> impl Future<Output = Option<Self::File>> {
        let _ = (name, len);
        std::future::ready(None)
    }

    /// Writes the bytes of the buffer from `from` on, at `offset`; both are multiples of a block, and so
    /// is the buffer's length. Returns how many were written, which may be fewer, and the buffer.
    fn write_at(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: Buffer,
        from: usize,
    ) -> impl Future<Output = (io::Result<usize>, Buffer)>;

    /// Makes completed writes last, and what [`Self::create`] and [`Self::recycle`] did. A storage for which
    /// all of that lasts already returns at once.
    fn sync(&self, file: &Self::File) -> impl Future<Output = io::Result<()>>;

    /// Truncates a file that is not being written to. The change is durable when this returns.
    fn truncate(&self, file: &Self::File, len: u64) -> impl Future<Output = io::Result<()>>;

    fn rename(&self, from: &str, to: &str) -> impl Future<Output = io::Result<()>>;

    fn remove(&self, name: &str) -> impl Future<Output = io::Result<()>>;

    /// Makes renames and removals last.
    fn sync_dir(&self) -> impl Future<Output = io::Result<()>>;

    /// Bytes that a file may still take.
    fn free_space(&self) -> impl Future<Output = io::Result<u64>>;

    /// Tells readers and retention how far everything is durable. It need not last.
    fn publish(&self, durable: Durable) -> impl Future<Output = io::Result<()>>;

    /// Returns whether overwriting a block that was written before needs a new one, so that a segment of such blocks
    /// does not guarantee space.
    fn copies_on_write(&self) -> bool {
        false
    }

    /// The wall clock, in nanoseconds since 1970.
    fn now(&self) -> u64 {
        now_nanos()
    }

    /// Returns the time since the host's boot, for segment headers. `None` omits it.
    fn boot_time(&self) -> Option<BootTime> {
        None
    }
}
