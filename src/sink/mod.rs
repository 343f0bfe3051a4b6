//! Where messages go, and so what an ack means.
//!
//! A sink owns the outcome of every SUBMIT. It knows messages, not connections, sockets or acks'
//! layout. Its invariant: **a success is never said of a message that the sink has not taken**, in
//! the sense that the sink's documentation gives to "taken".
//!
//! To add one: a file here, a variant of [`SinkKind`](crate::config::SinkKind), and the compiler
//! leads on to where the server chooses.

mod discard;
#[cfg(debug_assertions)]
pub mod faulty;

pub use discard::Discard;

use crate::proto::{AckResult, Submit};

/// What takes messages. Each connection has a clone of its shard's sink.
pub trait Sink: Clone + 'static {
    /// Takes one message, copying what it keeps: the payload is borrowed from the read buffer. The
    /// answer is what its ack will say if [`Self::settle`] does not come to worse.
    fn stage(&mut self, submit: Submit<'_>) -> AckResult;

    /// Returns when every message that this clone has staged has its outcome. No ack leaves before.
    fn settle(&mut self) -> impl Future<Output = ()>;
}
