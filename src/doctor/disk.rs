//! A file on the disk of the data directory, for as long as it is looked at: whether it can be made, and how
//! long a write to it takes until the disk has it.

use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::{ReadWriteFlags, pwritev2};

use crate::journal::file_system::PageCache;
use crate::journal::{BLOCK_LEN, Buffer};

/// Writes that are timed, fewer where the disk is slow.
const WRITES: usize = 31;
const WRITES_TIMEOUT: Duration = Duration::from_secs(2);

/// A file without a name.
pub struct Scratch(File);

/// How long writes took.
#[derive(Debug, Clone, Copy)]
pub struct SyncTime {
    pub median: Duration,
    pub longest: Duration,
    pub writes: usize,
    /// Whether they went past the page cache, as the journal's do where they can.
    pub page_cache: PageCache,
}

impl Scratch {
    /// Makes it in a directory, in which it is never to be seen: or, where the file system knows no files
    /// without a name, for an instant.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(dir: &Path) -> io::Result<Scratch> {
        // Not through `options().create(true)`, which O_TMPFILE replaces.
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

    /// Writes a block again and again, each time until the disk has it, as a commit of the journal is written:
    /// into what was written before.
    ///
    /// # Errors
    /// The file system's.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_to_be_seen_while_a_sync_is_timed() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let time = scratch.sync_time().unwrap();
        assert!(time.writes > 0 && time.median <= time.longest && time.longest > Duration::ZERO, "{time:?}");
    }
}
