//! The data directory: who may write there, which writers and segments it has.
//!
//! A writer's lock, held exclusively, says that it lives. Readers hold no lock; they only ask for one for
//! an instant, shared, to learn whether a writer lives, so a start asks again for a short while before it
//! believes that a lock is held. A start that tidies up after a dead writer holds its lock shared: that keeps
//! other owners out, and no reader takes the writer for alive.
//!
//! # Permission to lock
//!
//! Only the server's user may open a lock file, even if other users may read the journal: flock(2) needs only a
//! descriptor that is open for reading, so any user who could open the file could block every start. Readers in the journal's group
//! probe the position file's lock instead, which a live writer also holds and which no start probes. NFS turns
//! flock's locks into record locks, and needs a descriptor open for writing for an exclusive lock and open for
//! reading for a shared one (flock(2)), so lock files are opened for both.
//!
//! # File systems without working locks
//!
//! Some network file systems have no locks, or only locks that do not reach other hosts. On these, a start does not
//! trust a free lock: it checks for [`SIGNS_WAIT`] whether the writer's files change, as a live writer's files do
//! every second ([`watch`](super::watch)). A start does the same for a writer whose lock file is missing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;
use tracing::{info, warn};

use super::clock::now_nanos;
use super::format::BLOCK_LEN;
use super::id::{MICROS_MAX, SHARDS_MAX, WriterId};
use super::moment::BootTime;
use super::position;
use super::scan::{SegmentFile, is_lost, segment_path};
use super::watch::{Signs, Watch};

/// A writer's directory, with its lock. It is free again when this is dropped.
#[derive(Debug)]
pub struct WriterDir {
    pub id: WriterId,
    pub path: PathBuf,
    lock: Arc<File>,
    /// Held for readers that are not allowed to open the lock file.
    position: Arc<File>,
    _own: Own,
}

/// Marks a directory as belonging to a live writer of this process. The process relies on this mark instead of the
/// lock file, which may have been removed, or be on a file system where locks don't work.
#[derive(Debug)]
struct Own(PathBuf);

static OWN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

impl Own {
    fn new(path: &Path) -> Self {
        Own::all().insert(path.to_owned());
        Own(path.to_owned())
    }

    fn all() -> MutexGuard<'static, BTreeSet<PathBuf>> {
        // Each change is a single insert or remove.
        OWN.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        Own::all().remove(&self.0);
    }
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

/// The users who may read what a server writes, as modes of new directories and files, whatever the umask is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Only the server's user: 0700 and 0600.
    #[default]
    Owner,
    /// The files' group may read too: 0750 and 0640. Only the user may open lock files.
    Group,
}

impl Access {
    pub fn dir_mode(self) -> u32 {
        match self {
            Access::Owner => 0o700,
            Access::Group => 0o750,
        }
    }

    /// Returns the access to the files of a writer's directory, as the directory's mode shows it.
    pub fn of(writer_dir: &Path) -> io::Result<Self> {
        let mode = fs::metadata(writer_dir)?.mode();
        Ok(if mode & 0o050 == 0o050 { Access::Group } else { Access::Owner })
    }

    pub fn file_mode(self) -> u32 {
        self.dir_mode() & 0o666
    }

    /// Sets the mode of an open file to that of the journal's files.
    pub fn apply(self, file: &File) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(self.file_mode()))
    }
}

/// Why a process may not write to a data directory.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("{path} is in use: writer {writer} lives ({holder}). Stop that server, or name another --data-dir", path = .path.display())]
    Live { path: PathBuf, writer: WriterId, holder: String },
    #[error(
        "another server has been starting on {path} for {waited:?}. Wait until it has started, or find it: fuser -v {path}/start.lock",
        path = .path.display()
    )]
    Starting { path: PathBuf, waited: Duration },
    #[error(
        "{path} is in use: the files of writer {writer} change ({holder}), though its lock is free. Another host's server \
         writes there, or file locks do not work on this file system. Stop that server, or name another --data-dir",
        path = .path.display()
    )]
    LivesElsewhere { path: PathBuf, writer: WriterId, holder: String },
    #[error("{asked} workers: a journal takes at most {SHARDS_MAX}")]
    Shards { asked: usize },
    #[error("can't use {path} for a journal: {what}: {source}", path = .path.display())]
    Refused { path: PathBuf, what: &'static str, source: io::Error },
}

/// Makes a writer for each of `shards` shards, accessible only to the server's user: see [`claim_for`].
///
/// # Errors
/// A live writer has the directory, or the file system refuses something.
pub fn claim(data_dir: &Path, shards: usize, share: bool) -> Result<Vec<WriterDir>, ClaimError> {
    claim_for(data_dir, shards, share, Access::Owner)
}

