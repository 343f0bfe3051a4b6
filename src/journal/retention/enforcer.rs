//! Removes or recycles the segments that a [`Plan`] names, and reports what could not be done.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::super::dir::{self, Owned};
use super::super::id::WriterId;
use super::super::layout::{self, segment_path};
use super::super::moment::Moment;
use super::limits::Retention;
use super::plan::{EARLIEST, Ends, Plan, RetainedSegment};

/// The segments that one call of [`Enforcer::enforce`] has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// The number of segments.
    pub segments: u64,
    /// The bytes of these segments.
    pub bytes: u64,
    /// The number of writers whose last segment was removed.
    pub writers: u64,
    /// The number of writers with something that could not be read or removed. Everything else was done nevertheless.
    pub failed: u64,
}

/// Enforces a [`Retention`] repeatedly on one data directory.
#[derive(Debug)]
pub struct Enforcer {
    retention: Retention,
    data_dir: PathBuf,
    /// The receive times of segments' last messages, for segments where only reading the segment shows it.
    ends: Ends,
    /// Whether an obviously wrong wall clock was reported.
    reported_clock: bool,
    /// Writers that were reported because something of them could not be read or removed.
    reported: HashSet<WriterId>,
}

impl Enforcer {
    /// Returns an enforcer for a data directory.
    pub fn new(retention: Retention, data_dir: PathBuf) -> Self {
        Enforcer { retention, data_dir, ends: Ends::new(), reported_clock: false, reported: HashSet::new() }
    }

    /// Removes segments beyond the size limit or the age limit. A failed removal is logged once and tried again by each
    /// call; until it succeeds, later segments of the same writer stay as well. This makes blocking calls, some of
    /// which need milliseconds, so don't call it on a shard's thread.
    ///
    /// # Errors
    /// The directory can't be listed.
    pub fn enforce(&mut self, now: Moment) -> io::Result<Removed> {
        let mut removed = Removed::default();
        if self.retention.is_off() {
            return Ok(removed);
        }
        if self.retention.age_limit().is_some() && now.wall < EARLIEST && !self.reported_clock {
            self.reported_clock = true;
            warn!(
                "the wall clock is wrong: it shows a time before 2025. --retain-age does not apply to messages from \
                 before the last boot until the clock is set"
            );
        }
        let mut failures = Vec::new();
        let mut plan = Plan::new(self.retention, &self.data_dir, None, now, &mut self.ends, &mut failures)?;
        while let Some(segment) = plan.next() {
            let dir = self.data_dir.join(segment.writer.to_string());
            match remove(&dir, &segment, &mut removed) {
                Ok(()) => {}
                Err((what, error)) => {
                    plan.keep(&segment);
                    failures.push((segment.writer, what, error));
                }
            }
        }
        let known: HashSet<_> = plan.known().collect();
        self.ends.retain(|key, _| known.contains(key));
        removed.failed = failures.len() as u64;
        let failed: HashSet<_> = failures.iter().map(|(writer, ..)| *writer).collect();
        self.reported.retain(|writer| failed.contains(writer));
        for (writer, what, error) in failures {
            if self.reported.insert(writer) {
                warn!(
                    %writer,
                    %what,
                    %error,
                    "cannot remove old segments of a writer; trying again. Until then its later segments stay as well"
                );
            }
        }
        Ok(removed)
    }
}

impl Retention {
    /// Renames an expired segment of exactly `len` bytes to `to`, which is the path of a segment that is being made, in
    /// the directory of any writer of the same journal. The limits are applied as if that segment were already in use.
    /// Returns whether there was such a segment. Its removal from its writer is then durable. This makes blocking
    /// calls, like [`Enforcer::enforce`].
    ///
    /// # Errors
    /// The directory can't be read, or the segment can't be renamed.
    pub fn recycle(&self, data_dir: &Path, len: u64, to: &Path, now: Moment) -> io::Result<bool> {
        if self.is_off() {
            return Ok(false);
        }
        let mut ends = HashMap::new();
        // The enforcer reports what can't be read.
        let mut plan = Plan::new(*self, data_dir, segment_of(to), now, &mut ends, &mut Vec::new())?;
        while let Some(segment) = plan.next() {
            let dir = data_dir.join(segment.writer.to_string());
            if !segment.whole || segment.len != len {
                // This segment must be removed before a newer one, here as well as when the limits are enforced.
                if remove(&dir, &segment, &mut Removed::default()).is_err() {
                    plan.keep(&segment);
                }
                continue;
            }
            match fs::rename(segment_path(&dir, segment.number), to) {
                // Another writer has recycled it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                // Before the file is written to: after a crash, it could have its old name again.
                Ok(()) => return layout::sync_dir(&dir).map(|()| true),
            }
        }
        Ok(false)
    }
}

/// Removes a segment, and its writer if it has no other segment. An error comes with a description of what was tried.
fn remove(dir: &Path, segment: &RetainedSegment, removed: &mut Removed) -> Result<(), (String, io::Error)> {
    let path = segment_path(dir, segment.number);
    if layout::remove_if_there(&path).map_err(|error| (format!("removing {}", path.display()), error))? {
        removed.segments += 1;
        removed.bytes += segment.len;
    }
    let emptied = || {
        if layout::segments(dir)?.is_empty()
            && let Owned::Free(_lock) = dir::try_own(dir)?
        {
            dir::remove_writer(dir)?;
            return Ok(1);
        }
        Ok(0)
    };
    removed.writers += emptied().map_err(|error| (format!("removing {}", dir.display()), error))?;
    Ok(())
}

/// Returns the writer and the number of a segment that is being made.
fn segment_of(path: &Path) -> Option<(WriterId, u32)> {
    let writer = path.parent()?.file_name()?.to_str()?.parse().ok()?;
    let number = path.file_name()?.to_str()?.split('.').next()?.parse().ok()?;
    Some((writer, number))
}
