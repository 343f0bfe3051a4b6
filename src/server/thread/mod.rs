//! A shard's thread: its start step by step, its event loop, its final message.
//!
//! The server waits for each step of the start: first the event loops and journals of all shards, then the listeners.
//! Whatever ends the thread, also a panic, is reported as [`ShardEvent::Ended`].

mod accept_loop;
pub mod context;
mod journal;
mod run;
mod storage;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::info;

use context::{ShardContext, ShardEvent, ShardParts};
use journal::ShardJournal;
pub use run::CUT_GRACE;
use run::{Start, run};
use storage::EngineStorage;

use super::error::StartError;
use super::phase::Phase;
use super::shard::Shard;
use crate::clock;
#[cfg(feature = "sim")]
use crate::engine::{self, Engine};
use crate::engine::{EventLoop, Listener, RawSocket, Runtime};
use crate::journal::storage::Storage;
use crate::server::options::Options;
#[cfg(feature = "sim")]
use crate::sim;
use crate::sink::discard::Discard;
#[cfg(feature = "test-hooks")]
use crate::testing::{faults, reach};

/// A step of a shard's start.
pub enum ShardStart {
    /// The event loop runs and the journal is open.
    Ready,
    /// Connections are accepted.
    Accepting,
    /// The start failed.
    Failed(StartError),
}

/// A shard's thread while it starts.
pub struct ShardThread {
    index: usize,
    steps: mpsc::Receiver<ShardStart>,
    sockets: Option<oneshot::Sender<Vec<RawSocket>>>,
}

impl ShardThread {
    /// Starts the thread. It creates its event loop immediately, and opens its journal if it has a writer.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn spawn(parts: ShardParts, context: ShardContext) -> Result<Self, StartError> {
        let index = parts.index;
        let (steps_sender, steps) = mpsc::channel(STEPS);
        let (sockets, sockets_receiver) = oneshot::channel();
        let starting = ShardThread { index, steps, sockets: Some(sockets) };
        #[cfg(feature = "sim")]
        if let Engine::Sim(process) = context.engine {
            let event_loop = EventLoop::Sim(sim::socket::EventLoop { process, shard: index });
            engine::spawn(async move {
                let events = context.events.clone();
                let left = live(parts, context, event_loop, steps_sender, sockets_receiver).await;
                let _ = events.try_send((index, ShardEvent::Ended(Ok(left))));
            });
            return Ok(starting);
        }
        let body = move || {
            let events = context.events.clone();
            let run = || run_thread(parts, context, steps_sender, sockets_receiver);
            let outcome = catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_message(&*panic));
            // Without a receiver, nothing waits for this message.
            let _ = events.try_send((index, ShardEvent::Ended(outcome)));
        };
        thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(body)
            .map_err(|source| StartError::Thread { index, source })?;
        Ok(starting)
    }

    /// Waits until the thread has reached this step.
    ///
    /// # Errors
    /// The start failed.
    pub async fn reached(&mut self, step: ShardStart) -> Result<(), StartError> {
        match self.steps.recv().await {
            Some(ShardStart::Failed(error)) => Err(error),
            Some(reached) => {
                assert!(std::mem::discriminant(&reached) == std::mem::discriminant(&step), "a shard starts in order");
                Ok(())
            }
            None => Err(StartError::Gone { index: self.index }),
        }
    }

    /// Gives the thread the sockets to accept from.
    ///
    /// # Errors
    /// The thread has ended.
    ///
    /// # Panics
    /// It has them already.
    pub fn hand_over(&mut self, sockets: Vec<RawSocket>) -> Result<(), StartError> {
        let sender = self.sockets.take().expect("a shard gets its sockets once");
        sender.send(sockets).map_err(|_| StartError::Gone { index: self.index })
    }
}

/// Runs a shard's thread from its start to its end. Returns the number of connections that did not end.
fn run_thread(
    parts: ShardParts,
    context: ShardContext,
    steps: mpsc::Sender<ShardStart>,
    sockets: oneshot::Receiver<Vec<RawSocket>>,
) -> usize {
    let (index, engine, config) = (parts.index, context.engine, context.config.clone());
    config.on_thread_start.call();
    let runtime = pin(index, &config).and_then(|()| {
        let runtime = Runtime::new(engine, config.engine.ring_entries);
        runtime.map_err(|source| StartError::Runtime { index, source })
    });
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            start_failed(&steps, error);
            return 0;
        }
    };
    let event_loop = runtime.event_loop();
    let live = || runtime.run(live(parts, context, event_loop, steps, sockets));
    let outcome = catch_unwind(AssertUnwindSafe(live));
    // The runtime must not be dropped while the thread unwinds: a task that panics when it is dropped would then abort
    // the process.
    drop(runtime);
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs a shard on its event loop, from the opening of its journal to its closing. Returns the number of connections
/// that did not end.
async fn live(
    mut parts: ShardParts,
    context: ShardContext,
    event_loop: EventLoop,
    steps: mpsc::Sender<ShardStart>,
    sockets: oneshot::Receiver<Vec<RawSocket>>,
) -> usize {
    #[cfg(feature = "test-hooks")]
    reach::reach(context.engine, parts.index).await;
    let started = async {
        // The journal comes before the listeners: if a segment has to be filled with zeros first, no client is queued
        // meanwhile.
        let journal = open_journal(&mut parts, &context).await?;
        let listeners = get_listeners(parts.index, &event_loop, &steps, sockets).await?;
        Ok(listeners.map(|listeners| (journal, listeners)))
    };
    match started.await {
        Ok(Some((journal, listeners))) => serve(journal, listeners, parts, context, event_loop, steps).await,
        Ok(None) => 0,
        Err(error) => {
            start_failed(&steps, error);
            0
        }
    }
}

