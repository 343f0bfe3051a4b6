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
//!   a second one would acknowledge. The exception is a write that finds no room, below.
//! * Without room for a segment, what was staged fails, and so does what comes, until there is a
//!   segment again. What is durable stays so.
//!
//! # Which errors are final
//!
//! "Final" means until a restart. An error is final only for the data that it concerns, and only if the write or the
//! sync of that data itself reports it.
//!
//! | what fails | with | then |
//! |------------|------|------|
//! | a commit's write | no space (ENOSPC, EDQUOT) | every commit from it on fails, the journal is cut back, and records are refused until a new segment is made |
//! | a commit's write | interrupted (EINTR, EAGAIN) | the write is repeated with the same bytes, at most [`REPEATS_MAX`] times in a row |
//! | a commit's write | anything else, or twice in a row less than a block written | **final** |
//! | a commit's sync | anything | **final** |
//! | a commit's task | a panic, or the end of its runtime | **final** |
//! | cutting back: truncating and syncing a file, removing a name, syncing the directory | no space, no descriptor, no memory, interrupted | tried again |
//! | cutting back | anything else | **final**: a commit that was answered with a failure might come back |
//! | making a segment: recycling an old one, or opening, filling and renaming a file, writing and syncing its header | anything | the segment is removed and made again; records are refused only if no segment is left |
//! | the sync of the directory after that | anything | the segment is removed and made again: nothing was written to it yet, and the new segment's name changes the directory again |
//! | publishing the position | anything | tried again; readers wait meanwhile |
//! | reading the free space | anything | treated as enough space |
//! | truncating the unused rest of a segment at shutdown | anything | logged; readers accept the files as they are |
//!
//! # A commit that runs out of space
//!
//! A segment's blocks are allocated before its first commit. A file system that copies on write (btrfs, ZFS,
//! bcachefs), a thin volume, or a file system without `fallocate` may still need new blocks for each write. When such
//! a write fails, its effect on the file is unknown: nothing, some blocks, or, if only the sync after it ran out of
//! space, the whole commit, which may even reach the disk later from the page cache. Later commits may have been
//! written completely. None of that may ever be found after commits that are acked later, so the writer goes back to
//! what is durable:
//!
//! 1. No further commit is started. Commits before the refused one keep their outcome. The refused commit and all
//!    later ones fail, in their order.
//! 2. When the last write in flight has ended (so that nothing can reach the file late), the segment of the last
//!    durable commit is truncated at the end of that commit, and synced. That drops blocks and pages alike. Later
//!    segments hold nothing durable: they are removed, and the directory is synced.
//! 3. A new segment is made, as for any full disk, with blocks that are allocated but not written: a file system that
//!    copies on write can fill those without new blocks. Commit and sequence numbers continue after the last durable
//!    ones, so the numbers of the failed commits are used again.
//!
//! It makes no difference whether the write itself ran out of space or the sync after it did. The page cache makes no
//! difference either: commits before the refused one were synced by their own writes, one at a time
//! ([`file_system`](super::file_system)), so the error can't affect them, and nothing of the refused commit is kept.
//!
//! A crash before the end of step 2 leaves commits after the durable ones that no later commit calls durable. They
//! are a torn tail, or messages that were answered with a failure and exist nevertheless, which is allowed. After
//! step 2 the failed commits are gone, and the files read as if those commits had never been written. So no commit
//! number is ever used for two commits that a reader can find, and the rule of [Damage](super#damage) still holds.

mod condition;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tracing::warn;

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
use crate::fair_queue::FairQueue;
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
    /// Appenders that wait until there is room to stage a batch.
    pub room: FairQueue,
    /// No write is in flight any longer; the closing writer waits for this.
    pub idle: Notify,
}