/// Makes a writer for each of `shards` shards. The directory is made if there is none. With `share`,
/// other writers may live.
///
/// What dead writers have left behind unused is removed: segments without a single commit, and files
/// that were being made. Files of an earlier version become readable only as `access` allows.
///
/// # Errors
/// A live writer has the directory, or the file system refuses something.
pub fn claim_for(data_dir: &Path, shards: usize, share: bool, access: Access) -> Result<Vec<WriterDir>, ClaimError> {
    let refused = |what| move |source| ClaimError::Refused { path: data_dir.to_owned(), what, source };
    if shards > SHARDS_MAX {
        return Err(ClaimError::Shards { asked: shards });
    }
    make_for(data_dir, access).map_err(refused("making it"))?;
    let waited = START_LOCK_WAIT;
    let Some(start) = lock_start(data_dir, waited).map_err(refused("locking it"))? else {
        return Err(ClaimError::Starting { path: data_dir.to_owned(), waited });
    };
    let trusted = locks_work(data_dir) && is_local(&start);
    let mut dead = Vec::new();
    let writers = writers(data_dir).map_err(refused("listing it"))?;
    // Read before any writer is removed: a reader that knows a removed writer would not look at another one with the
    // same ID.
    let newest = writers.last().map_or(0, |newest| newest.started_nanos() / 1000);
    for writer in writers {
        let path = data_dir.join(writer.to_string());
        let owned = match try_own(&path) {
            // A live server has other writers too, or holds the start lock, and that makes this start fail.
            Err(error) if is_lost(&error) => {
                leave(&path.join(LOCK), 0, &error);
                continue;
            }
            owned => owned.map_err(refused("asking for a writer's lock"))?,
        };
        match owned {
            Owned::Free(lock) => {
                let sure = trusted && has_lock(&path).map_err(refused("looking at a writer's lock"))?;
                dead.push((writer, path, lock, sure));
            }
            Owned::Gone => {}
            Owned::Held if share => {}
            Owned::Held => return Err(live(data_dir, writer)),
        }
    }
    let alive = show_signs_of_life(&dead);
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
    remove_half_made(data_dir).map_err(refused("removing a writer that was being made"))?;
    let made = make_writers(data_dir, shards, access, newest).map_err(refused("making a writer"))?;
    sync_dir(data_dir).map_err(refused("syncing it"))?;
    if !is_start_lock(&start, data_dir).map_err(refused("looking at its start lock"))? {
        let source = io::Error::other("start.lock was removed or replaced while this server started; start again");
        return Err(refused("holding its start lock")(source));
    }
    Ok(made)
}

/// Opens and acquires the start lock. Returns `None` if another start holds it for longer than `patience`.
fn lock_start(data_dir: &Path, patience: Duration) -> io::Result<Option<File>> {
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

fn is_start_lock(file: &File, data_dir: &Path) -> io::Result<bool> {
    let (is, at) = (file.metadata()?, fs::metadata(data_dir.join(START_LOCK)));
    match at {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        at => at.map(|at| (is.dev(), is.ino()) == (at.dev(), at.ino())),
    }
}

/// Opens a lock file for both kinds of locks on any file system, and makes it inaccessible to other users.
fn open_lock(path: &Path, make: bool) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(make).truncate(false).mode(LOCK_MODE).open(path)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        // An earlier version made the file. If another user owns it, nothing can be done.
        let _ = file.set_permissions(Permissions::from_mode(LOCK_MODE));
    }
    Ok(file)
}

/// Returns whether a lock that this process holds blocks another descriptor.
fn locks_work(data_dir: &Path) -> bool {
    let asked = open_lock(&data_dir.join(START_LOCK), false);
    let works = asked.is_ok_and(|asked| flock(&asked, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK));
    if !works {
        warn!(path = %data_dir.display(), "file locks do not work here: two servers may start on this directory without noticing each other");
    }
    works
}

/// Returns whether a file is on a file system that no other host writes to. Other file systems may have locks that
/// other hosts don't see.
fn is_local(file: &File) -> bool {
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

/// Returns the writers that are alive although their locks are free: those whose files change while this function
/// waits. It waits only if there are writers whose locks are not conclusive.
fn show_signs_of_life(dead: &[(WriterId, PathBuf, File, bool)]) -> Vec<WriterId> {
    let unsure: Vec<_> = dead.iter().filter(|(.., sure)| !sure).collect();
    if unsure.is_empty() {
        return Vec::new();
    }
    info!(
        writers = unsure.len(),
        "checking for {SIGNS_WAIT:?} whether earlier writers are alive, since their locks are not conclusive"
    );
    let before: Vec<_> = unsure.iter().map(|(_, path, ..)| Signs::of(path)).collect();
    thread::sleep(SIGNS_WAIT);
    let changed = unsure.iter().zip(before).filter(|((_, path, ..), before)| Signs::of(path) != *before);
    changed.map(|((writer, ..), _)| *writer).collect()
}

/// Frees the disk space that dead writers have allocated and not used: the rest of their last segments.
///
/// **Why this is safe.** A killed process may have writes in flight when its locks are free: those that its ring has
/// handed to the disk. So this function is called some time after the start ([`RECLAIM_DELAY`]), and it makes the
/// file system wait for in-flight writes to the file (fallocate does) before it searches for the last data. It cuts
/// off only space after that data. In a segment of this boot, the search ends after `QUIET_LEN` unwritten bytes that
/// follow all data known from the position file and the blocks, which is more than a writer has in flight. In any
/// other segment, it reads up to the end. Damaged data, including a torn tail, stays.
///
/// Returns the number of bytes that were freed.
///
/// # Errors
/// The directory can't be listed. A failure for one writer is only logged.
pub fn reclaim(data_dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for writer in writers(data_dir)? {
        let path = data_dir.join(writer.to_string());
        match reclaim_writer(&path, writer) {
            Ok(given_back) => bytes += given_back,
            Err(error) => warn!(%writer, "can't free the unused space of a dead writer: {error}"),
        }
    }
    Ok(bytes)
}

fn reclaim_writer(path: &Path, writer: WriterId) -> io::Result<u64> {
    // Without a lock file, only a start can decide whether the writer is dead.
    if !has_lock(path)? {
        return Ok(0);
    }
    let Owned::Free(_lock) = try_own(path)? else { return Ok(0) };
    let durable = position::read(path)?;
    let mut bytes = 0;
    for number in segments(path)?.into_iter().rev() {
        let segment_path = segment_path(path, number);
        let file = match File::options().read(true).write(true).open(&segment_path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            file => file?,
        };
        let len = file.metadata()?.len();
        let Some(segment) = SegmentFile::open(segment_path.clone(), number, writer)? else { continue };
        // The header is damaged or from a later version, so nothing is known about the segment.
        let Some(header) = segment.header else { return Ok(bytes) };
        if len < header.len {
            // This segment was already truncated. All segments before it are full.
            return Ok(bytes);
        }
        // This allocates nothing that could be refused, and waits for direct writes in flight.
        let _ = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, len);
        let known = if durable.segment == number { durable.end.min(len) } else { BLOCK_LEN as u64 };
        let quiet = if is_of_this_boot(&segment) { QUIET_LEN } else { u64::MAX };
        let used = segment.used_until(known.max(BLOCK_LEN as u64), quiet).map_err(|fault| fault.error)?;
        let is_empty = used == BLOCK_LEN as u64;
        if is_empty && durable.segment < number {
            bytes += len;
            remove_if_there(&segment_path)?;
            continue;
        }
        if used < len {
            file.set_len(used)?;
            file.sync_all()?;
            bytes += len - used;
        }
        return Ok(bytes);
    }
    remove_writer(path)?;
    Ok(bytes)
}

