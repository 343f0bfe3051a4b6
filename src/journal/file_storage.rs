//! A storage on plain files: each operation is a blocking call, a sync is fdatasync.
//!
//! It needs no ring. Calls block their thread, one sync at a time, so that each sync has the errors
//! of its own file to itself; only the filling of a new segment goes to a thread of tokio's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::buffer::Buffer;
use super::dir;
use super::position::{Durable, PositionFile};
use super::storage::Storage;

/// The files of one writer, by blocking calls.
#[derive(Debug)]
pub struct FileStorage {
    dir: PathBuf,
    position: PositionFile,
}

impl FileStorage {
    /// The storage of a writer's directory.
    ///
    /// # Errors
    /// Its position file can't be made.
    pub fn new(writer_dir: &Path) -> io::Result<Self> {
        Ok(FileStorage { dir: writer_dir.to_owned(), position: PositionFile::create(writer_dir)? })
    }
}

impl Storage for FileStorage {
    type File = File;

    /// Filled with zeros: a file that was only allocated pays for its metadata with each sync, which
    /// costs a quarter of the throughput.
    async fn create(&self, name: &str, len: u64) -> io::Result<File> {
        let path = self.dir.join(name);
        let filled = tokio::task::spawn_blocking(move || {
            let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
            let zeros = vec![0; ZEROS_LEN];
            let mut offset = 0;
            while offset < len {
                let count = (len - offset).min(ZEROS_LEN as u64);
                file.write_all_at(&zeros[..count as usize], offset)?;
                offset += count;
            }
            Ok(file)
        });
        filled.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    async fn write_at(&self, file: &File, offset: u64, buffer: Buffer, from: usize) -> (io::Result<usize>, Buffer) {
        (file.write_at(&buffer.as_slice()[from..], offset), buffer)
    }

    async fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    async fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    async fn sync_dir(&self) -> io::Result<()> {
        dir::sync_dir(&self.dir)
    }

    async fn free_space(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.dir)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn publish(&self, durable: Durable) {
        if let Err(error) = self.position.publish(durable) {
            warn!("can't tell followers how far the journal is: {error}");
        }
    }
}

/// Zeros that are written at once.
const ZEROS_LEN: usize = 1 << 20;
