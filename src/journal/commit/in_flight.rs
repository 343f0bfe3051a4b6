//! The sealed commits that are being written, in the order of their numbers.
//!
//! Writes may end in any order. This list decides what their results mean for the commits after them: a commit is
//! durable when it and every earlier one is written, and if one finds no space, every later one fails with it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::position::Durable;
use super::outcome::CommitOutcome;
use crate::clock;

/// A sealed commit that is being written.
#[derive(Debug)]
pub struct CommitInFlight<F> {
    /// The commit's number.
    pub number: u64,
    /// The segment's file.
    pub file: Rc<F>,
    /// How far the writer is durable once this commit and all earlier ones are.
    pub durable: Durable,
    /// The number of its records.
    pub records: u32,
    /// The length of its body in bytes.
    pub body_len: usize,
    /// Its length in bytes, header and padding included.
    pub len: usize,
    /// When it was opened.
    pub opened: Instant,
    /// When it was sealed.
    pub sealed: Instant,
    /// The cell for its outcome.
    pub outcome: Rc<CommitOutcome>,
}

/// The commits in flight, oldest first.
#[derive(Debug)]
pub struct CommitsInFlight<F> {
    commits: VecDeque<(CommitInFlight<F>, Progress)>,
    /// Bytes of their bodies.
    bytes: usize,
    /// Writes and syncs that have not returned, including those of commits that are no longer in the list because
    /// their outcome is already known.
    writes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Writing,
    Written,
    NoSpace,
}

impl<F> CommitsInFlight<F> {
    /// Returns an empty list.
    pub fn new() -> Self {
        CommitsInFlight { commits: VecDeque::new(), bytes: 0, writes: 0 }
    }

    /// Returns the number of commits.
    pub fn len(&self) -> usize {
        self.commits.len()
    }

    /// Returns the bytes of the commits' bodies.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many writes have not returned.
    pub fn writes(&self) -> usize {
        self.writes
    }

    /// Returns the oldest commit.
    pub fn oldest(&self) -> Option<&CommitInFlight<F>> {
        self.commits.front().map(|(commit, _)| commit)
    }

    /// Returns the newest commit.
    pub fn newest(&self) -> Option<&CommitInFlight<F>> {
        self.commits.back().map(|(commit, _)| commit)
    }

    /// Appends a commit whose write is started now.
    pub fn push(&mut self, commit: CommitInFlight<F>) {
        self.bytes += commit.body_len;
        self.writes += 1;
        self.commits.push_back((commit, Progress::Writing));
    }

    /// Handles a write that has returned, or never will. Returns whether it was the last one.
    pub fn write_ended(&mut self) -> bool {
        self.writes -= 1;
        self.writes == 0
    }

    /// Marks a commit as written and synced, and returns its length, its records and the time since it was sealed.
    /// Returns `None` for a commit whose outcome is already known because an earlier one failed.
    pub fn written(&mut self, number: u64) -> Option<(usize, u32, Duration)> {
        let (commit, progress) = self.find(number)?;
        *progress = Progress::Written;
        Some((commit.len, commit.records, clock::now() - commit.sealed))
    }

    /// Marks a commit as one that found no space. Returns `false` for a commit whose outcome is already known.
    pub fn refused(&mut self, number: u64) -> bool {
        self.find(number).map(|(_, progress)| *progress = Progress::NoSpace).is_some()
    }

    fn find(&mut self, number: u64) -> Option<&mut (CommitInFlight<F>, Progress)> {
        self.commits.iter_mut().find(|(commit, _)| commit.number == number)
    }

    /// Removes and returns the commits that have become durable: all written ones before the first that is not
    /// written.
    pub fn take_durable(&mut self) -> Vec<CommitInFlight<F>> {
        let written = self.commits.iter().take_while(|(_, progress)| *progress == Progress::Written).count();
        let durable: Vec<_> = self.commits.drain(..written).map(|(commit, _)| commit).collect();
        self.bytes -= durable.iter().map(|commit| commit.body_len).sum::<usize>();
        durable
    }

    /// Removes and returns the commits that have failed for lack of space: the oldest commit, if it found no space, and
    /// all commits after it, even those that were written.
    pub fn take_refused(&mut self) -> Vec<CommitInFlight<F>> {
        let refused = self.commits.front().is_some_and(|(_, progress)| *progress == Progress::NoSpace);
        if refused { self.take_all() } else { Vec::new() }
    }

    /// Removes and returns all commits.
    pub fn take_all(&mut self) -> Vec<CommitInFlight<F>> {
        self.bytes = 0;
        self.commits.drain(..).map(|(commit, _)| commit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(count: u64) -> CommitsInFlight<()> {
        let mut list = CommitsInFlight::new();
        for number in 1..=count {
            list.push(CommitInFlight {
                number,
                file: Rc::new(()),
                durable: Durable { commit: number, ..Durable::default() },
                records: 1,
                body_len: 10,
                len: 4096,
                opened: Instant::now(),
                sealed: Instant::now(),
                outcome: Rc::default(),
            });
        }
        list
    }

    fn numbers(commits: Vec<CommitInFlight<()>>) -> Vec<u64> {
        commits.into_iter().map(|commit| commit.number).collect()
    }

    #[test]
    fn a_commit_is_durable_after_every_earlier_one() {
        let mut list = list(3);
        list.written(2).unwrap();
        assert!(numbers(list.take_durable()).is_empty());
        list.written(1).unwrap();
        assert_eq!(numbers(list.take_durable()), [1, 2]);
        assert_eq!((list.len(), list.bytes(), list.writes()), (1, 10, 3), "writes are counted apart");
        assert!(list.written(2).is_none(), "its outcome is known");
    }

    #[test]
    fn a_commit_without_space_fails_with_all_later_ones_once_the_earlier_ones_are_known() {
        let mut list = list(4);
        assert!(list.refused(2) && list.written(3).is_some());
        assert!(numbers(list.take_durable()).is_empty() && numbers(list.take_refused()).is_empty());
        list.written(1).unwrap();
        assert_eq!(numbers(list.take_durable()), [1]);
        assert_eq!(numbers(list.take_refused()), [2, 3, 4]);
        assert!(!list.refused(4) && list.bytes() == 0);
        assert!((0..3).all(|_| !list.write_ended()) && list.write_ended());
    }
}
