//! The values that a shard's thread gets from the server, and the events that it reports back.
//!
//! These values cross threads. Nothing here knows how a shard uses them.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::engine::{Engine, RawSocket};
use crate::health::Health;
use crate::journal::dir::WriterDir;
use crate::metrics::ShardMetrics;
use crate::server::listen::admission::{Admission, Permit};
use crate::server::listen::spare_descriptor::SpareDescriptor;
use crate::server::options::Options;
use crate::server::phase::PhaseReceiver;

/// The values that all shards of a server share.
#[derive(Clone)]
pub struct ShardContext {
    pub engine: Engine,
    pub config: Arc<Options>,
    pub admission: Arc<Admission>,
    pub spare_descriptor: Arc<SpareDescriptor>,
    /// By shard, where to send connections that another shard has accepted for it.
    pub inboxes: Arc<[mpsc::Sender<Arrival>]>,
    pub health: Arc<Health>,
    pub phase: PhaseReceiver,
    /// The channel on which shards report events, each with the index of its shard.
    pub events: mpsc::Sender<(usize, ShardEvent)>,
}

/// The values that belong to one shard alone.
pub struct ShardParts {
    pub index: usize,
    /// The claimed directory of the shard's writer, if the sink is a journal.
    pub writer: Option<WriterDir>,
    /// Connections that other shards have accepted for this one.
    pub inbox: mpsc::Receiver<Arrival>,
    pub metrics: Arc<ShardMetrics>,
}

/// A connection that was accepted and admitted, and is on its way to its shard.
pub struct Arrival {
    pub socket: RawSocket,
    pub peer: SocketAddr,
    pub permit: Permit,
}

/// An event that a shard's thread reports to the server.
pub enum ShardEvent {
    /// A task that the shard needs has panicked with this message. The shard can still drain.
    Broken(String),
    /// The final message: the number of connections that did not end even when cut, or the message of a panic.
    Ended(Result<usize, String>),
}