/// Says of a directory that is there what [`claim`] would: whether a start would be refused. Makes and
/// changes nothing. Returns how many writers it has.
///
/// # Errors
/// A live writer has it, or the file system refuses something.
pub fn check(data_dir: &Path) -> Result<usize, ClaimError> {
    let refused = |what| move |source| ClaimError::Refused { path: data_dir.to_owned(), what, source };
    match File::options().read(true).write(true).open(data_dir.join(START_LOCK)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(refused("opening its start lock")(error)),
        _ => {}
    }
    let writers = writers(data_dir).map_err(refused("listing it"))?;
    for writer in &writers {
        let path = data_dir.join(writer.to_string());
        // A start makes the same call.
        if let Owned::Held = try_own(&path).map_err(refused("asking for a writer's lock"))? {
            return Err(live(data_dir, *writer));
        }
        segments(&path).map_err(refused("listing a writer"))?;
    }
    Ok(writers.len())
}

/// Returns the writers' directories that users without access can enter. If such users can enter only the data
/// directory itself, they learn no more than when servers started.
///
/// # Errors
/// The directories can't be listed.
pub fn open_to_others(data_dir: &Path, access: Access) -> io::Result<Vec<PathBuf>> {
    let is_open = |path: &Path| Ok(fs::metadata(path)?.mode() & 0o077 & !access.dir_mode() != 0);
    // If the data directory is closed to others, the modes below it don't matter.
    if !is_open(data_dir)? {
        return Ok(Vec::new());
    }
    let mut open = Vec::new();
    for writer in writers(data_dir)? {
        let path = data_dir.join(writer.to_string());
        if is_open(&path)
            .or_else(|error: io::Error| if error.kind() == ErrorKind::NotFound { Ok(false) } else { Err(error) })?
        {
            open.push(path);
        }
    }
    Ok(open)
}

/// Tries the locks that a start uses on a temporary file in `dir`. Returns `false` if a held lock does not block
/// another descriptor.
///
/// The file system has no locks, or refuses the temporary file.
/// The file system has no locks, or refuses the file.
pub fn try_locks(dir: &Path) -> io::Result<bool> {
    let path = dir.join(format!(".ringpost-doctor-lock-{}", std::process::id()));
    let tried = || {
        let file = open_lock(&path, true)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let other = open_lock(&path, false)?;
        let refused = flock(&other, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK);
        flock(&file, FlockOperation::NonBlockingLockShared)?;
        Ok(refused)
    };
    let tried = tried();
    remove_if_there(&path)?;
    tried
}

fn live(data_dir: &Path, writer: WriterId) -> ClaimError {
    ClaimError::Live { path: data_dir.to_owned(), writer, holder: holder(data_dir, writer) }
}

