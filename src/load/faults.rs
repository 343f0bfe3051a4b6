//! What went wrong, counted by kind, with the first few told in full.

use std::fmt;

/// The ways in which a server fails its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Fault {
    /// An ack whose total length is not an ack's. The stream is lost behind it.
    Length,
    /// An ack with another command than a SUBMIT's.
    Command,
    /// An ack for an ID that no request awaits.
    Id,
    /// An ack that came after the ack of a later request.
    Order,
    /// A result other than 0: the server did not take the message.
    Result,
    /// A second ack for an ID.
    Doubled,
    /// An ack that never came.
    Missing,
    /// A connection that the server closed or reset, or that could not be made.
    Connection,
}

impl Fault {
    pub const ALL: [Fault; 8] = [
        Fault::Length,
        Fault::Command,
        Fault::Id,
        Fault::Order,
        Fault::Result,
        Fault::Doubled,
        Fault::Missing,
        Fault::Connection,
    ];

    /// What it is called in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Length => "wrong length",
            Fault::Command => "wrong command",
            Fault::Id => "wrong ID",
            Fault::Order => "out of order",
            Fault::Result => "refused",
            Fault::Doubled => "doubled",
            Fault::Missing => "missing",
            Fault::Connection => "connection lost",
        }
    }
}

/// Every fault of a run, or of a thread's part of one.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    counts: [u64; Fault::ALL.len()],
    told: Vec<String>,
}

impl Faults {
    /// Counts a fault. `what` tells it, if it is one of the first.
    #[cold]
    pub fn add(&mut self, fault: Fault, what: impl fmt::Display) {
        self.add_many(fault, 1, what);
    }

    /// Counts faults of one kind that have one cause.
    #[cold]
    pub fn add_many(&mut self, fault: Fault, count: u64, what: impl fmt::Display) {
        if count > 0 {
            self.counts[fault as usize] += count;
            if self.told.len() < TOLD_MAX {
                self.told.push(format!("{}: {what}", fault.name()));
            }
        }
    }

    pub fn merge(&mut self, other: &Faults) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        let room = TOLD_MAX - self.told.len();
        self.told.extend(other.told.iter().take(room).cloned());
    }

    pub fn count(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The first few, in words.
    pub fn told(&self) -> &[String] {
        &self.told
    }
}

/// How many faults are told in full.
pub const TOLD_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_all_counted_and_the_first_few_told() {
        let (mut faults, mut other) = (Faults::default(), Faults::default());
        for id in 0..TOLD_MAX {
            faults.add(Fault::Result, format_args!("ID {id}"));
        }
        other.add_many(Fault::Missing, 3, "never told");
        other.add_many(Fault::Missing, 0, "not even one");
        faults.merge(&other);
        assert_eq!((faults.total(), faults.count(Fault::Missing)), (TOLD_MAX as u64 + 3, 3));
        assert_eq!(faults.told().len(), TOLD_MAX);
        assert_eq!(faults.told()[1], "refused: ID 1");
    }

    #[test]
    fn faults_are_numbered_as_listed() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index);
        }
    }
}
