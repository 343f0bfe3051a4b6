//! The names and modes of what is in a data directory, and lists of it.
//!
//! This module knows nothing of locks or of the contents of files. Every other module of the journal gets paths and
//! names from here, so a name is written down once.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::id::WriterId;

/// Returns the writers of a data directory, oldest first.
///
/// # Errors
/// The directory can't be listed.
pub fn writers(data_dir: &Path) -> io::Result<Vec<WriterId>> {
    let mut writers = Vec::new();
    for entry in fs::read_dir(data_dir)? {
        writers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<WriterId>().ok()));
    }
    writers.sort_unstable();
    Ok(writers)
}

/// Returns the numbers of a writer's segments, oldest first. The list is empty if the writer has been removed.
///
/// # Errors
/// The writer's directory can't be listed.
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

/// Returns the name of a segment's file.
pub fn segment_name(number: u32) -> String {
    format!("{number:010}.{SEGMENT}")
}

/// Returns the name of a segment's file while it is being prepared.
pub fn temporary_name(number: u32) -> String {
    format!("{number:010}.{SEGMENT}.{TEMPORARY}")
}

fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SEGMENT)?.strip_suffix('.')?;
    (digits.len() == 10 && digits.bytes().all(|digit| digit.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Returns the path of a writer's segment.
pub fn segment_path(writer_dir: &Path, number: u32) -> PathBuf {
    writer_dir.join(segment_name(number))
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
    /// Returns the mode of directories.
    pub fn dir_mode(self) -> u32 {
        match self {
            Access::Owner => 0o700,
            Access::Group => 0o750,
        }
    }

    /// Returns the access that a writer's directory grants to its files, judged by the directory's mode.
    ///
    /// # Errors
    /// The directory can't be examined.
    pub fn of(writer_dir: &Path) -> io::Result<Self> {
        let mode = fs::metadata(writer_dir)?.mode();
        Ok(if mode & 0o050 == 0o050 { Access::Group } else { Access::Owner })
    }

    /// Returns the mode of files.
    pub fn file_mode(self) -> u32 {
        self.dir_mode() & 0o666
    }

    /// Sets the mode of an open file to that of the journal's files.
    ///
    /// # Errors
    /// The file system refuses the mode.
    pub fn apply(self, file: &File) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(self.file_mode()))
    }
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

/// Makes the names in a directory durable: new, renamed and removed ones. Blocks until the disk has them.
///
/// # Errors
/// The directory can't be synced.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file. Returns `false` if there was no such file.
///
/// # Errors
/// The file can't be removed.
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// The name of a writer's position file.
pub const POSITION: &str = "position";
/// The name of a writer's lock file.
pub const LOCK: &str = "lock";
/// The name of the file in the data directory that is locked while a server starts.
pub const START_LOCK: &str = "start.lock";
/// The extension of a segment's file.
const SEGMENT: &str = "seg";
/// The extension of a segment's file while it is being prepared.
pub(super) const TEMPORARY: &str = "tmp";
/// The extension of a writer's directory while it is being created.
pub(super) const UNFINISHED: &str = "new";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_segment_names_have_a_number() {
        assert_eq!(segment_number(&segment_name(12)), Some(12));
        for name in [&temporary_name(12)[..], "12.seg", "000000000x.seg", "0000000001seg", "9999999999.seg"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
