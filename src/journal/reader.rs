//! Reads a journal: the records of all its writers, while a server runs or not.
//!
//! **Order.** The records of one writer come in their order, so those of one connection do too. The
//! writers are merged by receive time: of the records that come next in each, the one that was
//! received first. A dead writer is opened when its start time is reached or when nothing else is left,
//! so that a long journal needs few descriptors. A follower reads in rounds: each round returns
//! everything that was durable when its writers were asked, and only then asks them again. So a wall
//! clock that was set back changes the order of the merge, but hides no record, and delays none beyond
//! the end of a round.
//!
//! **Live writers** are read up to what they have published as durable, not further.
//!
//! **Resuming.** [`Reader::positions`] returns where to continue, for each writer that was read.
//! [`Start::Positions`] with these begins exactly there, and reads every other writer from its
//! beginning. Times play no part in it: two writers may write at the same time, for as long as they like.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::cursor::{Cursor, Step};
use super::dir;
use super::format::{FORMAT_VERSION, Records};
use super::id::{Position, WriterId};
use super::record::Record;
use crate::config::JOURNAL_FOLLOW_INTERVAL;

/// Where reading begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    #[default]
    Beginning,
    /// Each writer that is named begins with that record. A writer that is not named is read from its
    /// beginning, so a consumer that resumes names every writer that it has read:
    /// [`Reader::positions`] lists them.
    Positions(Vec<Position>),
    /// Each writer begins with its first record that was received at this time, in nanoseconds since
    /// 1970, or later. Everything after that record follows, whatever its time. A follower also returns
    /// everything that becomes durable after it was opened.
    ///
    /// The search skips segments by the times at which they were made and began. It doesn't notice a clock
    /// that went ahead and came back within one segment.
    Time(u64),
}

/// How to read.
#[derive(Debug, Clone, Default)]
pub struct ReaderOptions {
    pub start: Start,
    /// Wait for more at the end, for ever.
    pub follow: bool,
    /// Go on behind damage, with a note.
    pub salvage: bool,
}

/// Durable records that can't be read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub writer: WriterId,
    pub file: PathBuf,
    /// Where the damage begins in that file.
    pub offset: u64,
    /// The first commit that is lost.
    pub commit: u64,
    /// The next one that can be read.
    pub resumes: Option<u64>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Damage { writer, file, offset, commit, resumes } = self;
        write!(
            f,
            "{}, offset {offset}: commit {commit} of writer {writer} was durable and is damaged; ",
            file.display()
        )?;
        match resumes {
            Some(next) => write!(f, "the next one that can be read is commit {next}"),
            None => write!(f, "none behind it can be read"),
        }
    }
}

/// What a reader has to tell besides records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A writer ends in bytes that were never known to be durable.
    TornTail { writer: WriterId, file: PathBuf, offset: u64 },
    /// Damage was passed over.
    Damage(Damage),
    /// Retention has removed records of a writer before they were read: from sequence number `first` to
    /// `last`. Without `first`, reading begins at a time, or at what is left: some of the removed records
    /// may belong to what was asked for. Without `last`, the whole writer is gone, and nothing says how many
    /// records it had.
    Removed { writer: WriterId, first: Option<u64>, last: Option<u64> },
    /// No writer has this position. If it was removed, its records from this one on are gone, if there
    /// were any. [`Reader::positions`] keeps the position; drop it to hear of it no more.
    NoWriter { position: Position },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Note::TornTail { writer, file, offset } => write!(
                f,
                "{}, offset {offset}: writer {writer} ends in a torn tail, which was never known to be durable",
                file.display()
            ),
            Note::Damage(damage) => damage.fmt(f),
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

/// Why a journal can't be read any further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("could not read {path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} has format version {version}; this build reads up to {FORMAT_VERSION}", path = .path.display())]
    Version { path: PathBuf, version: u32 },
    #[error("{0}. --salvage goes on behind it")]
    Corrupt(Damage),
}

/// The records of a journal, as an iterator. It ends at the end of the journal, or behind its first
/// error; with [`ReaderOptions::follow`] it blocks instead of ending.
#[derive(Debug)]
pub struct Reader {
    data_dir: PathBuf,
    options: ReaderOptions,
    /// Every writer that was ever seen.
    known: BTreeSet<WriterId>,
    /// Those that are not open yet, oldest first, and whether they came after the beginning.
    pending: VecDeque<(WriterId, bool)>,
    open: Vec<Open>,
    /// The next record of each writer that is not open: where a position says that it begins, or where
    /// it ended.
    next: BTreeMap<WriterId, u64>,
    /// The writers that were there at the beginning have been listed.
    begun: bool,
    notes: Vec<Note>,
    looked: Instant,
    failed: bool,
    commits: u64,
}

