//! Reads a journal: the records of all its writers, while a server runs or not.
//!
//! **Order.** The records of one writer come in their order, so those of one connection do too. The
//! writers are merged by receive time: of the records that come next in each, the one that was
//! received first. A dead writer is opened when its start time is reached or when nothing else is left, so that a
//! long journal needs few descriptors. A follower reads in rounds: each round returns everything that was durable
//! when the reader checked its writers, and only then checks them again. So a wall clock that was set back changes
//! the order of the merge, but it hides no record, and delays no record beyond the end of a round.
//!
//! **Live writers** are read up to what they have published as durable, not further.
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
use super::format::{FORMAT_VERSION, Records};
use super::id::{Position, WriterId};
use super::no_journal::NoJournal;
use super::record::Record;
use super::scan::is_lost;

/// Where reading begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    #[default]
    Beginning,
    /// Each writer that is named begins with that record. A writer that is not named is read from its
    /// beginning, so a consumer that resumes names every writer that it has read:
    /// [`Reader::positions`] lists them.
    Positions(Vec<Position>),
    /// Each writer begins with its first record that was received at or after this time, in nanoseconds since 1970.
    /// Everything after that record follows, whatever its time. A follower also returns everything that becomes
    /// durable after it was opened.
    ///
    /// The search skips segments based on the times at which they were made and began. It doesn't notice a clock that
    /// went ahead and came back within one segment.
    Time(u64),
}

/// How to read.
#[derive(Debug, Clone, Default)]
pub struct ReaderOptions {
    pub start: Start,
    /// Wait for more at the end, for ever.
    pub follow: bool,
    /// Skip damage, with a note: only the damaged part, or a writer of which nothing can be read.
    pub salvage: bool,
}

/// Durable records that can't be read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub writer: WriterId,
    pub file: PathBuf,
    /// Where the damage begins in that file.
    pub offset: u64,
    /// The first commit that is lost, or 0 if its number is unknown.
    pub commit: u64,
    /// The disk's error (errno), if the disk can't read that place. It is then not always known whether the commit
    /// was durable.
    pub unreadable: Option<i32>,
    /// The next one that can be read.
    pub resumes: Option<u64>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
            Some(next) => write!(f, "the next one that can be read is commit {next}"),
            None => write!(f, "no later one can be read"),
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
    /// A writer's file or directory can't be read because of this error (errno). Nothing more of that writer is read.
    Skipped { writer: WriterId, path: PathBuf, errno: i32 },
    /// A follower waits for a journal that doesn't exist yet.
    NoJournal { path: PathBuf },
    /// A copy that was made file by file while a server was writing ends here: the commit was not written yet when
    /// this file was copied, and was durable when a later file was copied. With [`ReaderOptions::salvage`], reading
    /// continues after that place.
    CopyEnds(Damage),
    /// Retention has removed records of a writer before they were read: from sequence number `first` to `last`.
    /// `first` is `None` if reading begins at a time or at the oldest remaining record: some of the removed records
    /// may then have belonged to the requested range. `last` is `None` if no later record of the writer
    /// is left that would show it.
    Removed { writer: WriterId, first: Option<u64>, last: Option<u64> },
    /// No writer has this position. If the writer was removed, its records from this one on are gone, if there were
    /// any. [`Reader::positions`] keeps the position; drop it to stop this note.
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
                "{}, offset {offset}: this copy of writer {writer} ends before commit {commit}. It was copied file by \
                 file, and later files are newer than this one: --salvage shows what they have. All that was acked \
                 before the copying began is there, if a server was writing meanwhile; if none was, the disk has lost \
                 that commit. `ringpost journal backup` makes copies that are whole",
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

/// Why a journal can't be read any further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("can't read {path}{at}: {source}{fix}", path = .path.display(), at = At(*.offset), fix = fix(.source))]
    Io { path: PathBuf, offset: Option<u64>, source: io::Error },
    #[error("{path} has format version {version}; this build reads up to {FORMAT_VERSION}", path = .path.display())]
    Version { path: PathBuf, version: u32 },
    #[error("{0}. Restore this file from a backup, or skip the damage with --salvage (the exit code stays 1)")]
    Corrupt(Damage),
    #[error("{path} {why}. Name the directory that a server uses as --data-dir", path = .path.display())]
    NoJournal { path: PathBuf, why: NoJournal },
}

/// An offset in an error's text, if there is one.
struct At(Option<u64>);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |offset| write!(f, ", offset {offset}"))
    }
}

/// Returns what to do about an error, as far as that is known.
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

