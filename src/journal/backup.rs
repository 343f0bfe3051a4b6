//! Makes a copy of a journal that is consistent although servers write to it meanwhile.
//!
//! **Content.** The copy has every record that was acked before the copying began, unless retention has removed it
//! meanwhile. A writer is copied from its newest segment to its oldest. If retention has removed a segment, it has
//! removed all older ones too.
//!
//! * From a live writer: all segments before the one that holds its last whole commit, and that segment up to the end
//!   of that commit. The published position is a lower bound. It may lag behind acks, so the commits after it are
//!   read too. The copy then ends like a closed writer, with an empty commit that names the last durable one, so that
//!   later damage to the copy is distinguished from a torn tail.
//! * From a dead writer: its segments, unchanged.
//!
//! **Consistency.** Whole commits are never written again. A segment that retention recycles loses its name before
//! anything is written to it, so a file that still has its name after it was read was not written to meanwhile.
//! Segments are cloned (FICLONE) if the file system supports that, and copied otherwise. They are not linked: a hard
//! link is the same file, would share every later disk fault with the original, and a server that was about to
//! recycle the segment would write to it.
//!
//! **Interruption.** The name of the copy ends in [`INCOMPLETE`] until everything in it is synced.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::ioctl_ficlone;

use super::dir;
use super::format::{BLOCK_LEN, CommitHeader};
use super::id::WriterId;
use super::layout::{self, START_LOCK, segment_path, sync_dir};
use super::no_journal::NoJournal;
use super::position::{self, Durable, PositionFile};
use super::segment_file::{Fault, SegmentFile, is_lost};

/// The suffix of a copy's name while the copy is being made.
pub const INCOMPLETE: &str = ".incomplete";

/// A complete copy that does not have its final name yet.
#[derive(Debug)]
pub struct Backup {
    target: PathBuf,
    incomplete: PathBuf,
    /// The number of writers in the copy.
    pub writers: usize,
    /// The number of segments in the copy.
    pub segments: u64,
    /// The number of segments that share their blocks with the original.
    pub cloned: u64,
    /// The total size of all segments, in bytes.
    pub bytes: u64,
    /// Writers that lost segments to retention (removed or recycled) before they were copied.
    pub overtaken: Vec<WriterId>,
    /// Blocks that could not be read. The copy has zeros in their place.
    pub unreadable: Vec<Unreadable>,
}

/// A block of a segment that the disk could not read.
#[derive(Debug)]
pub struct Unreadable {
    /// The segment's file in the original.
    pub file: PathBuf,
    /// The offset of the block, in bytes.
    pub offset: u64,
    /// The disk's error.
    pub error: io::Error,
}

/// The reason why there is no copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The path to be copied is not a journal.
    #[error("{path} {why}. Use the directory that a server has as --data-dir", path = .path.display())]
    NoJournal {
        /// The path.
        path: PathBuf,
        /// The reason why the path is not a journal.
        why: NoJournal,
    },
    /// The target is below the journal.
    #[error(
        "{target} is inside the journal {data_dir}, so the copy would be part of what is copied. \
         Name another directory",
        target = .target.display(), data_dir = .data_dir.display()
    )]
    Inside {
        /// The directory for the copy.
        target: PathBuf,
        /// The journal.
        data_dir: PathBuf,
    },
    /// The target exists and is not an empty directory.
    #[error("{path} exists and is not an empty directory. Name a new directory", path = .path.display())]
    NotEmpty {
        /// The directory for the copy.
        path: PathBuf,
    },
    /// The target can't be renamed to, because it is a mount point.
    #[error("{path} is a mount point. Name a new directory below it", path = .path.display())]
    MountPoint {
        /// The directory for the copy.
        path: PathBuf,
    },
    /// An incomplete copy has the temporary name.
    #[error(
        "{path} exists: another backup is running, or one was interrupted. If no backup is running, \
         remove it (rm -r) and retry",
        path = .path.display()
    )]
    Incomplete {
        /// The incomplete copy.
        path: PathBuf,
    },
    /// A file can't be read or written.
    #[error("the backup failed while {what} {path}: {source}", path = .path.display())]
    Io {
        /// The operation that failed.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Copies the journal in `data_dir` for `target`, a directory that doesn't exist or is empty. The copy gets that name
/// from [`Backup::finish`].
///
/// # Errors
/// The target can't be used, or a read or write failed. The incomplete copy is then removed.
pub fn back_up(data_dir: &Path, target: &Path) -> Result<Backup, BackupError> {
    let (target, parent) = check_target(data_dir, target)?;
    if let Some(why) = NoJournal::look(data_dir).map_err(io("examining", data_dir))? {
        return Err(BackupError::NoJournal { path: data_dir.to_owned(), why });
    }
    let writers = layout::writers(data_dir).map_err(io("listing", data_dir))?;
    let sources = find_ends(data_dir, writers)?;
    let mut name = OsString::from(target.file_name().expect("a checked target has a name"));
    name.push(INCOMPLETE);
    let incomplete = parent.join(name);
    match make_dir(&incomplete) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(BackupError::Incomplete { path: incomplete });
        }
        made => made.map_err(io("creating", &incomplete))?,
    }
    let mut backup = Backup::new(target, incomplete);
    let copied = sources.iter().try_for_each(|source| backup.copy_writer(source));
    // The lock file marks the directory as a journal even if it has no message.
    let start_lock = backup.incomplete.join(START_LOCK);
    let marked = copied.and_then(|()| {
        let made = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&start_lock);
        made.map(drop).map_err(io("creating", &start_lock))
    });
    let synced = marked.and_then(|()| sync_dir(&backup.incomplete).map_err(io("syncing", &backup.incomplete)));
    if let Err(error) = synced {
        // Lack of space may be the reason for the failure.
        let _ = fs::remove_dir_all(&backup.incomplete);
        return Err(error);
    }
    Ok(backup)
}

