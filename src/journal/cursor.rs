//! Reads one writer's commits in order, up to the end, to a torn tail, or to corruption.
//!
//! A cursor accepts a commit only at the place where the previous one ends, with the next number and a correct
//! checksum. Everything else is judged by the durable numbers: see [Damage](super#damage). A cursor knows nothing of
//! other writers, and does not decide whether damage ends the reading: [`Reader`](super::Reader) does.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dir;
use super::error::{Damage, Note, ReadError};
use super::format::{BLOCK_LEN, Records};
use super::id::WriterId;
use super::layout::{self, LOCK, POSITION, segment_path};
use super::position::{self, Durable};
use super::salvage::{Found, Search};
use super::segment_file::{Fault, SegmentFile};
use crate::clock;

/// Reads one writer.
#[derive(Debug)]
pub struct Cursor {
    dir: PathBuf,
    pub writer: WriterId,
    /// The writer's salt. `None` until a header could be read.
    salt: Option<u64>,
    segment: Option<SegmentFile>,
    /// The offset in the segment at which the next commit begins, in bytes.
    offset: u64,
    /// The number of the next commit. `None` if reading doesn't begin at the writer's first commit.
    expected: Option<u64>,
    /// The highest durable number that was seen.
    durable: u64,
    /// Whether all of the writer's headers were searched for durable numbers.
    durable_is_whole: bool,
    /// How far the records of a live writer may be returned. `None` for a dead writer.
    bound: Option<Durable>,
    ended: bool,
    pub commits: u64,
}

/// The result of one step.
#[derive(Debug)]
pub enum Step {
    /// The records of the next commit.
    Commit(Records),
    /// The writer is alive, and nothing more is durable yet.
    Waiting,
    /// Retention has removed the next records. Reading continues with the remaining ones.
    Overtaken,
    /// Something to report. The next step continues if that is possible.
    Note(Note),
    /// Durable records are lost. The next step continues after them, if the caller wants to skip damage.
    Corrupt(Damage),
    /// The writer's directory is a copy whose files were copied at different times, and its consistent part ends
    /// here.
    CopyEnds(Damage),
    /// There is nothing more to read.
    End,
}

impl Cursor {
    /// Opens a writer, at the oldest commit that it still has.
    ///
    /// # Errors
    /// The writer can't be read, or has a segment of a later format.
    pub fn open(dir: PathBuf, writer: WriterId) -> Result<Self, ReadError> {
        let mut cursor = Cursor {
            dir,
            writer,
            salt: None,
            segment: None,
            offset: BLOCK_LEN as u64,
            expected: None,
            durable: 0,
            durable_is_whole: false,
            bound: None,
            ended: false,
            commits: 0,
        };
        cursor.refresh()?;
        let numbers = cursor.segments()?;
        for number in &numbers {
            if let Some(header) = cursor.open_segment(*number)?.and_then(|segment| segment.header) {
                cursor.salt = Some(header.salt);
                break;
            }
        }
        // If no segment header can be read, a commit at the beginning of a segment has the salt: payload is never
        // stored in that place.
        for number in &numbers {
            if cursor.salt.is_some() {
                break;
            }
            if let Some(segment) = cursor.open_segment(*number)? {
                let header = cursor.read(&segment, segment.commit_header(BLOCK_LEN as u64, None), None)?;
                cursor.salt = header.map(|header| header.salt);
            }
        }
        cursor.start_at(numbers.first().copied())?;
        Ok(cursor)
    }

