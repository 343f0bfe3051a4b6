//! Takes every message and throws it away: an ack means that the server has read the message.

use std::net::SocketAddr;

use super::{Settled, Sink};
use crate::proto::{AckResult, Submit};

/// The sink that keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Sink for Discard {
    fn of_connection(&self, _connection: u64, _peer: SocketAddr) -> Self {
        Discard
    }

    #[inline]
    async fn ready(&mut self) {}

    #[inline]
    fn stage(&mut self, _submit: Submit<'_>) -> AckResult {
        AckResult::Success
    }

    #[inline]
    fn owes(&self) -> bool {
        false
    }

    async fn settle(&mut self) -> Settled {
        Settled::default()
    }
}