/// Returns a target's path, and the directory that contains or will contain it.
fn check_target(data_dir: &Path, target: &Path) -> Result<(PathBuf, PathBuf), BackupError> {
    let no_name = || BackupError::NotEmpty { path: target.to_owned() };
    // An existing target may be a symbolic link, or end in `..`.
    let target = match fs::canonicalize(target) {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::NotFound => target.to_owned(),
        Err(error) => return Err(io("examining", target)(error)),
    };
    let name = target.file_name().ok_or_else(no_name)?;
    let above = target.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = fs::canonicalize(above).map_err(io("examining", above))?;
    let target = parent.join(name);
    if let Ok(data_dir) = fs::canonicalize(data_dir)
        && target.starts_with(&data_dir)
    {
        return Err(BackupError::Inside { target, data_dir });
    }
    match fs::symlink_metadata(&target) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(io("examining", &target)(error)),
        Ok(metadata) => {
            let is_empty = metadata.is_dir() && fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_none());
            if !is_empty {
                return Err(BackupError::NotEmpty { path: target });
            }
            let above = fs::metadata(&parent).map_err(io("examining", &parent))?;
            if above.dev() != metadata.dev() {
                return Err(BackupError::MountPoint { path: target });
            }
        }
    }
    Ok((target, parent))
}

/// A writer that is being copied.
struct Source {
    writer: WriterId,
    path: PathBuf,
    /// The end of the writer's copy; a dead writer is copied completely.
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Dead,
    /// A live writer without a whole commit.
    Nothing,
    /// After this commit.
    Commit(Durable),
}

/// Finds out how far each writer has written, and repeats this for long enough to see everything that was acked before.
fn find_ends(data_dir: &Path, writers: Vec<WriterId>) -> Result<Vec<Source>, BackupError> {
    let path = |writer: WriterId| data_dir.join(writer.to_string());
    let mut sources: Vec<Source> =
        writers.into_iter().map(|writer| Source { writer, path: path(writer), end: End::Nothing }).collect();
    for round in 0..LOOKS {
        if round > 0 {
            thread::sleep(LOOK_PAUSE);
        }
        for source in sources.iter_mut().filter(|source| source.end != End::Dead) {
            // A reader or a start that probes the lock makes a dead writer look alive for a moment.
            if !dir::is_live(&source.path).map_err(io("probing the lock of", &source.path))? {
                source.end = End::Dead;
                continue;
            }
            let published = position::read(&source.path).map_err(io("reading the position of", &source.path))?;
            let known = match source.end {
                End::Commit(known) if known.commit >= published.commit => known,
                _ => published,
            };
            let end = walk(&source.path, source.writer, known).map_err(io("reading", &source.path))?;
            source.end = match end {
                Durable { commit: 0, .. } => End::Nothing,
                // The published commit can't be read. A copy of all files preserves the most.
                Durable { end: 0, .. } => End::Dead,
                end => End::Commit(end),
            };
        }
        if sources.iter().all(|source| source.end == End::Dead) {
            break;
        }
    }
    Ok(sources)
}

