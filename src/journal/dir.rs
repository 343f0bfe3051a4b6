//! The data directory: who may write there, which writers and segments it has.
//!
//! A writer's lock, held exclusively, says that it lives. Readers hold no lock; they only ask for one for
//! an instant, shared, to learn whether a writer lives, so a start asks again for a short while before it
//! believes that a lock is held. Who tidies up behind a dead writer holds its lock shared: that keeps
//! other owners out, and no reader takes the writer for alive.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tracing::warn;

use super::id::{SHARDS_MAX, WriterId, now_nanos};
use super::scan::{SegmentFile, is_lost, segment_path};

/// A writer's directory, with its lock. It is free again when this is dropped.
#[derive(Debug)]
pub struct WriterDir {
    pub id: WriterId,
    pub path: PathBuf,
    _lock: File,
}

/// Why a process may not write to a data directory.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("{path} is in use: writer {writer} lives ({holder}). Stop that server, or name another --data-dir", path = .path.display())]
    Live { path: PathBuf, writer: WriterId, holder: String },
    #[error("another server has been starting on {path} for {waited:?}", path = .path.display())]
    Starting { path: PathBuf, waited: Duration },
    #[error("{asked} workers: a journal takes at most {SHARDS_MAX}")]
    Shards { asked: usize },
    #[error("can't use {path} for a journal: {what}: {source}", path = .path.display())]
    Refused { path: PathBuf, what: &'static str, source: io::Error },
}

/// Makes a writer for each of `shards` shards. The directory is made if there is none. With `share`,
/// other writers may live.
///
/// What dead writers have left behind unused is removed: segments without a single commit, and files
/// that were being made.
///
/// # Errors
/// A live writer has the directory, or the file system refuses something.
pub fn claim(data_dir: &Path, shards: usize, share: bool) -> Result<Vec<WriterDir>, ClaimError> {
    let refused = |what| move |source| ClaimError::Refused { path: data_dir.to_owned(), what, source };
    if shards > SHARDS_MAX {
        return Err(ClaimError::Shards { asked: shards });
    }
    make(data_dir).map_err(refused("making it"))?;
    let start = File::create(data_dir.join(START_LOCK)).map_err(refused("making its start lock"))?;
    let waited = START_LOCK_WAIT;
    if !lock(&start, waited).map_err(refused("locking it"))? {
        return Err(ClaimError::Starting { path: data_dir.to_owned(), waited });
    }
    for writer in writers(data_dir).map_err(refused("listing it"))? {
        let path = data_dir.join(writer.to_string());
        let owned = match try_own(&path) {
            // Whoever lives has other writers too, or a start lock: they refuse.
            Err(error) if is_lost(&error) => {
                leave(&path.join(LOCK), 0, &error);
                continue;
            }
            owned => owned.map_err(refused("asking for a writer's lock"))?,
        };
        match owned {
            Owned::Free(_lock) => match sweep(&path, writer) {
                Err(error) if is_lost(&error) => leave(&path, 0, &error),
                swept => swept.map_err(refused("removing what a dead writer left unused"))?,
            },
            Owned::Gone => {}
            Owned::Held if share => {}
            Owned::Held => return Err(live(data_dir, writer)),
        }
    }
    remove_half_made(data_dir).map_err(refused("removing a writer that was being made"))?;
    let made = make_writers(data_dir, shards).map_err(refused("making a writer"))?;
    sync_dir(data_dir).map_err(refused("syncing it"))?;
    Ok(made)
}

/// Says of a directory that is there what [`claim`] would: whether a start would be refused. Makes and
/// changes nothing. Returns how many writers it has.
///
/// # Errors
/// A live writer has it, or the file system refuses something.
pub fn check(data_dir: &Path) -> Result<usize, ClaimError> {
    let refused = |what| move |source| ClaimError::Refused { path: data_dir.to_owned(), what, source };
    match File::options().write(true).open(data_dir.join(START_LOCK)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(refused("opening its start lock")(error)),
        _ => {}
    }
    let writers = writers(data_dir).map_err(refused("listing it"))?;
    for writer in &writers {
        let path = data_dir.join(writer.to_string());
        if is_live(&path).map_err(refused("asking for a writer's lock"))? {
            return Err(live(data_dir, *writer));
        }
        segments(&path).map_err(refused("listing a writer"))?;
    }
    Ok(writers.len())
}

