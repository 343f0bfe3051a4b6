//! The properties of a file system that matter to the journal: whether writes bypass the page cache, and whether
//! overwriting a block needs a new one.
//!
//! Linux reports a failed write-back of the page cache once for each open file, to the first sync afterwards. With
//! several synchronous writes in flight on one descriptor, one write can receive the error of another, which then
//! reports success. So if the page cache can't be bypassed, commits are written one at a time
//! ([`PageCache::is_used`]).

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::{fmt, io};

use rustix::fs::{AtFlags, StatxFlags, fstatfs, statx};

/// The properties of a directory's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// How files that are opened with O_DIRECT are written.
    pub page_cache: PageCache,
    /// Whether overwriting blocks that were written before needs free space.
    pub copies_on_write: bool,
}

/// How a file that is opened with O_DIRECT is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageCache {
    /// Writes bypass the page cache.
    Bypassed,
    /// The file can't be opened with O_DIRECT.
    Refused,
    /// The file can be opened with O_DIRECT, but writes use the page cache nevertheless, or it is unknown whether
    /// they do.
    Ignored,
}

impl PageCache {
    /// Returns whether writes may use the page cache.
    pub fn is_used(self) -> bool {
        self != PageCache::Bypassed
    }

    /// Probes a file that was opened with O_DIRECT and may be overwritten. One byte is written to it.
    pub fn of(file: &File) -> PageCache {
        // Since Linux 6.1 the kernel reports the alignment that direct I/O needs, or that direct I/O is not supported
        // (0: ext4 with data=journal).
        let alignment = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
        let none =
            alignment.is_ok_and(|said| said.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && said.stx_dio_mem_align == 0);
        // Direct I/O refuses a write of one byte, which no disk can execute. A file system that executes it
        // nevertheless uses the page cache: always (tmpfs, FUSE, ZFS, overlay on one of these), or sometimes (btrfs,
        // for files with checksums).
        let refused = file.write_at(b"?", 0).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL));
        if refused && !none { PageCache::Bypassed } else { PageCache::Ignored }
    }
}

impl fmt::Display for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PageCache::Bypassed => "writes directly, without the page cache",
            PageCache::Refused => "refuses direct I/O",
            PageCache::Ignored => "accepts direct I/O but may still use the page cache",
        })
    }
}

impl FileSystem {
    /// Probes the file system with a file at `path`, which is created or truncated, and is not removed.
    ///
    /// # Errors
    /// The file can't be created.
    pub fn of(path: &Path) -> io::Result<FileSystem> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        let (file, page_cache) = match options.custom_flags(libc::O_DIRECT).open(path) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                (options.custom_flags(0).open(path)?, PageCache::Refused)
            }
            opened => {
                let file = opened?;
                let page_cache = PageCache::of(&file);
                (file, page_cache)
            }
        };
        let copies_on_write = fstatfs(&file).is_ok_and(|said| COPY_ON_WRITE.contains(&(said.f_type as u32)));
        Ok(FileSystem { page_cache, copies_on_write })
    }
}

/// The magic numbers of btrfs, ZFS and bcachefs in statfs.
const COPY_ON_WRITE: [u32; 3] = [0x9123_683e, 0x2fc1_2fc1, 0xca45_1a4e];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirement::DEV_SHM;

    #[test]
    fn tmpfs_uses_the_page_cache() {
        let shm = Path::new("/dev/shm");
        if !DEV_SHM.is_met(shm.is_dir()) {
            return;
        }
        let dir = tempfile::tempdir_in(shm).unwrap();
        let found = FileSystem::of(&dir.path().join("file")).unwrap();
        assert!(found.page_cache.is_used() && !found.copies_on_write, "{found:?}");
    }

    #[test]
    fn a_file_that_was_opened_without_direct_io_uses_the_page_cache() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(PageCache::of(&file), PageCache::Ignored);
    }
}