/// Returns the description of a writer's process from its lock file.
fn holder(data_dir: &Path, writer: WriterId) -> String {
    let text = fs::read_to_string(data_dir.join(writer.to_string()).join(LOCK)).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Makes the data directory, accessible only to its user, and everything above it, and makes its name durable.
/// Returns `false` if the directory already existed; its mode is unchanged then.
///
/// # Errors
/// The file system refuses it.
pub fn make(data_dir: &Path) -> io::Result<bool> {
    make_for(data_dir, Access::Owner)
}

/// Makes the data directory with the given access: see [`make`].
///
/// # Errors
/// The file system refuses the directory.
pub fn make_for(data_dir: &Path, access: Access) -> io::Result<bool> {
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

fn make_writers(data_dir: &Path, shards: usize, access: Access, newest: u64) -> io::Result<Vec<WriterDir>> {
    let micros = start_micros(now_nanos() / 1000, newest).ok_or_else(|| {
        io::Error::other(
            "the ID of its newest writer is the last possible one, of the year 2112; set the clock, and move that writer away",
        )
    })?;
    (0..shards).map(|shard| make_writer(data_dir, WriterId::new(micros, shard), access)).collect()
}

/// Returns the start time for the IDs of a start's writers, in microseconds since 1970. This is the clock's time,
/// unless the newest writer is later (the clock was set back): then it is the next free microsecond, since only the
/// order of starts matters. The time of a clock beyond 2112 wraps. Returns `None` if there is no free microsecond.
fn start_micros(now: u64, newest: u64) -> Option<u64> {
    let next = newest + 1;
    let micros = (now & MICROS_MAX).max(next);
    (micros <= MICROS_MAX).then_some(micros)
}

/// Makes a writer, which appears under its name only when its lock is held, so that nobody mistakes it for dead. Both
/// locks are acquired before any other process can open their files.
fn make_writer(data_dir: &Path, id: WriterId, access: Access) -> io::Result<WriterDir> {
    let (making, path) = (data_dir.join(format!("{id}.{MAKING}")), data_dir.join(id.to_string()));
    DirBuilder::new().mode(Access::Owner.dir_mode()).create(&making)?;
    let create = |name| File::options().read(true).write(true).create_new(true).mode(LOCK_MODE).open(making.join(name));
    let (mut lock, position) = (create(LOCK)?, create(POSITION)?);
    for file in [&lock, &position] {
        flock(file, FlockOperation::NonBlockingLockExclusive)?;
    }
    writeln!(lock, "process {}, worker {}", std::process::id(), id.shard())?;
    if let Some(made) = made_nanos(&lock) {
        writeln!(lock, "{FILE_MADE}{made}")?;
    }
    access.apply(&position)?;
    fs::set_permissions(&making, Permissions::from_mode(access.dir_mode()))?;
    fs::rename(&making, &path)?;
    let own = Own::new(&path);
    Ok(WriterDir { id, path, lock: Arc::new(lock), position: Arc::new(position), _own: own })
}

/// Denies access to a dead writer's files to users that may not read this start's files: an earlier version created
/// them with the umask's mode. A mode that can't be changed, because another user owns the file, stays as it is.
fn tighten(path: &Path, access: Access) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if metadata.mode() & 0o777 != access.dir_mode()
        && let Err(error) = fs::set_permissions(path, Permissions::from_mode(access.dir_mode()))
    {
        warn!(path = %path.display(), "can't prevent other users from reading a writer's files: {error}");
    }
    Ok(())
}

fn remove_half_made(data_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data_dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        if path.extension() == Some(OsStr::new(MAKING)) && stem.parse::<WriterId>().is_ok() {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// Removes what a dead writer left unused: a segment that was being made, the last one if the writer
/// wrote nothing to it, and the writer if nothing is left of it. A segment that was written to stays
/// as it is, to the last byte; a recycled one is known to have been by the header of any commit.
///
/// A start does not read whole segments for that. In a segment of this boot, the first block and the position file
/// show whether the segment was written to. In any other segment, if nothing was written to the first [`QUIET_LEN`]
/// bytes, which is more than a writer has in flight, no later commit was ever acked.
fn sweep(path: &Path, writer: WriterId, access: Access) -> io::Result<()> {
    tighten(path, access)?;
    remove_half_made_segments(path)?;
    let durable = position::read(path)?;
    let mut left = segments(path)?;
    while let Some(last) = left.last() {
        if let Some(segment) = SegmentFile::open(segment_path(path, *last), *last, writer)? {
            // A segment that the position file names was used, and needs no reading.
            if durable.segment >= *last && durable.commit > 0 {
                break;
            }
            let within = if is_of_this_boot(&segment) { BLOCK_LEN as u64 } else { QUIET_LEN };
            match segment.is_used(within) {
                Ok(false) => {}
                Ok(true) => break,
                Err(fault) if fault.is_lost() => {
                    leave(&segment.path, fault.offset, &fault.error);
                    break;
                }
                Err(fault) => return Err(fault.error),
            }
            // Where servers share the directory, the retention of another one may be quicker.
            remove_if_there(&segment.path)?;
        }
        left.pop();
    }
    if left.is_empty() {
        return remove_writer(path);
    }
    // The directory is now an ordinary dead writer, for retention too.
    open_lock(&path.join(LOCK), true).map(drop)
}

/// Returns whether a segment was made on this boot. Its writer's position file was then never lost with the page
/// cache, and lags at most milliseconds behind the acks.
fn is_of_this_boot(segment: &SegmentFile) -> bool {
    BootTime::now().zip(segment.boot_time).is_some_and(|(now, then)| now.id == then.id)
}

/// Logs that a dead writer's file stays as it is because the disk can't read it, which is no reason to refuse to
/// start.
fn leave(path: &Path, offset: u64, error: &io::Error) {
    let file = path.display();
    warn!(%file, offset, "can't read what a dead writer left: {error}; it stays as it is (see: ringpost journal verify)");
}

/// Removes the segments that a dead writer was making.
fn remove_half_made_segments(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(TEMPORARY)) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// Removes a dead writer that has no segment, the lock last.
pub(super) fn remove_writer(path: &Path) -> io::Result<()> {
    // The directory would stay with them, and without a lock nobody could tell that its writer is dead.
    remove_half_made_segments(path)?;
    for name in [POSITION, LOCK] {
        remove_if_there(&path.join(name))?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        done => done,
    }
}

/// Removes a file. `false` if there was none.
///
/// # Errors
/// The file system refuses.
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}

pub(super) enum Owned {
    /// Nobody had it; now the caller has, shared, until this is dropped. Where the lock's file is gone already,
    /// it is held by nobody.
    Free(File),
    Held,
    /// There is no such writer, or one that is being removed.
    Gone,
}

/// Asks for a writer's lock, patiently enough not to mistake a reader's question for an owner.
pub(super) fn try_own(path: &Path) -> io::Result<Owned> {
    if Own::all().contains(path) {
        return Ok(Owned::Held);
    }
    let file = match open_lock(&path.join(LOCK), false) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A removal was interrupted after the lock file, or somebody removed the lock file: there is no lock to
            // own.
            return Ok(if path.is_dir() { Owned::Free(File::open(path)?) } else { Owned::Gone });
        }
        file => file?,
    };
    // It is exclusive for no longer than it takes to learn that no other owner has it, shared or not.
    let is_ours = lock(&file, LOCK_WAIT)? && flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
    Ok(if is_ours { Owned::Free(file) } else { Owned::Held })
}