fn live(data_dir: &Path, writer: WriterId) -> ClaimError {
    let holder = fs::read_to_string(data_dir.join(writer.to_string()).join(LOCK)).unwrap_or_default();
    ClaimError::Live { path: data_dir.to_owned(), writer, holder: holder.trim().to_owned() }
}

/// Makes the data directory and everything above it, and sees to it that its name lasts. `false` if it was there.
///
/// # Errors
/// The file system refuses it.
pub fn make(data_dir: &Path) -> io::Result<bool> {
    if data_dir.is_dir() {
        return Ok(false);
    }
    fs::create_dir_all(data_dir)?;
    let above = data_dir.parent().filter(|above| !above.as_os_str().is_empty());
    sync_dir(above.unwrap_or(Path::new("."))).map(|()| true)
}

fn make_writers(data_dir: &Path, shards: usize) -> io::Result<Vec<WriterDir>> {
    // A clock that was set back may name a writer that exists: the next free microsecond will do.
    let newest = writers(data_dir)?.last().map_or(0, |newest| newest.started_nanos() / 1000 + 1);
    let micros = (now_nanos() / 1000).max(newest);
    (0..shards).map(|shard| make_writer(data_dir, WriterId::new(micros, shard))).collect()
}

/// A writer appears under its name only when its lock is held: nobody takes it for dead before.
fn make_writer(data_dir: &Path, id: WriterId) -> io::Result<WriterDir> {
    let (making, path) = (data_dir.join(format!("{id}.{MAKING}")), data_dir.join(id.to_string()));
    fs::create_dir(&making)?;
    let mut file = File::create_new(making.join(LOCK))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    writeln!(file, "process {}, worker {}", std::process::id(), id.shard())?;
    fs::rename(&making, &path)?;
    Ok(WriterDir { id, path, _lock: file })
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
fn sweep(path: &Path, writer: WriterId) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(TEMPORARY)) {
            fs::remove_file(path)?;
        }
    }
    let mut left = segments(path)?;
    while let Some(last) = left.last() {
        if let Some(segment) = SegmentFile::open(segment_path(path, *last), *last, writer)? {
            match segment.is_used() {
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
    if left.is_empty() { remove_writer(path) } else { Ok(()) }
}

/// Says that a dead writer's file stays as it is, since the disk can't read it: that is no reason not to start.
fn leave(path: &Path, offset: u64, error: &io::Error) {
    let file = path.display();
    warn!(%file, offset, "can't read what a dead writer left: {error}; it stays as it is (see: ringpost journal verify)");
}

/// Removes a writer that has no segment, the lock last.
pub(super) fn remove_writer(path: &Path) -> io::Result<()> {
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
    let file = match File::open(path.join(LOCK)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A removal was cut short behind its lock: there is nothing to own, but to tidy up.
            return Ok(if path.is_dir() { Owned::Free(File::open(path)?) } else { Owned::Gone });
        }
        file => file?,
    };
    // It is exclusive for no longer than it takes to learn that no other owner has it, shared or not.
    let is_ours = lock(&file, LOCK_WAIT)? && flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
    Ok(if is_ours { Owned::Free(file) } else { Owned::Held })
}

/// Whether a writer lives. A writer that is gone does not.
///
/// # Errors
/// Its lock can't be opened or asked for.
pub fn is_live(writer_dir: &Path) -> io::Result<bool> {
    let file = match File::open(writer_dir.join(LOCK)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Whether a writer has a lock file.
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

/// Makes what was done to a directory's names last.
///
/// # Errors
/// The file system refuses.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(crate) const POSITION: &str = "position";
pub(super) const LOCK: &str = "lock";
pub(super) const START_LOCK: &str = "start.lock";
const SEGMENT: &str = "seg";
const TEMPORARY: &str = "tmp";
const MAKING: &str = "new";

/// How long a start waits for another one's.
const START_LOCK_WAIT: Duration = Duration::from_secs(2);
/// How long a lock has to be held to be an owner's: readers hold it for microseconds.
const LOCK_WAIT: Duration = Duration::from_millis(50);
const LOCK_PAUSE: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::super::format::{BLOCK_LEN, CommitHeader, SegmentHeader};
    use super::*;

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
        assert_eq!(names.len(), 2, "{names:?}");
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

    #[test]
    fn segments_are_told_by_their_names() {
        assert_eq!(segment_number(&segment_name(12)), Some(12));
        for name in [&temporary_name(12)[..], "12.seg", "000000000x.seg", "0000000001seg", "9999999999.seg"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
