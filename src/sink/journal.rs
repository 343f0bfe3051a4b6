//! The sink that writes every message to the shard's [journal](crate::journal). An ack with success means that the
//! message is on disk.
//!
//! It translates between a connection's messages and the journal's records, and owns nothing else.

use std::net::SocketAddr;

use super::{Batch, Sink};
use crate::journal::storage::Storage;
use crate::journal::{Appender, Settled, appender};
use crate::proto::{AckResult, Submit};

/// A sink that appends one connection's messages to its shard's journal.
pub struct JournalSink<S: Storage>(Appender<S>);

/// A batch of messages that the journal has room for.
pub struct JournalBatch<'a, S: Storage>(appender::Batch<'a, S>);

impl<S: Storage> JournalSink<S> {
    /// Returns a sink for the journal of this appender.
    pub fn new(appender: Appender<S>) -> Self {
        JournalSink(appender)
    }
}

impl<S: Storage> Sink for JournalSink<S> {
    type Batch<'a> = JournalBatch<'a, S>;

    fn of_connection(&self, connection: u64, peer: SocketAddr) -> Self {
        JournalSink(self.0.of_connection(connection, peer))
    }

    async fn ready(&mut self) -> JournalBatch<'_, S> {
        JournalBatch(self.0.ready().await)
    }

    #[inline]
    fn has_unsettled(&self) -> bool {
        !self.0.is_settled()
    }

    async fn settle(&mut self) -> Settled {
        self.0.settle().await
    }
}

impl<S: Storage> Batch for JournalBatch<'_, S> {
    #[inline]
    fn stage(&mut self, submit: Submit<'_>) -> AckResult {
        self.0.stage(submit.id, submit.payload)
    }

    #[inline]
    fn has_unsettled(&self) -> bool {
        !self.0.is_settled()
    }
}
