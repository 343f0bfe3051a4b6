//! Checks whether a writer's files are still in their places. A server must not continue to ack messages that no reader
//! will find.
//!
//! A data directory that is removed, moved or replaced under a running server stays usable through the server's open
//! descriptors, and so does a removed segment. Data written there is lost, or is not where readers look. So, every
//! second, the writer compares the files at its paths with the files that it has open.
//!
//! Each check also sets the lock file's modification time. A start on a file system where it can't rely on locks
//! detects a live writer by a time that changes, whatever that time is.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Stat, Timespec, Timestamps, UTIME_NOW, fstat, futimens, stat};
use rustix::io::Errno;

use super::layout::{LOCK, POSITION, segment_path};

/// The files that a writer has open, and their expected paths.
#[derive(Debug)]
pub struct Watch {
    data_dir: PathBuf,
    writer_dir: PathBuf,
    data_dir_file: File,
    writer_dir_file: File,
    lock: Arc<File>,
    position: Arc<File>,
}

/// A segment that a writer has open, and its number.
pub type OpenSegment = (u32, Arc<OwnedFd>);

/// A file of a writer that is no longer in its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path} was removed, moved or replaced while the server was running. Messages that were acked before are in the \
     original file. Find out what removed it (a cleanup job, a restore, a second server?), then restart the server",
    path = .path.display()
)]
pub struct MissingFile {
    /// The path where the file should be.
    pub path: PathBuf,
    /// The segment's number, if the file is a segment. A segment that no longer belongs to the writer may be missing.
    pub segment: Option<u32>,
}

impl Watch {
    /// Returns a watch over a writer's directory, with the open lock file and position file.
    ///
    /// # Errors
    /// The directories can't be opened.
    pub fn new(writer_dir: &Path, lock: Arc<File>, position: Arc<File>) -> io::Result<Self> {
        let data_dir = writer_dir.parent().ok_or(ErrorKind::InvalidInput)?;
        Ok(Watch {
            data_dir_file: File::open(data_dir)?,
            writer_dir_file: File::open(writer_dir)?,
            lock,
            position,
            data_dir: data_dir.to_owned(),
            writer_dir: writer_dir.to_owned(),
        })
    }

    /// Checks every path once, and sets the lock file's modification time. A path that can't be checked counts as
    /// unchanged: only a definite answer counts. This makes blocking calls.
    ///
    /// # Errors
    /// The first path where there is another file, or no file.
    pub fn look(&self, segments: &[OpenSegment]) -> Result<(), MissingFile> {
        let missing = |path: PathBuf, segment| MissingFile { path, segment };
        // The order is top-down, so that the error names the directory if that was removed.
        if !is_at(&self.data_dir_file, &self.data_dir) {
            return Err(missing(self.data_dir.clone(), None));
        }
        if !is_at(&self.writer_dir_file, &self.writer_dir) {
            return Err(missing(self.writer_dir.clone(), None));
        }
        for (file, name) in [(&self.lock, LOCK), (&self.position, POSITION)] {
            let path = self.writer_dir.join(name);
            if !is_at(file, &path) {
                return Err(missing(path, None));
            }
        }
        for (number, file) in segments {
            let path = segment_path(&self.writer_dir, *number);
            if !is_at(file, &path) {
                return Err(missing(path, Some(*number)));
            }
        }
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // If this is refused, a start on a file system without locks can't detect this writer.
        let _ = futimens(&self.lock, &Timestamps { last_access: now, last_modification: now });
        Ok(())
    }
}

/// Returns whether this file is at this path. An error that doesn't answer the question counts as yes.
fn is_at(file: impl AsFd, path: &Path) -> bool {
    let same = |is: Stat, at: Stat| is.st_dev == at.st_dev && is.st_ino == at.st_ino;
    match (fstat(file), stat(path)) {
        (_, Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::LOOP)) | (Err(Errno::STALE), _) => false,
        (Ok(is), Ok(at)) => same(is, at),
        _ => true,
    }
}

