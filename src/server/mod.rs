//! The server: starts the shards, tells them to drain, waits for their end.
//!
//! It owns the order of things. At the start: runtimes first, then listeners, then accepts, so that
//! a refusal by the kernel leaves no port taken and no client queued behind a door that never opens.
//! At the end: Accepting, Draining, and then each shard's thread is joined. A shard at fault ends the
//! server the same way: the others drain. A takeover begins as a start does, up to the accepts
//! ([`Server::prepare`]), and ends the old server without an end to its listeners ([`Server::hand_over`]).

mod connection;
mod journal_options;
pub mod listen;
pub mod listen_options;
pub mod options;
mod shard;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc as async_mpsc, watch};
use tracing::{info, warn};

pub use journal_options::{JOURNAL_MEMORY_MIN, JournalOptions};
use listen::admission::Admission;
use listen::descriptors::Room;
use listen::spare_descriptor::SpareDescriptor;
pub use listen::{Group, InheritError, Listeners, inherit};
pub use listen_options::{Listen, ListenOptions};
pub use options::{Options, SinkOptions};
pub use shard::register::{CUT_GRACE, SWEEP_INTERVAL};
use shard::thread::{ShardContext, ShardEvent, ShardStart, ShardThread};
use shard::watchdog::{Watchdog, seconds};

use crate::engine::{Chosen, Engine, EngineError, Reason};
use crate::health::Health;
use crate::invalid_option::InvalidOption;
use crate::journal::dir::{self, ClaimError};
use crate::metrics::ShardMetrics;
use crate::net::BindError;
use crate::ring::RingError;

/// Where a server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Accepting,
    /// No new connections; those that remain at `deadline` are cut.
    Draining {
        deadline: Instant,
        /// Somebody else accepts what the listeners have queued.
        leaves_queue: bool,
    },
}

/// A running server. Dropping it drains it, but only [`Server::stopped`] waits for that.
pub struct Server {
    engine: Arc<Chosen>,
    /// If this is dropped, the shards drain too.
    phase: watch::Sender<Phase>,
    words: async_mpsc::Receiver<(usize, ShardEvent)>,
    /// Shards whose last word has not come.
    shards: usize,
    addresses: Vec<SocketAddr>,
    /// What it listens on, to be handed over, until it drains.
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
    phase: watch::Sender<Phase>,
    words: async_mpsc::Receiver<(usize, ShardEvent)>,
    metrics: Vec<Arc<ShardMetrics>>,
    health: Arc<Health>,
    starting: Vec<ShardThread>,
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Options(#[from] InvalidOption),
    /// io_uring was asked for, or only a limit stands in its way.
    #[error(transparent)]
    Engine(RingError),
    #[error("worker {index} can't watch its listeners: {source}")]
    Listener { index: usize, source: io::Error },
    #[error("worker {index} {source}")]
    Runtime { index: usize, source: EngineError },
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("worker {index} can't have a listener: {source}. Look at RLIMIT_NOFILE (`ulimit -n`)")]
    Share { index: usize, source: io::Error },
    #[error("can't start the thread of worker {index}: {source}")]
    Thread { index: usize, source: io::Error },
    #[error("can't pin worker {index} to CPU {cpu}: {source}. Leave --pin away, or allow more CPUs")]
    Pin { index: usize, cpu: usize, source: io::Error },
    #[error(transparent)]
    DataDir(#[from] ClaimError),
    #[error("can't open the journal of worker {index}: {source}. Mend it, or take --sink discard")]
    Journal { index: usize, source: io::Error },
    #[error("worker {index} ended before it accepted")]
    Gone { index: usize },
}

/// A server that ended by its own fault.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("worker {index} panicked: {message}")]
    Panicked { index: usize, message: String },
    #[error("worker {index} ended without being told to")]
    Ended { index: usize },
    #[error("worker {index} has not turned for {}, longer than --stall-timeout allows", seconds(*silent))]
    Stalled { index: usize, silent: Duration },
}

impl Server {
    /// Starts every shard; when this returns, all of them accept.
    ///
    /// # Errors
    /// The first thing that was refused, with what to do. Nothing is left behind then.
    pub fn start(config: Options) -> Result<Server, StartError> {
        Server::prepare(config, false)?.bind_and_accept(|| ())
    }

