//! The segments that a writer writes to or will write to: the active one, and the next one.
//!
//! This module decides which segment the next commit is written to, and how the next file is preallocated. It does no
//! I/O. Its invariant: a commit never spans segments, and each segment except the last has at least one commit, as
//! readers expect.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::format::BLOCK_LEN;
use super::super::position::Durable;
use super::super::storage::Prealloc;
use crate::clock;

/// A segment that a writer has open.
#[derive(Debug)]
pub struct WriterSegment<F> {
    /// The segment's number.
    pub number: u32,
    /// The segment's file.
    pub file: Rc<F>,
    /// Whether the file was a segment before.
    pub recycled: bool,
    /// The offset in the file at which the next commit begins, in bytes.
    end: u64,
    /// The number of its first commit.
    first_commit: Option<u64>,
    /// When its first record was staged.
    first_record: Option<Instant>,
}

/// The place that a commit is to be written to.
#[derive(Debug)]
pub struct Place<F> {
    /// The segment's number.
    pub segment: u32,
    /// The segment's file.
    pub file: Rc<F>,
    /// The offset in the file, in bytes.
    pub offset: u64,
    /// The number of the segment's first commit.
    pub first_commit: u64,
}

/// The segments of a writer, and the settings for those to come.
#[derive(Debug)]
pub struct WriterSegments<F> {
    segment_len: u64,
    active: Option<WriterSegment<F>>,
    next: NextSegment<F>,
    /// The next commit is written to the next segment, even if the active one has room.
    roll: bool,
    /// A segment that the writer left before it was full, with no write in flight to it.
    left: Option<WriterSegment<F>>,
    prealloc: Prealloc,
    /// Overwriting a block that was written before needs free space.
    copies_on_write: bool,
    /// The number of the segment that is made next.
    next_number: u32,
    made: u32,
    recycled: u32,
}

/// The segment after the active one.
#[derive(Debug)]
enum NextSegment<F> {
    None,
    /// The segment was asked for, or is being made.
    Wanted,
    Ready(WriterSegment<F>),
}

impl<F> WriterSegment<F> {
    /// Returns a new segment, which has only its header.
    pub fn new(number: u32, file: F, recycled: bool) -> Self {
        let (first_commit, first_record) = (None, None);
        WriterSegment { number, file: Rc::new(file), recycled, end: BLOCK_LEN as u64, first_commit, first_record }
    }

    /// Returns where the next commit would begin, in bytes.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns the faster preallocation for the next segment, judged by the mean commit in this one. `next_commit` is
    /// the number after its last commit.
    fn better_prealloc(&self, next_commit: u64) -> Prealloc {
        let commits = self.first_commit.map_or(0, |first| next_commit - first).max(1);
        let mean_len = (self.end - BLOCK_LEN as u64) / commits;
        if mean_len < UNWRITTEN_FROM { Prealloc::ZeroFilled } else { Prealloc::Unwritten }
    }
}

impl<F> WriterSegments<F> {
    /// Returns the state of a new writer, which has no segments yet. `segment_len` is in bytes.
    pub fn new(segment_len: u64, copies_on_write: bool) -> Self {
        WriterSegments {
            segment_len,
            active: None,
            next: NextSegment::None,
            roll: false,
            left: None,
            prealloc: if copies_on_write { Prealloc::Unwritten } else { Prealloc::ZeroFilled },
            copies_on_write,
            next_number: 0,
            made: 0,
            recycled: 0,
        }
    }

    /// Returns the segments that are open, and their numbers.
    pub fn open(&self) -> Vec<(u32, Rc<F>)> {
        let next = if let NextSegment::Ready(next) = &self.next { Some(next) } else { None };
        self.active.iter().chain(next).map(|segment| (segment.number, segment.file.clone())).collect()
    }

    /// Returns how many segments were made, and how many of them were recycled.
    pub fn counts(&self) -> (u32, u32) {
        (self.made, self.recycled)
    }

    /// Returns whether there is an active segment.
    pub fn has_active(&self) -> bool {
        self.active.is_some()
    }

    /// Returns how the next file is preallocated, and whether a recycled file would do. A recycled file has its blocks,
    /// which doesn't help if the file system needs new ones for each write.
    pub fn how_to_make(&self) -> (Prealloc, bool) {
        (self.prealloc, !self.copies_on_write)
    }

