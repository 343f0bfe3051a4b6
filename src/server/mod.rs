//! The server: starts the shards, begins their drain, and waits for their end.
//!
//! It owns the order of the start and of the end. A start creates the event loops first, then the listeners, and then
//! accepts: if the kernel refuses something, no port is taken and no client waits in a backlog that nobody accepts
//! from. The end has the phases of `Phase`, and then each shard's thread is joined. A fault of a shard ends the
//! server in the same way: the other shards drain. A takeover begins as a start does, up to the accepts
//! ([`Server::prepare`]). The old server then ends without closing the listening sockets that the new one has
//! ([`Server::hand_over`]).
//!
//! The folders follow the path of a request: [`listen`] has the listening sockets and the limits on connections,
//! `thread` runs a shard and accepts, `connection` serves one connection, and `shard` is what the connections of a
//! thread share. `thread` uses `connection`, that uses `shard`, and that uses `listen`.

mod connection;
mod error;
mod journal_options;
pub mod listen;
pub mod listen_options;
pub mod options;
mod phase;
mod shard;
mod thread;
pub mod tls_options;
mod watchdog;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

pub use error::{ServeError, StartError};
pub use journal_options::{JOURNAL_MEMORY_MIN, JournalOptions};
use listen::admission::Admission;
use listen::descriptors::Room;
use listen::listener::bind;
pub use listen::listener::{Group, InheritError, Listeners, inherit};
use listen::spare_descriptor::SpareDescriptor;
pub use listen_options::{Listen, ListenOptions};
pub use options::{Options, SinkOptions};
use phase::{Phase, PhaseReceiver, PhaseSender};
pub use shard::register::SWEEP_INTERVAL;
pub use thread::CUT_GRACE;
use thread::context::{ShardContext, ShardEvent, ShardParts};
use thread::{ShardStart, ShardThread};
pub use tls_options::{TlsMode, TlsOptions};
use watchdog::Watchdog;

use crate::blocking::block_on;
use crate::clock;
use crate::engine::{Chosen, Engine, Reason};
use crate::health::Health;
use crate::journal::dir;
use crate::metrics::ShardMetrics;

/// A running server. Dropping it drains it, but only [`Server::stopped`] waits for that.
pub struct Server {
    engine: Arc<Chosen>,
    /// If this is dropped, the shards drain too.
    phase: PhaseSender,
    events: mpsc::Receiver<(usize, ShardEvent)>,
    /// The number of shards whose final message has not come.
    shards: usize,
    addresses: Vec<SocketAddr>,
    /// The listening sockets, which can be handed over until the server drains.
    listeners: Listeners,
    metrics: Vec<Arc<ShardMetrics>>,
    health: Arc<Health>,
    watchdog: Watchdog,
    /// The first fault of a shard.
    fault: Option<ServeError>,
    drain_timeout: Duration,
}

/// A server that does not accept yet. Dropping it ends its threads.
pub struct Prepared {
    config: Arc<Options>,
    engine: Arc<Chosen>,
    admission: Arc<Admission>,
    phase: PhaseSender,
    events: mpsc::Receiver<(usize, ShardEvent)>,
    metrics: Vec<Arc<ShardMetrics>>,
    health: Arc<Health>,
    starting: Vec<ShardThread>,
}

impl Server {
    /// Starts every shard. When this returns, all shards accept connections.
    ///
    /// # Errors
    /// The first step that failed. Everything before it is undone.
    pub fn start(config: Options) -> Result<Server, StartError> {
        Server::prepare(config, false)?.bind_and_accept(|| ())
    }

    /// Performs all steps of a start before the listeners: creates event loops and opens writers. With `share`, another
    /// process may have writers in the same data directory, provided that it allows sharing too.
    ///
    /// # Errors
    /// The first step that failed. Everything before it is undone.
    pub fn prepare(config: Options, share: bool) -> Result<Prepared, StartError> {
        block_on(Server::prepare_shards(config, share))
    }

