//! A storage on plain files, for embedded journals, tests and tools. Each operation is a blocking call, and a sync is
//! fdatasync.
//!
//! It needs no ring. Calls block the thread of the writer, so there is one sync at a time and no sync can take an error
//! that another one must report. Only preallocating a new segment runs on a blocking thread of tokio.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::buffer::Buffer;
use super::format::BLOCK_LEN;
use super::layout::{Access, sync_dir};
use super::moment::BootTime;
use super::position::{Durable, PositionFile};
use super::storage::{Prealloc, Storage};

/// The files of one writer, accessed by blocking calls on the writer's thread. See [`Writer`](super::Writer) for an
/// example. The tokio runtime needs no more than its timer.
#[derive(Debug)]
pub struct FileStorage {
    dir: PathBuf,
    access: Access,
    position: PositionFile,
}

impl FileStorage {
    /// Returns the storage of a writer's directory, which [`dir::claim`](super::dir::claim) has made.
    ///
    /// # Errors
    /// The position file can't be created.
    pub fn new(writer_dir: &Path) -> io::Result<Self> {
        let (position, access) = (PositionFile::create(writer_dir)?, Access::of(writer_dir)?);
        Ok(FileStorage { dir: writer_dir.to_owned(), access, position })
    }
}

impl Storage for FileStorage {
    type File = File;

    async fn create(&self, name: &str, len: u64, prealloc: Prealloc) -> io::Result<File> {
        let (path, access) = (self.dir.join(name), self.access);
        let made = tokio::task::spawn_blocking(move || {
            let file = File::options().create(true).truncate(true).read(true).write(true).mode(0o600).open(path)?;
            access.apply(&file)?;
            preallocate(&file, len, prealloc).map(|()| file)
        });
        made.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    async fn write_at(&self, file: &File, offset: u64, buffer: Buffer, from: usize) -> (io::Result<usize>, Buffer) {
        (file.write_at(&buffer.as_slice()[from..], offset), buffer)
    }

    async fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    async fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)?;
        file.sync_all()
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    async fn sync_dir(&self) -> io::Result<()> {
        sync_dir(&self.dir)
    }

    async fn free_space(&self) -> io::Result<u64> {
        free_space(&self.dir)
    }

    async fn publish(&self, durable: Durable) -> io::Result<()> {
        self.position.publish(durable)
    }

    fn boot_time(&self) -> Option<BootTime> {
        BootTime::now()
    }
}

/// Returns how many bytes are free for files in this directory.
///
/// # Errors
/// The file system doesn't report it.
pub fn free_space(dir: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(dir)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Extends an empty file to `len` bytes of zeros that have their blocks on the disk. This blocks for as long as the
/// disk needs.
///
/// # Errors
/// The file system has no space, or refuses for another reason.
pub fn preallocate(file: &File, len: u64, prealloc: Prealloc) -> io::Result<()> {
    match allocate(file, len) {
        Ok(()) if prealloc == Prealloc::Unwritten => return Ok(()),
        // Writing zeros allocates blocks as well.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let mut zeros = Buffer::new(FILL_LEN);
    while zeros.room() > 0 {
        zeros.push(&[0; BLOCK_LEN]);
    }
    let mut offset = 0;
    while offset < len {
        let count = (len - offset).min(FILL_LEN as u64);
        file.write_all_at(&zeros.as_slice()[..count as usize], offset)?;
        offset += count;
    }
    Ok(())
}

/// Allocates blocks in pieces: btrfs frees a piece only as a whole, and a closed writer truncates everything that it
/// has not used.
fn allocate(file: &File, len: u64) -> Result<(), rustix::io::Errno> {
    let mut offset = 0;
    while offset < len {
        let count = (len - offset).min(ALLOCATE_LEN);
        rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), offset, count)?;
        offset += count;
    }
    Ok(())
}

/// Bytes of a file that are allocated per call.
const ALLOCATE_LEN: u64 = 1 << 20;
/// Bytes of a file that are filled per write. Commits are written in between.
const FILL_LEN: usize = 256 << 10;