/// Walks from a commit over all whole commits after it, and returns the last one.
fn walk(dir: &Path, writer: WriterId, from: Durable) -> io::Result<Durable> {
    let mut last = from;
    let (mut number, mut offset, mut expected) = (from.segment, from.end, Some(from.commit + 1));
    if from.end == 0 {
        // Nothing was published yet, or a writer of an earlier version doesn't publish where its commit ends.
        let first = layout::segments(dir)?.first().copied().unwrap_or(0);
        (number, offset) = (if from.commit == 0 { first } else { from.segment }, BLOCK_LEN as u64);
        expected = (from.commit == 0 && first == 0).then_some(1);
    }
    let Some(mut segment) = SegmentFile::open(segment_path(dir, number), number, writer)? else { return Ok(from) };
    for _ in 0..WALK_COMMITS_MAX {
        let salt = segment.header.map(|header| header.salt);
        let whole = readable(segment.commit(offset, offset, salt))?;
        if let Some((header, _)) = whole.filter(|(header, _)| expected.is_none_or(|number| number == header.number)) {
            offset += header.padded_len();
            let sequence = header.first_sequence.saturating_add(header.records.into()).saturating_sub(1);
            last = Durable { commit: header.number, sequence, segment: number, end: offset };
            expected = Some(header.number.saturating_add(1));
            continue;
        }
        number += 1;
        let Some(later) = SegmentFile::open(segment_path(dir, number), number, writer)? else { break };
        let first = readable(later.commit_header(BLOCK_LEN as u64, later.header.map(|header| header.salt)))?;
        if first.is_none_or(|first| expected != Some(first.number)) {
            break;
        }
        (segment, offset) = (later, BLOCK_LEN as u64);
    }
    Ok(last)
}

/// Treats data that the disk has lost as absent, like an incomplete commit.
fn readable<T>(read: Result<Option<T>, Fault>) -> io::Result<Option<T>> {
    read.or_else(|fault| if fault.is_lost() { Ok(None) } else { Err(fault.error) })
}

impl Backup {
    /// Returns a backup that has copied nothing yet.
    fn new(target: PathBuf, incomplete: PathBuf) -> Self {
        Backup {
            target,
            incomplete,
            writers: 0,
            segments: 0,
            cloned: 0,
            bytes: 0,
            overtaken: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// Returns the path of the copy until it is finished.
    pub fn incomplete(&self) -> &Path {
        &self.incomplete
    }

    /// Gives the copy its final name.
    ///
    /// # Errors
    /// The file system refuses the rename.
    pub fn finish(&self) -> Result<(), BackupError> {
        fs::rename(&self.incomplete, &self.target).map_err(io("renaming to", &self.target))?;
        let parent = self.target.parent().expect("a checked target has a parent");
        sync_dir(parent).map_err(io("syncing", parent))
    }

    fn copy_writer(&mut self, source: &Source) -> Result<(), BackupError> {
        let last = match source.end {
            End::Nothing => return Ok(()),
            End::Dead => u32::MAX,
            End::Commit(end) => end.segment,
        };
        let numbers = layout::segments(&source.path).map_err(io("listing", &source.path))?;
        let target = self.incomplete.join(source.writer.to_string());
        let mut copied = 0;
        for number in numbers.into_iter().filter(|number| *number <= last).rev() {
            let len_max = match source.end {
                End::Commit(end) if number == end.segment => end.end,
                _ => u64::MAX,
            };
            let (from, to) = (segment_path(&source.path, number), segment_path(&target, number));
            if copied == 0 {
                make_dir(&target).map_err(io("creating", &target))?;
            }
            let Some(len) = self.copy_segment(&from, &to, len_max)? else {
                self.overtaken.push(source.writer);
                break;
            };
            copied += 1;
            self.segments += 1;
            self.bytes += len;
            if copied == 1
                && let End::Commit(end) = source.end
            {
                close(&to, source.writer, end).map_err(io("closing", &to))?;
            }
        }
        if copied == 0 {
            return match fs::remove_dir(&target) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(io("removing", &target)(error)),
                _ => Ok(()),
            };
        }
        dir::copy_marks(&source.path, &target).map_err(io("copying the lock and the position of", &source.path))?;
        if let End::Commit(end) = source.end {
            let closed = Durable { commit: end.commit + 1, end: end.end + BLOCK_LEN as u64, ..end };
            let publish = |file: PositionFile| file.publish(closed);
            PositionFile::create(&target).and_then(publish).map_err(io("writing the position of", &target))?;
        }
        keep_private(&target).map_err(io("syncing", &target))?;
        self.writers += 1;
        Ok(())
    }

    /// Copies a segment, or its first `len_max` bytes, and returns the number of bytes. Returns `None`, and leaves
    /// nothing of the segment in the copy, if the segment lost its name meanwhile.
    fn copy_segment(&mut self, from: &Path, to: &Path, len_max: u64) -> Result<Option<u64>, BackupError> {
        let file = match File::open(from) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io("opening", from))?,
        };
        self.copy_open(&file, from, to, len_max)
    }

    fn copy_open(&mut self, file: &File, from: &Path, to: &Path, len_max: u64) -> Result<Option<u64>, BackupError> {
        let metadata = file.metadata().map_err(io("examining", from))?;
        let len = metadata.len().min(len_max);
        let copy =
            OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(to).map_err(io("creating", to))?;
        let is_cloned = ioctl_ficlone(&copy, file).is_ok();
        let unreadable = if is_cloned { Vec::new() } else { copy_blocks(file, from, &copy, to, len)? };
        copy.set_len(len).and_then(|()| copy.sync_all()).map_err(io("writing", to))?;
        // The order matters: the name is checked only after the whole file was read.
        let is_still_there =
            fs::metadata(from).is_ok_and(|now| (now.dev(), now.ino()) == (metadata.dev(), metadata.ino()));
        if !is_still_there {
            fs::remove_file(to).map_err(io("removing", to))?;
            return Ok(None);
        }
        self.cloned += u64::from(is_cloned);
        self.unreadable.extend(unreadable);
        Ok(Some(len))
    }
}

