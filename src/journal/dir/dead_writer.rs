//! Tidies up after dead writers: removes what they left unused, and frees the space that they preallocated.
//!
//! Data that a dead writer has written is never changed, whether it is damaged or not. A start does the part that needs
//! few reads ([`sweep`]). [`reclaim`] does the rest a while later.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use tracing::warn;

use super::super::format::BLOCK_LEN;
use super::super::id::WriterId;
use super::super::layout::{
    Access, LOCK, POSITION, TEMPORARY, remove_if_there, segment_path, segments, sync_dir, writers,
};
use super::super::moment::BootTime;
use super::super::options::BYTES_MAX;
use super::super::position;
use super::super::segment_file::SegmentFile;
use super::locks::{Owned, has_lock, open_lock, try_own};

/// Removes what a dead writer left unused: a segment that was being prepared, the last segments if the writer wrote
/// nothing to them, and the writer itself if no segment is left. A segment that was written to stays as it is, to the
/// last byte. The header of any commit shows that a recycled segment was written to.
///
/// A start does not read whole segments for this. In a segment of this boot, the first block and the position file
/// show whether the segment was written to. In any other segment, if nothing was written to the first `QUIET_LEN`
/// bytes, which is more than a writer has in flight, no later commit was ever acked.
///
/// # Errors
/// A file can't be read or removed.
pub fn sweep(path: &Path, writer: WriterId, access: Access) -> io::Result<()> {
    tighten(path, access)?;
    remove_unfinished_segments(path)?;
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
            // If servers share the directory, another server's retention may have removed the segment first.
            remove_if_there(&segment.path)?;
        }
        left.pop();
    }
    if left.is_empty() {
        return remove_writer(path);
    }
    // With a lock file, the directory is an ordinary dead writer, for retention too.
    open_lock(&path.join(LOCK), true).map(drop)
}

/// Frees the disk space that dead writers have allocated and not used: the rest of their last segments.
///
/// **Why this is safe.** When a killed process has released its locks, it may still have writes in flight that its ring
/// has passed to the disk. So this function is called some time after the start ([`RECLAIM_DELAY`]), and it makes the
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
            Ok(freed) => bytes += freed,
            Err(error) => warn!(%writer, %error, "can't free the unused space of a dead writer"),
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
        // The header is damaged or of a later version, so nothing is known about the segment.
        let Some(header) = segment.header else { return Ok(bytes) };
        if len < header.len {
            // This segment was already truncated. All segments before it are full.
            return Ok(bytes);
        }
        // Waits for direct writes in flight. The range is allocated already, so nothing can be refused.
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

/// Removes a dead writer that has no segment. The lock file goes last, after the removal of the segments is durable:
/// a reader that has noticed the end of the writer must not find its records again after a power cut.
///
/// # Errors
/// A file or the directory can't be removed.
pub fn remove_writer(path: &Path) -> io::Result<()> {
    // With these files left, the directory would stay, and without a lock file nothing would show that the writer is
    // dead.
    remove_unfinished_segments(path)?;
    sync_dir(path)?;
    for name in [POSITION, LOCK] {
        remove_if_there(&path.join(name))?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        done => done,
    }
}

/// Removes the segments that a dead writer was preparing.
fn remove_unfinished_segments(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(TEMPORARY)) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// Denies access to a dead writer's files to users that may not read this start's files: an earlier version created
/// them with the umask's mode. A mode that can't be changed, because another user owns the file, stays as it is.
fn tighten(path: &Path, access: Access) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if metadata.mode() & 0o777 != access.dir_mode()
        && let Err(error) = fs::set_permissions(path, Permissions::from_mode(access.dir_mode()))
    {
        warn!(path = %path.display(), %error, "can't prevent other users from reading a writer's files");
    }
    Ok(())
}

/// Returns whether a segment was created on this boot. If so, its writer's position file was never lost with the page
/// cache, and lags behind the acks by milliseconds at most.
fn is_of_this_boot(segment: &SegmentFile) -> bool {
    BootTime::now().zip(segment.boot_time).is_some_and(|(now, then)| now.id == then.id)
}

/// Logs that a dead writer's file stays as it is because the disk can't read it. That is no reason to refuse to start.
pub fn leave(path: &Path, offset: u64, error: &io::Error) {
    let file = path.display();
    warn!(%file, offset, %error, "can't read a dead writer's file; leaving it as it is (see: ringpost journal verify)");
}

/// How long after a start the unused space of dead writers is freed: see [`reclaim`].
pub const RECLAIM_DELAY: Duration = Duration::from_secs(2);
/// The length of an unwritten range after which a writer that ran on this boot is assumed to have written nothing
/// more: twice its default limit in flight. A writer waits for the first commit of a segment before it acks any later
/// one.
pub const QUIET_LEN: u64 = 2 * BYTES_MAX as u64;
