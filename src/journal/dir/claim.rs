//! Claims a data directory for a starting server: checks who else writes there, and creates a writer for each shard.
//!
//! # File systems without working locks
//!
//! Some network file systems have no locks, or only locks that do not reach other hosts. On these, a start does not
//! trust a free lock: it checks for [`SIGNS_WAIT`] whether the writer's files change, as a live writer's files do
//! every second ([`watch`](super::super::watch)). A start does the same for a writer whose lock file is missing.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tracing::info;

use super::super::id::{MICROS_MAX, SHARDS_MAX, WriterId};
use super::super::layout::{Access, LOCK, POSITION, START_LOCK, UNFINISHED, segments, sync_dir, writers};
use super::super::segment_file::is_lost;
use super::super::watch::{Signs, Watch};
use super::dead_writer::{leave, sweep};
use super::lock_text::{self, holder};
use super::locks::{
    LOCK_MODE, Own, Owned, START_LOCK_WAIT, has_lock, is_local, is_start_lock, lock_start, locks_work, try_own,
};
use crate::clock::{self, wall_nanos};

/// A writer's directory and its locks, which are released when this is dropped.
#[derive(Debug)]
pub struct WriterDir {
    /// The writer's ID.
    pub id: WriterId,
    /// The path of the writer's directory.
    pub path: PathBuf,
    pub(super) lock: Arc<File>,
    /// Held for readers that are not allowed to open the lock file.
    pub(super) position: Arc<File>,
    _own: Own,
}

impl WriterDir {
    /// Returns a watch over this directory.
    ///
    /// # Errors
    /// The directories can't be opened.
    pub fn watch(&self) -> io::Result<Watch> {
        Watch::new(&self.path, self.lock.clone(), self.position.clone())
    }
}

/// Holds the locks of a writer until the process ends, because operations on the writer's files may still be in flight
/// and take effect at any time. If they were released, a reader would take the writer for dead, and miss what comes
/// later.
pub fn hold_until_exit(dir: WriterDir) {
    held().push(dir);
}

/// Ends a simulated process: releases what it holds until its exit in this data directory.
#[cfg(feature = "sim")]
pub fn exit_simulated(data_dir: &Path) {
    held().retain(|dir| dir.path.parent() != Some(data_dir));
}

