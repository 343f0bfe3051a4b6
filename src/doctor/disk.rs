//! A temporary file in the data directory that shows whether files can be created there, and how long a durable write
//! takes.
//!
//! Owns the file and the measurement. It must not know what the journal writes, except the size of a block. Invariant:
//! the file has no name, so nothing remains after a crash.

use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::{ReadWriteFlags, pwritev2};

use crate::journal::file_system::PageCache;
use crate::journal::{BLOCK_LEN, Buffer};

/// A file without a name.
pub struct Scratch(File);

/// The duration of durable writes.
#[derive(Debug, Clone, Copy)]
pub struct SyncTime {
    /// The median of all writes.
    pub median: Duration,
    /// The longest write.
    pub longest: Duration,
    /// The number of writes.
    pub writes: usize,
    /// Whether the writes bypassed the page cache, as the journal's writes do if they can.
    pub page_cache: PageCache,
}

impl Scratch {
    /// Creates the file in a directory. It is never visible there, or only for an instant if the file system has no
    /// unnamed files.
    ///
    /// # Errors
    /// Returns the file system's error.
    pub fn new(dir: &Path) -> io::Result<Scratch> {
        // O_TMPFILE replaces O_CREAT, so `create(true)` would be wrong here.
        let unnamed = File::options().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(dir);
        match unnamed.as_ref().map_err(|error| error.raw_os_error()) {
            Err(Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => {
                let path = dir.join(format!(".ringpost-doctor-{}", std::process::id()));
                let file = File::options().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
                fs::remove_file(&path)?;
                Ok(Scratch(file))
            }
            _ => unnamed.map(Scratch),
        }
    }

    /// Times durable writes of one block each. Like a commit of the journal, each write overwrites blocks that are
    /// already allocated and written.
    ///
    /// # Errors
    /// Returns the file system's error.
    pub fn sync_time(&self) -> io::Result<SyncTime> {
        let mut block = Buffer::new(BLOCK_LEN);
        block.push(&[0; BLOCK_LEN]);
        for number in 0..WRITES as u64 {
            self.0.write_all_at(block.as_slice(), number * BLOCK_LEN as u64)?;
        }
        self.0.sync_all()?;
        let flags = rustix::fs::fcntl_getfl(&self.0)?;
        let page_cache = match rustix::fs::fcntl_setfl(&self.0, flags | rustix::fs::OFlags::DIRECT) {
            Ok(()) => PageCache::of(&self.0),
            Err(_) => PageCache::Refused,
        };
        let mut times = Vec::new();
        let start = Instant::now();
        for number in 0..WRITES as u64 {
            let write = Instant::now();
            let written =
                pwritev2(&self.0, &[IoSlice::new(block.as_slice())], number * BLOCK_LEN as u64, ReadWriteFlags::DSYNC)?;
            if written != BLOCK_LEN {
                return Err(io::ErrorKind::WriteZero.into());
            }
            times.push(write.elapsed());
            if start.elapsed() > WRITES_TIMEOUT {
                break;
            }
        }
        times.sort_unstable();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        Ok(SyncTime { median, longest, writes: times.len(), page_cache })
    }
}

/// The number of timed writes. A slow disk gets fewer of them.
const WRITES: usize = 31;

/// No further write begins after this time.
const WRITES_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_visible_while_a_sync_is_timed() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let time = scratch.sync_time().unwrap();
        assert!(time.writes > 0 && time.median <= time.longest && time.longest > Duration::ZERO, "{time:?}");
    }
}
