//! Group commit: one commit gathers while others are written, and an ack waits for its own and every
//! earlier one.
//!
//! No timer delays a commit. While fewer than [`WriterOptions::commits_in_flight`] are in flight,
//! what has gathered is sealed and written as soon as the connections that are ready now have had
//! their turn; while the limit is reached, everything gathers, until one of these is done.
//!
//! # Invariants
//!
//! * Commits are numbered and sequence numbers given when a commit is sealed, so both have no gap
//!   on disk whatever fails before.
//! * A commit's outcome is told after that of every earlier one.
//! * **The first error of a commit's write or sync is final**: it fails every commit whose outcome is
//!   not told yet, and every later record. Nothing is tried again, for what a failed sync has dropped
//!   a second one would acknowledge.
//! * Without room for a segment, what was staged fails, and so does what comes, until there is a
//!   segment again. What is durable stays so.

mod condition;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_local;

pub use self::condition::Condition;
use super::buffer::Buffer;
use super::format::{BLOCK_LEN, COMMIT_HEADER_LEN, CommitHeader, RECORD_HEAD_LEN, SOURCE_LEN, padded_len};
use super::gather::{Gather, Outcome, Ticket};
use super::id::WriterId;
use super::options::WriterOptions;
use super::position::Durable;
use super::record::Source;
use super::segments::{self, Next, Segment};
use super::storage::{Storage, Zeros};
use super::writer::{Observer, WriterStats};
use crate::config::JOURNAL_PUBLISH_INTERVAL;
use crate::proto::Id;

pub struct Shared<S: Storage> {
    pub storage: S,
    pub options: WriterOptions,
    pub id: WriterId,
    pub salt: u64,
    pub state: RefCell<State<S::File>>,
    observer: Box<dyn Observer>,
    /// There is something for the task that starts commits.
    pub work: Notify,
    /// There is something for the task that makes segments.
    pub want: Notify,
    /// More is durable than was published.
    pub publish: Notify,
    /// There is room for the one that waits to stage.
    pub room: Notify,
    /// Whose turn it is to wait for room, in the order of their coming, and how many there are.
    pub turn: Semaphore,
    pub waiting: Cell<usize>,
}

pub struct State<F> {
    /// Oldest first; the last one is still filled.
    pub gathered: VecDeque<Gather>,
    in_flight: VecDeque<InFlight>,
    spare: Vec<Buffer>,
    pub active: Option<Segment<F>>,
    pub next: Next<F>,
    /// The next commit goes to the next segment, though the active one has room.
    roll: bool,
    /// A segment that was left before it was full, with nothing in flight to it.
    pub rolled: Option<Segment<F>>,
    /// How a new segment comes by its zeros, by the commits of the last full one.
    pub zeros: Zeros,
    /// Numbers of what is sealed next.
    next_commit: u64,
    next_sequence: u64,
    pub durable: Durable,
    /// The highest durable number that a header names.
    named: u64,
    gathered_bytes: usize,
    in_flight_bytes: usize,
    pub segments: u32,
    pub recycled: u32,
    pub free_space: Option<u64>,
    /// No more tasks are to be done.
    pub closing: bool,
    pub failed: Option<String>,
    /// Why there is no room for the next segment, and whether records are refused for it already.
    pub no_room: Option<String>,
    pub out_of_segments: bool,
    /// Why free space is too low.
    pub low: Option<String>,
    condition: Condition,
}

/// A sealed commit that is being written.
struct InFlight {
    number: u64,
    /// How far everything is durable when it is.
    durable: Durable,
    written: bool,
    records: u32,
    /// Bytes of its records, and of all of it.
    body_len: usize,
    len: usize,
    began: Instant,
    sealed: Instant,
    ticket: Rc<Ticket>,
}

/// Starts commits as long as there is something to start.
pub async fn task<S: Storage>(shared: Rc<Shared<S>>) {
    loop {
        shared.work.notified().await;
        while shared.start_commit() {}
        if shared.state.borrow().closing {
            return;
        }
    }
}

