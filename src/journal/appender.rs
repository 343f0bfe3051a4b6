//! What one connection has of its shard's journal: it stages records and learns what became of them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use super::commit::Shared;
use super::gather::{Outcome, Ticket};
use super::record::Source;
use super::storage::Storage;
use crate::proto::{AckResult, Id};

/// Stages the records of one connection.
///
/// The order of calls, for each batch: [`Self::ready`], then [`Self::stage`] for each record without
/// awaiting in between, then [`Self::settle`].
pub struct Appender<S: Storage> {
    shared: Rc<Shared<S>>,
    source: Source,
    /// What was staged and is not settled: commits in their order, and how many records in each.
    staged: VecDeque<(Rc<Ticket>, u64)>,
}

/// What became of the records that were staged as a success, in their order: first those that are
/// durable, behind them those that are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    pub durable: u64,
    pub failed: u64,
}

impl<S: Storage> Appender<S> {
    pub(super) fn new(shared: Rc<Shared<S>>, source: Source) -> Self {
        Appender { shared, source, staged: VecDeque::new() }
    }

    /// The appender of another connection of the same writer.
    pub fn of_connection(&self, connection: u64, peer: SocketAddr) -> Self {
        Appender::new(self.shared.clone(), Source { connection, peer, received: 0 })
    }

    /// Waits until there is room for a batch. At once where the writer refuses everything anyway.
    /// Cancel-safe. Those that wait get their turn in the order in which they came.
    pub async fn ready(&self) {
        let shared = &*self.shared;
        if shared.waiting.get() == 0 && shared.has_room() {
            return;
        }
        let _waiting = Waiting::new(shared);
        // One at a time watches for room; the next one does when this one has staged, for tasks take turns.
        let _turn = shared.turn.acquire().await.expect("nobody closes it");
        while !shared.has_room() {
            shared.room.notified().await;
        }
    }

    /// Says when what is staged from here on was received, in nanoseconds since 1970. Records of one
    /// read share it, and then share 40 bytes on disk.
    #[inline]
    pub fn received_at(&mut self, nanos: u64) {
        self.source.received = nanos;
    }

    /// Copies a record into the commit that gathers. Success is provisional: [`Self::settle`] tells.
    /// Failure is final: the record is too long for a commit, or the writer refuses records.
    #[inline]
    pub fn stage(&mut self, id: Id, payload: &[u8]) -> AckResult {
        match self.shared.stage(&self.source, id, payload) {
            Some(ticket) => {
                match self.staged.back_mut() {
                    Some((last, count)) if Rc::ptr_eq(last, &ticket) => *count += 1,
                    _ => self.staged.push_back((ticket, 1)),
                }
                AckResult::Success
            }
            None => AckResult::Failure,
        }
    }

    /// Whether records were staged as a success whose outcome has not been told.
    #[inline]
    pub fn owes(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Waits until the oldest of those has its outcome, and tells it and what else is known behind it: a
    /// record is durable when its commit and every earlier one of the writer are. Cancel-safe: what
    /// was not told is told by the next call.
    pub async fn settle(&mut self) -> Settled {
        let mut settled = Settled::default();
        let Some((oldest, _)) = self.staged.front() else { return settled };
        oldest.outcome().await;
        while let Some((ticket, count)) = self.staged.front() {
            match ticket.told() {
                Some(Outcome::Durable) if settled.failed == 0 => settled.durable += count,
                Some(Outcome::Failed) => settled.failed += count,
                // Not known, or a success behind a failure, which the next call tells.
                Some(Outcome::Durable) | None => break,
            }
            self.staged.pop_front();
        }
        settled
    }
}

/// Counts one that waits, for as long as it does.
struct Waiting<'a, S: Storage>(&'a Shared<S>);

impl<'a, S: Storage> Waiting<'a, S> {
    fn new(shared: &'a Shared<S>) -> Self {
        shared.waiting.set(shared.waiting.get() + 1);
        Waiting(shared)
    }
}

impl<S: Storage> Drop for Waiting<'_, S> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