    /// Asks for the next segment, unless there is one or it was asked for. Returns whether the request is new.
    pub fn want_next(&mut self) -> bool {
        let is_new = matches!(self.next, NextSegment::None);
        if is_new {
            self.next = NextSegment::Wanted;
        }
        is_new
    }

    /// Returns the number of the segment that was asked for.
    pub fn wanted(&self) -> Option<u32> {
        matches!(self.next, NextSegment::Wanted).then_some(self.next_number)
    }

    /// Adds a segment: as the active one if it is the first, else as the next one.
    pub fn add(&mut self, segment: WriterSegment<F>, is_first: bool) {
        self.next_number = segment.number + 1;
        self.made += 1;
        self.recycled += u32::from(segment.recycled);
        if is_first {
            self.active = Some(segment);
        } else {
            self.next = NextSegment::Ready(segment);
        }
    }

    /// Returns whether the active segment has room for `len` bytes.
    pub fn has_room(&self, len: u64) -> bool {
        self.active.as_ref().is_some_and(|segment| segment.end + len <= self.segment_len)
    }

    /// Makes sure that a commit of `len` bytes can be placed, and moves on to the next segment if that is necessary and
    /// possible. `next_commit` is the commit's number, and `is_idle` is whether no commit is in flight. Returns `false`
    /// if there is no segment for it.
    pub fn make_room(&mut self, len: u64, next_commit: u64, is_idle: bool) -> bool {
        let has_room = self.has_room(len);
        let is_ready = matches!(self.next, NextSegment::Ready(_));
        // Readers expect a commit in each segment except the last.
        let is_used = self.active.as_ref().is_some_and(|segment| segment.first_commit.is_some());
        if has_room && !(self.roll && is_ready && is_used) {
            return true;
        }
        if !is_ready {
            return false;
        }
        let NextSegment::Ready(next) = std::mem::replace(&mut self.next, NextSegment::None) else { unreachable!() };
        if let Some(left) = self.active.replace(next) {
            // A writer that leaves segments half empty gains nothing if every byte of the next one is written twice.
            let unwritten = has_room || self.copies_on_write;
            self.prealloc = if unwritten { Prealloc::Unwritten } else { left.better_prealloc(next_commit) };
            if has_room && is_idle {
                self.left = Some(left);
            }
        }
        self.roll = false;
        true
    }

    /// Places a commit of `len` bytes. `first_record` is when its first record was staged, if it has records.
    ///
    /// # Panics
    /// [`Self::make_room`] has not returned `true` for it.
    pub fn place(&mut self, len: u64, number: u64, first_record: Option<Instant>) -> Place<F> {
        let segment = self.active.as_mut().expect("there is a segment with room");
        let offset = segment.end;
        segment.end += len;
        assert!(segment.end <= self.segment_len, "a commit never spans segments");
        segment.first_record = segment.first_record.or(first_record);
        let first_commit = *segment.first_commit.get_or_insert(number);
        Place { segment: segment.number, file: segment.file.clone(), offset, first_commit }
    }

    /// Decides to move on to the next segment, if that is ready and the first record of the active one is at least this
    /// old. Returns whether it did.
    pub fn roll_if_old(&mut self, age: Duration) -> bool {
        let is_old = |segment: &WriterSegment<F>| segment.first_record.is_some_and(|first| clock::now() - first >= age);
        let rolls = matches!(self.next, NextSegment::Ready(_)) && self.active.as_ref().is_some_and(is_old);
        self.roll |= rolls;
        rolls
    }

    /// Handles a commit that ran out of space: the file system needs new blocks for each write.
    pub fn expect_copies(&mut self) {
        self.copies_on_write = true;
        self.prealloc = Prealloc::Unwritten;
    }

    /// Removes and returns all open segments, and asks for a new one. They must be cut back.
    pub fn take_for_cut(&mut self) -> impl Iterator<Item = WriterSegment<F>> + use<F> {
        // A next segment that is ready has its blocks, but may still need others.
        let next = self.take_next(true);
        self.active.take().into_iter().chain(next)
    }

    /// Continues the numbering after what is durable.
    pub fn continue_after(&mut self, durable: Durable) {
        self.roll = false;
        self.next_number = if durable.commit == 0 { 0 } else { durable.segment + 1 };
    }

    /// Removes and returns the segment that was left before it was full.
    pub fn take_left(&mut self) -> Option<WriterSegment<F>> {
        self.left.take()
    }

    /// Removes and returns the active segment.
    pub fn take_active(&mut self) -> Option<WriterSegment<F>> {
        self.active.take()
    }