/// The records of a journal, as an iterator. It ends at the end of the journal, or behind its first
/// error; with [`ReaderOptions::follow`] it blocks instead of ending.
#[derive(Debug)]
pub struct Reader {
    data_dir: PathBuf,
    options: ReaderOptions,
    /// Every writer that was ever seen.
    known: BTreeSet<WriterId>,
    /// Writers that are not open yet, oldest first, and whether they appeared after the beginning.
    pending: VecDeque<(WriterId, bool)>,
    open: Vec<Open>,
    /// The next record of each writer that is not open: the record that a position names, or the one after the
    /// writer's last.
    next: BTreeMap<WriterId, u64>,
    /// Whether the directory was checked, and whether it was listed.
    begun: bool,
    listed: bool,
    /// The directory doesn't exist, and that has been noted.
    missing: bool,
    notes: Vec<Note>,
    /// When to look for new writers next.
    look_at: Instant,
    /// When a record was last read or a writer was found, and how many commits had been read by then.
    active: Instant,
    active_commits: u64,
    /// When the last pause ended.
    woke: Instant,
    /// When the locks of the live writers were last checked.
    saw_locks: Instant,
    look_at_locks: bool,
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
    /// Retention has removed what the cursor would have read next.
    overtaken: bool,
}

impl Open {
    fn ask_again(&mut self) {
        (self.idle, self.asked) = (false, false);
    }

    /// Returns whether a wanted record is at hand, and skips unwanted records before it.
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
            None if self.overtaken => Some((None, begin - 1)),
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

impl Reader {
    /// Opens the journal in a data directory. A follower waits for a journal that doesn't exist yet.
    ///
    /// # Errors
    /// The directory can't be listed, or is not a journal.
    pub fn open(data_dir: &Path, options: ReaderOptions) -> Result<Self, ReadError> {
        let now = Instant::now();
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

    /// Waits a moment for more records when following: the longer none have come, the longer the wait.
    pub fn wait(&mut self) {
        self.wait_by(thread::sleep);
    }

    /// Waits as [`Self::wait`] does, but with the caller's `pause`, which may end earlier.
    pub fn wait_by(&mut self, pause: impl FnOnce(Duration)) {
        let now = Instant::now();
        if self.active_commits != self.commits {
            (self.active, self.active_commits) = (now, self.commits);
        }
        let idle = now.duration_since(self.active);
        // With many writers, checking all of them takes long.
        let rest = (now.duration_since(self.woke) * LOOK_SHARE).min(REST_MAX);
        pause((idle / IDLE_SHARE).clamp(FOLLOW_INTERVAL, FOLLOW_INTERVAL_MAX.max(rest)));
        self.woke = Instant::now();
        self.look_at_locks = now.duration_since(self.saw_locks) >= LOCKS_INTERVAL;
        if self.look_at_locks {
            self.saw_locks = now;
        }
        self.open.iter_mut().for_each(Open::ask_again);
    }

    /// What there was to tell since the last call.
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

    /// Commits read so far.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Which writer has the next record.
    fn advance(&mut self) -> Result<Option<usize>, ReadError> {
        if self.options.follow && self.is_at_a_commits_end() && Instant::now() >= self.look_at {
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
        if open.has_next() || open.idle {
            return Ok(true);
        }
        match self.read_on(at) {
            Err(error) => self.skip(self.open[at].cursor.writer, error).map(|()| false),
            more => more,
        }
    }

    /// Notes that a writer is given up, if damage is to be skipped and the other writers can still be read.
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
                // The writer may have gone on since its bound was read, or have been dead all along, when
                // another process just asked for its lock.
                Step::Waiting => {
                    open.idle = open.asked
                        || !(if self.look_at_locks { open.cursor.refresh() } else { open.cursor.look_at_position() })?;
                    open.asked = true;
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

    /// Closes a writer that has nothing more.
    fn close(&mut self, at: usize) {
        let mut open = self.open.swap_remove(at);
        let (writer, next) = (open.cursor.writer, open.next());
        if open.overtaken {
            self.notes.push(Note::Removed { writer, first: Some(next), last: None });
        }
        self.next.insert(writer, next);
    }

    fn open_or_skip(&mut self, writer: WriterId, late: bool) -> Result<(), ReadError> {
        let from = self.next.get(&writer).copied();
        self.open_writer(writer, late).or_else(|error| {
            self.next.extend(from.map(|from| (writer, from)));
            self.skip(writer, error)
        })
    }

    /// Opens a writer. A writer that is `late` appeared after the reader was opened, so all of it is wanted, whatever
    /// its clock shows.
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

    /// Looks for new writers. A follower opens live ones immediately: it wants everything that they write from now
    /// on, whatever their clocks show.
    fn look_for_writers(&mut self) -> Result<(), ReadError> {
        let began = Instant::now();
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
                    let path = path.join(dir::LOCK);
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
        self.look_at = Instant::now() + LOOK_INTERVAL.max(began.elapsed() * LOOK_SHARE);
        Ok(())
    }

    /// Lists the writers. Returns `None` if there is no journal yet and a follower waits for it.
    fn list(&mut self) -> Result<Option<Vec<WriterId>>, ReadError> {
        let path = &self.data_dir;
        let io = |source| ReadError::Io { path: path.clone(), offset: None, source };
        let listed = dir::writers(path);
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

/// Returns whether an error means that this process or its host has run out of a resource, so the file itself is
/// fine.
fn is_of_this_process(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
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