    /// Moves to the segment that holds this record, or to the first segment if none does.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn seek_sequence(&mut self, sequence: u64) -> Result<(), ReadError> {
        for number in self.segments()?.into_iter().rev() {
            let Some(segment) = self.open_segment(number)? else { continue };
            let header = self.read(&segment, segment.commit_header(BLOCK_LEN as u64, self.salt), None)?;
            if header.is_some_and(|header| header.first_sequence <= sequence) {
                return self.start_at(Some(number));
            }
        }
        Ok(())
    }

    /// Moves to a segment that is not after the first record that was received at or after `nanos`.
    ///
    /// A segment is created while the previous one is in use, so the clock had shown that time by the end of the
    /// previous segment. A clock may go back: the first segment that shows a late enough time decides, not the last
    /// one that shows an earlier time. If a segment begins earlier than the previous one, the records of the previous
    /// one are read too.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn seek_time(&mut self, nanos: u64) -> Result<(), ReadError> {
        let numbers = self.segments()?;
        let (mut late, mut last, mut begun) = (numbers.len(), None::<SegmentFile>, 0);
        for (at, number) in numbers.iter().enumerate() {
            let Some(segment) = self.open_segment(*number)? else { continue };
            let created = segment.header.map_or(0, |header| header.created);
            let first = self.read(&segment, segment.first_received(self.salt), None)?;
            let went_back = first.is_some_and(|first| first.saturating_add(SET_BACK_MIN) < created.max(begun));
            if went_back
                && let Some(last) = &last
                && self.holds_time(last, nanos)?
            {
                late = at;
                break;
            }
            if created > nanos || first.is_some_and(|first| first >= nanos) {
                late = at;
                break;
            }
            begun = first.unwrap_or(begun);
            last = Some(segment);
        }
        // In a live writer, anything that it has not yet published as durable may be new.
        let newest = self.bound.map_or(u32::MAX, |bound| bound.segment);
        let until = numbers.partition_point(|number| *number <= newest);
        match numbers.get(late.saturating_sub(2).min(until.saturating_sub(1))) {
            Some(number) => self.start_at(Some(*number)),
            None => Ok(()),
        }
    }

    /// Returns whether a segment has a record that was received at or after `nanos`.
    fn holds_time(&self, segment: &SegmentFile, nanos: u64) -> Result<bool, ReadError> {
        let mut offset = BLOCK_LEN as u64;
        loop {
            let commit = match segment.commit(offset, self.durable_until(segment), self.salt) {
                // The times in that place are unknown, so reading begins earlier to be safe.
                Err(fault) if fault.is_lost() => return Ok(true),
                commit => self.read(segment, commit, None)?,
            };
            let Some((header, mut records)) = commit else { return Ok(false) };
            if records.any(|record| record.received >= nanos) {
                return Ok(true);
            }
            offset += header.padded_len();
        }
    }

    /// Returns whether the cursor is at the first segment that the writer still has, as far as is known.
    pub fn is_at_first_segment(&self) -> bool {
        let first = self.segments().ok().and_then(|numbers| numbers.first().copied());
        self.segment.as_ref().is_some_and(|segment| Some(segment.number) == first)
    }

    /// Returns the position of a live writer when it was last read, or `None` for a dead writer.
    pub fn bound(&self) -> Option<Durable> {
        self.bound
    }

    /// Reads the next commit, or finds out why there is none.
    ///
    /// # Errors
    /// The files can't be read, or are of a later format.
    pub fn step(&mut self) -> Result<Step, ReadError> {
        let mut patience = STALE_READS_MAX;
        loop {
            if self.ended {
                return Ok(Step::End);
            }
            if self.is_beyond_bound(self.expected) {
                return Ok(Step::Waiting);
            }
            if self.segment.is_none() {
                let first = self.segments()?.first().copied();
                self.start_at(first)?;
                if self.segment.is_none() && first.is_some() {
                    // The segment was removed meanwhile, so the list of segments has changed.
                    continue;
                }
            }
            if let Some(step) = self.look_for_replacement()? {
                return Ok(step);
            }
            let Some(segment) = &self.segment else { return Ok(self.end_without_segment()) };
            let usable = segment.header.is_some();
            let until = self.durable_until(segment);
            let mut fault = if usable { None } else { segment.header_fault() };
            let commit = match usable.then(|| segment.commit(self.offset, until, self.salt)) {
                Some(Err(lost)) if lost.is_lost() => {
                    fault = Some(lost);
                    None
                }
                Some(commit) => self.read(segment, commit, None)?,
                None => None,
            };
            if let Some((header, records)) = commit
                && self.expected.is_none_or(|expected| expected == header.number)
            {
                if self.is_beyond_bound(Some(header.number)) {
                    return Ok(Step::Waiting);
                }
                self.offset += header.padded_len();
                self.expected = Some(header.number.saturating_add(1));
                self.durable = self.durable.max(header.durable);
                self.commits += 1;
                return Ok(Step::Commit(records));
            }
            if self.move_on()? {
                continue;
            }
            if self.bound.is_some_and(|bound| bound.commit == 0) {
                return Ok(Step::Waiting);
            }
            if self.bound.is_some() && patience > 0 {
                // A live writer bypasses the page cache, so for a moment an older page may hide what it wrote.
                if let Some(segment) = &self.segment {
                    segment.forget();
                }
                patience -= 1;
                clock::pause(STALE_READ_PAUSE);
                continue;
            }
            return self.judge(fault);
        }
    }

    /// Reads a live writer's position again. Returns whether there may be more to read. This is cheap enough to be
    /// called often, and therefore doesn't notice that a writer has died: see [`Self::refresh`].
    ///
    /// # Errors
    /// The position can't be read.
    pub fn look_at_position(&mut self) -> Result<bool, ReadError> {
        let Some(before) = self.bound else { return Ok(false) };
        let durable = self.io_of(POSITION, position::read(&self.dir))?;
        let grown = durable.commit > before.commit;
        if grown {
            self.bound = Some(durable);
        }
        Ok(grown)
    }

    /// Checks again whether the writer is alive, and how far it is. Returns whether there may be more to read.
    ///
    /// # Errors
    /// The lock or the position can't be read.
    pub fn refresh(&mut self) -> Result<bool, ReadError> {
        let before = self.bound;
        // The order matters: if the writer dies in between, its position is still a valid bound.
        self.bound = match self.io_of(LOCK, dir::is_live(&self.dir))? {
            true => Some(self.io_of(POSITION, position::read(&self.dir))?),
            false => None,
        };
        Ok(self.bound != before)
    }

    /// Returns the sequence number of the last record that the writer has published as durable, or 0 if there is
    /// none or the position can't be read.
    pub fn published(&self) -> u64 {
        position::read(&self.dir).unwrap_or_default().sequence
    }

    /// Returns whether a live writer has not yet published the commit with this number.
    fn is_beyond_bound(&self, number: Option<u64>) -> bool {
        matches!((self.bound, number), (Some(bound), Some(number)) if number > bound.commit)
    }

    /// Returns the offset up to which a segment may be read ahead: up to there, nothing is being written.
    fn durable_until(&self, segment: &SegmentFile) -> u64 {
        match self.bound {
            Some(bound) if segment.number == bound.segment => bound.end,
            Some(bound) if segment.number > bound.segment => 0,
            _ => u64::MAX,
        }
    }

    /// Returns the step of a writer that has no segment.
    fn end_without_segment(&mut self) -> Step {
        if self.bound.is_some() {
            return Step::Waiting;
        }
        self.ended = true;
        Step::End
    }

    /// Looks whether a segment from which nothing was read is still in its place. If a commit runs out of space before
    /// any commit of the segment is durable, the writer removes the segment, and may make it anew. The file that is
    /// open then holds commits that have failed. Returns a step if nothing took its place.
    fn look_for_replacement(&mut self) -> Result<Option<Step>, ReadError> {
        let unread = self.segment.as_ref().filter(|_| self.offset == BLOCK_LEN as u64);
        let Some(segment) = unread else { return Ok(None) };
        if segment.is_in_place() {
            return Ok(None);
        }
        self.segment = self.open_segment(segment.number)?;
        if self.segment.is_some() {
            return Ok(None);
        }
        // Retention removes segments too, but not the last one.
        if self.segments()?.is_empty() { Ok(Some(self.end_without_segment())) } else { self.overtaken().map(Some) }
    }

    /// Moves to the next segment if it begins with the expected commit. Returns whether it did.
    fn move_on(&mut self) -> Result<bool, ReadError> {
        let (Some(segment), Some(expected)) = (&self.segment, self.expected) else { return Ok(false) };
        let at = segment.number;
        let Some(number) = self.segments()?.into_iter().find(|number| *number > at) else { return Ok(false) };
        let Some(next) = self.open_segment(number)? else { return Ok(false) };
        let header = self.read(&next, next.commit_header(BLOCK_LEN as u64, self.salt), None)?;
        if next.header.is_none() || header.is_none_or(|header| header.number != expected) {
            return Ok(false);
        }
        (self.segment, self.offset) = (Some(next), BLOCK_LEN as u64);
        Ok(true)
    }

    /// Decides what it means that the expected commit can't be read, because of a disk error or otherwise, and sets
    /// where reading continues.
    fn judge(&mut self, fault: Option<Fault>) -> Result<Step, ReadError> {
        let segment = self.segment.take().expect("a segment is being read");
        if !segment.is_in_place() {
            return self.overtaken();
        }
        let found = self.search(&segment)?;
        let (mut file, mut offset) = self.place_of_damage(&segment, &found)?;
        self.durable = self.durable.max(found.durable).max(self.bound.map_or(0, |bound| bound.commit));
        self.durable_is_whole = true;
        let lost = self.expected.or(match found.first {
            Some((number, first)) if number == segment.number => Some(first),
            // At least the last commit before that segment was in this one.
            Some((_, first)) => Some(first.saturating_sub(1)),
            None => None,
        });
        let durable = lost.filter(|lost| *lost <= self.durable);
        let mut unreadable = None;
        if let Some(fault) = fault {
            (file, offset, unreadable) = (segment.path.clone(), fault.offset, Some(fault.errno()));
        } else if let Some((number, place, errno)) = found.unreadable {
            // An unreadable block in the place of the expected commit is the damage. An unreadable block elsewhere
            // may have held the header that calls the commit durable, so it counts as the damage if no readable
            // header does.
            let path = segment_path(&self.dir, number);
            if (&path, place) == (&file, offset) || (durable.is_none() && found.data) {
                (file, offset, unreadable) = (path, place, Some(errno));
            }
        }
        if durable.is_none() && unreadable.is_none() {
            self.ended = true;
            let torn = found.data || segment.header.is_none();
            let note = Note::TornTail { writer: self.writer, file, offset };
            return Ok(if torn { Step::Note(note) } else { Step::End });
        }
        let is_of_copying = self.bound.is_none()
            && unreadable.is_none()
            && self.is_never_written(&file, offset, &found)?
            && self.is_copy()?;
        let resumes = found.resume.map(|(_, _, number)| number);
        match found.resume {
            Some((number, offset, commit)) => {
                (self.segment, self.offset) = (self.open_segment(number)?, offset);
                self.expected = Some(commit);
                // The header may be what was damaged; its commits were found one by one.
                if let Some(segment) = &mut self.segment {
                    segment.make_usable(self.salt);
                }
            }
            None => self.ended = true,
        }
        let commit = lost.unwrap_or(0);
        let damage = Damage { writer: self.writer, file, offset, commit, unreadable, resumes };
        Ok(if is_of_copying { Step::CopyEnds(damage) } else { Step::Corrupt(damage) })
    }

    /// Returns whether the directory was copied file by file, from a writer that was not closed.
    fn is_copy(&self) -> Result<bool, ReadError> {
        if !dir::is_copy(&self.dir) {
            return Ok(false);
        }
        // A closed writer ends in an empty commit, no matter what is damaged before it.
        let Some(number) = self.segments()?.last().copied() else { return Ok(false) };
        let Some(segment) = self.open_segment(number)? else { return Ok(false) };
        let len = self.io(std::fs::metadata(&segment.path))?.len();
        let mut is_closed = false;
        for offset in (BLOCK_LEN as u64..len).step_by(BLOCK_LEN) {
            if let Some(header) = self.read(&segment, segment.commit_header(offset, self.salt), None)? {
                is_closed = header.records == 0;
            }
        }
        Ok(!is_closed)
    }

    /// Returns whether the place of a missing commit had never been written to when the file was copied. A damaged
    /// commit leaves something there.
    fn is_never_written(&self, path: &Path, offset: u64, found: &Found) -> Result<bool, ReadError> {
        let is_there = |number: &u32| segment_path(&self.dir, *number) == path;
        let Some(number) = self.segments()?.into_iter().find(is_there) else { return Ok(false) };
        let Some(segment) = self.open_segment(number)? else { return Ok(false) };
        let Some(header) = segment.header else { return Ok(false) };
        // A file that ends there was truncated.
        let len = self.io(std::fs::metadata(path))?.len();
        if offset < BLOCK_LEN as u64
            || len < offset + BLOCK_LEN as u64
            || self.read(&segment, segment.has_data_at(offset, self.salt), true)?
        {
            return Ok(false);
        }
        // In a recycled segment, a commit with a damaged header looks like old content, but then other commits follow
        // it.
        Ok(!header.recycled || found.first.is_none_or(|(first, _)| first != number))
    }

    /// Returns the file and the offset where the expected commit should be: in this segment or in the next one. The
    /// first readable header after it decides. If there is none, the commit should be in the next segment if something
    /// was written there and nothing here.
    fn place_of_damage(&self, segment: &SegmentFile, found: &Found) -> Result<(PathBuf, u64), ReadError> {
        if segment.header.is_none() {
            return Ok((segment.path.clone(), 0));
        }
        let here = (segment.path.clone(), self.offset);
        let next = segment.number.saturating_add(1);
        let is_here = match found.first {
            Some((number, _)) if number == segment.number => true,
            Some((number, first)) if number == next => self.expected.is_none_or(|expected| expected < first),
            _ => self.read(segment, segment.has_data_at(self.offset, self.salt), true)?,
        };
        let later = self.segments()?.into_iter().find(|number| *number > segment.number);
        let (Some(later), false) = (later, is_here) else { return Ok(here) };
        let begins = BLOCK_LEN as u64;
        match self.open_segment(next)? {
            Some(next) if next.header.is_none() => Ok((next.path, 0)),
            Some(next) if found.first.is_some() || self.read(&next, next.has_data_at(begins, self.salt), true)? => {
                Ok((next.path, begins))
            }
            None if later > next => Ok((segment_path(&self.dir, next), 0)),
            _ => Ok(here),
        }
    }

    /// Continues with the remaining segments after retention has removed the next commits.
    fn overtaken(&mut self) -> Result<Step, ReadError> {
        let first = self.segments()?.first().copied();
        self.expected = None;
        self.start_at(first)?;
        Ok(Step::Overtaken)
    }

    /// Searches the rest of this segment, and the later ones.
    fn search(&self, segment: &SegmentFile) -> Result<Found, ReadError> {
        let mut search = Search {
            salt: self.salt,
            // If only a segment's header is damaged, the expected commit itself is intact.
            above: self.expected.unwrap_or(0).saturating_sub(1),
            first_only: self.durable_is_whole,
            found: Found::default(),
        };
        let mut more = self.read(segment, search.look_through(segment, self.offset), true)?;
        for number in self.segments()?.into_iter().filter(|number| *number > segment.number) {
            if !more {
                break;
            }
            if let Some(later) = self.open_segment(number)? {
                more = self.read(&later, search.look_through(&later, BLOCK_LEN as u64), true)?;
            }
        }
        Ok(search.found)
    }

    /// Moves to the beginning of a segment.
    fn start_at(&mut self, number: Option<u32>) -> Result<(), ReadError> {
        self.offset = BLOCK_LEN as u64;
        self.segment = match number {
            Some(number) => self.open_segment(number)?,
            None => None,
        };
        // A follower may open a writer that has no segment yet.
        let header = self.segment.as_ref().and_then(|segment| segment.header);
        self.salt = self.salt.or(header.map(|header| header.salt));
        // Only a writer's very first segment is known to begin with the first commit.
        self.expected = if number.is_none_or(|number| number == 0) { Some(1) } else { None };
        Ok(())
    }

    /// Opens a segment. Returns `None` if it doesn't exist.
    fn open_segment(&self, number: u32) -> Result<Option<SegmentFile>, ReadError> {
        let path = segment_path(&self.dir, number);
        let segment = SegmentFile::open(path.clone(), number, self.writer);
        match segment.map_err(|source| ReadError::Io { path, offset: None, source })? {
            Some(SegmentFile { later: Some(version), path, .. }) => Err(ReadError::Version { path, version }),
            segment => {
                if let (Some(_), Some(segment)) = (self.bound, &segment) {
                    segment.expect_writes();
                }
                Ok(segment)
            }
        }
    }

    fn segments(&self) -> Result<Vec<u32>, ReadError> {
        self.io(layout::segments(&self.dir))
    }

    fn io<T>(&self, result: io::Result<T>) -> Result<T, ReadError> {
        result.map_err(|source| ReadError::Io { path: self.dir.clone(), offset: None, source })
    }

    fn io_of<T>(&self, name: &str, result: io::Result<T>) -> Result<T, ReadError> {
        result.map_err(|source| ReadError::Io { path: self.dir.join(name), offset: None, source })
    }

    /// Unwraps a result of reading a segment; returns `lost` if the disk has lost that place.
    fn read<T>(&self, segment: &SegmentFile, result: Result<T, Fault>, lost: T) -> Result<T, ReadError> {
        match result {
            Err(fault) if fault.is_lost() => Ok(lost),
            Err(Fault { offset, error: source }) => {
                Err(ReadError::Io { path: segment.path.clone(), offset: Some(offset), source })
            }
            Ok(read) => Ok(read),
        }
    }
}

/// By how much a segment has to begin before its time to prove that the clock was set back, in nanoseconds.
/// Connections that wait for a commit cause smaller differences.
const SET_BACK_MIN: u64 = 1_000_000_000;
/// How often a commit that a live writer says is durable is read again before it counts as damaged.
const STALE_READS_MAX: u32 = 20;
const STALE_READ_PAUSE: Duration = Duration::from_millis(5);
