//! The state that a writer shares with its appenders and its tasks, and group commit itself: staging, sealing, writing,
//! and resolving outcomes. The rules are in the [module's documentation](super).
//!
//! All fields are private: appenders stage through [`WriterCore::stage`], and the tasks report what they did. The core
//! makes no segments and cuts nothing back; it only knows that this is necessary. A borrow of the state never lasts
//! over an await.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tracing::{error, info};

use super::super::buffer::Buffer;
use super::super::format::{COMMIT_HEADER_LEN, CommitHeader, RECORD_HEAD_LEN, SOURCE_LEN, padded_len};
use super::super::id::WriterId;
use super::super::options::WriterOptions;
use super::super::position::Durable;
use super::super::record::Source;
use super::super::storage::{Prealloc, Storage};
use super::builder::CommitBuilder;
use super::condition::{Condition, Service};
use super::in_flight::{CommitInFlight, CommitsInFlight};
use super::observer::{Observer, WriterStats};
use super::outcome::{CommitOutcome, Outcome};
use super::segment::{WriterSegment, WriterSegments};
use super::write::{is_no_space, write_all};
use crate::clock;
use crate::fair_queue::FairQueue;
use crate::proto::Id;

/// The shared part of a writer.
pub struct WriterCore<S: Storage> {
    storage: S,
    options: WriterOptions,
    id: WriterId,
    /// A random number in each header of this writer.
    salt: u64,
    observer: Box<dyn Observer>,
    state: RefCell<State<S::File>>,
    signals: Signals,
}

/// Wakes those that wait for a change of the state.
#[derive(Debug, Default)]
struct Signals {
    /// The commit task has something to start.
    commits: Notify,
    /// The segment task has something to make or to cut.
    segments: Notify,
    /// More is durable than was published.
    publish: Notify,
    /// No write is in flight any longer.
    idle: Notify,
    /// Appenders that wait until there is room to stage a batch.
    room: FairQueue,
}

struct State<F> {
    service: Service<Cut<F>>,
    segments: WriterSegments<F>,
    /// Oldest first; records are staged to the last one.
    open_commits: VecDeque<CommitBuilder>,
    /// Bytes of their bodies.
    open_bytes: usize,
    in_flight: CommitsInFlight<F>,
    spare: Vec<Buffer>,
    /// The numbers of the next commit to be sealed, and of its first record.
    next_commit: u64,
    next_sequence: u64,
    durable: Durable,
    /// The highest durable number that a header on disk names.
    named: u64,
    free_space: Option<u64>,
}

/// Segments that must be cut back, by their numbers.
pub type Cut<F> = BTreeMap<u32, Rc<F>>;

/// The work that the segment task has to do before it may make segments.
#[derive(Debug)]
pub enum CutWork<F> {
    /// Nothing.
    Nothing,
    /// A cut is necessary, but a write is still in flight and may reach the files.
    WaitForWrites,
    /// These segments must be cut back to what is durable.
    Cut(Cut<F>, Durable),
}

/// The result of a commit's write and sync.
enum WriteResult {
    Written,
    NoSpace(String),
    Failed(String),
}

impl<S: Storage> WriterCore<S> {
    /// Returns the core of a new writer, which has no segment.
    pub fn new(storage: S, id: WriterId, salt: u64, options: WriterOptions, observer: Box<dyn Observer>) -> Self {
        let state = State {
            service: Service::new(),
            segments: WriterSegments::new(options.segment_len, storage.copies_on_write()),
            open_commits: VecDeque::new(),
            open_bytes: 0,
            in_flight: CommitsInFlight::new(),
            spare: Vec::new(),
            next_commit: 1,
            next_sequence: 1,
            durable: Durable::default(),
            named: 0,
            free_space: None,
        };
        let (state, signals) = (RefCell::new(state), Signals::default());
        WriterCore { storage, options, id, salt, observer, state, signals }
    }

    /// Returns the storage.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Returns the options.
    pub fn options(&self) -> &WriterOptions {
        &self.options
    }

    /// Returns the writer's ID.
    pub fn id(&self) -> WriterId {
        self.id
    }

    /// Returns the random number in the writer's headers.
    pub fn salt(&self) -> u64 {
        self.salt
    }

    /// Returns the figures for metrics.
    pub fn stats(&self) -> WriterStats {
        let state = self.state.borrow();
        let (segments, recycled) = state.segments.counts();
        let oldest = state.in_flight.oldest().map(|commit| commit.opened);
        WriterStats {
            open_bytes: state.open_bytes,
            in_flight_bytes: state.in_flight.bytes(),
            commits_in_flight: state.in_flight.len(),
            durable: state.durable,
            segments,
            recycled,
            free_space: state.free_space,
            oldest: oldest.or_else(|| state.open_commits.front().map(CommitBuilder::opened)),
        }
    }

