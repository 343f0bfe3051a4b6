//! Writes every message to the shard's [journal](crate::journal): an ack means that the message is on
//! disk.

use std::net::SocketAddr;

use super::{Settled, Sink};
use crate::journal::Appender;
use crate::journal::storage::Storage;
use crate::proto::{AckResult, Submit};

/// One connection's part of its shard's journal.
pub struct Journal<S: Storage>(Appender<S>);

impl<S: Storage> Journal<S> {
    /// A sink of the writer that this appender is of.
    pub fn new(appender: Appender<S>) -> Self {
        Journal(appender)
    }
}

impl<S: Storage> Sink for Journal<S> {
    fn of_connection(&self, connection: u64, peer: SocketAddr) -> Self {
        Journal(self.0.of_connection(connection, peer))
    }

    async fn ready(&mut self) {
        self.0.ready().await;
    }

    #[inline]
    fn stage(&mut self, submit: Submit<'_>) -> AckResult {
        self.0.stage(submit.id, submit.payload)
    }

    #[inline]
    fn owes(&self) -> bool {
        !self.0.is_settled()
    }

    async fn settle(&mut self) -> Settled {
        let settled = self.0.settle().await;
        Settled { taken: settled.durable, failed: settled.failed }
    }
}
