//! Reads a journal: the records of all its writers, whether or not a server is running.
//!
//! [`Reader`] merges the writers, and keeps track of where it is in each. It reads one writer at a time through a
//! `Cursor`, which decides what damage means. It never writes to a journal and holds no lock.
//!
//! **Order.** The records of one writer come in the order in which they were written, so the records of one connection
//! do too. The writers are merged by receive time: of the next records of all writers, the one that was received first
//! comes first. A dead writer is opened when its start time is reached or when no other record is left, so that a long
//! journal needs few descriptors. A follower reads in rounds: each round returns everything that was durable when the
//! reader checked its writers, and only then checks them again. So a wall clock that was set back changes the order of
//! the merge, but it hides no record, and delays no record beyond the end of a round.
//!
//! **Live writers** are read up to what they have published as durable, and no further.
//!
//! **Resuming.** [`Reader::positions`] returns where to continue, for each writer that was read. [`Start::Positions`]
//! with these positions begins exactly there, and reads every other writer from its beginning. Times don't matter for
//! this: two writers may write at the same time, for any length of time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::cursor::{Cursor, Step};
use super::dir;
use super::error::{Note, ReadError};
use super::format::Records;
use super::id::{Position, WriterId};
use super::layout::{LOCK, writers};
use super::no_journal::NoJournal;
use super::record::Record;
use crate::clock;

/// The place in a journal at which reading begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// At the oldest record of each writer that retention has left.
    #[default]
    Beginning,
    /// Each named writer begins with the named record. A writer that is not named is read from its beginning, so a
    /// consumer that resumes names every writer that it has read: [`Reader::positions`] lists them. If two positions
    /// name the same writer, the last one counts.
    Positions(Vec<Position>),
    /// Each writer begins with its first record that was received at or after this time, in nanoseconds since 1970.
    /// Everything after that record follows, whatever its time. A follower also returns everything that becomes
    /// durable after it was opened.
    ///
    /// The search skips segments based on the times at which they were created and first used. It doesn't notice a
    /// clock that was set forward and back within one segment.
    Time(u64),
}

/// How to read a journal. The default reads everything from the beginning, ends at the end, and stops at damage.
///
/// ```
/// use ringpost::journal::{ReaderOptions, Start};
///
/// let options = ReaderOptions::default().start(Start::Beginning).follow(true);
/// ```
#[derive(Debug, Clone, Default)]
pub struct ReaderOptions {
    start: Start,
    follow: bool,
    salvage: bool,
}

impl ReaderOptions {
    /// Sets where reading begins. The default is [`Start::Beginning`].
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Sets whether to wait for more records at the end, forever. The default is `false`.
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// Sets whether to skip damage. Only the damaged part is skipped, or the rest of a writer that can't be read, and a
    /// [`Note`] reports it. The default is `false`: reading ends with an error.
    pub fn salvage(mut self, salvage: bool) -> Self {
        self.salvage = salvage;
        self
    }
}