pub struct State<F> {
    /// Oldest first; the last one is still filled.
    pub gathered: VecDeque<Gather>,
    in_flight: VecDeque<InFlight<F>>,
    /// Writes and syncs of commits that have not returned, including those of commits whose outcome is already
    /// reported.
    pub writing: usize,
    spare: Vec<Buffer>,
    pub active: Option<Segment<F>>,
    pub next: Next<F>,
    /// The next commit is written to the next segment, even if the active one has room.
    roll: bool,
    /// A segment that the writer left before it was full, with nothing in flight to it.
    pub rolled: Option<Segment<F>>,
    /// How a new segment comes by its zeros, by the commits of the last full one.
    pub zeros: Zeros,
    /// Numbers of what is sealed next.
    next_commit: u64,
    next_sequence: u64,
    /// The number of the segment that will be made next.
    pub next_segment: u32,
    pub durable: Durable,
    /// The highest durable number that a header names.
    named: u64,
    gathered_bytes: usize,
    in_flight_bytes: usize,
    /// Segments made so far, and how many of them were recycled.
    pub segments: u32,
    pub recycled: u32,
    pub free_space: Option<u64>,
    /// No more tasks are to be done.
    pub closing: bool,
    pub failed: Option<String>,
    /// Why there is no room for the next segment, and whether records are refused for it already.
    pub no_room: Option<String>,
    pub out_of_segments: bool,
    /// Set when a commit ran out of space. Once they are known, the segments whose commits have failed, by number;
    /// they must be cut back before any other commit is started. `no_room` has the reason.
    pub cut: Option<BTreeMap<u32, Rc<F>>>,
    /// Overwriting a block that was written before needs free space.
    pub copies_on_write: bool,
    /// Why free space is too low.
    pub low: Option<String>,
    condition: Condition,
}

/// A sealed commit that is being written.
struct InFlight<F> {
    number: u64,
    file: Rc<F>,
    /// How far everything is durable when it is.
    durable: Durable,
    state: Progress,
    records: u32,
    /// Bytes of its records, and of all of it.
    body_len: usize,
    len: usize,
    began: Instant,
    sealed: Instant,
    ticket: Rc<Ticket>,
}

/// The progress of a commit in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Writing,
    Written,
    NoRoom,
}

/// The result of a commit's write and sync.
enum Ended {
    Written,
    /// The write ran out of space.
    NoRoom(String),
    Failed(String),
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

/// Publishes what is durable: always the latest position, as often as allowed, and again after a failure.
pub async fn publish_task<S: Storage>(shared: Rc<Shared<S>>) {
    let (mut published, mut failing) = (Durable::default(), false);
    loop {
        if !failing {
            shared.publish.notified().await;
        }
        let (durable, closing) = {
            let state = shared.state.borrow();
            (state.durable, state.closing)
        };
        if durable != published {
            match shared.storage.publish(durable).await {
                Ok(()) => (published, failing) = (durable, false),
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(writer = %shared.id, "can't publish the journal's position to readers, and will try again: {error}");
                    }
                }
            }
        }
        if closing {
            return;
        }
        let pause = if failing { shared.options.space_interval } else { PUBLISH_INTERVAL };
        tokio::time::sleep(pause).await;
    }
}

/// Writes one commit and reports.
async fn write_commit<S: Storage>(shared: Rc<Shared<S>>, file: Rc<S::File>, offset: u64, number: u64, buffer: Buffer) {
    let guard = Unfinished { shared: &shared };
    let (result, buffer) = write_all(&shared.storage, &file, offset, buffer).await;
    let ended = match result {
        Ok(()) => match shared.storage.sync(&file).await {
            Ok(()) => Ended::Written,
            Err(error) => Ended::Failed(format!("syncing commit {number}: {error}")),
        },
        Err(error) if is_no_space(&error) => Ended::NoRoom(format!("writing commit {number}: {error}")),
        Err(error) => Ended::Failed(format!("writing commit {number}: {error}")),
    };
    std::mem::forget(guard);
    shared.finished(number, ended, buffer);
}

/// A commit that ends without a word, by a panic or because its runtime goes, has failed.
struct Unfinished<'a, S: Storage> {
    shared: &'a Shared<S>,
}

impl<S: Storage> Drop for Unfinished<'_, S> {
    fn drop(&mut self) {
        self.shared.fail("a commit was given up");
        self.shared.write_ended();
    }
}

/// Writes a whole buffer. A short write is continued from the last whole block. A write of less than a block, or one
/// that was interrupted, is repeated a few times.
pub async fn write_all<S: Storage>(
    storage: &S,
    file: &S::File,
    offset: u64,
    mut buffer: Buffer,
) -> (io::Result<()>, Buffer) {
    let (mut done, mut repeats) = (0, 0);
    while done < buffer.len() {
        let (result, returned) = storage.write_at(file, offset + done as u64, buffer, done).await;
        buffer = returned;
        match result {
            Ok(written) if written >= BLOCK_LEN => (done, repeats) = (done + written / BLOCK_LEN * BLOCK_LEN, 0),
            // O_DIRECT could not continue from there. The next write reports why no more was written, if there is a
            // reason.
            Ok(written) if repeats > 0 => return (Err(short_write(written)), buffer),
            Ok(_) => repeats = REPEATS_MAX,
            Err(error) if is_interrupted(&error) && repeats < REPEATS_MAX => repeats += 1,
            Err(error) => return (Err(error), buffer),
        }
    }
    (Ok(()), buffer)
}