/// Copies the first `len` bytes, except blocks of zeros. Blocks that can't be read are skipped too, and returned.
fn copy_blocks(file: &File, from: &Path, copy: &File, to: &Path, len: u64) -> Result<Vec<Unreadable>, BackupError> {
    let mut unreadable = Vec::new();
    let mut chunk = vec![0; CHUNK_LEN];
    let mut offset = 0;
    while offset < len {
        let wanted = usize::try_from(len - offset).map_or(CHUNK_LEN, |left| left.min(CHUNK_LEN));
        // After an error, each block is read by itself.
        let steps = match file.read_exact_at(&mut chunk[..wanted], offset) {
            Ok(()) => wanted,
            Err(_) => BLOCK_LEN,
        };
        for begin in (0..wanted).step_by(steps) {
            let part = &mut chunk[begin..wanted.min(begin + steps)];
            let at = offset + begin as u64;
            if steps == BLOCK_LEN
                && let Err(error) = file.read_exact_at(part, at)
            {
                if !is_lost(&error) {
                    return Err(io("reading", from)(error));
                }
                unreadable.push(Unreadable { file: from.to_owned(), offset: at, error });
                continue;
            }
            for (index, block) in part.chunks(BLOCK_LEN).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    copy.write_all_at(block, at + (index * BLOCK_LEN) as u64).map_err(io("writing", to))?;
                }
            }
        }
        offset += wanted as u64;
    }
    Ok(unreadable)
}

/// Ends the copy of a live writer like a closed writer, with an empty commit that names the last durable one.
fn close(path: &Path, writer: WriterId, end: Durable) -> io::Result<()> {
    let segment = SegmentFile::open(path.to_owned(), end.segment, writer)?.ok_or(ErrorKind::NotFound)?;
    let salt = segment.header.map(|header| header.salt);
    // Without a readable header the segment is damaged, and the check at the end finds that.
    let first = readable(segment.commit_header(BLOCK_LEN as u64, salt))?;
    let (Some(first), Some(salt)) = (first, salt) else { return Ok(()) };
    let last = CommitHeader {
        number: end.commit + 1,
        durable: end.commit,
        writer,
        salt,
        first_commit: first.first_commit,
        first_sequence: end.sequence + 1,
        segment: end.segment,
        body_len: 0,
        records: 0,
        body_crc: crc32c::crc32c(&[]),
    };
    let mut block = [0; BLOCK_LEN];
    let header = last.encode();
    block[..header.len()].copy_from_slice(&header);
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&block, end.end)?;
    file.sync_all()
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIR_MODE).create(path)
}

