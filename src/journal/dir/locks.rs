//! Locks: which writers are alive, and who may start or tidy up.
//!
//! A writer's lock, held exclusively, shows that the writer is alive. A start that tidies up after a dead writer holds
//! that writer's lock shared: this keeps other owners out, and readers still see the writer as dead. Readers hold no
//! lock. To learn whether a writer is alive, they acquire its lock shared for an instant. So a start retries for a
//! short while before it concludes that a lock is held.
//!
//! # Permission to lock
//!
//! Only the server's user may open a lock file, even if other users may read the journal: flock(2) needs only a
//! descriptor that is open for reading, so any user who could open the file could block every start. Readers in the
//! journal's group probe the position file's lock instead, which a live writer also holds and which no start probes.
//! NFS implements flock as record locks, which need a descriptor that is open for writing for an exclusive lock, and
//! one that is open for reading for a shared lock (flock(2)). So lock files are opened for both.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tracing::warn;

use super::super::layout::{LOCK, POSITION, START_LOCK, remove_if_there};
use crate::clock;

/// Returns whether a writer is alive. A removed writer is not. Users who may read the journal but may not open the
/// lock file probe the lock of the position file.
///
/// # Errors
/// The writer's lock can't be opened or probed.
pub fn is_live(writer_dir: &Path) -> io::Result<bool> {
    if Own::all().contains(writer_dir) {
        return Ok(true);
    }
    let file = match File::open(writer_dir.join(LOCK)) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => File::open(writer_dir.join(POSITION)),
        file => file,
    };
    let file = match file {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The outcome of an attempt to own a dead writer.
pub enum Owned {
    /// No process held the writer's lock. The caller now holds it, shared, until this file is dropped. If the lock file
    /// is missing, this is the writer's directory, and nothing is locked.
    Free(File),
    /// Another process holds the lock, or the writer belongs to this process.
    Held,
    /// There is no such writer, or it is being removed.
    Gone,
}

/// Tries to acquire a writer's lock, for long enough not to mistake a reader that probes the lock for an owner.
///
/// # Errors
/// The lock can't be opened or acquired.
pub fn try_own(path: &Path) -> io::Result<Owned> {
    if Own::all().contains(path) {
        return Ok(Owned::Held);
    }
    let file = match open_lock(&path.join(LOCK), false) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A removal was interrupted after it had removed the lock file, or somebody else removed the file, so there
            // is no lock to acquire.
            return Ok(if path.is_dir() { Owned::Free(File::open(path)?) } else { Owned::Gone });
        }
        file => file?,
    };
    // Acquire the lock exclusively to prove that no other process holds it, then downgrade it to shared.
    let is_ours = lock(&file, LOCK_WAIT)? && flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
    Ok(if is_ours { Owned::Free(file) } else { Owned::Held })
}

/// Returns whether a writer has a lock file.
///
/// # Errors
/// The file system can't answer.
pub fn has_lock(writer_dir: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(writer_dir.join(LOCK)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        found => found.map(|_| true),
    }
}

/// Marks a directory as belonging to a live writer of this process. The process relies on this mark instead of the
/// lock file, which may have been removed, or be on a file system where locks don't work.
#[derive(Debug)]
pub struct Own(PathBuf);

static OWN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

impl Own {
    /// Marks a writer's directory until the mark is dropped.
    pub fn new(path: &Path) -> Self {
        Own::all().insert(path.to_owned());
        Own(path.to_owned())
    }

    /// Returns all marked directories.
    pub fn all() -> MutexGuard<'static, BTreeSet<PathBuf>> {
        // Each change is a single insert or remove, so a thread that panicked has left no half-made change.
        OWN.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        Own::all().remove(&self.0);
    }
}

/// Opens and acquires the start lock. Returns `None` if another start holds it for longer than `patience`.
///
/// # Errors
/// The lock file can't be created, opened or locked.
pub fn lock_start(data_dir: &Path, patience: Duration) -> io::Result<Option<File>> {
    loop {
        let file = open_lock(&data_dir.join(START_LOCK), true)?;
        if !lock(&file, patience)? {
            return Ok(None);
        }
        // A lock file that was removed meanwhile blocks nobody.
        if is_start_lock(&file, data_dir)? {
            return Ok(Some(file));
        }
    }
}