    /// Returns how far the writer is durable.
    pub fn durable(&self) -> Durable {
        self.state.borrow().durable
    }

    /// Returns the present condition.
    pub fn condition(&self) -> Condition {
        self.state.borrow().service.condition().clone()
    }

    /// Returns the segments that are or will be written to, and their numbers.
    pub fn open_segments(&self) -> Vec<(u32, Rc<S::File>)> {
        self.state.borrow().segments.open()
    }
}

/// For appenders.
impl<S: Storage> WriterCore<S> {
    /// Copies a record into the open commit, and returns the cell for the commit's outcome. Returns `None` if the
    /// writer refuses records, or the record doesn't fit in a commit.
    #[inline]
    pub fn stage(&self, source: &Source, id: Id, payload: &[u8]) -> Option<Rc<CommitOutcome>> {
        let mut state = self.state.borrow_mut();
        if !state.service.accepts() {
            return None;
        }
        if let Some(open) = state.open_commits.back_mut()
            && let Some(len) = open.push(source, id, payload)
        {
            let outcome = open.outcome().clone();
            state.open_bytes += len;
            return Some(outcome);
        }
        self.stage_in_new_commit(&mut state, source, id, payload)
    }

    fn stage_in_new_commit(
        &self,
        state: &mut State<S::File>,
        source: &Source,
        id: Id,
        payload: &[u8],
    ) -> Option<Rc<CommitOutcome>> {
        let len_max = self.options.commit_len_max - COMMIT_HEADER_LEN - SOURCE_LEN - RECORD_HEAD_LEN;
        if payload.len() > len_max {
            return None;
        }
        let mut open = self.open_commit(state);
        let len = open.push(source, id, payload).expect("a new commit has room for a record that fits in one");
        let outcome = open.outcome().clone();
        state.open_bytes += len;
        state.open_commits.push_back(open);
        self.signals.commits.notify_one();
        Some(outcome)
    }

    fn open_commit(&self, state: &mut State<S::File>) -> CommitBuilder {
        CommitBuilder::new(state.spare.pop().unwrap_or_else(|| Buffer::new(self.options.commit_len_max)))
    }

    /// Waits until a batch may be staged: until the staged bytes are below the limit, or records are refused anyway.
    /// First come, first served. Cancel-safe.
    pub async fn wait_for_room(&self) {
        self.signals.room.wait_until(|| self.has_room()).await;
    }

    /// Returns whether [`Self::wait_for_room`] would return immediately.
    pub fn has_room_now(&self) -> bool {
        self.signals.room.is_empty() && self.has_room()
    }

    fn has_room(&self) -> bool {
        let state = self.state.borrow();
        state.staged_bytes() < self.options.bytes_max || !state.service.accepts()
    }

    /// Returns the bytes of the records in open commits and in commits in flight.
    #[cfg(test)]
    pub fn staged_bytes(&self) -> usize {
        self.state.borrow().staged_bytes()
    }
}

/// Group commit.
impl<S: Storage> WriterCore<S> {
    /// Starts commits as long as there is one to start, until the writer closes.
    pub async fn run_commits(self: Rc<Self>) {
        loop {
            self.signals.commits.notified().await;
            self.start_commits();
            if self.is_closing() {
                return;
            }
        }
    }

    /// Makes [`Self::run_commits`] check for commits to start.
    pub fn wake_commits(&self) {
        self.signals.commits.notify_one();
    }

    fn start_commits(self: &Rc<Self>) {
        while self.start_commit() {}
    }

