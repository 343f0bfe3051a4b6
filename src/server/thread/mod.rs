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
use std::sync::mpsc::{Receiver, RecvError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing::info;

use context::{ShardContext, ShardEvent, ShardParts};
use journal::ShardJournal;
pub use run::CUT_GRACE;
use run::{Start, run};

use super::error::StartError;
use super::phase::Phase;
use super::shard::Shard;
use crate::engine::{Listener, Runtime};
use crate::server::options::Options;
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
    steps: Receiver<ShardStart>,
    sockets: SyncSender<Vec<socket2::Socket>>,
}

impl ShardThread {
    /// Starts the thread. It creates its event loop immediately, and opens its journal if it has a writer.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn spawn(parts: ShardParts, context: ShardContext) -> Result<Self, StartError> {
        let index = parts.index;
        let (steps_sender, steps) = sync_channel(2);
        let (sockets, sockets_receiver) = sync_channel(1);
        let body = move || {
            let events = context.events.clone();
            let run = || run_thread(parts, context, &steps_sender, &sockets_receiver);
            let outcome = catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_message(&*panic));
            // Without a receiver, nothing waits for this message.
            let _ = events.try_send((index, ShardEvent::Ended(outcome)));
        };
        thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(body)
            .map_err(|source| StartError::Thread { index, source })?;
        Ok(ShardThread { index, steps, sockets })
    }

    /// Waits until the thread has reached this step.
    ///
    /// # Errors
    /// The start failed.
    pub fn wait_for(&self, step: ShardStart) -> Result<(), StartError> {
        match self.steps.recv() {
            Ok(ShardStart::Failed(error)) => Err(error),
            Ok(reached) => {
                assert!(std::mem::discriminant(&reached) == std::mem::discriminant(&step), "a shard starts in order");
                Ok(())
            }
            Err(RecvError) => Err(StartError::Gone { index: self.index }),
        }
    }

    /// Gives the thread the sockets to accept from.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn hand_over(&self, sockets: Vec<socket2::Socket>) -> Result<(), StartError> {
        self.sockets.send(sockets).map_err(|_| StartError::Gone { index: self.index })
    }
}

/// Runs a shard's thread from its start to its end. Returns the number of connections that did not end.
fn run_thread(
    mut parts: ShardParts,
    context: ShardContext,
    steps: &SyncSender<ShardStart>,
    sockets: &Receiver<Vec<socket2::Socket>>,
) -> usize {
    match start(&mut parts, &context, steps, sockets) {
        Ok(Some(started)) => serve(started, parts, context, steps.clone()),
        // The start of another shard has failed.
        Ok(None) => 0,
        Err(error) => {
            // Without a receiver, the start of another shard has failed as well.
            let _ = steps.send(ShardStart::Failed(error));
            0
        }
    }
}

/// A shard's thread that is about to accept connections. The event loop is last, and so is dropped last.
struct Started {
    listeners: Vec<Listener>,
    journal: Option<ShardJournal>,
    runtime: Runtime,
}

/// Creates the event loop, opens the journal, and waits for the listeners. Returns `None` if the server gives up its
/// start.
fn start(
    parts: &mut ShardParts,
    context: &ShardContext,
    steps: &SyncSender<ShardStart>,
    sockets: &Receiver<Vec<socket2::Socket>>,
) -> Result<Option<Started>, StartError> {
    let (index, engine, config) = (parts.index, context.engine, &*context.config);
    config.on_thread_start.call();
    pin(index, config)?;
    let runtime =
        Runtime::new(engine, config.engine.ring_entries).map_err(|source| StartError::Runtime { index, source })?;
    #[cfg(feature = "test-hooks")]
    runtime.block_on(reach::reach(engine, index));
    // The journal comes before the listeners: if a segment has to be filled with zeros first, no client is queued
    // meanwhile.
    let journal = parts.writer.take().map(|dir| runtime.block_on(ShardJournal::open(dir, parts, context)));
    let journal = journal.transpose().map_err(|source| StartError::Journal { index, source })?;
    if steps.send(ShardStart::Ready).is_err() {
        return Ok(None);
    }
    let Ok(sockets) = sockets.recv() else { return Ok(None) };
    let event_loop = runtime.event_loop();
    let watch = || sockets.into_iter().map(|socket| Listener::new(&event_loop, socket)).collect::<Result<Vec<_>, _>>();
    let listeners = runtime.block_on(async { watch() });
    let listeners = listeners.map_err(|source| StartError::Listener { index, source })?;
    Ok(Some(Started { listeners, journal, runtime }))
}

/// Serves connections to the end of the drain, and closes the journal.
fn serve(started: Started, parts: ShardParts, context: ShardContext, steps: SyncSender<ShardStart>) -> usize {
    let Started { listeners, journal, runtime } = started;
    let ShardParts { index, inbox, metrics, .. } = parts;
    let shard = Shard::new(index, runtime.event_loop(), context.config.clone(), metrics);
    let (events, phase) = (context.events.clone(), context.phase.clone());
    let start = Start {
        listeners,
        inbox,
        accepting: move || {
            let _ = steps.send(ShardStart::Accepting);
        },
        broken: move |panic: Box<dyn Any + Send>| {
            let _ = events.try_send((index, ShardEvent::Broken(panic_message(&*panic))));
        },
    };
    let run = || match journal {
        Some(journal) => runtime.run(async move {
            let left = run(shard, context, journal.sink(), start).await;
            let timeout = close_timeout(*phase.borrow());
            journal.close(timeout).await;
            left
        }),
        #[cfg(feature = "test-hooks")]
        None if faults::wanted() => runtime.run(run(shard, context, faults::Faulty, start)),
        None => runtime.run(run(shard, context, Discard, start)),
    };
    let outcome = catch_unwind(AssertUnwindSafe(run));
    // The runtime must not be dropped while the thread unwinds: a task that panics when it is dropped would then abort
    // the process.
    drop(runtime);
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Returns how long a journal may take to close: the rest of the drain's time, and the grace period after it.
fn close_timeout(phase: Phase) -> Duration {
    match phase {
        Phase::Draining { deadline, .. } => deadline.saturating_duration_since(Instant::now()) + CUT_GRACE,
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
