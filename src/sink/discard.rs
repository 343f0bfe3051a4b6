//! The sink that discards every message. An ack only means that the server has read the message.
//!
//! It keeps nothing, so it is always ready and never has unsettled messages.

use std::net::SocketAddr;

use super::{Batch, Sink};
use crate::journal::Settled;
use crate::proto::{AckResult, Submit};

/// A sink that discards every message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

/// A batch of messages to discard.
#[derive(Debug)]
pub struct DiscardBatch;

impl Sink for Discard {
    type Batch<'a> = DiscardBatch;

    fn of_connection(&self, _connection: u64, _peer: SocketAddr) -> Self {
        Discard
    }

    #[inline]
    async fn ready(&mut self) -> DiscardBatch {
        DiscardBatch
    }

    #[inline]
    fn has_unsettled(&self) -> bool {
        false
    }

    async fn settle(&mut self) -> Settled {
        Settled::default()
    }
}

impl Batch for DiscardBatch {
    #[inline]
    fn stage(&mut self, _submit: Submit<'_>) -> AckResult {
        AckResult::Success
    }

    #[inline]
    fn has_unsettled(&self) -> bool {
        false
    }
}