/// How many times in a row a write without effect is repeated.
const REPEATS_MAX: usize = 16;

fn is_interrupted(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Returns whether an error reports that there was no space for the data to be written.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns whether an error is temporary and not about the files: a resource ran out, and may be available again
/// later.
pub fn is_passing(error: &io::Error) -> bool {
    let ran_out = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM));
    is_no_space(error) || is_interrupted(error) || ran_out || error.kind() == io::ErrorKind::OutOfMemory
}

fn short_write(written: usize) -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, format!("the disk took {written} bytes of a block"))
}

impl<S: Storage> Shared<S> {
    pub fn new(storage: S, id: WriterId, salt: u64, options: WriterOptions, observer: Box<dyn Observer>) -> Self {
        let copies_on_write = storage.copies_on_write();
        let state = State {
            gathered: VecDeque::new(),
            in_flight: VecDeque::new(),
            writing: 0,
            spare: Vec::new(),
            active: None,
            next: Next::None,
            roll: false,
            rolled: None,
            zeros: if copies_on_write { Zeros::Promised } else { Zeros::Written },
            next_commit: 1,
            next_sequence: 1,
            next_segment: 0,
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
            cut: None,
            copies_on_write,
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
            room: FairQueue::default(),
            idle: Notify::new(),
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
        if state.failed.is_some() || state.cut.is_some() || state.in_flight.len() >= self.options.commits_in_flight {
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
            file: file.clone(),
            durable: Durable {
                commit: number,
                sequence: state.next_sequence - 1,
                segment: header.segment,
                end: offset + len,
            },
            state: Progress::Writing,
            records,
            body_len,
            len: buffer.len(),
            began,
            sealed: Instant::now(),
            ticket,
        });
        state.writing += 1;
        spawn_local(write_commit(self.clone(), file, offset, number, buffer));
        true
    }