/// Publishes how far everything is durable: the latest, as often as it may.
pub async fn publish_task<S: Storage>(shared: Rc<Shared<S>>) {
    let mut published = Durable::default();
    loop {
        shared.publish.notified().await;
        let (durable, closing) = {
            let state = shared.state.borrow();
            (state.durable, state.closing)
        };
        if durable != published {
            shared.storage.publish(durable).await;
            published = durable;
        }
        if closing {
            return;
        }
        tokio::time::sleep(JOURNAL_PUBLISH_INTERVAL).await;
    }
}

/// Writes one commit and reports.
async fn write_commit<S: Storage>(shared: Rc<Shared<S>>, file: Rc<S::File>, offset: u64, number: u64, buffer: Buffer) {
    let guard = Unfinished { shared: &shared };
    let (result, buffer) = write_all(&shared.storage, &file, offset, buffer).await;
    let result = match result {
        Ok(()) => shared.storage.sync(&file).await.map_err(|error| format!("syncing commit {number}: {error}")),
        Err(error) => Err(format!("writing commit {number}: {error}")),
    };
    std::mem::forget(guard);
    shared.finished(number, result, buffer);
}

/// A commit that ends without a word, by a panic or because its runtime goes, has failed.
struct Unfinished<'a, S: Storage> {
    shared: &'a Shared<S>,
}

impl<S: Storage> Drop for Unfinished<'_, S> {
    fn drop(&mut self) {
        self.shared.fail("a commit was given up");
    }
}

/// Writes a whole buffer. A short write is gone on with, from the last whole block.
pub async fn write_all<S: Storage>(
    storage: &S,
    file: &S::File,
    offset: u64,
    mut buffer: Buffer,
) -> (io::Result<()>, Buffer) {
    let mut done = 0;
    while done < buffer.len() {
        let (result, returned) = storage.write_at(file, offset + done as u64, buffer, done).await;
        buffer = returned;
        match result {
            // A write that comes to less than a block makes no progress that O_DIRECT could go on from.
            Ok(written) if written >= BLOCK_LEN => done += written / BLOCK_LEN * BLOCK_LEN,
            Ok(written) => return (Err(short_write(written)), buffer),
            Err(error) => return (Err(error), buffer),
        }
    }
    (Ok(()), buffer)
}

fn short_write(written: usize) -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, format!("the disk took {written} bytes of a block"))
}

impl<S: Storage> Shared<S> {
    pub fn new(storage: S, id: WriterId, salt: u64, options: WriterOptions, observer: Box<dyn Observer>) -> Self {
        let state = State {
            gathered: VecDeque::new(),
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            active: None,
            next: Next::None,
            roll: false,
            rolled: None,
            zeros: Zeros::Written,
            next_commit: 1,
            next_sequence: 1,
            durable: Durable::default(),
            named: 0,
            gathered_bytes: 0,
            in_flight_bytes: 0,
            segments: 0,
            recycled: 0,
            free_space: None,
            closing: false,
            failed: None,
            no_room: None,
            out_of_segments: false,
            low: None,
            condition: Condition::Serving,
        };
        Shared {
            storage,
            options,
            id,
            salt,
            state: RefCell::new(state),
            observer,
            work: Notify::new(),
            want: Notify::new(),
            publish: Notify::new(),
            room: Notify::new(),
            turn: Semaphore::new(1),
            waiting: Cell::new(0),
        }
    }

    pub fn stats(&self) -> WriterStats {
        let state = self.state.borrow();
        let oldest = state.in_flight.front().map(|commit| commit.began);
        WriterStats {
            gathered_bytes: state.gathered_bytes,
            in_flight_bytes: state.in_flight_bytes,
            commits_in_flight: state.in_flight.len(),
            durable: state.durable,
            segments: state.segments,
            recycled: state.recycled,
            free_space: state.free_space,
            oldest: oldest.or_else(|| state.gathered.front().map(Gather::began)),
        }
    }

