//! The journal's files on the shard's engine: each write bypasses the page cache, if the file system allows that, and
//! returns once the data is on the disk (O_DIRECT, RWF_DSYNC).
//!
//! All other file system calls block, and run on dedicated threads: even a call that normally returns within a
//! microsecond waits for as long as the disk stalls, and the shard continues meanwhile.
//!
//! The journal decides what is written and when. This module only carries it out.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use tracing::warn;

use crate::blocking::Threads;
use crate::engine::{self, Engine};
use crate::journal::Buffer;
use crate::journal::dir::WriterDir;
use crate::journal::file_storage::{free_space, preallocate};
use crate::journal::file_system::{FileSystem, PageCache};
use crate::journal::layout::{Access, POSITION, remove_if_there};
use crate::journal::moment::{BootTime, Moment};
use crate::journal::position::{Durable, PositionFile};
use crate::journal::retention::Retention;
use crate::journal::storage::{Prealloc, Storage};
use crate::journal::watch::{MissingFile, Watch};

/// The files of one writer, on the engine of this thread.
pub struct EngineStorage {
    engine: Engine,
    dir: PathBuf,
    /// Stays open with the writer. So a sync needs no new descriptor, which might not be available, and reports every
    /// error since the opening.
    dir_file: Arc<fs::File>,
    access: Access,
    position: Arc<PositionFile>,
    retention: Retention,
    threads: Threads,
    file_system: FileSystem,
    watch: Arc<Watch>,
    /// A thread for the watch alone, which may hang with the disk.
    watch_thread: Threads,
}

impl EngineStorage {
    /// Opens the storage of a writer's directory. Segments that `retention` releases are recycled.
    ///
    /// # Errors
    /// The directory can't be opened, its position file can't be created, or the system refuses a thread.
    pub fn new(engine: Engine, writer: &WriterDir, retention: Retention) -> io::Result<Self> {
        let writer_dir = &*writer.path;
        // Probe the file system with the position file's name before the file is created.
        let file_system = FileSystem::of(&writer_dir.join(POSITION))?;
        let position = Arc::new(PositionFile::create(writer_dir)?);
        let dir_file = Arc::new(fs::File::open(writer_dir)?);
        let access = Access::of(writer_dir)?;
        let threads = Threads::new(THREADS_MAX)?;
        let dir = writer_dir.to_owned();
        let (watch, watch_thread) = (Arc::new(writer.watch()?), Threads::new(1)?);
        Ok(EngineStorage {
            engine,
            dir,
            dir_file,
            access,
            position,
            retention,
            threads,
            file_system,
            watch,
            watch_thread,
        })
    }

    /// Returns whether writes go through the page cache. If they do, only one commit may be in flight.
    pub fn page_cache(&self) -> PageCache {
        self.file_system.page_cache
    }
}

impl Storage for EngineStorage {
    type File = engine::File;

    async fn create(&self, name: &str, len: u64, prealloc: Prealloc) -> io::Result<engine::File> {
        let (path, access) = (self.dir.join(name), self.access);
        let file = self.threads.call(move || create(&path, len, prealloc, access)).await?;
        Ok(engine::File::new(self.engine, file))
    }

    async fn recycle(&self, name: &str, len: u64) -> Option<engine::File> {
        let (retention, path, access) = (self.retention, self.dir.join(name), self.access);
        let file = self.threads.call(move || recycle(retention, &path, len, access)).await;
        let file = file.unwrap_or_else(|error| {
            warn!("can't recycle an old segment; creating a new one: {error}");
            None
        })?;
        Some(engine::File::new(self.engine, file))
    }

    async fn write_at(
        &self,
        file: &engine::File,
        offset: u64,
        mut buffer: Buffer,
        from: usize,
    ) -> (io::Result<usize>, Buffer) {
        // Offset 0 is a segment's header.
        #[cfg(feature = "test-hooks")]
        if offset > 0 && crate::testing::faults::write_fails() {
            return (Err(io::Error::from_raw_os_error(libc::EIO)), buffer);
        }
        let (memory, range) = buffer.lend(from);
        let (result, memory) = file.write_durably(offset, memory, range).await;
        buffer.restore(memory);
        (result, buffer)
    }

    /// Does nothing: a file is created whole and synced, and each write is durable when it returns.
    async fn sync(&self, _file: &engine::File) -> io::Result<()> {
        Ok(())
    }

    async fn truncate(&self, file: &engine::File, len: u64) -> io::Result<()> {
        let file = file.descriptor();
        self.threads
            .call(move || {
                rustix::fs::ftruncate(&file, len)?;
                Ok(rustix::fs::fsync(&file)?)
            })
            .await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.dir.join(from), self.dir.join(to));
        self.threads.call(move || fs::rename(from, to)).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        self.threads.call(move || fs::remove_file(path)).await
    }

    async fn sync_dir(&self) -> io::Result<()> {
        let dir = self.dir_file.clone();
        self.threads.call(move || dir.sync_all()).await
    }

    async fn free_space(&self) -> io::Result<u64> {
        let dir = self.dir.clone();
        self.threads.call(move || free_space(&dir)).await
    }

    async fn publish(&self, durable: Durable) -> io::Result<()> {
        let position = self.position.clone();
        self.threads.call(move || position.publish(durable)).await
    }

    async fn missing_file(&self, segments: Vec<(u32, Rc<engine::File>)>) -> io::Result<Option<MissingFile>> {
        let segments: Vec<_> = segments.into_iter().map(|(number, file)| (number, file.descriptor())).collect();
        let watch = self.watch.clone();
        self.watch_thread.call(move || Ok(watch.look(&segments).err())).await
    }

    fn boot_time(&self) -> Option<BootTime> {
        BootTime::now()
    }

    fn copies_on_write(&self) -> bool {
        self.file_system.copies_on_write
    }
}

/// Renames a segment that retention releases to `path`, and opens it. Returns `None` if there is none.
fn recycle(retention: Retention, path: &Path, len: u64, access: Access) -> io::Result<Option<fs::File>> {
    let data_dir =
        path.ancestors().nth(2).expect("a segment is in a writer's directory, which is in the data directory");
    if !retention.recycle(data_dir, len, path, Moment::now())? {
        return Ok(None);
    }
    let file = open(path, &mut fs::File::options())?;
    // The old file may have been created with another mode.
    access.apply(&file)?;
    Ok(Some(file))
}

fn open(path: &Path, options: &mut fs::OpenOptions) -> io::Result<fs::File> {
    let mut open = |flags| options.read(true).write(true).custom_flags(flags).open(path);
    match open(libc::O_DIRECT) {
        // The file system has no direct I/O: writes go through the page cache, and each one is still durable.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0),
        opened => opened,
    }
}

fn create(path: &Path, len: u64, prealloc: Prealloc, access: Access) -> io::Result<fs::File> {
    // A file of this name may be one that was being recycled and has got its old name back after a crash.
    remove_if_there(path)?;
    let file = open(path, fs::File::options().create_new(true).mode(0o600))?;
    access.apply(&file)?;
    preallocate(&file, len, prealloc)?;
    file.sync_all()?;
    Ok(file)
}

/// Threads for a writer's calls: one creates a segment, one publishes, and one closes.
const THREADS_MAX: usize = 3;