/// A snapshot of a writer's lock file and position file. Two snapshots differ if a live writer used the files between
/// them, even if another host or a file system without locks hides the writer's lock.
#[derive(Debug, PartialEq, Eq)]
pub struct Signs([Option<(u64, i64, i64, u64)>; 2], Vec<u8>);

impl Signs {
    /// Takes a snapshot of a writer's files.
    pub fn of(writer_dir: &Path) -> Self {
        // Opening a file makes a network file system ask the server. It answers a stat alone from its cache.
        let sign = |name| {
            let file = File::open(writer_dir.join(name)).ok()?;
            let stat = fstat(file).ok()?;
            Some((stat.st_ino, stat.st_mtime as i64, stat.st_mtime_nsec as i64, stat.st_size as u64))
        };
        Signs([LOCK, POSITION].map(sign), fs::read(writer_dir.join(POSITION)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::super::dir::claim;
    use super::super::layout::segment_name;
    use super::super::position::PositionFile;
    use super::*;

    /// Returns the result of a check after `what` was done to a writer's files.
    fn look_after(what: impl Fn(&Path, &Path)) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let made = claim(&data_dir, 1, false).unwrap().remove(0);
        let _position = PositionFile::create(&made.path).unwrap();
        let segment = File::create(made.path.join(segment_name(3))).unwrap();
        let watch = made.watch().unwrap();
        let segments = [(3, Arc::new(segment.into()))];
        assert_eq!(watch.look(&segments), Ok(()));
        what(&data_dir, &made.path);
        let looked = watch.look(&segments);
        looked.err().map(|missing| missing.path.file_name().unwrap().to_str().unwrap().to_owned())
    }

    #[test]
    fn a_file_or_directory_that_is_removed_moved_or_replaced_is_reported() {
        assert_eq!(look_after(|_, _| {}), None);
        assert_eq!(look_after(|data, _| fs::remove_dir_all(data).unwrap()).as_deref(), Some("data"));
        let away = |path: &Path| fs::rename(path, path.with_extension("away")).unwrap();
        assert_eq!(look_after(|data, _| away(data)).as_deref(), Some("data"));
        let replaced = |data: &Path, _: &Path| {
            away(data);
            fs::create_dir(data).unwrap();
        };
        assert_eq!(look_after(replaced).as_deref(), Some("data"));
        assert!(look_after(|_, writer| fs::remove_dir_all(writer).unwrap()).unwrap().len() == 16);
        assert!(look_after(|_, writer| away(writer)).unwrap().len() == 16);
        for name in ["lock", "position", "0000000003.seg"] {
            assert_eq!(look_after(|_, writer| fs::remove_file(writer.join(name)).unwrap()).as_deref(), Some(name));
            let replaced = |_: &Path, writer: &Path| {
                fs::copy(writer.join(name), writer.join("copy")).unwrap();
                fs::rename(writer.join("copy"), writer.join(name)).unwrap();
            };
            assert_eq!(look_after(replaced).as_deref(), Some(name));
        }
        // Back in its place, the file is accepted again.
        let there_and_back = |data: &Path, _: &Path| {
            away(data);
            fs::rename(data.with_extension("away"), data).unwrap();
        };
        assert_eq!(look_after(there_and_back), None);
    }

    #[test]
    fn each_check_is_a_sign_of_life() {
        let dir = tempfile::tempdir().unwrap();
        let made = claim(dir.path(), 1, false).unwrap().remove(0);
        let _position = PositionFile::create(&made.path).unwrap();
        let watch = made.watch().unwrap();
        let before = Signs::of(&made.path);
        assert_eq!(Signs::of(&made.path), before);
        std::thread::sleep(std::time::Duration::from_millis(20));
        watch.look(&[]).unwrap();
        assert_ne!(Signs::of(&made.path), before);
    }
}