    /// Does all of a start but for the listeners: rings are made, and writers opened. With `share` other
    /// processes may have writers in the same data directory: by their leave alone.
    ///
    /// # Errors
    /// The first thing that was refused, with what to do. Nothing is left behind then.
    pub fn prepare(config: Options, share: bool) -> Result<Prepared, StartError> {
        config.validate()?;
        let config = Arc::new(config);
        let engine = Arc::new(config.engine.choice.choose().map_err(StartError::Engine)?);
        match &engine.reason {
            Reason::Unavailable(error) => warn!(engine = engine.engine.name(), "without io_uring: {error}"),
            reason => info!(engine = engine.engine.name(), "engine: {reason}"),
        }
        let admission = Admission::new(&config);
        let shards = config.shards.get();
        let (phase, phase_seen) = watch::channel(Phase::Accepting);
        // Room for all that the shards may ever say: nobody waits to say it.
        let (words_sender, words) = async_mpsc::channel(shards * 2);
        let spare_descriptor = Arc::new(SpareDescriptor::new());
        let health = Arc::<Health>::default();
        let mut writers = match &config.sink {
            SinkOptions::Journal(journal) => {
                dir::claim_for(&journal.data_dir, shards, share, journal.access)?.into_iter().map(Some).collect()
            }
            SinkOptions::Discard => Vec::new(),
        };
        writers.resize_with(shards, || None);
        let (inboxes, arrivals): (Vec<_>, Vec<_>) = (0..shards).map(|_| async_mpsc::channel(ARRIVALS_MAX)).unzip();
        let context = ShardContext {
            engine: engine.engine,
            config: config.clone(),
            admission: admission.clone(),
            spare_descriptor,
            inboxes: inboxes.into(),
            health: health.clone(),
            phase: phase_seen,
            words: words_sender,
        };
        let mut metrics = Vec::new();
        let mut starting = Vec::new();
        for (index, (writer, arrivals)) in writers.into_iter().zip(arrivals).enumerate() {
            let shard_metrics = Arc::new(ShardMetrics::default());
            metrics.push(shard_metrics.clone());
            starting.push(ShardThread::spawn(index, writer, arrivals, shard_metrics, context.clone())?);
        }
        for shard in &starting {
            shard.wait_for(ShardStart::Ready)?;
        }
        Ok(Prepared { config, engine, admission, phase, words, metrics, health, starting })
    }

    /// Where it listens, in the order of the configuration, with the ports that were found.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What was counted so far.
    pub fn totals(&self) -> ShardMetrics {
        ShardMetrics::sum(&self.metrics)
    }

    /// Each shard's counters, for whoever shows them.
    pub fn metrics(&self) -> &[Arc<ShardMetrics>] {
        &self.metrics
    }

    /// What its shards run on, and why.
    pub fn engine(&self) -> Arc<Chosen> {
        self.engine.clone()
    }

    /// Its health, for whoever shows it.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// Its listening sockets, for whoever hands them over.
    pub fn listeners(&self) -> Listeners {
        self.listeners.clone()
    }

    /// Begins to drain, once; [`Self::stopped`] tells when it is done. What a supervisor's sockets have
    /// queued is left to the next start.
    pub fn drain(&self) {
        self.begin_drain(false);
    }

    /// The same, when another process accepts from the same sockets: what they have queued is left to it.
    pub fn hand_over(&self) {
        self.begin_drain(true);
    }