    /// Does what [`Server::prepare`] does, and lets other tasks run meanwhile.
    pub(crate) async fn prepare_shards(config: Options, share: bool) -> Result<Prepared, StartError> {
        config.validate()?;
        let config = Arc::new(config);
        let engine = Arc::new(config.engine.choose().map_err(StartError::Engine)?);
        match &engine.reason {
            Reason::Unavailable(error) => warn!(engine = engine.engine.name(), "io_uring is unavailable: {error}"),
            reason => info!(engine = engine.engine.name(), %reason, "engine chosen"),
        }
        let admission = Admission::new(&config);
        let shards = config.shards.get();
        let (phase, phase_seen) = phase::channel();
        // Each shard reports at most two events, so no shard waits for room.
        let (events_sender, events) = mpsc::channel(shards * 2);
        let spare_descriptor = Arc::new(SpareDescriptor::new(engine.engine));
        let health = Arc::<Health>::default();
        let mut writers = match &config.sink {
            SinkOptions::Journal(journal) => {
                dir::claim_for(&journal.data_dir, shards, share, journal.access)?.into_iter().map(Some).collect()
            }
            SinkOptions::Discard => Vec::new(),
        };
        writers.resize_with(shards, || None);
        let (inboxes, arrivals): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::channel(ARRIVALS_MAX)).unzip();
        let context = ShardContext {
            engine: engine.engine,
            config: config.clone(),
            admission: admission.clone(),
            spare_descriptor,
            inboxes: inboxes.into(),
            health: health.clone(),
            phase: phase_seen,
            events: events_sender,
        };
        let mut metrics = Vec::new();
        let mut starting = Vec::new();
        for (index, (writer, inbox)) in writers.into_iter().zip(arrivals).enumerate() {
            let shard_metrics = Arc::new(ShardMetrics::default());
            metrics.push(shard_metrics.clone());
            let parts = ShardParts { index, writer, inbox, metrics: shard_metrics };
            starting.push(ShardThread::spawn(parts, context.clone())?);
        }
        for shard in &mut starting {
            shard.reached(ShardStart::Ready).await?;
        }
        Ok(Prepared { config, engine, admission, phase, events, metrics, health, starting })
    }

    /// Returns the addresses that the server listens on, in the order of the configuration, with the ports that the
    /// kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the sums of all shards' metrics.
    pub fn totals(&self) -> ShardMetrics {
        ShardMetrics::sum(&self.metrics)
    }

    /// Returns the metrics of each shard.
    pub fn metrics(&self) -> &[Arc<ShardMetrics>] {
        &self.metrics
    }

    /// Returns the engine that the shards run on, and why it was chosen.
    pub fn engine(&self) -> Arc<Chosen> {
        self.engine.clone()
    }

    /// Returns the server's health.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// Returns the listening sockets, which another process may get.
    pub fn listeners(&self) -> Listeners {
        self.listeners.clone()
    }

    /// Begins the drain, unless it has begun. [`Self::stopped`] waits for its end. Connections that a supervisor's
    /// sockets have queued are left to the next start.
    pub fn drain(&self) {
        self.begin_drain(false);
    }

    /// Begins the drain while another process accepts from the same sockets. Connections that they have queued are left
    /// to that process.
    pub fn hand_over(&self) {
        self.begin_drain(true);
    }

    fn begin_drain(&self, handed_over: bool) {
        self.health.drain_begins();
        let deadline = clock::now() + self.drain_timeout;
        // A copy that stayed open would continue to queue connections that nobody accepts.
        let activated = self.listeners.close();
        self.phase.drain(deadline, handed_over || activated);
    }

    /// Waits until every shard has ended, and watches the shards meanwhile. After [`Self::drain`], this returns shortly
    /// after the drain's deadline at the latest, even if a shard hangs. Cancel-safe.
    ///
    /// # Errors
    /// A shard was at fault. If it panicked or ended, the health has reported it immediately, and the other shards have
    /// drained. If it stalled, this returns without waiting: its clients already wait, and its listener attracts new
    /// ones.
    pub async fn stopped(&mut self) -> Result<(), ServeError> {
        while self.shards > 0 {
            let (index, event) = tokio::select! {
                biased;
                event = self.events.recv() => event.expect("each shard's thread sends a final message"),
                (index, silent) = self.watchdog.stalled() => {
                    return Err(self.fault.take().unwrap_or(ServeError::Stalled { index, silent }));
                }
                () = past_drain(self.phase.subscribe()) => {
                    warn!(shards = self.shards, "shards still running after the drain; ending anyway");
                    break;
                }
            };
            let accepting = self.phase.get() == Phase::Accepting;
            self.shards -= usize::from(matches!(event, ShardEvent::Ended(_)));
            self.watchdog.leave(index);
            match event {
                ShardEvent::Broken(message) | ShardEvent::Ended(Err(message)) => {
                    self.failed(index, format!("panicked: {message}"), ServeError::Panicked { index, message });
                }
                ShardEvent::Ended(Ok(_)) if accepting => {
                    self.failed(index, "ended unexpectedly".into(), ServeError::Ended { index });
                }
                ShardEvent::Ended(Ok(0)) => {}
                ShardEvent::Ended(Ok(left)) => {
                    warn!(shard = index, connections = left, "connections still open after the drain; ending anyway");
                }
            }
        }
        self.fault.take().map_or(Ok(()), Err)
    }

    /// Reports the fault of a shard, and begins the drain.
    fn failed(&mut self, shard: usize, fault: String, error: ServeError) {
        warn!(shard, fault, "shard failed; draining");
        self.health.report(shard, Some(fault));
        self.fault.get_or_insert(error);
        self.drain();
    }
}