    /// Copies a record into the commit that gathers.
    #[inline]
    pub fn stage(&self, source: &Source, id: Id, payload: &[u8]) -> Option<Rc<Ticket>> {
        let mut state = self.state.borrow_mut();
        if !matches!(state.condition, Condition::Serving) {
            return None;
        }
        if let Some(gather) = state.gathered.back_mut()
            && let Some(len) = gather.push(source, id, payload)
        {
            let ticket = gather.ticket().clone();
            state.gathered_bytes += len;
            return Some(ticket);
        }
        self.stage_anew(&mut state, source, id, payload)
    }

    /// The same with a new commit.
    fn stage_anew(&self, state: &mut State<S::File>, source: &Source, id: Id, payload: &[u8]) -> Option<Rc<Ticket>> {
        let len_max = self.options.commit_len_max - COMMIT_HEADER_LEN - SOURCE_LEN - RECORD_HEAD_LEN;
        if payload.len() > len_max {
            return None;
        }
        let mut gather = self.new_gather(state);
        let len = gather.push(source, id, payload).expect("a new commit has room for a record that fits one");
        let ticket = gather.ticket().clone();
        state.gathered_bytes += len;
        state.gathered.push_back(gather);
        self.work.notify_one();
        Some(ticket)
    }

    fn new_gather(&self, state: &mut State<S::File>) -> Gather {
        Gather::new(state.spare.pop().unwrap_or_else(|| Buffer::new(self.options.commit_len_max)))
    }

    /// Bytes of records that gather and that are in flight.
    #[cfg(test)]
    pub fn staged_bytes(&self) -> usize {
        let state = self.state.borrow();
        state.gathered_bytes + state.in_flight_bytes
    }

    /// Whether more may be staged.
    pub fn has_room(&self) -> bool {
        let state = self.state.borrow();
        state.gathered_bytes + state.in_flight_bytes < self.options.bytes_max || state.condition != Condition::Serving
    }

    /// Seals the oldest commit that gathers and starts to write it. Says whether it did.
    fn start_commit(self: &Rc<Self>) -> bool {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.failed.is_some() || state.in_flight.len() >= self.options.commits_in_flight {
            return false;
        }
        let Some(len) = state.gathered.front().map(Gather::padded_len) else { return false };
        if !self.has_segment_for(state, len) {
            return false;
        }
        let segment = state.active.as_mut().expect("there is a segment with room");
        let gather = state.gathered.pop_front().expect("a commit gathers");
        let (number, began, records, body_len) =
            (state.next_commit, gather.began(), gather.records(), gather.body_len());
        let header = CommitHeader {
            number,
            durable: state.durable.commit,
            writer: self.id,
            salt: self.salt,
            first_commit: *segment.first_commit.get_or_insert(number),
            first_sequence: state.next_sequence,
            segment: segment.number,
            body_len: 0,
            records: 0,
            body_crc: 0,
        };
        let (buffer, ticket) = gather.seal(header);
        debug_assert_eq!(buffer.len() as u64, len);
        let offset = segment.used;
        segment.used += len;
        if records > 0 {
            segment.first_record.get_or_insert(began);
        }
        let file = segment.file.clone();
        // At once, for filling it takes longer than a busy disk takes to need it.
        segments::want_next(self, &mut state.next);
        state.next_commit += 1;
        state.next_sequence += u64::from(records);
        state.named = header.durable;
        state.gathered_bytes -= body_len;
        state.in_flight_bytes += body_len;
        state.in_flight.push_back(InFlight {
            number,
            durable: Durable {
                commit: number,
                sequence: state.next_sequence - 1,
                segment: header.segment,
                end: offset + len,
            },
            written: false,
            records,
            body_len,
            len: buffer.len(),
            began,
            sealed: Instant::now(),
            ticket,
        });
        spawn_local(write_commit(self.clone(), file, offset, number, buffer));
        true
    }