    /// Whether the active segment has room for `len` bytes; moves on to the next one if that is ready.
    /// Where there is none to come, what gathers fails.
    fn has_segment_for(&self, state: &mut State<S::File>, len: u64) -> bool {
        let fits = |segment: &Segment<S::File>| segment.used + len <= self.options.segment_len;
        let has_room = state.active.as_ref().is_some_and(fits);
        let ready = matches!(state.next, Next::Ready(_));
        // Readers expect a commit in each segment except the last.
        let is_used = state.active.as_ref().is_some_and(|segment| segment.first_commit.is_some());
        if has_room && !(state.roll && ready && is_used) {
            return true;
        }
        if ready {
            let Next::Ready(next) = std::mem::replace(&mut state.next, Next::None) else { unreachable!() };
            if let Some(left) = state.active.replace(next) {
                // A writer that leaves segments half empty gains nothing if every byte of the next one is written
                // twice.
                let promised = has_room || state.copies_on_write;
                state.zeros = if promised { Zeros::Promised } else { left.better_zeros(state.next_commit) };
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
    fn finished(self: &Rc<Self>, number: u64, ended: Ended, buffer: Buffer) {
        let no_room = match ended {
            Ended::Written => None,
            Ended::NoRoom(why) => Some(why),
            Ended::Failed(why) => {
                self.fail(&why);
                return self.write_ended();
            }
        };
        let (durable, failed) = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            state.spare.push(buffer);
            // A commit whose outcome was already reported, because an earlier one failed, is not in the list.
            if let Some(commit) = state.in_flight.iter_mut().find(|commit| commit.number == number) {
                match no_room {
                    None => {
                        commit.state = Progress::Written;
                        let (len, records, elapsed) = (commit.len, commit.records, commit.sealed.elapsed());
                        self.observer.committed(len, records, elapsed);
                    }
                    Some(why) => {
                        commit.state = Progress::NoRoom;
                        self.refuse_for_room(state, why);
                    }
                }
            }
            (self.take_durable(state), self.take_failed(state))
        };
        self.write_ended();
        // Before those wake who wait for this one: what they send would go to the kernel first, and the disk
        // would wait for it.
        while self.start_commit() {}
        for commit in durable {
            commit.ticket.resolve(Outcome::Durable);
        }
        for commit in failed {
            commit.ticket.resolve(Outcome::Failed);
        }
        let mut state = self.state.borrow_mut();
        if state.cut.as_ref().is_some_and(|cut| !cut.is_empty()) {
            self.drop_gathered(&mut state);
        }
        let room = state.gathered_bytes + state.in_flight_bytes < self.options.bytes_max;
        if room {
            self.room.notify();
        }
    }

    /// Handles a write that has returned or never will.
    fn write_ended(&self) {
        let mut state = self.state.borrow_mut();
        state.writing -= 1;
        if state.writing == 0 {
            self.idle.notify_one();
            if state.cut.is_some() {
                self.want.notify_one();
            }
        }
    }

    /// Waits until no write of a commit is in flight, for as long as the disk needs. Cancel-safe.
    pub async fn writes_ended(&self) {
        while self.state.borrow().writing > 0 {
            self.idle.notified().await;
        }
    }

    /// Handles a commit that ran out of space: no other commit is started, and records are refused, until the journal
    /// has been cut back and there is a new segment.
    fn refuse_for_room(&self, state: &mut State<S::File>, why: String) {
        state.cut.get_or_insert_default();
        state.copies_on_write = true;
        state.zeros = Zeros::Promised;
        state.no_room.get_or_insert(why);
        state.out_of_segments = true;
        self.update_condition(state);
    }

    /// Removes and returns the commits that have become durable: all written ones before the first that is not
    /// written.
    fn take_durable(&self, state: &mut State<S::File>) -> Vec<InFlight<S::File>> {
        let written = state.in_flight.iter().take_while(|commit| commit.state == Progress::Written).count();
        let durable: Vec<_> = state.in_flight.drain(..written).collect();
        state.in_flight_bytes -= durable.iter().map(|commit| commit.body_len).sum::<usize>();
        if let Some(last) = durable.last() {
            state.durable = last.durable;
            self.publish.notify_one();
        }
        durable
    }

    /// Removes and returns the commits that have failed for lack of space: the first commit that is not durable, if
    /// it has failed, and all commits after it, even those that were written. Their segments must be cut back.
    fn take_failed(&self, state: &mut State<S::File>) -> Vec<InFlight<S::File>> {
        if state.in_flight.front().is_none_or(|commit| commit.state != Progress::NoRoom) {
            return Vec::new();
        }
        let failed: Vec<_> = state.in_flight.drain(..).collect();
        state.in_flight_bytes = 0;
        let mut segments: BTreeMap<_, _> =
            failed.iter().map(|commit| (commit.durable.segment, commit.file.clone())).collect();
        // A segment that is already made has its blocks, but may still need others.
        let ready = match std::mem::replace(&mut state.next, Next::Wanted) {
            Next::Ready(next) => Some(next),
            Next::Wanted | Next::None => None,
        };
        segments.extend(state.active.take().into_iter().chain(ready).map(|segment| (segment.number, segment.file)));
        state.cut = Some(segments);
        failed
    }

    /// Records that the journal has been cut back to what is durable: numbering continues from there.
    pub fn cut_back(&self) {
        let mut state = self.state.borrow_mut();
        state.cut = None;
        state.roll = false;
        state.next_commit = state.durable.commit + 1;
        state.next_sequence = state.durable.sequence + 1;
        state.next_segment = if state.durable.commit == 0 { 0 } else { state.durable.segment + 1 };
        // Headers that named a later commit may be gone.
        state.named = 0;
    }

    /// The ticket of the last commit that has no outcome yet.
    pub fn last_ticket(&self) -> Option<Rc<Ticket>> {
        let state = self.state.borrow();
        let gathered = state.gathered.back().map(|gather| gather.ticket().clone());
        gathered.or_else(|| state.in_flight.back().map(|commit| commit.ticket.clone()))
    }

    /// Moves on to the next segment if the first record of the active one is too old. If no record is waiting, an
    /// empty commit is written to the next segment: it shows readers and retention that the writer has left the
    /// earlier one.
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

/// The shortest time between two reports of the writer's durable position to readers.
pub const PUBLISH_INTERVAL: Duration = Duration::from_millis(1);