impl Prepared {
    /// Returns the configuration that the server was prepared with.
    pub fn config(&self) -> &Options {
        &self.config
    }

    /// Returns the engine that the shards run on.
    pub fn engine(&self) -> Engine {
        self.engine.engine
    }

    /// Binds the configured addresses, calls `before_accept`, and accepts connections there.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn bind_and_accept(self, before_accept: impl FnOnce()) -> Result<Server, StartError> {
        let groups = bind(&self.config)?;
        before_accept();
        self.accept(groups)
    }

    /// Accepts connections. When this returns, all shards accept. Each shard has one or more sockets of each group.
    /// Shards share sockets if a group has fewer sockets than there are shards.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn accept(self, groups: Vec<Group>) -> Result<Server, StartError> {
        block_on(self.accept_from(groups))
    }

    /// Does what [`Prepared::accept`] does, and lets other tasks run meanwhile.
    pub(crate) async fn accept_from(self, groups: Vec<Group>) -> Result<Server, StartError> {
        let Prepared { config, engine, admission, phase, events, metrics, health, mut starting } = self;
        let shards = starting.len();
        let mut of_shard: Vec<Vec<_>> = starting.iter().map(|_| Vec::new()).collect();
        for Group { sockets, .. } in &groups {
            for number in 0..sockets.len().max(shards) {
                let index = number % shards;
                let socket = sockets[number % sockets.len()].try_clone();
                of_shard[index].push(socket.map_err(|source| StartError::Share { index, source })?);
            }
        }
        limit_connections(&config, &admission, of_shard.iter().map(Vec::len).sum());
        for (shard, sockets) in starting.iter_mut().zip(of_shard) {
            shard.hand_over(sockets)?;
        }
        for shard in &mut starting {
            shard.reached(ShardStart::Accepting).await?;
        }
        let addresses = groups.iter().map(|group| group.address).collect();
        let watchdog = Watchdog::new(&metrics, health.clone(), config.stall_timeout);
        let (listeners, drain_timeout) = (Listeners::new(groups), config.drain_timeout);
        let fault = None;
        Ok(Server {
            engine,
            phase,
            events,
            shards,
            addresses,
            listeners,
            metrics,
            health,
            watchdog,
            fault,
            drain_timeout,
        })
    }
}

/// Limits connections so that the server keeps the descriptors that it needs, whatever limit was configured.
fn limit_connections(config: &Options, admission: &Admission, listeners: usize) {
    let room = Room::beside_what_is_open(config, listeners);
    let (connections, reserved) = (room.connections(), room.reserved);
    admission.limit_to(connections);
    let limit = room.limit.map_or("none".into(), |limit| limit.to_string());
    info!(limit, reserved, connections_max = admission.connections_max(), "room for {connections} connections");
    if let Some(asked) = config.connections_max.filter(|asked| *asked > connections) {
        warn!(
            "--max-connections {asked} is more than the {connections} that the limit of open files allows; raise \
             RLIMIT_NOFILE (`ulimit -n`, LimitNOFILE=) to {}",
            asked as u64 + reserved
        );
    }
}

/// Waits until every shard must have ended by itself.
async fn past_drain(phase: PhaseReceiver) {
    let Phase::Draining { deadline, .. } = phase.accepting_ends().await else { return std::future::pending().await };
    tokio::time::sleep_until((deadline + CUT_GRACE * 2).into()).await;
}

/// Connections on their way to a shard from others that accepted them. One more stays with the shard that accepted it.
const ARRIVALS_MAX: usize = 256;
