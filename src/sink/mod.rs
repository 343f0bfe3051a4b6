//! Sinks decide what happens to messages, and so what an ack means.
//!
//! A sink owns the outcome of every SUBMIT. It knows messages, but no connections, sockets or ack layouts. Its
//! invariant: **a message is reported as a success only after the sink has accepted it**. Each sink documents what
//! "accepted" means.
//!
//! To add a sink, add a file here and a variant of [`SinkOptions`](crate::server::SinkOptions). The compiler then leads
//! to the place where a shard chooses its sink.

pub mod discard;
pub mod journal;

use std::net::SocketAddr;

use crate::journal::Settled;
use crate::proto::{AckResult, Submit};

/// A destination for messages. A shard has one sink, and derives one of its own for each connection.
pub trait Sink: Sized + 'static {
    /// A batch that borrows the sink while its messages are staged.
    type Batch<'a>: Batch
    where
        Self: 'a;

    /// Returns the sink of one connection. `connection` is the connection's number, which is unique within the shard.
    fn of_connection(&self, connection: u64, peer: SocketAddr) -> Self;

    /// Waits until a batch of messages may be staged, and begins it. Cancel-safe.
    fn ready(&mut self) -> impl Future<Output = Self::Batch<'_>>;

    /// Returns whether messages were staged as a success and their outcome has not been returned by
    /// [`settle`](Self::settle) yet.
    fn has_unsettled(&self) -> bool;

    /// Waits until the outcome of the oldest unsettled message is known. Returns that outcome and all later ones that
    /// are known too. Call it only if there are unsettled messages.
    ///
    /// Cancel-safe: the next call returns what a cancelled call did not.
    fn settle(&mut self) -> impl Future<Output = Settled>;
}

/// A batch that a sink is ready for. Dropping it ends the batch.
///
/// A batch must not be held across an `await`: the sink has room for what one read brings now, but other connections
/// may use that room as soon as their tasks run. `clippy.toml` lists the types of batches, so that clippy refuses such
/// an `await`.
pub trait Batch {
    /// Stages one message. The payload is borrowed from the read buffer, so the sink copies what it keeps.
    ///
    /// A failure is final. A success is final if the sink has nothing unsettled afterwards. Otherwise it is
    /// provisional, and [`Sink::settle`] returns the outcome.
    fn stage(&mut self, submit: Submit<'_>) -> AckResult;

    /// Returns whether the sink has unsettled messages, as [`Sink::has_unsettled`] does.
    fn has_unsettled(&self) -> bool;
}