/// The records of a journal, as an iterator.
///
/// A reader needs no server. It may read while servers write, and any number of readers may read the same journal. It
/// returns every durable record once, in the order of its connection.
///
/// # Order of use
///
/// There are two ways to use a reader:
///
/// 1. **As an iterator.** Without [`follow`](ReaderOptions::follow), the iterator ends at the end of the journal or
///    after its first error. With it, `next` blocks until there is another record, and the iterator ends only after an
///    error.
/// 2. **By polling**, for a follower that also has to do something else, such as saving its position or ending:
///    call [`try_next`](Self::try_next) until it returns `None`, then [`wait`](Self::wait), and repeat.
///    A follower that doesn't call `wait` doesn't notice new records in writers that it has already read to their ends.
///
/// In both cases, call [`take_notes`](Self::take_notes) whenever convenient: after each record, before each wait, or
/// once at the end. Notes are collected until then. A note that was added by a call belongs before the record that the
/// same call returned. [`positions`](Self::positions) may be called at any time. After an error, the reader returns
/// nothing more.
///
/// # Blocking
///
/// [`open`](Self::open), `next`, [`try_next`](Self::try_next) and [`wait`](Self::wait) read files or sleep, so they
/// block the calling thread. An asynchronous program calls them on a thread of their own
/// (`tokio::task::spawn_blocking`). None of them panics, whatever the files contain.
///
/// # Example
///
/// A consumer that resumes where it left off. It saves its positions only after it has processed the records before
/// them, so after a crash it may process some records twice, but it misses none. `examples/consume_and_resume.rs` is a
/// complete program.
///
/// ```no_run
/// use std::path::Path;
///
/// use ringpost::journal::{Position, ReadError, Reader, ReaderOptions, Start};
/// # fn load() -> Vec<Position> { Vec::new() }
/// # fn save(_: Vec<Position>) {}
/// # fn process(_: &[u8]) {}
///
/// fn consume(data_dir: &Path) -> Result<(), ReadError> {
///     let start = Start::Positions(load());
///     let mut reader = Reader::open(data_dir, ReaderOptions::default().start(start).follow(true))?;
///     loop {
///         while let Some(record) = reader.try_next() {
///             process(&record?.payload);
///         }
///         for note in reader.take_notes() {
///             eprintln!("{note}");
///         }
///         save(reader.positions());
///         reader.wait();
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Reader {
    data_dir: PathBuf,
    options: ReaderOptions,
    /// Every writer that was ever seen.
    known: BTreeSet<WriterId>,
    /// Writers that are not open yet, oldest first, and whether they appeared after the reader was opened.
    pending: VecDeque<(WriterId, bool)>,
    open: Vec<Open>,
    /// The next record of each writer that is not open: the record that a position names, or the one after the
    /// writer's last.
    next: BTreeMap<WriterId, u64>,
    /// Whether the directory was checked for the first time.
    begun: bool,
    /// Whether the directory was ever listed.
    listed: bool,
    /// Whether the directory doesn't exist and a note reports this.
    missing: bool,
    notes: Vec<Note>,
    /// When to look for new writers next.
    look_at: Instant,
    /// When a record was last read or a writer was found.
    active: Instant,
    /// How many commits had been read at that time.
    active_commits: u64,
    /// When the last pause ended.
    woke: Instant,
    /// When the locks of the live writers were last checked.
    saw_locks: Instant,
    /// Whether to check them in this round.
    look_at_locks: bool,
    failed: bool,
    commits: u64,
}

