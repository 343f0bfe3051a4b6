//! Where messages go, and so what an ack means.
//!
//! A sink owns the outcome of every SUBMIT. It knows messages, not connections, sockets or acks'
//! layout. Its invariant: **a success is never said of a message that the sink has not taken**, in
//! the sense that the sink's documentation gives to "taken".
//!
//! To add one: a file here, a variant of [`SinkOptions`](crate::server::SinkOptions), and the compiler
//! leads on to where the server chooses.

mod discard;
mod journal;

use std::net::SocketAddr;

pub use discard::Discard;
pub use journal::Journal;

use crate::proto::{AckResult, Submit};

/// What takes messages: a shard has one, and each of its connections one of its own made from that.
pub trait Sink: Sized + 'static {
    /// The part of a connection. `connection` is its number, which no other one of the shard has.
    fn of_connection(&self, connection: u64, peer: SocketAddr) -> Self;

    /// Waits until a batch of messages may be staged. Cancel-safe.
    fn ready(&mut self) -> impl Future<Output = ()>;

    /// Takes one message, copying what it keeps: the payload is borrowed from the read buffer. A
    /// failure is final. A success is so at once if the sink then owes nothing; else it is provisional,
    /// and [`Self::settle`] tells.
    fn stage(&mut self, submit: Submit<'_>) -> AckResult;

    /// Whether messages were staged as a success whose outcome has not been told.
    fn owes(&self) -> bool;

    /// Waits until the outcome of the oldest of those is known, and tells it and what else is known
    /// behind it. Cancel-safe: what was not told is told by the next call. Not to be called where
    /// nothing is owed.
    fn settle(&mut self) -> impl Future<Output = Settled>;
}

/// What became of the oldest messages that were staged as a success: first those that were taken for
/// good, behind them those that were not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    pub taken: u64,
    pub failed: u64,
}