    /// Seals the oldest open commit and starts to write it. Returns whether it did.
    fn start_commit(self: &Rc<Self>) -> bool {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if !state.service.starts_commits() || state.in_flight.len() >= self.options.commits_in_flight {
            return false;
        }
        let Some(len) = state.open_commits.front().map(CommitBuilder::padded_len) else { return false };
        if !self.make_room(state, len) {
            return false;
        }
        let open = state.open_commits.pop_front().expect("a commit is open");
        let (number, opened, records, body_len) = (state.next_commit, open.opened(), open.records(), open.body_len());
        let place = state.segments.place(len, number, (records > 0).then_some(opened));
        let header = CommitHeader {
            number,
            durable: state.durable.commit,
            writer: self.id,
            salt: self.salt,
            first_commit: place.first_commit,
            first_sequence: state.next_sequence,
            segment: place.segment,
            body_len: 0,
            records: 0,
            body_crc: 0,
        };
        let (buffer, outcome) = open.seal(header);
        debug_assert_eq!(buffer.len() as u64, len);
        // Ask for the next segment immediately: making it takes longer than a busy disk needs to fill this one.
        self.want_segment(state);
        state.next_commit += 1;
        state.next_sequence += u64::from(records);
        state.named = header.durable;
        state.open_bytes -= body_len;
        let durable = Durable {
            commit: number,
            sequence: state.next_sequence - 1,
            segment: place.segment,
            end: place.offset + len,
        };
        state.in_flight.push(CommitInFlight {
            number,
            file: place.file.clone(),
            durable,
            records,
            body_len,
            len: buffer.len(),
            opened,
            sealed: clock::now(),
            outcome,
        });
        spawn_local(self.clone().write_commit(place.file, place.offset, number, buffer));
        true
    }

    /// Makes sure that the active segment has room for `len` bytes. If there is none and no other can be made, open
    /// commits fail.
    fn make_room(&self, state: &mut State<S::File>, len: u64) -> bool {
        let is_idle = state.in_flight.len() == 0;
        if state.segments.make_room(len, state.next_commit, is_idle) {
            return true;
        }
        self.want_segment(state);
        if state.service.segment_missing() {
            self.fail_open_commits(state);
            self.report(state);
        }
        false
    }

    /// Writes and syncs one commit.
    async fn write_commit(self: Rc<Self>, file: Rc<S::File>, offset: u64, number: u64, buffer: Buffer) {
        let guard = UnfinishedWrite { core: &self };
        let (result, buffer) = write_all(&self.storage, &file, offset, buffer).await;
        let result = match result {
            Ok(()) => match self.storage.sync(&file).await {
                Ok(()) => WriteResult::Written,
                Err(error) => WriteResult::Failed(format!("syncing commit {number}: {error}")),
            },
            Err(error) if is_no_space(&error) => WriteResult::NoSpace(format!("writing commit {number}: {error}")),
            Err(error) => WriteResult::Failed(format!("writing commit {number}: {error}")),
        };
        std::mem::forget(guard);
        self.finish_commit(number, result, buffer);
    }

    /// Handles the end of a commit's write and sync.
    fn finish_commit(self: &Rc<Self>, number: u64, result: WriteResult, buffer: Buffer) {
        let no_space = match result {
            WriteResult::Written => None,
            WriteResult::NoSpace(why) => Some(why),
            WriteResult::Failed(why) => {
                self.fail(&why);
                return self.write_ended();
            }
        };
        let (durable, failed) = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            state.spare.push(buffer);
            match no_space {
                None => {
                    if let Some((len, records, elapsed)) = state.in_flight.written(number) {
                        self.observer.committed(len, records, elapsed);
                    }
                }
                Some(why) => {
                    if state.in_flight.refused(number) {
                        state.segments.expect_copies();
                        state.service.commit_refused(why);
                        self.report(state);
                    }
                }
            }
            (self.take_durable(state), self.take_refused(state))
        };
        self.write_ended();
        // Start the next write before waking the waiters. Otherwise what they send is queued ahead of it, and the disk
        // idles.
        self.start_commits();
        for commit in durable {
            commit.outcome.resolve(Outcome::Durable);
        }
        for commit in failed {
            commit.outcome.resolve(Outcome::Failed);
        }
        let mut state = self.state.borrow_mut();
        if state.service.cut().is_some() {
            self.fail_open_commits(&mut state);
        }
        if state.staged_bytes() < self.options.bytes_max {
            self.signals.room.notify();
        }
    }

    /// Handles a write that has returned or never will.
    fn write_ended(&self) {
        let mut state = self.state.borrow_mut();
        if state.in_flight.write_ended() {
            self.signals.idle.notify_one();
            if state.service.needs_cut() {
                self.signals.segments.notify_one();
            }
        }
    }

    fn take_durable(&self, state: &mut State<S::File>) -> Vec<CommitInFlight<S::File>> {
        let durable = state.in_flight.take_durable();
        if let Some(last) = durable.last() {
            state.durable = last.durable;
            self.signals.publish.notify_one();
        }
        durable
    }

    /// Removes and returns the commits that have failed for lack of space. All open segments must then be cut back.
    fn take_refused(&self, state: &mut State<S::File>) -> Vec<CommitInFlight<S::File>> {
        let failed = state.in_flight.take_refused();
        if !failed.is_empty() {
            let mut cut: Cut<_> = failed.iter().map(|commit| (commit.durable.segment, commit.file.clone())).collect();
            cut.extend(state.segments.take_for_cut().map(|segment| (segment.number, segment.file)));
            state.service.refused_commits_dropped(cut);
        }
        failed
    }

    /// Ends the writer's service permanently. Every record without an outcome fails.
    pub fn fail(&self, why: &str) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.service.write_failed(why) {
            self.fail_all(state);
            self.report(state);
        }
    }

    /// Ends the writer's service permanently without reporting it, because the writer was dropped.
    pub fn abandon(&self) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.service.write_failed("the writer was dropped");
        let _ = state.service.take_change();
        self.fail_all(state);
    }

    fn fail_all(&self, state: &mut State<S::File>) {
        for commit in state.in_flight.take_all() {
            commit.outcome.resolve(Outcome::Failed);
        }
        self.fail_open_commits(state);
    }

    fn fail_open_commits(&self, state: &mut State<S::File>) {
        for open in state.open_commits.drain(..) {
            open.outcome().resolve(Outcome::Failed);
        }
        state.open_bytes = 0;
        self.signals.room.notify();
    }

    /// Reports the condition if it has changed.
    fn report(&self, state: &mut State<S::File>) {
        let Some(condition) = state.service.take_change() else { return };
        let writer = self.id;
        match condition {
            Condition::Serving => info!(%writer, "the journal has room again"),
            Condition::Full(reason) => error!(%writer, %reason, "the journal refuses messages until there is room"),
            Condition::Failed(reason) => error!(%writer, %reason, "the journal refuses messages until a restart"),
        }
        self.observer.condition(condition);
        self.signals.room.notify();
    }
}