fn start_failed(steps: &mpsc::Sender<ShardStart>, error: StartError) {
    // Without a receiver, the start of another shard has failed as well.
    let _ = steps.try_send(ShardStart::Failed(error));
}

/// A shard's sink, before its connections use it.
enum OpenSink {
    Journal(ShardJournal<EngineStorage>),
    #[cfg(feature = "sim")]
    SimulatedJournal(ShardJournal<sim::disk::SimStorage>),
    Discard,
}

/// Opens the journal of a shard that has one.
async fn open_journal(parts: &mut ShardParts, context: &ShardContext) -> Result<OpenSink, StartError> {
    let index = parts.index;
    let Some(dir) = parts.writer.take() else { return Ok(OpenSink::Discard) };
    #[cfg(feature = "sim")]
    if let Engine::Sim(process) = context.engine {
        let retention = context.config.journal().expect("the shard has a journal").retention;
        let opened = async {
            let storage = sim::mount::open_storage(process, &dir.path, retention)?;
            ShardJournal::open(storage, false, dir, parts, context).await
        };
        let opened = opened.await.map_err(|source| StartError::Journal { index, source })?;
        return Ok(OpenSink::SimulatedJournal(opened));
    }
    let opened = ShardJournal::open_files(dir, parts, context).await;
    opened.map(OpenSink::Journal).map_err(|source| StartError::Journal { index, source })
}

/// Reports that the shard is ready, and waits for its listeners. Returns `None` if the server gives up its start.
async fn get_listeners(
    index: usize,
    event_loop: &EventLoop,
    steps: &mpsc::Sender<ShardStart>,
    sockets: oneshot::Receiver<Vec<RawSocket>>,
) -> Result<Option<Vec<Listener>>, StartError> {
    if steps.try_send(ShardStart::Ready).is_err() {
        return Ok(None);
    }
    // The start of another shard has failed.
    let Ok(sockets) = sockets.await else { return Ok(None) };
    let listeners = sockets.into_iter().map(|socket| Listener::new(event_loop, socket)).collect::<Result<Vec<_>, _>>();
    listeners.map(Some).map_err(|source| StartError::Listener { index, source })
}

/// Serves connections to the end of the drain, and closes the journal.
async fn serve(
    sink: OpenSink,
    listeners: Vec<Listener>,
    parts: ShardParts,
    context: ShardContext,
    event_loop: EventLoop,
    steps: mpsc::Sender<ShardStart>,
) -> usize {
    let ShardParts { index, inbox, metrics, .. } = parts;
    let shard = Shard::new(index, event_loop, context.config.clone(), metrics);
    let (events, phase) = (context.events.clone(), context.phase.clone());
    let start = Start {
        listeners,
        inbox,
        accepting: move || {
            let _ = steps.try_send(ShardStart::Accepting);
        },
        broken: move |panic: Box<dyn Any + Send>| {
            let _ = events.try_send((index, ShardEvent::Broken(panic_message(&*panic))));
        },
    };
    match sink {
        OpenSink::Journal(journal) => {
            let left = run(shard.clone(), context, journal.sink(), start).await;
            close(&shard, journal, phase.get()).await;
            left
        }
        #[cfg(feature = "sim")]
        OpenSink::SimulatedJournal(journal) => {
            let left = run(shard.clone(), context, journal.sink(), start).await;
            close(&shard, journal, phase.get()).await;
            left
        }
        #[cfg(feature = "test-hooks")]
        OpenSink::Discard if faults::wanted() => run(shard, context, faults::Faulty, start).await,
        OpenSink::Discard => run(shard, context, Discard, start).await,
    }
}

/// Closes a journal within the rest of the drain's time. A disk that does not respond is no stall of the event loop, so
/// the shard shows meanwhile that it is alive.
async fn close<S: Storage>(shard: &Shard, journal: ShardJournal<S>, phase: Phase) {
    tokio::select! {
        biased;
        () = journal.close(close_timeout(phase)) => {}
        never = shard.beat() => match never {},
    }
}

/// Returns how long a journal may take to close: the rest of the drain's time, and what connections have left of the
/// grace period after it. So every shard ends before the server ends without it.
fn close_timeout(phase: Phase) -> Duration {
    match phase {
        Phase::Draining { deadline, .. } => (deadline + CUT_GRACE).saturating_duration_since(clock::now()),
        Phase::Accepting => CUT_GRACE,
    }
}

/// Pins a shard's thread to a CPU of its own among those allowed, if the configuration asks for it.
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
    info!(shard = index, cpu, "pinned the shard's thread");
    Ok(())
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

/// The steps of a start that a shard reports before the server has seen any.
const STEPS: usize = 2;
