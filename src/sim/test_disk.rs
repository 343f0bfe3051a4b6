//! A simulated disk with a directory of its own, for unit tests.

use std::any::Any;
use std::cell::RefCell;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tempfile::TempDir;
use tokio::task::LocalSet;

use super::disk::{Descriptors, Disk, Faults, SimStorage};
use crate::journal::WriterId;
use crate::journal::retention::Retention;

/// A simulated disk with a data directory, which is removed with it.
pub struct TestDisk {
    disk: Rc<RefCell<Disk>>,
    dir: TempDir,
}

impl Deref for TestDisk {
    type Target = RefCell<Disk>;

    fn deref(&self) -> &RefCell<Disk> {
        &self.disk
    }
}

impl TestDisk {
    /// Returns an empty disk, in memory if possible.
    pub fn new(seed: u64, faults: Faults, capacity: u64) -> Self {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        TestDisk { disk: Disk::new(seed, dir.path(), faults, capacity), dir }
    }

    /// Returns the path of the data directory.
    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Changes the capacity of a disk that is not full, so that this many bytes are free.
    pub fn set_free(&self, bytes: u64) {
        let mut disk = self.disk.borrow_mut();
        disk.capacity = disk.capacity - disk.free() + bytes;
    }

    /// Returns the path of a writer's directory.
    pub fn writer_dir(&self, id: WriterId) -> PathBuf {
        self.data_dir().join(id.to_string())
    }

    /// Creates a writer's directory, if there is none, and opens its storage for a process. The process has as many
    /// descriptors as it asks for.
    pub fn open(&self, process: u32, id: WriterId, retention: Retention) -> SimStorage {
        let descriptors: Descriptors = Rc::new(|| Ok(Box::new(()) as Box<dyn Any>));
        fs::create_dir_all(self.writer_dir(id)).unwrap();
        SimStorage::open(&self.disk, process, &self.writer_dir(id), retention, descriptors).unwrap()
    }
}

/// Runs a test on a clock that advances when all tasks wait.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}