    /// Whether the active segment has room for `len` bytes; moves on to the next one if that is ready.
    /// Where there is none to come, what gathers fails.
    fn has_segment_for(&self, state: &mut State<S::File>, len: u64) -> bool {
        let fits = |segment: &Segment<S::File>| segment.used + len <= self.options.segment_len;
        let has_room = state.active.as_ref().is_some_and(fits);
        let ready = matches!(state.next, Next::Ready(_));
        if has_room && !(state.roll && ready) {
            return true;
        }
        if ready {
            let Next::Ready(next) = std::mem::replace(&mut state.next, Next::None) else { unreachable!() };
            if let Some(left) = state.active.replace(next) {
                // A writer that leaves segments half empty has no use for a next one that is written twice.
                state.zeros = if has_room { Zeros::Promised } else { left.better_zeros(state.next_commit) };
                if has_room && state.in_flight.is_empty() {
                    state.rolled = Some(left);
                }
            }
            state.roll = false;
            return true;
        }
        segments::want_next(self, &mut state.next);
        if state.no_room.is_some() {
            state.out_of_segments = true;
            self.drop_gathered(state);
            self.update_condition(state);
        }
        false
    }

    /// A commit's write and sync have ended.
    fn finished(self: &Rc<Self>, number: u64, result: Result<(), String>, buffer: Buffer) {
        if let Err(why) = result {
            self.fail(&why);
            return;
        }
        let durable = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            // After a failure nobody knows it any more: its outcome was told.
            let Some(commit) = state.in_flight.iter_mut().find(|commit| commit.number == number) else { return };
            commit.written = true;
            let (len, records, elapsed) = (commit.len, commit.records, commit.sealed.elapsed());
            self.observer.committed(len, records, elapsed);
            let written = state.in_flight.iter().take_while(|commit| commit.written).count();
            let durable: Vec<InFlight> = state.in_flight.drain(..written).collect();
            state.in_flight_bytes -= durable.iter().map(|commit| commit.body_len).sum::<usize>();
            if let Some(last) = durable.last() {
                state.durable = last.durable;
                self.publish.notify_one();
            }
            state.spare.push(buffer);
            durable
        };
        // Before those wake who wait for this one: what they send would go to the kernel first, and the disk
        // would wait for it.
        while self.start_commit() {}
        for commit in durable {
            commit.ticket.resolve(Outcome::Durable);
        }
        let room = {
            let state = self.state.borrow();
            state.gathered_bytes + state.in_flight_bytes < self.options.bytes_max
        };
        if self.waiting.get() > 0 && room {
            self.room.notify_one();
        }
    }

    /// The ticket of the last commit that has no outcome yet.
    pub fn last_ticket(&self) -> Option<Rc<Ticket>> {
        let state = self.state.borrow();
        let gathered = state.gathered.back().map(|gather| gather.ticket().clone());
        gathered.or_else(|| state.in_flight.back().map(|commit| commit.ticket.clone()))
    }

    /// Moves on to the next segment where the first record of the active one is too old. Without a record to come,
    /// an empty commit goes there: readers and retention learn from it that the earlier segment is left.
    pub fn roll_if_old(&self) {
        let Some(age) = self.options.roll_age else { return };
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let is_old = |segment: &Segment<S::File>| segment.first_record.is_some_and(|first| first.elapsed() >= age);
        let ready = matches!(state.next, Next::Ready(_));
        if state.failed.is_some() || state.closing || !ready || !state.active.as_ref().is_some_and(is_old) {
            return;
        }
        state.roll = true;
        if state.gathered.is_empty() {
            let gather = self.new_gather(state);
            state.gathered.push_back(gather);
        }
        self.work.notify_one();
    }

    /// Gathers an empty commit, if one would name more than the last one did and has room.
    pub fn gather_farewell(&self) -> Option<Rc<Ticket>> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let room = state.active.as_ref().is_some_and(|s| s.used + padded_len(0) as u64 <= self.options.segment_len);
        if state.failed.is_some() || !room || state.named == state.durable.commit {
            return None;
        }
        let gather = self.new_gather(state);
        let ticket = gather.ticket().clone();
        state.gathered.push_back(gather);
        Some(ticket)
    }
}