/// A writer that is being read.
#[derive(Debug)]
struct Open {
    cursor: Cursor,
    /// What is left of the commit that was read last.
    records: Records,
    /// It had nothing more when it was last asked.
    idle: bool,
    /// It was asked how far it is, and is not asked again until the reader has waited: else a follower
    /// would read each commit by itself, and keep the disk from writing the next ones.
    asked: bool,
    /// Records before this sequence number are not wanted.
    from_sequence: u64,
    /// Up to the record `old_until`, those before this time are not wanted; 0 from the first one that is.
    from_time: u64,
    old_until: u64,
    /// The sequence number that the next commit should begin with at most, if that is known: a
    /// higher one shows a gap.
    expected: Option<u64>,
    /// The number after the last record of the last commit.
    end: u64,
    /// Retention has removed what the cursor was to read next.
    overtaken: bool,
}

impl Open {
    fn ask_again(&mut self) {
        (self.idle, self.asked) = (false, false);
    }

    #[inline]
    fn wants(&mut self, sequence: u64, received: u64) -> bool {
        if sequence < self.from_sequence || (received < self.from_time && sequence <= self.old_until) {
            return false;
        }
        self.from_time = 0;
        true
    }

    /// The sequence number of the next record to be returned.
    fn next(&mut self) -> u64 {
        let at_hand = self.records.peek().map(|(sequence, _)| sequence);
        at_hand.unwrap_or(self.end).max(self.from_sequence)
    }

    /// Enters a commit that was read. Returns the records that are missing before it: from the first,
    /// where that is known, to the last.
    fn enter(&mut self, mut records: Records) -> Option<(Option<u64>, u64)> {
        let begin = records.next_sequence();
        let gap = match self.expected {
            Some(expected) if expected < begin => Some((Some(expected), begin - 1)),
            None if self.overtaken => Some((None, begin - 1)),
            // The first of them all, where reading begins at a time.
            None if self.from_time > 0 && self.end == 0 && begin > 1 && self.cursor.is_at_first_segment() => {
                let received = records.peek().map(|(_, received)| received);
                received.filter(|received| *received >= self.from_time).map(|_| (None, begin - 1))
            }
            _ => None,
        };
        self.overtaken = false;
        self.end = records.end_sequence();
        // A position may name a record that is not there yet.
        self.expected = Some(self.expected.unwrap_or(0).max(self.end));
        self.records = records;
        gap
    }
}

impl Reader {
    /// Opens the journal in a data directory.
    ///
    /// # Errors
    /// It can't be listed.
    pub fn open(data_dir: &Path, options: ReaderOptions) -> Result<Self, ReadError> {
        let next = match &options.start {
            Start::Positions(positions) => positions.iter().map(|p| (p.writer, p.sequence)).collect(),
            Start::Beginning | Start::Time(_) => BTreeMap::new(),
        };
        let mut reader = Reader {
            data_dir: data_dir.to_owned(),
            known: BTreeSet::new(),
            pending: VecDeque::new(),
            open: Vec::new(),
            next,
            begun: false,
            notes: Vec::new(),
            looked: Instant::now(),
            failed: false,
            commits: 0,
            options,
        };
        reader.look_for_writers()?;
        Ok(reader)
    }