/// Closing.
impl<S: Storage> WriterCore<S> {
    /// Returns whether the writer is closing.
    pub fn is_closing(&self) -> bool {
        self.state.borrow().service.is_closing()
    }

    /// Makes all tasks end.
    pub fn close(&self) {
        self.state.borrow_mut().service.close();
        for signal in [&self.signals.commits, &self.signals.segments, &self.signals.publish] {
            signal.notify_one();
        }
    }

    /// Returns the outcome cell of the last commit that has no outcome yet.
    pub fn last_outcome(&self) -> Option<Rc<CommitOutcome>> {
        let state = self.state.borrow();
        let open = state.open_commits.back().map(|open| open.outcome().clone());
        open.or_else(|| state.in_flight.newest().map(|commit| commit.outcome.clone()))
    }

    /// Waits until no write of a commit is in flight, for as long as the disk needs. Cancel-safe.
    pub async fn writes_ended(&self) {
        while self.writes_in_flight() > 0 {
            self.signals.idle.notified().await;
        }
    }

    /// Returns how many writes of commits have not returned. After a failure, there may be some without a commit in
    /// flight.
    pub fn writes_in_flight(&self) -> usize {
        self.state.borrow().in_flight.writes()
    }

    /// Opens an empty commit that names the last durable number, if no header names it yet and there is room for one.
    pub fn open_final_commit(&self) -> Option<Rc<CommitOutcome>> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let has_room = state.segments.has_room(padded_len(0) as u64);
        if state.service.is_failed() || !has_room || state.named == state.durable.commit {
            return None;
        }
        let open = self.open_commit(state);
        let outcome = open.outcome().clone();
        state.open_commits.push_back(open);
        Some(outcome)
    }

    /// Removes and returns the active segment.
    pub fn take_active_segment(&self) -> Option<WriterSegment<S::File>> {
        self.state.borrow_mut().segments.take_active()
    }

    /// Removes and returns the next segment, if it was made.
    pub fn take_next_segment(&self) -> Option<WriterSegment<S::File>> {
        self.state.borrow_mut().segments.take_next(false)
    }
}

/// For the segment task.
impl<S: Storage> WriterCore<S> {
    fn want_segment(&self, state: &mut State<S::File>) {
        if state.segments.want_next() {
            self.signals.segments.notify_one();
        }
    }

    /// Waits until there may be a segment to make or to cut. Cancel-safe.
    pub async fn segment_work(&self) {
        self.signals.segments.notified().await;
    }

    /// Returns whether the last attempt to make a segment, or the last commit, found no room.
    pub fn lacks_room(&self) -> bool {
        self.state.borrow().service.lacks_room()
    }

