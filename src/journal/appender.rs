//! A connection's access to the journal of its shard.
//!
//! An appender owns the order in which a connection's records were staged, and which of their outcomes it has
//! returned. It does not know how commits are written. Its invariant: every record that was staged with success gets
//! exactly one outcome, and outcomes are returned in the order of staging.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use super::commit::outcome::{CommitOutcome, Outcome};
use super::commit::writer_core::WriterCore;
use super::record::Source;
use super::storage::Storage;
use crate::proto::{AckResult, Id};

/// Appends the records of one connection to the journal.
///
/// The order of calls, for each batch of records: [`ready`](Self::ready), then [`Batch::stage`] for each record, then
/// [`settle`](Self::settle) until [`is_settled`](Self::is_settled). A batch may also be staged before the earlier ones
/// are settled.
pub struct Appender<S: Storage> {
    core: Rc<WriterCore<S>>,
    source: Source,
    /// Commits with records whose outcome was not returned yet, oldest first, and the number of those records.
    staged: VecDeque<(Rc<CommitOutcome>, u64)>,
}

/// The outcomes of the oldest records that were staged with success and had no outcome yet: first `durable` records
/// that are on disk, then `failed` records that are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    /// The number of records that are durable.
    pub durable: u64,
    /// The number of records after them that have failed. They may be on disk nevertheless.
    pub failed: u64,
}

impl<S: Storage> Appender<S> {
    /// Creates an appender for the records of `source`. Nothing is staged yet.
    pub(super) fn new(core: Rc<WriterCore<S>>, source: Source) -> Self {
        Appender { core, source, staged: VecDeque::new() }
    }

    /// Returns an appender of the same writer for another connection. See
    /// [`Writer::appender`](super::Writer::appender).
    pub fn of_connection(&self, connection: u64, peer: SocketAddr) -> Self {
        Appender::new(self.core.clone(), Source { connection, peer, received: 0 })
    }

    /// Waits until the writer's staged bytes are below their limit, and returns a batch to stage records with. Returns
    /// immediately if the writer refuses records anyway. Waiting appenders continue in the order in which they came.
    ///
    /// Stage the batch without awaiting anything else in between: the limit is checked here, not by each
    /// [`Batch::stage`].
    ///
    /// Cancel-safe, but a cancelled wait loses its place in the queue.
    pub async fn ready(&mut self) -> Batch<'_, S> {
        self.core.wait_for_room().await;
        self.batch()
    }

    /// Returns a batch if [`Self::ready`] would not have to wait.
    pub fn try_ready(&mut self) -> Option<Batch<'_, S>> {
        self.core.has_room_now().then(|| self.batch())
    }

    fn batch(&mut self) -> Batch<'_, S> {
        self.source.received = self.core.storage().now();
        Batch { appender: self }
    }

    /// Returns whether every record that was staged with success has got its outcome from [`Self::settle`].
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.staged.is_empty()
    }

    /// Waits until the oldest staged record has its outcome, and returns it together with the later outcomes that are
    /// already known. Returns immediately if nothing is staged. A record is durable when its commit and every earlier
    /// commit of the writer are on disk.
    ///
    /// Cancel-safe: the next call returns what a cancelled call did not.
    pub async fn settle(&mut self) -> Settled {
        let mut settled = Settled::default();
        let Some((oldest, _)) = self.staged.front() else { return settled };
        oldest.wait().await;
        while let Some((outcome, count)) = self.staged.front() {
            match outcome.known() {
                Some(Outcome::Durable) if settled.failed == 0 => settled.durable += count,
                Some(Outcome::Failed) => settled.failed += count,
                // The outcome is not known, or it is a success after a failure, which the next call returns.
                Some(Outcome::Durable) | None => break,
            }
            self.staged.pop_front();
        }
        settled
    }
}

/// Permission to stage records, from [`Appender::ready`]. Dropping it ends the batch.
///
/// The records of a batch share their receive time, and then share 40 bytes on disk.
pub struct Batch<'a, S: Storage> {
    appender: &'a mut Appender<S>,
}

impl<S: Storage> Batch<'_, S> {
    /// Replaces the receive time of the records that follow, in nanoseconds since 1970. Without this call, the receive
    /// time is when [`Appender::ready`] returned.
    #[inline]
    pub fn received_at(self, nanos: u64) -> Self {
        self.appender.source.received = nanos;
        self
    }

    /// Copies a record into the open commit.
    ///
    /// Success is provisional: [`Appender::settle`] returns the outcome. Failure is final. It means that the writer
    /// refuses records, or that the record doesn't fit in a commit
    /// ([`WriterOptions::commit_len_max`](super::WriterOptions::commit_len_max)).
    #[inline]
    pub fn stage(&mut self, id: Id, payload: &[u8]) -> AckResult {
        let appender = &mut *self.appender;
        match appender.core.stage(&appender.source, id, payload) {
            Some(outcome) => {
                match appender.staged.back_mut() {
                    Some((last, count)) if Rc::ptr_eq(last, &outcome) => *count += 1,
                    _ => appender.staged.push_back((outcome, 1)),
                }
                AckResult::Success
            }
            None => AckResult::Failure,
        }
    }

    /// Returns whether every record that was staged with success has its outcome, as [`Appender::is_settled`] does.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.appender.is_settled()
    }
}