fn held() -> MutexGuard<'static, Vec<WriterDir>> {
    static HELD: Mutex<Vec<WriterDir>> = Mutex::new(Vec::new());
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reason why a process may not write to a data directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// A live writer of another process has the directory.
    #[error(
        "{path} is in use: writer {writer} is alive ({holder}). Stop that server, or use another --data-dir",
        path = .path.display()
    )]
    Live {
        /// The data directory.
        path: PathBuf,
        /// The live writer.
        writer: WriterId,
        /// The writer's process, as its lock file describes it.
        holder: String,
    },
    /// Another start holds the start lock.
    #[error(
        "another server has been starting on {path} for {waited:?}. Wait until it has started, or find it: \
         fuser -v {path}/start.lock",
        path = .path.display()
    )]
    Starting {
        /// The data directory.
        path: PathBuf,
        /// How long this start has waited.
        waited: Duration,
    },
    /// A writer's lock is free, but its files change.
    #[error(
        "{path} is in use: the files of writer {writer} ({holder}) change although its lock is free. A server on \
         another host writes there, or file locks do not work on this file system. Stop that server, or use another \
         --data-dir",
        path = .path.display()
    )]
    LivesElsewhere {
        /// The data directory.
        path: PathBuf,
        /// The writer whose files change.
        writer: WriterId,
        /// The writer's process, as its lock file describes it.
        holder: String,
    },
    /// More shards than a journal can have.
    #[error("{asked} shards: a journal can have at most {SHARDS_MAX}")]
    Shards {
        /// The number of shards that was asked for.
        asked: usize,
    },
    /// The file system refused an operation.
    #[error("can't use {path} for a journal: {what}: {source}", path = .path.display())]
    Refused {
        /// The data directory.
        path: PathBuf,
        /// The operation that failed.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Creates a writer for each of `shards` shards, accessible only to the server's user: see [`claim_for`].
///
/// # Errors
/// A live writer has the directory, or the file system refuses an operation.
pub fn claim(data_dir: &Path, shards: usize, share: bool) -> Result<Vec<WriterDir>, ClaimError> {
    claim_for(data_dir, shards, share, Access::Owner)
}

/// Creates a writer for each of `shards` shards, and the data directory if it does not exist. With `share`, other
/// writers may be alive.
///
/// Files that dead writers left unused are removed: segments without a single commit, and files that were being
/// prepared. Files that an earlier version created become readable only as `access` allows.
///
/// This blocks: up to two seconds for another start, and for [`SIGNS_WAIT`] if locks can't be trusted.
///
/// # Errors
/// A live writer has the directory, or the file system refuses an operation.
pub fn claim_for(data_dir: &Path, shards: usize, share: bool, access: Access) -> Result<Vec<WriterDir>, ClaimError> {
    let refused = |what| move |source| ClaimError::Refused { path: data_dir.to_owned(), what, source };
    if shards > SHARDS_MAX {
        return Err(ClaimError::Shards { asked: shards });
    }
    create_for(data_dir, access).map_err(refused("creating it"))?;
    let waited = START_LOCK_WAIT;
    let Some(start) = lock_start(data_dir, waited).map_err(refused("locking it"))? else {
        return Err(ClaimError::Starting { path: data_dir.to_owned(), waited });
    };
    let trusted = locks_work(data_dir) && is_local(&start);
    let mut dead = Vec::new();
    let writers = writers(data_dir).map_err(refused("listing it"))?;
    // Determined before any writer is removed: a reader that knows a removed writer would ignore a new one with the
    // same ID.
    let newest = writers.last().map_or(0, |newest| newest.started_nanos() / 1000);
    for writer in writers {
        let path = data_dir.join(writer.to_string());
        let owned = match try_own(&path) {
            // If the writer is alive, its server also has other writers or holds the start lock, so this start still
            // fails.
            Err(error) if is_lost(&error) => {
                leave(&path.join(LOCK), 0, &error);
                continue;
            }
            owned => owned.map_err(refused("probing a writer's lock"))?,
        };
        match owned {
            Owned::Free(lock) => {
                let sure = trusted && has_lock(&path).map_err(refused("looking for a writer's lock file"))?;
                dead.push((writer, path, lock, sure));
            }
            Owned::Gone => {}
            Owned::Held if share => {}
            Owned::Held => return Err(live(data_dir, writer)),
        }
    }
    let alive = alive_despite_free_locks(&dead);
    for (writer, path, _lock, _) in &dead {
        if !alive.contains(writer) {
            match sweep(path, *writer, access) {
                Err(error) if is_lost(&error) => leave(path, 0, &error),
                swept => swept.map_err(refused("removing the unused files of a dead writer"))?,
            }
        } else if !share {
            let (path, holder) = (data_dir.to_owned(), holder(data_dir, *writer));
            return Err(ClaimError::LivesElsewhere { path, writer: *writer, holder });
        }
    }
    remove_unfinished(data_dir).map_err(refused("removing an unfinished writer"))?;
    let created = create_writers(data_dir, shards, access, newest).map_err(refused("creating a writer"))?;
    sync_dir(data_dir).map_err(refused("syncing it"))?;
    if !is_start_lock(&start, data_dir).map_err(refused("checking its start lock"))? {
        let source = io::Error::other("start.lock was removed or replaced while this server started; start again");
        return Err(refused("holding its start lock")(source));
    }
    Ok(created)
}

/// Checks whether a start would be refused an existing data directory, without creating or changing anything. Returns
/// the number of its writers.
///
/// # Errors
/// The error that [`claim`] would return: a live writer has the directory, or the file system refuses an operation.
pub fn check(data_dir: &Path) -> Result<usize, ClaimError> {
    let refused = |what| move |source| ClaimError::Refused { path: data_dir.to_owned(), what, source };
    match File::options().read(true).write(true).open(data_dir.join(START_LOCK)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(refused("opening its start lock")(error)),
        _ => {}
    }
    let writers = writers(data_dir).map_err(refused("listing it"))?;
    for writer in &writers {
        let path = data_dir.join(writer.to_string());
        // A start makes the same check.
        if let Owned::Held = try_own(&path).map_err(refused("probing a writer's lock"))? {
            return Err(live(data_dir, *writer));
        }
        segments(&path).map_err(refused("listing a writer"))?;
    }
    Ok(writers.len())
}

/// Creates the data directory, accessible only to its user, and the directories above it, and makes its name durable.
/// Returns `false` if the directory already existed. Its mode is then unchanged.
///
/// # Errors
/// The directory can't be created or synced.
pub fn create(data_dir: &Path) -> io::Result<bool> {
    create_for(data_dir, Access::Owner)
}

/// Creates the data directory with the given access: see [`create`].
///
/// # Errors
/// The directory can't be created or synced.
pub fn create_for(data_dir: &Path, access: Access) -> io::Result<bool> {
    if data_dir.is_dir() {
        return Ok(false);
    }
    if let Some(above) = data_dir.parent() {
        fs::create_dir_all(above)?;
    }
    DirBuilder::new().mode(access.dir_mode()).create(data_dir)?;
    fs::set_permissions(data_dir, Permissions::from_mode(access.dir_mode()))?;
    let above = data_dir.parent().filter(|above| !above.as_os_str().is_empty());
    sync_dir(above.unwrap_or(Path::new("."))).map(|()| true)
}

/// Returns the writers that are alive although their locks are free, because their files change while this function
/// waits. It waits only if a free lock proves nothing for some writer (the tuple's last field is `false`).
fn alive_despite_free_locks(dead: &[(WriterId, PathBuf, File, bool)]) -> Vec<WriterId> {
    let unsure: Vec<_> = dead.iter().filter(|(.., sure)| !sure).collect();
    if unsure.is_empty() {
        return Vec::new();
    }
    info!(
        writers = unsure.len(),
        wait = ?SIGNS_WAIT,
        "checking whether the files of earlier writers change, because their locks can't be trusted"
    );
    let before: Vec<_> = unsure.iter().map(|(_, path, ..)| Signs::of(path)).collect();
    clock::pause(SIGNS_WAIT);
    let changed = unsure.iter().zip(before).filter(|((_, path, ..), before)| Signs::of(path) != *before);
    changed.map(|((writer, ..), _)| *writer).collect()
}

fn live(data_dir: &Path, writer: WriterId) -> ClaimError {
    ClaimError::Live { path: data_dir.to_owned(), writer, holder: holder(data_dir, writer) }
}

fn create_writers(data_dir: &Path, shards: usize, access: Access, newest: u64) -> io::Result<Vec<WriterDir>> {
    let micros = start_micros(wall_nanos() / 1000, newest).ok_or_else(|| {
        io::Error::other(
            "the ID of its newest writer is the last possible one, of the year 2112; correct the clock, and move that \
             writer's directory elsewhere",
        )
    })?;
    (0..shards).map(|shard| create_writer(data_dir, WriterId::new(micros, shard), access)).collect()
}

/// Returns the start time for the IDs of a start's writers, in microseconds since 1970. This is the clock's time,
/// unless the newest writer is later because the clock was set back: then it is the next free microsecond, since only
/// the order of starts matters. The time of a clock beyond 2112 wraps. Returns `None` if there is no free microsecond.
pub(super) fn start_micros(now: u64, newest: u64) -> Option<u64> {
    let next = newest + 1;
    let micros = (now & MICROS_MAX).max(next);
    (micros <= MICROS_MAX).then_some(micros)
}

/// Creates a writer. It gets its name only when its lock is held, so that no process mistakes it for dead. Both locks
/// are acquired before any other process can open their files.
fn create_writer(data_dir: &Path, id: WriterId, access: Access) -> io::Result<WriterDir> {
    let (unfinished, path) = (data_dir.join(format!("{id}.{UNFINISHED}")), data_dir.join(id.to_string()));
    DirBuilder::new().mode(Access::Owner.dir_mode()).create(&unfinished)?;
    let create =
        |name| File::options().read(true).write(true).create_new(true).mode(LOCK_MODE).open(unfinished.join(name));
    let (lock, position) = (create(LOCK)?, create(POSITION)?);
    for file in [&lock, &position] {
        flock(file, FlockOperation::NonBlockingLockExclusive)?;
    }
    lock_text::write(&lock, id)?;
    access.apply(&position)?;
    fs::set_permissions(&unfinished, Permissions::from_mode(access.dir_mode()))?;
    fs::rename(&unfinished, &path)?;
    let own = Own::new(&path);
    Ok(WriterDir { id, path, lock: Arc::new(lock), position: Arc::new(position), _own: own })
}

/// Removes the directories of writers that an interrupted start was creating.
fn remove_unfinished(data_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data_dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        if path.extension() == Some(OsStr::new(UNFINISHED)) && stem.parse::<WriterId>().is_ok() {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// How long a start watches the files of earlier writers if locks can't be trusted. A live writer changes its files
/// every second.
pub const SIGNS_WAIT: Duration = Duration::from_secs(3);
