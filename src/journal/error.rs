//! The reports of a reader besides records: errors, damage and notes.
//!
//! Every text says what was found, where, and what to do about it. This module reads no files.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::format::FORMAT_VERSION;
use super::id::{Position, WriterId};
use super::no_journal::NoJournal;
use super::segment_file::is_lost;

/// The reason why a journal can't be read any further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A file or directory can't be read.
    #[error("can't read {path}{at}: {source}{fix}", path = .path.display(), at = At(*.offset), fix = fix(.source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The offset in the file, in bytes, if one block of it can't be read.
        offset: Option<u64>,
        /// The kernel's error.
        source: io::Error,
    },
    /// A segment was written by a later version of Ringpost.
    #[error(
        "{path} has format version {version}; this build reads up to {FORMAT_VERSION}. Use the \
         version of ringpost that wrote it, or a later one",
        path = .path.display()
    )]
    Version {
        /// The segment's file.
        path: PathBuf,
        /// The segment's format version.
        version: u32,
    },
    /// Durable records are damaged. With [`salvage`](super::ReaderOptions::salvage), this is a [`Note::Damage`]
    /// instead.
    #[error("{0}. Restore this file from a backup, or skip the damage with --salvage (the exit code stays 1)")]
    Corrupt(Damage),
    /// The path is not a journal.
    #[error("{path} {why}. Use the directory that a server has as --data-dir", path = .path.display())]
    NoJournal {
        /// The path that was to be read.
        path: PathBuf,
        /// The reason why the path is not a journal.
        why: NoJournal,
    },
}

/// An offset in an error's text, if there is one.
struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |offset| write!(f, ", offset {offset}"))
    }
}

/// Returns how to fix the cause of an error, if that is known.
fn fix(error: &io::Error) -> &'static str {
    if is_lost(error) {
        "; the disk may be failing (see the kernel's log): restore the file from a backup, or read the other writers \
         with --salvage"
    } else {
        match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => "; read it as the server's user or as root",
            Some(libc::EMFILE | libc::ENFILE) => "; allow more open files (ulimit -n)",
            _ => "",
        }
    }
}

/// Durable records that can no longer be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The writer of the records.
    pub writer: WriterId,
    /// The damaged file.
    pub file: PathBuf,
    /// The offset in that file at which the damage begins, in bytes.
    pub offset: u64,
    /// The number of the first lost commit, or 0 if its number is unknown.
    pub commit: u64,
    /// The disk's error (errno), if the disk can't read that place. In that case it is not always known whether the
    /// commit was durable.
    pub unreadable: Option<i32>,
    /// The number of the next commit that can be read, if there is one.
    pub resumes: Option<u64>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { writer, file, offset, commit, unreadable, resumes } = self;
        write!(f, "{}, offset {offset}: ", file.display())?;
        match commit {
            0 => write!(f, "a commit")?,
            commit => write!(f, "commit {commit}")?,
        }
        match unreadable {
            Some(errno) => {
                let error = io::Error::from_raw_os_error(*errno);
                write!(f, " of writer {writer} can't be read from the disk: {error}; ")?;
            }
            None => write!(f, " of writer {writer} was durable and is damaged; ")?,
        }
        match resumes {
            Some(next) => write!(f, "the next readable commit is {next}"),
            None => write!(f, "no later commit can be read"),
        }
    }
}

/// Something that a reader noticed between records and that did not stop it. See [`Reader`](super::Reader) for when to
/// ask for notes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A writer ends in bytes that were never known to be durable. This is normal after a crash.
    TornTail {
        /// The writer.
        writer: WriterId,
        /// The writer's last segment.
        file: PathBuf,
        /// The offset in that file at which the torn write begins, in bytes.
        offset: u64,
    },
    /// Damage was skipped, because [`salvage`](super::ReaderOptions::salvage) is set.
    Damage(Damage),
    /// A file or directory of a writer can't be read. The rest of that writer is skipped.
    Skipped {
        /// The writer.
        writer: WriterId,
        /// The file or directory.
        path: PathBuf,
        /// The error (errno).
        errno: i32,
    },
    /// A follower waits for a journal that doesn't exist yet.
    NoJournal {
        /// The path of the journal.
        path: PathBuf,
    },
    /// The directory was copied file by file while a server was writing, and the copy of this writer ends here. The
    /// commit was not yet written when this file was copied, and was durable when a later file was copied. With
    /// [`salvage`](super::ReaderOptions::salvage), reading continues after that place.
    CopyEnds(Damage),
    /// Retention has removed records of a writer before they were read.
    Removed {
        /// The writer.
        writer: WriterId,
        /// The sequence number of the first removed record. `None` if reading begins at a time, or at the oldest
        /// remaining record: some of the removed records may then have belonged to the requested range.
        first: Option<u64>,
        /// The sequence number of the last removed record. `None` if no later record of the writer is left to show it.
        last: Option<u64>,
    },
    /// A position names a writer that doesn't exist. If the writer was removed, its records from this position on are
    /// gone, if there were any. [`Reader::positions`](super::Reader::positions) keeps the position. Drop it to stop
    /// this note.
    NoWriter {
        /// The position that was to be read from.
        position: Position,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::TornTail { writer, file, offset } => write!(
                f,
                "{}, offset {offset}: writer {writer} ends in a torn tail, which was never known to be durable",
                file.display()
            ),
            Note::Damage(damage) => damage.fmt(f),
            Note::Skipped { writer, path, errno } => write!(
                f,
                "{} can't be read: {}; skipping the rest of writer {writer}",
                path.display(),
                io::Error::from_raw_os_error(*errno)
            ),
            Note::NoJournal { path } => {
                write!(f, "{} has no journal yet; waiting for a server that starts with it", path.display())
            }
            Note::CopyEnds(Damage { writer, file, offset, commit, .. }) => write!(
                f,
                "{}, offset {offset}: this copy of writer {writer} ends before commit {commit}. The journal was copied \
                 file by file, and other files are newer than this one: --salvage also shows what they have. If a \
                 server was writing during the copying, everything that was acked before the copying began is there. \
                 If none was, the disk has lost that commit. Use `ringpost journal backup` for consistent copies",
                file.display()
            ),
            Note::Removed { writer, first: Some(first), last: Some(last) } => {
                write!(f, "writer {writer}: records {first} to {last} were removed by retention before they were read")
            }
            Note::Removed { writer, first: None, last: Some(last) } => {
                write!(f, "writer {writer}: records up to {last} were removed by retention and were not read")
            }
            Note::Removed { writer, first, last: None } => write!(
                f,
                "writer {writer} was removed before it was read to its end: its records from {} on, if there were any, \
                 are gone",
                first.unwrap_or(1)
            ),
            Note::NoWriter { position: Position { writer, sequence } } => write!(
                f,
                "there is no writer {writer}: if retention has removed it, its records from {sequence} on, if there \
                 were any, are gone"
            ),
        }
    }
}