    /// Returns whether the writer lacks room and has no segment to write to.
    pub fn is_cut_off(&self) -> bool {
        let state = self.state.borrow();
        state.service.lacks_room() && !state.segments.has_active()
    }

    /// Returns the number of the segment to be made, if one is wanted.
    pub fn wanted_segment(&self) -> Option<u32> {
        let state = self.state.borrow();
        state.segments.wanted().filter(|_| !state.service.is_failed())
    }

    /// Returns how the next file is preallocated, and whether a recycled file would do.
    pub fn how_to_make_segment(&self) -> (Prealloc, bool) {
        self.state.borrow().segments.how_to_make()
    }

    /// Returns the free bytes of the file system at the last check.
    pub fn free_space(&self) -> Option<u64> {
        self.state.borrow().free_space
    }

    /// Handles a check of the free space. `None` means that it is unknown, which counts as enough.
    pub fn space_checked(&self, free: Option<u64>) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.free_space = free;
        let min_free = self.options.min_free;
        match free {
            Some(free) if free < min_free => {
                state.service.space_low(|| format!("{free} bytes are free, below --min-free {min_free}"));
            }
            _ => state.service.space_returned(),
        }
        self.report(state);
    }

    /// Handles the writer's first segment.
    pub fn first_segment_made(&self, segment: WriterSegment<S::File>) {
        self.state.borrow_mut().segments.add(segment, true);
    }

    /// Handles a lack of room for the writer's first segment: records are refused until it can be made.
    pub fn first_segment_refused(&self, reason: String) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.segments.want_next();
        state.service.segment_refused(reason);
        state.service.segment_missing();
        self.report(state);
    }

    /// Handles a new segment. Returns it if it is not the one that is needed now, because a commit ran out of space
    /// meanwhile. It must then be removed.
    pub fn segment_made(&self, segment: WriterSegment<S::File>) -> Option<WriterSegment<S::File>> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if !state.service.segment_made() {
            return Some(segment);
        }
        state.segments.add(segment, false);
        self.report(state);
        None
    }

    /// Handles a failed attempt to make a segment. Returns whether it is the first one since a segment was made.
    pub fn segment_refused(&self, reason: String) -> bool {
        let mut state = self.state.borrow_mut();
        let is_first = state.service.segment_refused(reason);
        self.report(&mut state);
        is_first
    }

    /// Returns what must be cut back.
    pub fn cut_work(&self) -> CutWork<S::File> {
        let state = self.state.borrow();
        match state.service.cut() {
            _ if !state.service.needs_cut() => CutWork::Nothing,
            Some(cut) if state.in_flight.writes() == 0 => CutWork::Cut(cut.clone(), state.durable),
            _ => CutWork::WaitForWrites,
        }
    }

    /// Handles the end of the cut: the journal holds nothing but what is durable, and numbers continue from there.
    pub fn cut_back(&self) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.service.cut_back();
        state.segments.continue_after(state.durable);
        state.next_commit = state.durable.commit + 1;
        state.next_sequence = state.durable.sequence + 1;
        // Headers that named a later commit may be gone.
        state.named = 0;
        self.report(state);
    }

    /// Moves on to the next segment if the first record of the active one is too old. If no commit is open, an empty
    /// one is written to the next segment: it shows readers and retention that the writer has left the earlier segment.
    pub fn roll_if_old(&self) {
        let Some(age) = self.options.roll_age else { return };
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.service.is_failed() || state.service.is_closing() || !state.segments.roll_if_old(age) {
            return;
        }
        if state.open_commits.is_empty() {
            let open = self.open_commit(state);
            state.open_commits.push_back(open);
        }
        self.signals.commits.notify_one();
    }

    /// Removes and returns a segment that was left before it was full.
    pub fn take_left_segment(&self) -> Option<WriterSegment<S::File>> {
        self.state.borrow_mut().segments.take_left()
    }

    /// Waits until more is durable than was published, or the writer closes. Cancel-safe.
    pub async fn publish_work(&self) {
        self.signals.publish.notified().await;
    }
}

impl<F> State<F> {
    fn staged_bytes(&self) -> usize {
        self.open_bytes + self.in_flight.bytes()
    }
}

/// A commit's write that ends without a result, by a panic or by the end of its runtime. The commit has failed.
struct UnfinishedWrite<'a, S: Storage> {
    core: &'a WriterCore<S>,
}

impl<S: Storage> Drop for UnfinishedWrite<'_, S> {
    fn drop(&mut self) {
        self.core.fail("the write of a commit was aborted");
        self.core.write_ended();
    }
}