/// Returns whether a writer is alive. A removed writer is not. Users who may read the journal but may not open the
/// lock file probe the lock of the position file.
///
/// # Errors
/// Its lock can't be opened or asked for.
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

/// Returns whether a writer has a lock file.
pub(super) fn has_lock(writer_dir: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(writer_dir.join(LOCK)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        found => found.map(|_| true),
    }
}

fn lock(file: &File, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The writers of a data directory, oldest first.
///
/// # Errors
/// It can't be listed.
pub fn writers(data_dir: &Path) -> io::Result<Vec<WriterId>> {
    let mut writers = Vec::new();
    for entry in fs::read_dir(data_dir)? {
        writers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<WriterId>().ok()));
    }
    writers.sort_unstable();
    Ok(writers)
}

/// The numbers of a writer's segments, oldest first; none if the writer is gone.
///
/// # Errors
/// Its directory can't be listed.
pub fn segments(writer_dir: &Path) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(writer_dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        segments.extend(entry?.file_name().to_str().and_then(segment_number));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// What a segment's file is called.
pub fn segment_name(number: u32) -> String {
    format!("{number:010}.{SEGMENT}")
}

/// What it is called while it is being made.
pub fn temporary_name(number: u32) -> String {
    format!("{number:010}.{SEGMENT}.{TEMPORARY}")
}

fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SEGMENT)?.strip_suffix('.')?;
    (digits.len() == 10 && digits.bytes().all(|digit| digit.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Returns the time at which a file was made, in nanoseconds since 1970, if the file system keeps it. No system call
/// can change that time, so a copy of the file has another one.
fn made_nanos(file: &File) -> Option<u128> {
    let made = file.metadata().and_then(|metadata| metadata.created()).ok()?;
    Some(made.duration_since(UNIX_EPOCH).ok()?.as_nanos())
}

/// Returns whether a writer's directory was copied file by file: its lock file was made later than its text says.
/// Returns `false` if that is not known.
pub(super) fn is_copy(writer_dir: &Path) -> bool {
    let is_copy = || {
        let mut file = File::open(writer_dir.join(LOCK)).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let said: u128 = text.lines().find_map(|line| line.strip_prefix(FILE_MADE))?.parse().ok()?;
        Some(made_nanos(&file)?.abs_diff(said) > FILE_MADE_SLACK.as_nanos())
    };
    is_copy().unwrap_or(false)
}

/// Copies a writer's lock file, which identifies the writer, and its position. Nobody holds the copy's lock.
/// [`is_copy`] does not report the new copy as one, unless the original is one, because the backup is consistent.
pub(super) fn copy_marks(from: &Path, to: &Path) -> io::Result<()> {
    match fs::read(from.join(POSITION)) {
        // A missing position means that nothing is durable.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        position => fs::write(to.join(POSITION), position?)?,
    }
    let text = match fs::read_to_string(from.join(LOCK)) {
        // A reader in the journal's group may not open the lock file.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => String::new(),
        text => text?,
    };
    let keeps = |line: &&str| is_copy(from) || !line.starts_with(FILE_MADE);
    let lines: String = text.lines().filter(keeps).map(|line| format!("{line}\n")).collect();
    fs::write(to.join(LOCK), lines)
}

/// Makes what was done to a directory's names last.
///
/// # Errors
/// The file system refuses.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(crate) const POSITION: &str = "position";
pub(super) const LOCK: &str = "lock";
/// The beginning of the lock file's line that records when the file was made.
const FILE_MADE: &str = "file made ";
/// How much of that time a file system may round off.
const FILE_MADE_SLACK: Duration = Duration::from_millis(10);
pub(super) const START_LOCK: &str = "start.lock";
const SEGMENT: &str = "seg";
const TEMPORARY: &str = "tmp";
const MAKING: &str = "new";

/// The mode of lock files: any user who could open one could hold it.
const LOCK_MODE: u32 = 0o600;
/// How long a start looks for signs of life if locks can't be trusted: a few times the interval at which they appear.
pub const SIGNS_WAIT: Duration = Duration::from_secs(3);
/// How long after a start the unused space of dead writers is freed.
pub const RECLAIM_DELAY: Duration = Duration::from_secs(2);
/// The length of an unwritten range after which a writer that ran on this boot is assumed to have written nothing
/// more: twice its default limit in flight. A writer waits for the first commit of a segment before it acks any later
/// one.
const QUIET_LEN: u64 = 2 * super::options::BYTES_MAX as u64;

/// How long a start waits for another one's.
const START_LOCK_WAIT: Duration = Duration::from_secs(2);
/// How long a lock has to be held to be an owner's: readers hold it for microseconds.
const LOCK_WAIT: Duration = Duration::from_millis(50);
const LOCK_PAUSE: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::super::format::{CommitHeader, SegmentHeader};
    use super::*;

    #[test]
    fn the_ids_of_a_later_start_are_higher_whatever_the_clock_shows() {
        let max = MICROS_MAX;
        assert_eq!((start_micros(7, 0), start_micros(7, 9), start_micros(9, 9)), (Some(7), Some(10), Some(10)));
        assert_eq!(
            (start_micros(max, 9), start_micros(max + 1, 9), start_micros(max + 20, 9)),
            (Some(max), Some(10), Some(19))
        );
        assert_eq!(
            (start_micros(7, max - 1), start_micros(7, max), start_micros(max + 20, max)),
            (Some(max), None, None)
        );
        assert!(WriterId::new(max, 1) > WriterId::new(max - 1, SHARDS_MAX - 1));
    }

    #[test]
    fn the_id_of_a_writer_that_a_start_removes_is_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let in_future = WriterId::new(MICROS_MAX - 9, 0);
        let path = dir.path().join(in_future.to_string());
        fs::create_dir(&path).unwrap();
        fs::write(path.join(segment_name(0)), [1; 2 * BLOCK_LEN]).unwrap();
        fs::write(path.join(LOCK), []).unwrap();
        for after in 1..4 {
            let unused = claim(dir.path(), 1, false).unwrap();
            assert_eq!(unused[0].id, WriterId::new(MICROS_MAX - 9 + after, 0));
            assert_eq!(writers(dir.path()).unwrap(), [in_future, unused[0].id]);
        }
    }

    #[test]
    fn a_live_writer_refuses_a_start_and_says_who_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("a/b");
        let first = claim(&data_dir, 2, false).unwrap();
        assert_eq!(writers(&data_dir).unwrap(), [first[0].id, first[1].id]);
        assert!(is_live(&first[1].path).unwrap());
        let error = claim(&data_dir, 1, false).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}, worker 0", std::process::id())), "{error}");
        assert_eq!(claim(&data_dir, 1, true).unwrap().len(), 1, "with leave");
        let paths = [first[0].path.clone(), first[1].path.clone()];
        for path in &paths {
            fs::write(path.join(segment_name(0)), [1; 2 * BLOCK_LEN]).unwrap();
        }
        drop(first);
        assert!(!is_live(&paths[0]).unwrap());
        let second = claim(&data_dir, 1, false).unwrap();
        assert!(second[0].path > paths[1] && paths[1].exists(), "a start makes a new writer and keeps the old");
    }

    #[test]
    fn a_dead_writer_that_is_tidied_up_has_one_owner_and_is_dead_to_readers() {
        let dir = tempfile::tempdir().unwrap();
        let path = claim(dir.path(), 1, false).unwrap().remove(0).path;
        let Owned::Free(lock) = try_own(&path).unwrap() else { panic!("nobody has it") };
        assert!(!is_live(&path).unwrap());
        assert!(matches!(try_own(&path).unwrap(), Owned::Held));
        drop(lock);
        assert!(matches!(try_own(&path).unwrap(), Owned::Free(_)));
    }

    #[test]
    fn a_start_removes_what_dead_writers_left_unused_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let made = claim(dir.path(), 2, false).unwrap();
        let (used, unused) = (made[0].path.clone(), made[1].path.clone());
        let segment = |used: bool| [vec![7; BLOCK_LEN], vec![0; 3 * BLOCK_LEN + 5], vec![u8::from(used)]].concat();
        fs::write(used.join(segment_name(0)), segment(true)).unwrap();
        fs::write(used.join(segment_name(1)), segment(false)).unwrap();
        fs::write(used.join(temporary_name(2)), segment(true)).unwrap();
        fs::write(unused.join(segment_name(0)), segment(false)).unwrap();
        fs::create_dir(dir.path().join(format!("{}.new", WriterId(9)))).unwrap();
        drop(made);
        let next = claim(dir.path(), 1, false).unwrap();
        assert_eq!(
            writers(dir.path()).unwrap(),
            [used.file_name().unwrap().to_str().unwrap().parse().unwrap(), next[0].id]
        );
        assert_eq!(segments(&used).unwrap(), [0]);
        let names: Vec<_> = fs::read_dir(&used).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "its lock, its position and a segment: {names:?}");
        assert!(!dir.path().join(format!("{}.new", WriterId(9))).exists());
    }

    #[test]
    fn what_an_earlier_segment_left_in_a_recycled_one_is_no_use_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let made = claim(dir.path(), 1, false).unwrap();
        let (id, path) = (made[0].id, made[0].path.clone());
        let write = |number: u32, of: u32| {
            let header = SegmentHeader { segment: number, writer: id, salt: 5, created: 1, len: 0, recycled: true };
            let (durable, first) = (0, 1);
            let commit = CommitHeader {
                number: first,
                durable,
                writer: id,
                salt: 5,
                first_commit: first,
                first_sequence: first,
                segment: of,
                body_len: 0,
                records: 0,
                body_crc: 0,
            };
            let mut bytes = vec![7; 4 * BLOCK_LEN];
            bytes[..52].copy_from_slice(&header.encode());
            bytes[2 * BLOCK_LEN..2 * BLOCK_LEN + 72].copy_from_slice(&commit.encode());
            fs::write(path.join(segment_name(number)), bytes).unwrap();
        };
        write(1, 1);
        write(2, 0);
        write(3, 1);
        drop(made);
        claim(dir.path(), 1, false).unwrap();
        assert_eq!(segments(&path).unwrap(), [1]);
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn nobody_else_may_open_what_a_start_makes_unless_the_group_is_let_in() {
        for (access, directory, file) in [(Access::Owner, 0o700, 0o600), (Access::Group, 0o750, 0o640)] {
            let dir = tempfile::tempdir().unwrap();
            let data_dir = dir.path().join("data");
            let made = claim_for(&data_dir, 1, false, access).unwrap().remove(0);
            super::super::FileStorage::new(&made.path).unwrap();
            assert_eq!((mode(&data_dir), mode(&made.path)), (directory, directory));
            assert_eq!(mode(&made.path.join(POSITION)), file);
            assert_eq!(mode(&made.path.join(LOCK)), 0o600, "a reader could hold the lock");
            assert_eq!(mode(&data_dir.join(START_LOCK)), 0o600);
        }
    }

    #[test]
    fn what_an_earlier_version_left_open_to_all_is_closed_by_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let made = claim(dir.path(), 1, false).unwrap().remove(0);
        fs::write(made.path.join(segment_name(0)), [1; 2 * BLOCK_LEN]).unwrap();
        let path = made.path.clone();
        let lock = path.join(LOCK);
        drop(made);
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        for file in [&lock, &dir.path().join(START_LOCK)] {
            fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        }
        claim(dir.path(), 1, false).unwrap();
        assert_eq!((mode(&path), mode(&lock), mode(&dir.path().join(START_LOCK))), (0o700, 0o600, 0o600));
        assert_eq!(mode(dir.path()), 0o755, "an existing directory may belong to somebody else");
    }

    #[test]
    fn a_reader_that_may_not_open_the_lock_learns_from_the_position_file_who_lives() {
        let dir = tempfile::tempdir().unwrap();
        let made = claim_for(dir.path(), 1, false, Access::Group).unwrap().remove(0);
        let file = File::open(made.path.join(POSITION)).unwrap();
        let ask = || flock(&file, FlockOperation::NonBlockingLockShared);
        assert_eq!(ask(), Err(Errno::WOULDBLOCK));
        let path = made.path.clone();
        fs::write(path.join(segment_name(0)), [1; 2 * BLOCK_LEN]).unwrap();
        drop(made);
        assert_eq!(ask(), Ok(()));
        // A process that holds that lock blocks no start.
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        claim(dir.path(), 1, false).unwrap();
    }

    #[test]
    fn a_writer_without_a_lock_file_is_dead_only_once_its_files_stand_still() {
        let dir = tempfile::tempdir().unwrap();
        let made = claim(dir.path(), 1, false).unwrap().remove(0);
        fs::write(made.path.join(segment_name(0)), [1; 2 * BLOCK_LEN]).unwrap();
        fs::write(made.path.join(temporary_name(1)), [1; BLOCK_LEN]).unwrap();
        fs::remove_file(made.path.join(LOCK)).unwrap();
        let position = super::super::position::PositionFile::create(&made.path).unwrap();
        // Open it as another process would.
        Own::all().remove(&made.path);
        let done = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut commit = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    commit += 1;
                    let durable = position::Durable { commit, sequence: 1, segment: 0, end: 8192 };
                    position.publish(durable).unwrap();
                    thread::sleep(Duration::from_millis(50));
                }
            });
            let error = claim(dir.path(), 1, false).unwrap_err();
            assert!(matches!(error, ClaimError::LivesElsewhere { writer, .. } if writer == made.id), "{error}");
            assert!(made.path.join(temporary_name(1)).exists(), "nothing of that writer was swept");
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        claim(dir.path(), 1, false).unwrap();
        assert!(!made.path.join(temporary_name(1)).exists());
        assert!(has_lock(&made.path).unwrap(), "the writer is now like any other dead one");
    }

    #[test]
    fn a_start_lock_that_is_taken_away_keeps_a_start_from_going_on() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_start(dir.path(), Duration::ZERO).unwrap().unwrap();
        assert!(lock_start(dir.path(), Duration::ZERO).unwrap().is_none());
        assert!(is_start_lock(&held, dir.path()).unwrap());
        fs::remove_file(dir.path().join(START_LOCK)).unwrap();
        assert!(!is_start_lock(&held, dir.path()).unwrap());
        let other = lock_start(dir.path(), Duration::ZERO).unwrap().unwrap();
        assert!(is_start_lock(&other, dir.path()).unwrap() && !is_start_lock(&held, dir.path()).unwrap());
    }

    /// Makes a dead writer with segments of this length, from this boot or another one, and writes the given data to
    /// its last segment at the given blocks.
    fn dead_writer(data_dir: &Path, len: usize, this_boot: bool, recycled: bool, at: &[usize]) -> PathBuf {
        let made = claim(data_dir, 1, true).unwrap().remove(0);
        let boot = if this_boot { BootTime::now() } else { Some(BootTime { id: 1, nanos: 5 }) };
        for number in 0..2 {
            let header =
                SegmentHeader { segment: number, writer: made.id, salt: 5, created: 1, len: len as u64, recycled };
            let header = header.encode();
            let mut bytes = vec![if recycled { 9 } else { 0 }; len];
            bytes[..52].copy_from_slice(&header);
            bytes[52..80].copy_from_slice(&boot.unwrap().encode(&header));
            for block in at {
                let number = u64::from(number);
                let commit = CommitHeader {
                    number: number + 1,
                    durable: number,
                    writer: made.id,
                    salt: 5,
                    first_commit: number + 1,
                    first_sequence: 1,
                    segment: number as u32,
                    body_len: 0,
                    records: 0,
                    body_crc: 0,
                };
                bytes[block * BLOCK_LEN..][..72].copy_from_slice(&commit.encode());
            }
            fs::write(made.path.join(segment_name(number)), bytes).unwrap();
        }
        made.path.clone()
    }

    fn lens(writer: &Path) -> Vec<u64> {
        let numbers = segments(writer).unwrap().into_iter();
        numbers.map(|number| fs::metadata(segment_path(writer, number)).unwrap().len()).collect()
    }

    #[test]
    fn what_a_dead_writer_has_not_used_is_given_back_to_the_last_thing_written() {
        const LEN: usize = 64 * BLOCK_LEN;
        for recycled in [false, true] {
            for this_boot in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let used = dead_writer(dir.path(), LEN, this_boot, recycled, &[1, 2, 7]);
                let full = dead_writer(dir.path(), LEN, this_boot, recycled, &[1, 63]);
                let live = claim(dir.path(), 1, true).unwrap().remove(0);
                fs::copy(used.join(segment_name(1)), live.path.join(segment_name(1))).unwrap();
                assert_eq!(reclaim(dir.path()).unwrap(), (56 * BLOCK_LEN) as u64);
                assert_eq!(lens(&used), [LEN as u64, 8 * BLOCK_LEN as u64]);
                assert_eq!(lens(&full), [LEN as u64; 2], "a commit after damage stays");
                assert_eq!(lens(&live.path), [LEN as u64]);
                assert_eq!(reclaim(dir.path()).unwrap(), 0, "once");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_as_a_segment_is_not_cut() {
        let dir = tempfile::tempdir().unwrap();
        let writer = dead_writer(dir.path(), 64 * BLOCK_LEN, true, false, &[1]);
        let mut bytes = fs::read(writer.join(segment_name(1))).unwrap();
        bytes[20] ^= 1;
        fs::write(writer.join(segment_name(1)), bytes).unwrap();
        assert_eq!(reclaim(dir.path()).unwrap(), 0);
        assert_eq!(lens(&writer), [64 * BLOCK_LEN as u64; 2]);
    }

    #[test]
    fn a_segment_of_an_earlier_boot_is_read_to_its_end_before_it_is_cut_and_no_start_does_that() {
        let far = QUIET_LEN as usize / BLOCK_LEN + 100;
        let len = (far + 100) * BLOCK_LEN;
        let dir = tempfile::tempdir().unwrap();
        let earlier = dead_writer(dir.path(), len, false, false, &[1, far]);
        let now = dead_writer(dir.path(), len, true, false, &[1]);
        let unused = dead_writer(dir.path(), len, true, false, &[]);
        let read_so_far = || {
            let io = fs::read_to_string("/proc/thread-self/io").unwrap();
            io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse::<u64>().unwrap()
        };
        let before = read_so_far();
        claim(dir.path(), 1, true).unwrap();
        let read = read_so_far() - before;
        assert!(read < 1 << 20, "a start reads {read} bytes of {len} each");
        assert!(!unused.exists());
        let before = read_so_far();
        assert_eq!(reclaim(dir.path()).unwrap(), (99 * BLOCK_LEN + len - 2 * BLOCK_LEN) as u64);
        let read = read_so_far() - before;
        assert!(read < (len as u64 - BLOCK_LEN as u64) + QUIET_LEN + (4 << 20), "{read}");
        assert_eq!(lens(&earlier), [len as u64, ((far + 1) * BLOCK_LEN) as u64]);
        assert_eq!(lens(&now), [len as u64, 2 * BLOCK_LEN as u64]);
    }

    #[test]
    fn locks_are_asked_for_by_descriptors_that_nfs_takes() {
        let dir = tempfile::tempdir().unwrap();
        let made = claim(dir.path(), 1, false).unwrap().remove(0);
        let path = made.path.clone();
        let start = lock_start(dir.path(), Duration::ZERO).unwrap().unwrap();
        let flags = |file: &File| rustix::fs::fcntl_getfl(file).unwrap() & rustix::fs::OFlags::ACCMODE;
        assert_eq!([&*made.lock, &*made.position, &start].map(flags), [rustix::fs::OFlags::RDWR; 3]);
        drop(made);
        let Owned::Free(owned) = try_own(&path).unwrap() else { panic!("nobody holds the lock") };
        assert_eq!(flags(&owned), rustix::fs::OFlags::RDWR);
    }

    #[test]
    fn a_process_knows_its_own_writers_whatever_became_of_their_locks() {
        let dir = tempfile::tempdir().unwrap();
        let made = claim(dir.path(), 1, false).unwrap().remove(0);
        let path = made.path.clone();
        for replaced in [false, true] {
            fs::remove_file(path.join(LOCK)).unwrap();
            if replaced {
                fs::write(path.join(LOCK), "").unwrap();
            }
            assert!(is_live(&path).unwrap() && matches!(try_own(&path).unwrap(), Owned::Held));
            fs::write(path.join(LOCK), "").unwrap();
        }
        drop(made);
        assert!(!is_live(&path).unwrap() && matches!(try_own(&path).unwrap(), Owned::Free(_)));
    }

    #[test]
    fn locks_are_tried_and_nothing_is_left_of_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(try_locks(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(is_local(&File::open(dir.path()).unwrap()) && !is_local(&File::open("/proc").unwrap()));
    }

    #[test]
    fn segments_are_told_by_their_names() {
        assert_eq!(segment_number(&segment_name(12)), Some(12));
        for name in [&temporary_name(12)[..], "12.seg", "000000000x.seg", "0000000001seg", "9999999999.seg"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