/// Makes a writer's files readable only by their owner, and makes them and their names durable.
fn keep_private(writer_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(writer_dir)? {
        let path = entry?.path();
        fs::set_permissions(&path, Permissions::from_mode(FILE_MODE))?;
        File::open(&path)?.sync_all()?;
    }
    sync_dir(writer_dir)
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { what, path, source }
}

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// How many times each writer is checked. A commit that was acked may for a moment be hidden by an older page, and
/// the position is published a millisecond after it.
const LOOKS: u32 = 10;
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// The maximum number of whole commits after the published position that one check walks over: far more than a disk
/// writes in the millisecond by which the position may lag.
const WALK_COMMITS_MAX: usize = 20_000;
/// Bytes per read.
const CHUNK_LEN: usize = 256 * BLOCK_LEN;

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::super::dir::claim;
    use super::super::{FileStorage, Reader, ReaderOptions, Writer, WriterOptions};
    use super::*;
    use crate::proto::{AckResult, Id};

    /// A live writer's published position may lag by what the writer writes in a millisecond, or may not exist yet.
    #[test]
    fn commits_after_the_published_position_are_copied() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let made = claim(&data_dir, 1, false).unwrap().pop().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let options = WriterOptions {
                segment_len: 64 << 10,
                commit_len_max: 16 << 10,
                min_free: 0,
                ..WriterOptions::default()
            };
            let storage = FileStorage::new(&made.path).unwrap();
            let writer = Writer::open(storage, made.id, 77, options, ()).await.unwrap();
            let mut appender = writer.appender(1, "192.0.2.1:80".parse().unwrap());
            let mut positions = vec![Durable::default()];
            for number in 1..=20 {
                let mut batch = appender.ready().await.received_at(number);
                assert_eq!(batch.stage(Id::from_number(number), &[7; 10_000]), AckResult::Success);
                while writer.stats().oldest.is_some() {
                    tokio::task::yield_now().await;
                }
                positions.push(writer.stats().durable);
            }
            assert!(layout::segments(&made.path).unwrap().len() > 3, "the commits fill some segments");
            // The last position is published without another commit, and by then at the latest.
            tokio::time::sleep(Duration::from_millis(50)).await;
            for (index, late) in positions.into_iter().enumerate() {
                for late in [late, Durable { end: 0, ..late }] {
                    PositionFile::create(&made.path).unwrap().publish(late).unwrap();
                    let target = dir.path().join(format!("copy {index} {}", late.end));
                    let backup = back_up(&data_dir, &target).unwrap();
                    backup.finish().unwrap();
                    let mut reader = Reader::open(&target, ReaderOptions::default()).unwrap();
                    let ids: Vec<_> = reader.by_ref().map(|record| record.unwrap().id).collect();
                    assert_eq!(ids, (1..=20).map(Id::from_number).collect::<Vec<_>>(), "{late:?}");
                    assert_eq!(reader.take_notes(), []);
                    assert!(position::read(&target.join(made.id.to_string())).unwrap().commit == 21);
                    fs::remove_dir_all(&target).unwrap();
                }
            }
        });
    }

    /// A recycled segment is renamed, and then written to.
    #[test]
    fn a_segment_that_is_recycled_while_it_is_copied_is_not_in_the_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut backup = Backup::new(path("copy"), path("copy"));
        let bytes = [vec![1; 3 * BLOCK_LEN], vec![0; 3 << 20], vec![2; 100]].concat();
        fs::write(path("segment"), &bytes).unwrap();
        let file = File::open(path("segment")).unwrap();
        let mut copy = |len_max| backup.copy_open(&file, &path("segment"), &path("copy"), len_max).unwrap();
        assert_eq!(copy(u64::MAX), Some(bytes.len() as u64));
        assert_eq!(fs::read(path("copy")).unwrap(), bytes);
        fs::remove_file(path("copy")).unwrap();
        assert_eq!(copy(5000), Some(5000));
        assert_eq!(fs::read(path("copy")).unwrap(), bytes[..5000]);
        fs::remove_file(path("copy")).unwrap();

        fs::rename(path("segment"), path("recycled")).unwrap();
        OpenOptions::new().write(true).open(path("recycled")).unwrap().write_all_at(&[3; 4096], 0).unwrap();
        assert_eq!((copy(u64::MAX), path("copy").exists()), (None, false), "the segment has lost its name");
        fs::write(path("segment"), &bytes).unwrap();
        assert_eq!((copy(u64::MAX), path("copy").exists()), (None, false), "another file has the name");
        assert_eq!(backup.copy_segment(&path("none"), &path("copy"), u64::MAX).unwrap(), None);
    }
}