    /// Removes and returns the next segment, if it was made. `want_another` asks for another one.
    pub fn take_next(&mut self, want_another: bool) -> Option<WriterSegment<F>> {
        let next = if want_another { NextSegment::Wanted } else { NextSegment::None };
        match std::mem::replace(&mut self.next, next) {
            NextSegment::Ready(next) => Some(next),
            NextSegment::Wanted | NextSegment::None => None,
        }
    }
}

/// The mean commit length from which the metadata of unwritten blocks costs less than writing the blocks twice, in
/// bytes. Measured on ext4: without zero-filling, commits of 70 KiB are slower by a tenth, commits of 230 KiB are as
/// fast, and commits of 1 MiB are faster by half.
const UNWRITTEN_FROM: u64 = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_LEN as u64;

    /// Returns segments of four blocks, of which the first `made` were made.
    fn segments(made: u32) -> WriterSegments<()> {
        let mut segments = WriterSegments::new(4 * BLOCK, false);
        for number in 0..made {
            segments.add(WriterSegment::new(number, (), number == 1), number == 0);
        }
        segments
    }

    /// Places a commit of one block and returns its segment, its offset in blocks, and the segment's first commit.
    fn place(segments: &mut WriterSegments<()>, number: u64) -> Option<(u32, u64, u64)> {
        let place = segments.make_room(BLOCK, number, false).then(|| segments.place(BLOCK, number, None));
        place.map(|place| (place.segment, place.offset / BLOCK, place.first_commit))
    }

    #[test]
    fn commits_fill_a_segment_after_its_header_and_continue_in_the_next_one() {
        let mut segments = segments(2);
        let placed: Vec<_> = (1..=7).map(|number| place(&mut segments, number)).collect();
        let (first, next) = ([(0, 1, 1), (0, 2, 1), (0, 3, 1)], [(1, 1, 4), (1, 2, 4), (1, 3, 4)]);
        assert_eq!(placed[..6], [first, next].concat().into_iter().map(Some).collect::<Vec<_>>());
        assert_eq!(placed[6], None, "no segment has room");
        assert_eq!((segments.counts(), segments.wanted()), ((2, 1), None));
        assert!(segments.want_next() && !segments.want_next());
        assert_eq!(segments.wanted(), Some(2));
        segments.add(WriterSegment::new(2, (), false), false);
        assert_eq!(place(&mut segments, 7), Some((2, 1, 7)));
    }

    #[test]
    fn a_segment_with_an_old_record_is_left_once_the_next_one_is_ready() {
        let mut segments = segments(1);
        assert!(segments.make_room(BLOCK, 1, true));
        segments.place(BLOCK, 1, Some(Instant::now()));
        assert!(!segments.roll_if_old(Duration::ZERO), "there is no next segment");
        segments.want_next();
        segments.add(WriterSegment::new(1, (), false), false);
        assert!(!segments.roll_if_old(Duration::from_secs(3600)) && segments.roll_if_old(Duration::ZERO));
        assert!(segments.make_room(BLOCK, 2, true));
        assert_eq!(segments.place(BLOCK, 2, None).segment, 1);
        let left = segments.take_left().unwrap();
        assert_eq!((left.number, left.end()), (0, 2 * BLOCK));
        assert!(!segments.roll_if_old(Duration::ZERO), "the active segment has no record");
    }

    #[test]
    fn after_a_cut_the_numbers_continue_after_the_durable_segment() {
        let mut segments = segments(2);
        segments.expect_copies();
        assert_eq!(segments.how_to_make(), (Prealloc::Unwritten, false));
        let cut: Vec<_> = segments.take_for_cut().map(|segment| segment.number).collect();
        assert_eq!((cut, segments.has_active()), (vec![0, 1], false));
        segments.continue_after(Durable { commit: 3, segment: 0, ..Durable::default() });
        assert_eq!(segments.wanted(), Some(1));
        segments.continue_after(Durable::default());
        assert_eq!(segments.wanted(), Some(0), "nothing is durable");
    }

    #[test]
    fn the_mean_commit_decides_how_the_next_file_is_preallocated() {
        let mut segment = WriterSegment::new(0, (), false);
        (segment.first_commit, segment.end) = (Some(5), BLOCK + 4 * UNWRITTEN_FROM);
        assert_eq!(segment.better_prealloc(9), Prealloc::Unwritten);
        assert_eq!(segment.better_prealloc(10), Prealloc::ZeroFilled);
    }
}
