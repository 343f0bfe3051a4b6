//! A shard's thread: its start step by step, its engine, its last word.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc as async_mpsc, watch};
use tracing::info;

use super::journal::ShardJournal;
use super::register::CUT_GRACE;
use super::{Arrival, Shard};
use crate::engine::{Engine, Listener, Runtime};
use crate::health::Health;
use crate::journal::dir::WriterDir;
use crate::metrics::ShardMetrics;
use crate::server::Options;
use crate::server::listen::admission::Admission;
use crate::server::listen::spare_descriptor::SpareDescriptor;
use crate::server::{Phase, StartError};
use crate::sink::Discard;
#[cfg(feature = "test-hooks")]
use crate::testing::faults;

/// What a shard says on its way up.
pub enum ShardStart {
    Ready,
    Accepting,
    Failed(StartError),
}

/// What a shard's thread says to the server.
pub enum ShardEvent {
    /// A task that it can't do without has panicked, and said this. It can still drain.
    Broken(String),
    /// The last word: connections that did not end even when cut, or what its panic said.
    Ended(Result<usize, String>),
}

/// What every shard is given.
#[derive(Clone)]
pub struct ShardContext {
    pub engine: Engine,
    pub config: Arc<Options>,
    pub admission: Arc<Admission>,
    pub spare_descriptor: Arc<SpareDescriptor>,
    /// Where each shard takes connections that others have accepted.
    pub inboxes: Arc<[async_mpsc::Sender<Arrival>]>,
    pub health: Arc<Health>,
    pub phase: watch::Receiver<Phase>,
    pub words: async_mpsc::Sender<(usize, ShardEvent)>,
}

/// A shard's thread, while it starts.
pub struct ShardThread {
    index: usize,
    started: mpsc::Receiver<ShardStart>,
    sockets: mpsc::SyncSender<Vec<socket2::Socket>>,
}

impl ShardThread {
    /// Starts the thread, which makes its runtime at once, and its journal if it is given a writer.
    pub fn spawn(
        index: usize,
        writer: Option<WriterDir>,
        arrivals: async_mpsc::Receiver<Arrival>,
        metrics: Arc<ShardMetrics>,
        context: ShardContext,
    ) -> Result<Self, StartError> {
        let (start_sender, started) = mpsc::sync_channel(2);
        let (sockets, sockets_receiver) = mpsc::sync_channel(1);
        let body = move || {
            let words = context.words.clone();
            let run = || run_shard(index, writer, arrivals, metrics, context, &start_sender, &sockets_receiver);
            let outcome = catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_message(&*panic));
            // Without a receiver nobody waits for it.
            let _ = words.try_send((index, ShardEvent::Ended(outcome)));
        };
        thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(body)
            .map_err(|source| StartError::Thread { index, source })?;
        Ok(ShardThread { index, started, sockets })
    }

    /// Waits until it has come this far.
    pub fn wait_for(&self, step: ShardStart) -> Result<(), StartError> {
        match self.started.recv() {
            Ok(ShardStart::Failed(error)) => Err(error),
            Ok(reached) => {
                assert!(std::mem::discriminant(&reached) == std::mem::discriminant(&step), "a shard starts in order");
                Ok(())
            }
            Err(mpsc::RecvError) => Err(StartError::Gone { index: self.index }),
        }
    }

    /// Gives it the sockets to accept from.
    pub fn hand_over(&self, sockets: Vec<socket2::Socket>) -> Result<(), StartError> {
        self.sockets.send(sockets).map_err(|_| StartError::Gone { index: self.index })
    }
}

/// The whole life of a shard's thread.
fn run_shard(
    index: usize,
    writer: Option<WriterDir>,
    arrivals: async_mpsc::Receiver<Arrival>,
    metrics: Arc<ShardMetrics>,
    context: ShardContext,
    started: &mpsc::SyncSender<ShardStart>,
    sockets: &mpsc::Receiver<Vec<socket2::Socket>>,
) -> usize {
    // Where nobody listens any more, another shard's start has failed: end without a word.
    let say = |step| started.send(step).is_ok();
    // Who may bind a privileged port binds it on another thread.
    context.config.on_thread_start.call();
    let ShardContext { engine, config, admission, spare_descriptor, inboxes, health, phase, words } = context;
    let runtime = match pin(index, &config).and_then(|()| {
        Runtime::new(engine, config.engine.ring_entries).map_err(|source| StartError::Runtime { index, source })
    }) {
        Ok(runtime) => runtime,
        Err(error) => {
            say(ShardStart::Failed(error));
            return 0;
        }
    };
    #[cfg(feature = "test-hooks")]
    runtime.block_on(crate::testing::reach::reach(engine, index));
    // Before the listeners: a disk that has to be filled first would leave clients queued.
    let open = |dir| ShardJournal::open(dir, index, engine, &config, metrics.clone(), health);
    let journal = match writer.map(|dir| runtime.block_on(open(dir))).transpose() {
        Ok(journal) => journal,
        Err(source) => {
            say(ShardStart::Failed(StartError::Journal { index, source }));
            return 0;
        }
    };
    if !say(ShardStart::Ready) {
        return 0;
    }
    let Ok(sockets) = sockets.recv() else { return 0 };
    let event_loop = runtime.event_loop();
    let take = || sockets.into_iter().map(|socket| Listener::new(&event_loop, socket)).collect();
    let listeners = match runtime.block_on(async { take() }) {
        Ok(listeners) => listeners,
        Err(source) => {
            say(ShardStart::Failed(StartError::Listener { index, source }));
            return 0;
        }
    };
    let shard = Shard::new(index, event_loop, config, metrics, admission, spare_descriptor, inboxes);
    let started = started.clone();
    let accepting = move || {
        let _ = started.send(ShardStart::Accepting);
    };
    let broken = move |panic: Box<dyn Any + Send>| {
        let _ = words.try_send((index, ShardEvent::Broken(panic_message(&*panic))));
    };
    let run = || match journal {
        Some(journal) => runtime.run(async move {
            let left = shard.run(listeners, arrivals, journal.sink(), phase.clone(), accepting, broken).await;
            let patience = close_patience(*phase.borrow());
            journal.close(patience).await;
            left
        }),
        #[cfg(feature = "test-hooks")]
        None if faults::wanted() => {
            runtime.run(shard.run(listeners, arrivals, faults::Faulty, phase, accepting, broken))
        }
        None => runtime.run(shard.run(listeners, arrivals, Discard, phase, accepting, broken)),
    };
    let outcome = catch_unwind(AssertUnwindSafe(run));
    // This must not happen while the thread unwinds, since a task that panics when it is dropped would abort the
    // process.
    drop(runtime);
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// How long a journal may take to close: the rest of the drain's time, and the grace period after it.
fn close_patience(phase: Phase) -> Duration {
    match phase {
        Phase::Draining { deadline, .. } => deadline.saturating_duration_since(Instant::now()) + CUT_GRACE,
        Phase::Accepting => CUT_GRACE,
    }
}

/// Puts a shard's thread on a CPU of its own among those allowed, if asked to.
fn pin(index: usize, config: &Options) -> Result<(), StartError> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    if !config.pin {
        return Ok(());
    }
    let fail = |cpu, source: rustix::io::Errno| StartError::Pin { index, cpu, source: source.into() };
    let allowed = sched_getaffinity(None).map_err(|source| fail(index, source))?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let cpu = cpus[index % cpus.len()];
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).map_err(|source| fail(cpu, source))?;
    info!(shard = index, cpu, "pinned");
    Ok(())
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}