    /// The next record that is there now; none where there is none yet, or no more. Does not wait.
    pub fn try_next(&mut self) -> Option<Result<Record, ReadError>> {
        if self.failed {
            return None;
        }
        match self.advance() {
            Ok(Some(at)) => self.open[at].records.next().map(Ok),
            Ok(None) => None,
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }

    /// Waits a moment for more, where a journal is followed.
    pub fn wait(&mut self) {
        thread::sleep(JOURNAL_FOLLOW_INTERVAL);
        self.open.iter_mut().for_each(Open::ask_again);
    }

    /// What there was to tell since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Where to continue: the next record of each writer that was read, those that were read to their
    /// ends included. [`Start::Positions`] with these returns every record that this reader has not
    /// returned, and no other. A writer that was read to its end and has been removed is not listed.
    pub fn positions(&mut self) -> Vec<Position> {
        let mut next = self.next.clone();
        next.extend(self.open.iter_mut().map(|open| (open.cursor.writer, open.next())));
        next.into_iter().map(|(writer, sequence)| Position { writer, sequence }).collect()
    }

    /// Commits read so far.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Which writer has the next record.
    fn advance(&mut self) -> Result<Option<usize>, ReadError> {
        if self.options.follow && self.is_at_a_commits_end() && self.looked.elapsed() >= LOOK_INTERVAL {
            self.look_for_writers()?;
        }
        loop {
            for at in (0..self.open.len()).rev() {
                if !self.fill(at)? {
                    self.close(at);
                }
            }
            let next = |(at, open): (usize, &mut Open)| {
                open.records.peek().map(|(_, received)| (received, open.cursor.writer, at))
            };
            let first = self.open.iter_mut().enumerate().filter_map(next).min();
            // A writer that started before that record may have an earlier one. Where the clock was set back, its
            // start says nothing, and it is opened at the end of the round.
            if let Some((writer, late)) = self.pending.front().copied()
                && first.is_none_or(|(received, ..)| writer.started_nanos() <= received)
            {
                self.pending.pop_front();
                self.open_writer(writer, late)?;
                continue;
            }
            return Ok(first.map(|(_, _, at)| at));
        }
    }

    /// Whether the next record has to be read from a file, if there is one: the time to look at the clock,
    /// which costs a quarter as much as a small record.
    fn is_at_a_commits_end(&mut self) -> bool {
        let (mut at_hand, mut unread) = (false, false);
        for open in &mut self.open {
            let has_next = open.records.peek().is_some();
            at_hand |= has_next;
            unread |= !has_next && !open.idle;
        }
        unread || !at_hand
    }

    /// Reads a writer's next record, unless it is there. Says whether there may ever be more.
    fn fill(&mut self, at: usize) -> Result<bool, ReadError> {
        let open = &mut self.open[at];
        loop {
            while let Some((sequence, received)) = open.records.peek() {
                if open.wants(sequence, received) {
                    return Ok(true);
                }
                open.records.next();
            }
            if open.idle {
                return Ok(true);
            }
            match open.cursor.step()? {
                Step::Commit(records) => {
                    self.commits += 1;
                    if let Some((first, last)) = open.enter(records) {
                        self.notes.push(Note::Removed { writer: open.cursor.writer, first, last: Some(last) });
                    }
                }
                // The writer may have gone on since its bound was read, or have been dead all along, when
                // another process just asked for its lock.
                Step::Waiting => {
                    open.idle = open.asked || !open.cursor.refresh()?;
                    open.asked = true;
                    if open.idle && !self.options.follow {
                        return Ok(false);
                    }
                }
                Step::Overtaken => open.overtaken = true,
                Step::Note(note) => self.notes.push(note),
                Step::Corrupt(damage) if self.options.salvage => {
                    self.notes.push(Note::Damage(damage));
                    // What is missing has been reported.
                    open.expected = None;
                }
                Step::Corrupt(damage) => return Err(ReadError::Corrupt(damage)),
                Step::End => return Ok(false),
            }
        }
    }

    /// Gives up a writer that has nothing more.
    fn close(&mut self, at: usize) {
        let mut open = self.open.swap_remove(at);
        let (writer, next) = (open.cursor.writer, open.next());
        if open.overtaken {
            self.notes.push(Note::Removed { writer, first: Some(next), last: None });
        }
        self.next.insert(writer, next);
    }

    /// Opens a writer. One that is `late` has come since the reader was opened: all of it is wanted,
    /// whatever its clock says.
    fn open_writer(&mut self, writer: WriterId, late: bool) -> Result<(), ReadError> {
        let mut cursor = Cursor::open(self.data_dir.join(writer.to_string()), writer)?;
        let (mut expected, mut from_time, mut old_until) = (None, 0, u64::MAX);
        let from = self.next.remove(&writer);
        if let Some(sequence) = from {
            cursor.seek_sequence(sequence)?;
        }
        match self.options.start {
            Start::Beginning => {}
            Start::Positions(_) => expected = Some(from.unwrap_or(1)),
            Start::Time(nanos) if !late => {
                from_time = nanos;
                cursor.seek_time(nanos)?;
                if let (true, Some(bound)) = (self.options.follow, cursor.bound()) {
                    old_until = bound.sequence;
                }
            }
            Start::Time(_) => {}
        }
        self.open.push(Open {
            cursor,
            records: Records::default(),
            idle: false,
            asked: false,
            from_sequence: from.unwrap_or(1),
            from_time,
            old_until,
            expected,
            end: 0,
            overtaken: false,
        });
        Ok(())
    }

    /// Looks for writers that are new. A follower opens those that live immediately: what they write from
    /// now on is wanted, whatever their clocks say.
    fn look_for_writers(&mut self) -> Result<(), ReadError> {
        self.looked = Instant::now();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| ReadError::Io { path, source }
        };
        let writers = dir::writers(&self.data_dir).map_err(io(&self.data_dir))?;
        let late = std::mem::replace(&mut self.begun, true);
        for writer in &writers {
            if !self.known.insert(*writer) {
                continue;
            }
            let path = self.data_dir.join(writer.to_string());
            if self.options.follow && dir::is_live(&path).map_err(io(&path))? {
                self.open_writer(*writer, late)?;
            } else {
                self.pending.push_back((*writer, late));
            }
        }
        if late {
            let known = &self.known;
            self.next.retain(|writer, _| writers.binary_search(writer).is_ok() || !known.contains(writer));
        } else {
            let missing = self.next.iter().filter(|(writer, _)| !self.known.contains(writer));
            let position = missing.map(|(writer, sequence)| Position { writer: *writer, sequence: *sequence });
            self.notes.extend(position.map(|position| Note::NoWriter { position }));
        }
        Ok(())
    }
}

impl Iterator for Reader {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let next = self.try_next();
            if next.is_some() || self.failed || !self.options.follow {
                return next;
            }
            self.wait();
        }
    }
}

/// How often a follower looks for new writers.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