impl Reader {
    /// Opens the journal in a data directory. A follower also opens a path where no journal exists yet, and waits for
    /// it.
    ///
    /// # Errors
    /// The directory can't be listed, or is not a journal. A follower's first live writers can't be read.
    pub fn open(data_dir: &Path, options: ReaderOptions) -> Result<Self, ReadError> {
        let now = clock::now();
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
            listed: false,
            missing: false,
            notes: Vec::new(),
            look_at: now,
            active: now,
            active_commits: 0,
            woke: now,
            saw_locks: now,
            look_at_locks: true,
            failed: false,
            commits: 0,
            options,
        };
        reader.look_for_writers()?;
        Ok(reader)
    }

    /// Returns the next record that is readable now, without waiting for more. Returns `None` at the present end of the
    /// journal, and after an error.
    ///
    /// # Errors
    /// A file can't be read, or durable records are damaged. This is the last item.
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

    /// Pauses before a follower looks for more records, and starts its next round. The pause grows with the time since
    /// the last record came, from 10 ms to 100 ms, and to one second with very many writers.
    pub fn wait(&mut self) {
        self.wait_with(thread::sleep);
    }

    /// Waits as [`wait`](Self::wait) does, but calls `pause` with the duration instead of sleeping. `pause` may return
    /// early, for example because the program should end.
    pub fn wait_with(&mut self, pause: impl FnOnce(Duration)) {
        let now = clock::now();
        if self.active_commits != self.commits {
            (self.active, self.active_commits) = (now, self.commits);
        }
        let idle = now.duration_since(self.active);
        // With many writers, checking all of them takes long.
        let rest = (now.duration_since(self.woke) * LOOK_SHARE).min(REST_MAX);
        pause((idle / IDLE_SHARE).clamp(FOLLOW_INTERVAL, FOLLOW_INTERVAL_MAX.max(rest)));
        self.woke = clock::now();
        self.look_at_locks = now.duration_since(self.saw_locks) >= LOCKS_INTERVAL;
        if self.look_at_locks {
            self.saw_locks = now;
        }
        self.open.iter_mut().for_each(Open::allow_checks);
    }

    /// Returns the notes since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Returns where to continue: the next record of each writer that was read, including writers that were read to
    /// their ends. [`Start::Positions`] with these returns every record that this reader has not returned, and no
    /// other. A writer that was read to its end and has been removed is not listed.
    pub fn positions(&mut self) -> Vec<Position> {
        let mut next = self.next.clone();
        next.extend(self.open.iter_mut().map(|open| (open.cursor.writer, open.next())));
        next.into_iter().map(|(writer, sequence)| Position { writer, sequence }).collect()
    }

    /// Returns the number of commits that were read so far. A commit holds the records of one group commit.
    pub fn commits_read(&self) -> u64 {
        self.commits
    }

    /// Returns the index of the open writer that has the next record.
    fn advance(&mut self) -> Result<Option<usize>, ReadError> {
        if self.options.follow && self.is_at_a_commits_end() && clock::now() >= self.look_at {
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
            // A writer that started before that record may have an earlier one. If the clock was set back, the
            // writer's start time proves nothing, and the writer is opened at the end of the round.
            if let Some((writer, late)) = self.pending.front().copied()
                && first.is_none_or(|(received, ..)| writer.started_nanos() <= received)
            {
                self.pending.pop_front();
                self.open_or_skip(writer, late)?;
                continue;
            }
            return Ok(first.map(|(_, _, at)| at));
        }
    }

    /// Returns whether the next record, if there is one, has to be read from a file. Only then does the reader look at
    /// the clock, because that costs a quarter as much as a small record.
    fn is_at_a_commits_end(&mut self) -> bool {
        let (mut at_hand, mut unread) = (false, false);
        for open in &mut self.open {
            let has_next = open.records.peek().is_some();
            at_hand |= has_next;
            unread |= !has_next && !open.idle;
        }
        unread || !at_hand
    }

    /// Reads a writer's next commit if all records of the last one were returned. Returns whether the writer may ever
    /// have more records.
    fn fill(&mut self, at: usize) -> Result<bool, ReadError> {
        let open = &mut self.open[at];
        if open.has_next() || open.idle {
            return Ok(true);
        }
        match self.read_on(at) {
            Err(error) => self.skip(self.open[at].cursor.writer, error).map(|()| false),
            more => more,
        }
    }

    /// Adds a note that the rest of a writer is skipped, if damage is to be skipped and the other writers can still be
    /// read. Returns the error otherwise.
    fn skip(&mut self, writer: WriterId, error: ReadError) -> Result<(), ReadError> {
        match error {
            ReadError::Io { path, source, .. } if self.options.salvage && !is_of_this_process(&source) => {
                let errno = source.raw_os_error().unwrap_or(libc::EIO);
                self.notes.push(Note::Skipped { writer, path, errno });
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Steps a writer's cursor until it has a wanted record, has to wait, or ends. Returns whether the writer may ever
    /// have more records.
    fn read_on(&mut self, at: usize) -> Result<bool, ReadError> {
        let open = &mut self.open[at];
        loop {
            if open.has_next() || open.idle {
                return Ok(true);
            }
            match open.cursor.step()? {
                Step::Commit(records) => {
                    self.commits += 1;
                    if let Some((first, last)) = open.enter(records) {
                        self.notes.push(Note::Removed { writer: open.cursor.writer, first, last: Some(last) });
                    }
                }
                // The writer may have written more since its position was read. Or it may have been dead all along,
                // and another process was just probing its lock.
                Step::Waiting => {
                    open.idle = open.checked
                        || !(if self.look_at_locks { open.cursor.refresh() } else { open.cursor.look_at_position() })?;
                    open.checked = true;
                    if open.idle && !self.options.follow {
                        return Ok(false);
                    }
                }
                Step::Overtaken => open.overtaken = true,
                Step::Note(note) => self.notes.push(note),
                Step::CopyEnds(damage) => {
                    self.notes.push(Note::CopyEnds(damage));
                    if !self.options.salvage {
                        return Ok(false);
                    }
                    open.expected = None;
                }
                Step::Corrupt(damage) if self.options.salvage => {
                    self.notes.push(Note::Damage(damage));
                    // The missing records have already been reported.
                    open.expected = None;
                }
                Step::Corrupt(damage) => return Err(ReadError::Corrupt(damage)),
                Step::End => {
                    if let Some(first) = open.missing_at_end() {
                        self.notes.push(Note::Removed { writer: open.cursor.writer, first: Some(first), last: None });
                    }
                    return Ok(false);
                }
            }
        }
    }

    /// Closes a writer that has nothing more to read.
    fn close(&mut self, at: usize) {
        let mut open = self.open.swap_remove(at);
        let (writer, next) = (open.cursor.writer, open.next());
        if open.overtaken {
            self.notes.push(Note::Removed { writer, first: Some(next), last: None });
        }
        self.next.insert(writer, next);
    }

    /// Opens a writer, or skips it if it can't be read and damage is to be skipped.
    fn open_or_skip(&mut self, writer: WriterId, late: bool) -> Result<(), ReadError> {
        let from = self.next.get(&writer).copied();
        self.open_writer(writer, late).or_else(|error| {
            self.next.extend(from.map(|from| (writer, from)));
            self.skip(writer, error)
        })
    }

    /// Opens a writer. A `late` writer appeared after the reader was opened, so all of its records are wanted, whatever
    /// its clock showed.
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
            checked: false,
            from_sequence: from.unwrap_or(1),
            from_time,
            old_until,
            expected,
            end: 0,
            overtaken: false,
        });
        Ok(())
    }

    /// Looks for new writers. A follower opens live ones immediately, because it wants everything that they write from
    /// now on, whatever their clocks show.
    fn look_for_writers(&mut self) -> Result<(), ReadError> {
        let began = clock::now();
        let late = std::mem::replace(&mut self.begun, true);
        let writers = self.list()?;
        for writer in writers.iter().flatten() {
            if !self.known.insert(*writer) {
                continue;
            }
            self.active = began;
            let path = self.data_dir.join(writer.to_string());
            match dir::is_live(&path) {
                Ok(true) if self.options.follow => self.open_or_skip(*writer, late)?,
                Ok(_) => self.pending.push_back((*writer, late)),
                Err(source) => {
                    let path = path.join(LOCK);
                    self.skip(*writer, ReadError::Io { path, offset: None, source })?;
                }
            }
        }
        if let Some(writers) = writers {
            let (known, notes) = (&self.known, &mut self.notes);
            if std::mem::replace(&mut self.listed, true) {
                self.next.retain(|writer, _| writers.binary_search(writer).is_ok() || !known.contains(writer));
            } else {
                let missing = self.next.iter().filter(|(writer, _)| !known.contains(writer));
                let position = missing.map(|(writer, sequence)| Position { writer: *writer, sequence: *sequence });
                notes.extend(position.map(|position| Note::NoWriter { position }));
            }
        }
        // In a directory with very many writers, listing takes milliseconds.
        self.look_at = clock::now() + LOOK_INTERVAL.max((clock::now() - began) * LOOK_SHARE);
        Ok(())
    }

    /// Lists the writers. Returns `None` if there is no journal yet and a follower waits for it.
    fn list(&mut self) -> Result<Option<Vec<WriterId>>, ReadError> {
        let path = &self.data_dir;
        let io = |source| ReadError::Io { path: path.clone(), offset: None, source };
        let listed = writers(path);
        if !listed.as_ref().is_ok_and(|writers| !writers.is_empty())
            && let Some(why) = NoJournal::look(path).map_err(io)?
        {
            let path = path.clone();
            if !self.options.follow || !why.may_become_one() {
                return Err(ReadError::NoJournal { path, why });
            }
            if !std::mem::replace(&mut self.missing, true) {
                self.notes.push(Note::NoJournal { path });
            }
            return Ok(None);
        }
        let writers = listed.map_err(io)?;
        self.missing = false;
        Ok(Some(writers))
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

/// A writer that is being read.
#[derive(Debug)]
struct Open {
    cursor: Cursor,
    /// The remaining records of the commit that was read last.
    records: Records,
    /// Whether the writer had nothing more to read when its position was last checked.
    idle: bool,
    /// Whether the position was checked in this round. It is checked once per round: otherwise a follower would read
    /// each commit by itself, and keep the disk from writing the next ones.
    checked: bool,
    /// Records before this sequence number are skipped.
    from_sequence: u64,
    /// Up to the record `old_until`, records before this time are skipped; 0 once a record was not skipped.
    from_time: u64,
    old_until: u64,
    /// The highest sequence number that the next commit should begin with, if that is known: a higher one shows a
    /// gap.
    expected: Option<u64>,
    /// The number after the last record of the last commit.
    end: u64,
    /// Whether retention has removed what the cursor would have read next.
    overtaken: bool,
}

impl Open {
    /// Allows the position to be checked again.
    fn allow_checks(&mut self) {
        (self.idle, self.checked) = (false, false);
    }

    /// Returns whether the current commit has another wanted record. Skips unwanted records before it.
    #[inline]
    fn has_next(&mut self) -> bool {
        while let Some((sequence, received)) = self.records.peek() {
            if self.wants(sequence, received) {
                return true;
            }
            self.records.next();
        }
        false
    }

    #[inline]
    /// Returns whether a record belongs to the requested range.
    fn wants(&mut self, sequence: u64, received: u64) -> bool {
        if sequence < self.from_sequence || (received < self.from_time && sequence <= self.old_until) {
            return false;
        }
        self.from_time = 0;
        true
    }

    /// Returns the sequence number of the next record to be returned.
    fn next(&mut self) -> u64 {
        let at_hand = self.records.peek().map(|(sequence, _)| sequence);
        at_hand.unwrap_or(self.end).max(self.from_sequence)
    }

    /// Stores a commit that was read. Returns the missing records before it: the first one, if that is known, and the
    /// last one.
    fn enter(&mut self, mut records: Records) -> Option<(Option<u64>, u64)> {
        let begin = records.next_sequence();
        let gap = match self.expected {
            Some(expected) if expected < begin => Some((Some(expected), begin - 1)),
            None if self.overtaken => Some((None, begin.saturating_sub(1))),
            // The writer's first commit, when reading begins at a time.
            None if self.from_time > 0 && self.end == 0 && begin > 1 && self.cursor.is_at_first_segment() => {
                let received = records.peek().map(|(_, received)| received);
                received.filter(|received| *received >= self.from_time).map(|_| (None, begin - 1))
            }
            _ => None,
        };
        self.overtaken = false;
        self.end = records.end_sequence();
        // A position may name a record that doesn't exist yet.
        self.expected = Some(self.expected.unwrap_or(0).max(self.end));
        self.records = records;
        gap
    }

    /// Returns the first missing record if a writer ends without a commit that would show the gap: then only its
    /// published position shows that records are missing. After a power cut that may lag behind, or be lost.
    fn missing_at_end(&self) -> Option<u64> {
        self.expected.filter(|expected| self.end == 0 && *expected <= self.cursor.published())
    }
}

/// Returns whether an error means that this process or its host has run out of a resource, so that the file itself may
/// be intact.
fn is_of_this_process(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// How often a follower looks for new writers, and the share of its time that this may use while no records come.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const LOOK_SHARE: u32 = 200;
/// The longest pause of an idle follower, however many writers it has to check.
const REST_MAX: Duration = Duration::from_secs(1);
/// How often a follower checks whether a silent writer has died.
const LOCKS_INTERVAL: Duration = Duration::from_millis(500);
/// A follower waits for this fraction of the time since the last record came.
const IDLE_SHARE: u32 = 10;

/// How often a reader that has read everything looks for new messages while messages arrive.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(10);
/// The longest time between two such looks. It is reached after a second without a message.
const FOLLOW_INTERVAL_MAX: Duration = Duration::from_millis(100);