    fn begin_drain(&self, handed_over: bool) {
        self.health.drain_begins();
        let deadline = Instant::now() + self.drain_timeout;
        // A copy that is left would go on to queue connections for nobody.
        let activated = self.listeners.close();
        self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Accepting;
            if first {
                *phase = Phase::Draining { deadline, leaves_queue: handed_over || activated };
            }
            first
        });
    }

    /// Waits until every shard has ended, and watches over them meanwhile. Cancel-safe. After
    /// [`Self::drain`] that comes at the latest a moment after the drain's deadline: what hangs even
    /// then is left to the end of the process.
    ///
    /// # Errors
    /// A shard was at fault. If it panicked or ended, the health says so at once, and the others have
    /// been drained by now. If it stalled, nothing is waited for: its clients wait already, and its
    /// listener draws new ones.
    pub async fn stopped(&mut self) -> Result<(), ServeError> {
        while self.shards > 0 {
            let (index, word) = tokio::select! {
                word = self.words.recv() => word.expect("a shard's thread has a last word"),
                (index, silent) = self.watchdog.stalled() => {
                    return Err(self.fault.take().unwrap_or(ServeError::Stalled { index, silent }));
                }
                () = past_drain(self.phase.subscribe()) => {
                    warn!(workers = self.shards, "left workers behind that did not end after the drain");
                    break;
                }
            };
            let accepting = *self.phase.borrow() == Phase::Accepting;
            self.shards -= usize::from(matches!(word, ShardEvent::Ended(_)));
            self.watchdog.leave(index);
            match word {
                ShardEvent::Broken(message) | ShardEvent::Ended(Err(message)) => {
                    self.failed(index, format!("panicked: {message}"), ServeError::Panicked { index, message });
                }
                ShardEvent::Ended(Ok(_)) if accepting => {
                    self.failed(index, "has ended".into(), ServeError::Ended { index });
                }
                ShardEvent::Ended(Ok(0)) => {}
                ShardEvent::Ended(Ok(left)) => {
                    warn!(shard = index, left, "left connections behind that did not end when cut");
                }
            }
        }
        self.fault.take().map_or(Ok(()), Err)
    }

    /// A shard is at fault: the server is unhealthy, and drains.
    fn failed(&mut self, shard: usize, fault: String, error: ServeError) {
        warn!(shard, "draining: worker {shard} {fault}");
        self.health.report(shard, Some(fault));
        self.fault.get_or_insert(error);
        self.drain();
    }
}

impl Prepared {
    /// What it was prepared with.
    pub fn config(&self) -> &Options {
        &self.config
    }

    /// What its shards run on.
    pub fn engine(&self) -> Engine {
        self.engine.engine
    }

    /// Binds the configured addresses, calls `before_accept`, and accepts connections there.
    ///
    /// # Errors
    /// The first thing that was refused.
    pub fn bind_and_accept(self, before_accept: impl FnOnce()) -> Result<Server, StartError> {
        let groups = listen::bind(&self.config)?;
        before_accept();
        self.accept(groups)
    }

    /// Begins to accept; when this returns, all shards do. Of each group every shard has one socket or
    /// more, and where there are fewer sockets than shards, shards share them.
    ///
    /// # Errors
    /// The first thing that was refused.
    pub fn accept(self, groups: Vec<Group>) -> Result<Server, StartError> {
        let Prepared { config, engine, admission, phase, words, metrics, health, starting } = self;
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
        for (shard, sockets) in starting.iter().zip(of_shard) {
            shard.hand_over(sockets)?;
        }
        for shard in &starting {
            shard.wait_for(ShardStart::Accepting)?;
        }
        let addresses = groups.iter().map(|group| group.address).collect();
        let watchdog = Watchdog::new(&metrics, health.clone(), config.stall_timeout);
        let (listeners, drain_timeout) = (Listeners::new(groups), config.drain_timeout);
        let fault = None;
        Ok(Server {
            engine,
            phase,
            words,
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

/// Limits connections so that the server keeps the descriptors it needs, whatever limit was asked for.
fn limit_connections(config: &Options, admission: &Admission, listeners: usize) {
    let room = Room::beside_what_is_open(config, listeners);
    let (connections, reserved) = (room.connections(), room.reserved);
    admission.limit_to(connections);
    let limit = room.limit.map_or("none".into(), |limit| limit.to_string());
    info!(limit, reserved, connections_max = admission.connections_max(), "room for {connections} connections");
    let asked = config.connections_max.filter(|asked| *asked > connections);
    if let Some(asked) = asked {
        warn!(
            "--max-connections {asked} is more than the {connections} that the limit of open files allows: raise \
             RLIMIT_NOFILE (`ulimit -n`, LimitNOFILE=) to {}",
            asked as u64 + reserved
        );
    }
}

/// Waits for a time at which every shard must have ended by itself.
async fn past_drain(mut phase: watch::Receiver<Phase>) {
    let deadline = match phase.wait_for(|phase| *phase != Phase::Accepting).await.as_deref() {
        Ok(Phase::Draining { deadline, .. }) => *deadline,
        Ok(Phase::Accepting) | Err(_) => return std::future::pending().await,
    };
    tokio::time::sleep_until((deadline + CUT_GRACE * 2).into()).await;
}

/// Connections on their way to a shard from others that accepted them. One more stays where it was accepted.
const ARRIVALS_MAX: usize = 256;
