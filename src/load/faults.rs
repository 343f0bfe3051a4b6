//! The server's mistakes, counted by kind, with a description of the first few.
//!
//! It knows nothing of sockets or of reports. The names of the kinds are keys of the JSON report.

use std::fmt;

/// A kind of mistake that a server can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Fault {
    /// An ack with a wrong total length. The rest of the stream can't be parsed.
    Length,
    /// An ack with a command that is not that of a SUBMIT's ack.
    Command,
    /// An ack for an ID that no request awaits.
    Id,
    /// An ack that came after the ack of a later request.
    Order,
    /// A result other than 0: the server refused the message.
    Result,
    /// A second ack for an ID.
    Doubled,
    /// An ack that never arrived.
    Missing,
    /// A connection that the server closed or reset, or that could not be opened.
    Connection,
}

impl Fault {
    /// All kinds, in the order of their numbers.
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

    /// Returns the kind's name in reports.
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

/// The faults of a run, or of one of its threads.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    counts: [u64; Fault::ALL.len()],
    /// Descriptions of the first faults.
    first: Vec<String>,
}

impl Faults {
    /// Counts a fault. `what` describes it, and is used if the fault is one of the first.
    #[cold]
    pub fn add(&mut self, fault: Fault, what: impl fmt::Display) {
        self.add_many(fault, 1, what);
    }

    /// Counts several faults of one kind that have the same cause.
    #[cold]
    pub fn add_many(&mut self, fault: Fault, count: u64, what: impl fmt::Display) {
        if count > 0 {
            self.counts[fault as usize] += count;
            if self.first.len() < FIRST_MAX {
                self.first.push(format!("{}: {what}", fault.name()));
            }
        }
    }

    /// Adds the faults of another thread.
    pub fn merge(&mut self, other: &Faults) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        let room = FIRST_MAX - self.first.len();
        self.first.extend(other.first.iter().take(room).cloned());
    }

    /// Returns the number of faults of one kind.
    pub fn count(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    /// Returns the number of all faults.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns descriptions of the first faults, at most [`FIRST_MAX`].
    pub fn first(&self) -> &[String] {
        &self.first
    }
}

/// The cause of a missing ack if the run ended before it arrived.
pub const ACK_TIMED_OUT: &str = "no ack arrived within --ack-timeout";
/// The cause of a lost connection if its stream ended without an error.
pub const CLOSED_BY_SERVER: &str = "the server closed the connection";
/// How many faults are described.
pub const FIRST_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_counted_and_the_first_ones_are_described() {
        let (mut faults, mut other) = (Faults::default(), Faults::default());
        for id in 0..FIRST_MAX {
            faults.add(Fault::Result, format_args!("ID {id}"));
        }
        other.add_many(Fault::Missing, 3, "not described");
        other.add_many(Fault::Missing, 0, "not counted");
        faults.merge(&other);
        assert_eq!((faults.total(), faults.count(Fault::Missing)), (FIRST_MAX as u64 + 3, 3));
        assert_eq!(faults.first().len(), FIRST_MAX);
        assert_eq!(faults.first()[1], "refused: ID 1");
    }

    #[test]
    fn faults_are_numbered_as_listed() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index);
        }
    }
}
