//! The outcome of one commit, shared by the writer and by all appenders with records in that commit.
//!
//! An outcome is set once and never changes.

use std::cell::Cell;

use tokio::sync::Notify;

/// The outcome of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The commit and every earlier one are on disk.
    Durable,
    /// The commit is not known to be on disk, and never will be.
    Failed,
}

/// A cell for the outcome of a commit.
#[derive(Debug, Default)]
pub struct CommitOutcome {
    outcome: Cell<Option<Outcome>>,
    resolved: Notify,
}

impl CommitOutcome {
    /// Sets the outcome and wakes everything that waits for it.
    pub fn resolve(&self, outcome: Outcome) {
        debug_assert!(self.outcome.get().is_none(), "a commit has one outcome");
        self.outcome.set(Some(outcome));
        self.resolved.notify_waiters();
    }

    /// Returns the outcome, if it is known.
    pub fn known(&self) -> Option<Outcome> {
        self.outcome.get()
    }

    /// Waits for the outcome. Cancel-safe.
    pub async fn wait(&self) -> Outcome {
        // The check and the start of the wait are in one poll on one thread, so no outcome is set between them.
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome;
            }
            self.resolved.notified().await;
        }
    }
}
