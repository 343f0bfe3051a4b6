//! Reads a journal: the records of all its writers, while a server runs or not.
//!
//! **Order.** The records of one writer come in their order, so those of one connection do too. The
//! writers are merged by receive time: of the records that come next in each, the one that was
//! received first. A writer that has not started yet by then is not even opened. Who follows sees
//! each record soon after it is durable, and so merges what is there.
//!
//! **Live writers** are read up to what they have published as durable, not further.

use std::collections::{BTreeSet, HashMap, VecDeque};
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
    /// beginning, unless it started before all that are: those were read to their ends.
    Positions(Vec<Position>),
    /// Records that were received at this time, in nanoseconds since 1970, or later.
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
    /// Retention has removed segments before they were read.
    Removed { writer: WriterId },
    /// There is no writer of a position any more, or not yet.
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
            Note::Removed { writer } => {
                write!(f, "writer {writer}: segments were removed by retention before they were read")
            }
            Note::NoWriter { position } => write!(f, "no writer has position {position}: it may have been removed"),
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
    /// Those that are not open yet, oldest first.
    pending: VecDeque<WriterId>,
    open: Vec<Open>,
    /// Where writers begin that a position names.
    from: HashMap<WriterId, u64>,
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
    /// Records before this sequence number, and before this time, are not wanted.
    from_sequence: u64,
    from_time: u64,
}

impl Open {
    fn ask_again(&mut self) {
        (self.idle, self.asked) = (false, false);
    }
}

impl Reader {
    /// Opens the journal in a data directory.
    ///
    /// # Errors
    /// It can't be listed.
    pub fn open(data_dir: &Path, options: ReaderOptions) -> Result<Self, ReadError> {
        let mut reader = Reader {
            data_dir: data_dir.to_owned(),
            known: BTreeSet::new(),
            pending: VecDeque::new(),
            open: Vec::new(),
            from: HashMap::new(),
            notes: Vec::new(),
            looked: Instant::now(),
            failed: false,
            commits: 0,
            options,
        };
        if let Start::Positions(positions) = &reader.options.start {
            reader.from = positions.iter().map(|position| (position.writer, position.sequence)).collect();
        }
        reader.look_for_writers()?;
        for (writer, sequence) in &reader.from {
            if !reader.known.contains(writer) {
                let position = Position { writer: *writer, sequence: *sequence };
                reader.notes.push(Note::NoWriter { position });
            }
        }
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

    /// Commits read so far.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Which writer has the next record.
    fn advance(&mut self) -> Result<Option<usize>, ReadError> {
        if self.options.follow && self.is_at_a_commits_end() && self.looked.elapsed() >= LOOK_INTERVAL {
            self.look_again()?;
        }
        loop {
            for at in (0..self.open.len()).rev() {
                if !self.fill(at)? {
                    self.open.swap_remove(at);
                }
            }
            let next = |(at, open): (usize, &mut Open)| {
                open.records.peek().map(|(_, received)| (received, open.cursor.writer, at))
            };
            let first = self.open.iter_mut().enumerate().filter_map(next).min();
            // A writer that started before that record may have an earlier one.
            if let Some(writer) = self.pending.front().copied()
                && first.is_none_or(|(received, ..)| writer.started_nanos() <= received)
            {
                self.pending.pop_front();
                self.open_writer(writer)?;
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
                if sequence >= open.from_sequence && received >= open.from_time {
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
                    open.records = records;
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
                Step::Note(note) => self.notes.push(note),
                Step::Corrupt(damage) if self.options.salvage => self.notes.push(Note::Damage(damage)),
                Step::Corrupt(damage) => return Err(ReadError::Corrupt(damage)),
                Step::End => return Ok(false),
            }
        }
    }

    fn open_writer(&mut self, writer: WriterId) -> Result<(), ReadError> {
        let mut cursor = Cursor::open(self.data_dir.join(writer.to_string()), writer)?;
        let (mut from_sequence, mut from_time) = (0, 0);
        if let Some(sequence) = self.from.get(&writer) {
            from_sequence = *sequence;
            cursor.seek_sequence(from_sequence)?;
        }
        if let Start::Time(nanos) = self.options.start {
            from_time = nanos;
            cursor.seek_time(nanos)?;
        }
        self.open.push(Open {
            cursor,
            records: Records::default(),
            idle: false,
            asked: false,
            from_sequence,
            from_time,
        });
        Ok(())
    }

    /// Asks idle writers again, and looks for new ones.
    fn look_again(&mut self) -> Result<(), ReadError> {
        self.looked = Instant::now();
        self.open.iter_mut().for_each(Open::ask_again);
        self.look_for_writers()
    }

    fn look_for_writers(&mut self) -> Result<(), ReadError> {
        let writers =
            dir::writers(&self.data_dir).map_err(|source| ReadError::Io { path: self.data_dir.clone(), source })?;
        let first_wanted = self.from.keys().min().copied();
        for writer in writers {
            if self.known.insert(writer) && first_wanted.is_none_or(|first| first <= writer) {
                self.pending.push_back(writer);
            }
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

/// How often one who follows looks for new writers, and asks idle ones though others are busy.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
