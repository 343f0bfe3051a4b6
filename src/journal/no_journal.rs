//! Recognizes paths that are not a journal. A mistyped path must not be treated as a journal without messages.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::id::WriterId;
use super::layout::{START_LOCK, writers};

/// The reason why a path is not a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoJournal {
    /// The path does not exist.
    #[error("does not exist, so there is no journal")]
    Missing,
    /// The path is not a directory.
    #[error("is not a directory, so it is not a journal")]
    File,
    /// The path is the directory of one writer.
    #[error("is a single writer of a journal; the journal is the directory above it")]
    Writer,
    /// The path is a directory without a journal.
    #[error("has no journal: no server has ever started with it")]
    Empty,
}

impl NoJournal {
    /// Checks a path. Returns `None` if it is a journal, even if a server has started with it and written nothing.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn look(path: &Path) -> io::Result<Option<NoJournal>> {
        match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(NoJournal::Missing)),
            Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(Some(NoJournal::File)),
            Err(error) => return Err(error),
            Ok(metadata) if !metadata.is_dir() => return Ok(Some(NoJournal::File)),
            Ok(_) => {}
        }
        if !writers(path)?.is_empty() || path.join(START_LOCK).try_exists()? {
            return Ok(None);
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Ok(Some(if name.parse::<WriterId>().is_ok() { NoJournal::Writer } else { NoJournal::Empty }))
    }

    /// Returns whether a starting server can turn the path into a journal.
    pub fn may_become_one(self) -> bool {
        matches!(self, NoJournal::Missing | NoJournal::Empty)
    }
}
