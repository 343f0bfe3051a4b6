//! Takes every message and throws it away: an ack means that the server has read the message.

use super::Sink;
use crate::proto::{AckResult, Submit};

/// The sink that keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Sink for Discard {
    #[inline]
    fn stage(&mut self, _submit: Submit<'_>) -> AckResult {
        AckResult::Success
    }

    async fn settle(&mut self) {}
}