/// Returns whether a file is still the data directory's start lock.
///
/// # Errors
/// The file system can't answer.
pub fn is_start_lock(file: &File, data_dir: &Path) -> io::Result<bool> {
    let (is, at) = (file.metadata()?, fs::metadata(data_dir.join(START_LOCK)));
    match at {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        at => at.map(|at| (is.dev(), is.ino()) == (at.dev(), at.ino())),
    }
}

/// Opens a lock file for both kinds of locks on any file system, and makes it inaccessible to other users. With
/// `create`, creates the file if it does not exist.
///
/// # Errors
/// The file can't be opened.
pub fn open_lock(path: &Path, create: bool) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(create).truncate(false).mode(LOCK_MODE).open(path)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        // An earlier version created the file. If another user owns it, its mode can't be changed.
        let _ = file.set_permissions(Permissions::from_mode(LOCK_MODE));
    }
    Ok(file)
}

/// Acquires a lock exclusively. Returns `false` if another process still holds it after `patience`.
fn lock(file: &File, patience: Duration) -> io::Result<bool> {
    let mut pauses = patience.as_nanos() / LOCK_PAUSE.as_nanos();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if pauses > 0 => {
                pauses -= 1;
                clock::pause(LOCK_PAUSE);
            }
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns whether the start lock, which this process holds, blocks another descriptor. Logs a warning if it does not.
pub fn locks_work(data_dir: &Path) -> bool {
    let probe = open_lock(&data_dir.join(START_LOCK), false);
    let works = probe.is_ok_and(|probe| flock(&probe, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK));
    if !works {
        warn!(
            path = %data_dir.display(),
            "file locks do not work in the data directory; two servers may start on it without noticing each other"
        );
    }
    works
}

/// Returns whether a file is on a file system that no other host writes to. On any other file system, a host may not
/// see the locks of other hosts.
pub fn is_local(file: &File) -> bool {
    const LOCAL: [u64; 12] = [
        0xEF53,      // ext2, ext3, ext4
        0x5846_5342, // xfs
        0x9123_683E, // btrfs
        0x2FC1_2FC1, // zfs
        0xF2F5_2010, // f2fs
        0xCA45_1A4E, // bcachefs
        0x794C_7630, // overlayfs
        0x0102_1994, // tmpfs
        0x8584_58F6, // ramfs
        0x3153_464A, // jfs
        0x5265_4973, // reiserfs
        0x3434,      // nilfs2
    ];
    rustix::fs::fstatfs(file).is_ok_and(|stat| LOCAL.contains(&(stat.f_type as u64)))
}

/// Tries the locks that a start uses, on a temporary file in `dir`. Returns `false` if a held lock does not block
/// another descriptor.
///
/// # Errors
/// The file system has no locks, or the temporary file can't be created or removed.
pub fn try_locks(dir: &Path) -> io::Result<bool> {
    let path = dir.join(format!(".ringpost-doctor-lock-{}", std::process::id()));
    let attempt = || {
        let file = open_lock(&path, true)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let other = open_lock(&path, false)?;
        let refused = flock(&other, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK);
        flock(&file, FlockOperation::NonBlockingLockShared)?;
        Ok(refused)
    };
    let works = attempt();
    remove_if_there(&path)?;
    works
}

/// The mode of lock files: any user who could open one could hold it.
pub const LOCK_MODE: u32 = 0o600;
/// How long a start waits for the start lock.
pub const START_LOCK_WAIT: Duration = Duration::from_secs(2);
/// How long a lock must stay held to count as an owner's. Readers hold it for microseconds.
const LOCK_WAIT: Duration = Duration::from_millis(50);
/// The pause between two attempts to acquire a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_start_lock_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_start(dir.path(), Duration::ZERO).unwrap().unwrap();
        assert!(lock_start(dir.path(), Duration::ZERO).unwrap().is_none());
        assert!(is_start_lock(&held, dir.path()).unwrap());
        fs::remove_file(dir.path().join(START_LOCK)).unwrap();
        assert!(!is_start_lock(&held, dir.path()).unwrap());
        let other = lock_start(dir.path(), Duration::ZERO).unwrap().unwrap();
        assert!(is_start_lock(&other, dir.path()).unwrap() && !is_start_lock(&held, dir.path()).unwrap());
    }

    #[test]
    fn trying_locks_leaves_no_file_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(try_locks(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(is_local(&File::open(dir.path()).unwrap()) && !is_local(&File::open("/proc").unwrap()));
    }
}
