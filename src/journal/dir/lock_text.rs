//! The text of a writer's lock file: which process holds it, and when the file was created.
//!
//! The second line shows whether a writer's directory was copied file by file: no system call can set a file's
//! creation time, so the lock file of such a copy was created later than its text says.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::super::id::WriterId;
use super::super::layout::{LOCK, POSITION};

/// Returns the description of a writer's process from its lock file, or an empty string if there is none.
pub fn holder(data_dir: &Path, writer: WriterId) -> String {
    let text = fs::read_to_string(data_dir.join(writer.to_string()).join(LOCK)).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Writes the text of a new lock file.
///
/// # Errors
/// The file can't be written.
pub fn write(mut lock: &File, writer: WriterId) -> io::Result<()> {
    writeln!(lock, "process {}, shard {}", std::process::id(), writer.shard())?;
    if let Some(created) = created_nanos(lock) {
        writeln!(lock, "{FILE_CREATED}{created}")?;
    }
    Ok(())
}

/// Returns the time at which a file was created, in nanoseconds since 1970, if the file system keeps it. No system call
/// can change that time, so a copy of the file has another one.
fn created_nanos(file: &File) -> Option<u128> {
    let created = file.metadata().and_then(|metadata| metadata.created()).ok()?;
    Some(created.duration_since(UNIX_EPOCH).ok()?.as_nanos())
}

/// Returns whether a writer's directory was copied file by file, which is the case if its lock file was created later
/// than its text says. Returns `false` if that can't be known.
pub fn is_copy(writer_dir: &Path) -> bool {
    let is_copy = || {
        let mut file = File::open(writer_dir.join(LOCK)).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let recorded: u128 = text.lines().find_map(|line| line.strip_prefix(FILE_CREATED))?.parse().ok()?;
        Some(created_nanos(&file)?.abs_diff(recorded) > FILE_CREATED_SLACK.as_nanos())
    };
    is_copy().unwrap_or(false)
}

/// Copies a writer's lock file and its position file. No process holds the copy's lock. [`is_copy`] returns `false` for
/// the new copy, unless the original is a copy made file by file, because a backup is consistent.
///
/// # Errors
/// A file can't be read or written.
pub fn copy_marks(from: &Path, to: &Path) -> io::Result<()> {
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
    let keeps = |line: &&str| is_copy(from) || !line.starts_with(FILE_CREATED);
    let lines: String = text.lines().filter(keeps).map(|line| format!("{line}\n")).collect();
    fs::write(to.join(LOCK), lines)
}

/// The beginning of the lock file's line that records when the file was created.
const FILE_CREATED: &str = "file made ";
/// How much of that time a file system may round off.
const FILE_CREATED_SLACK: Duration = Duration::from_millis(10);
