//! One thread's running engine.
//!
//! Owns the runtime of either engine and hides which one it is. It must not know what the tasks do.

use std::future::Future;
use std::io;
use std::panic::resume_unwind;

use tokio::task::spawn_local;

use super::choice::Engine;
use super::event_loop::EventLoop;
use crate::epoll;
use crate::ring::{self, RingError};

/// The reason why a thread has no runtime.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The kernel refused a ring.
    #[error("cannot create its ring: {0}")]
    Uring(RingError),
    /// The kernel refused epoll's descriptors, or a thread.
    #[error("cannot create its epoll: {0}. Check RLIMIT_NOFILE (`ulimit -n`)")]
    Epoll(io::Error),
}

/// One thread's running engine, which runs its tasks. Dropping it waits for no op. An op that is still in flight
/// keeps its memory.
pub enum Runtime {
    /// A ring.
    Uring(ring::Runtime),
    /// epoll.
    Epoll(epoll::Runtime),
}

impl Runtime {
    /// Creates a runtime for this thread. `ring_entries` is the number of submission queue entries of a ring.
    ///
    /// # Errors
    /// The kernel refused. The error has the reason and the fix.
    pub fn new(engine: Engine, ring_entries: u32) -> Result<Runtime, EngineError> {
        Ok(match engine {
            Engine::Uring => Runtime::Uring(ring::Runtime::new(ring_entries).map_err(EngineError::Uring)?),
            Engine::Epoll => Runtime::Epoll(epoll::Runtime::new().map_err(EngineError::Epoll)?),
            #[cfg(feature = "sim")]
            Engine::Sim(_) => panic!("all simulated shards run on one runtime"),
        })
    }

    /// Returns the event loop that [`Self::block_on`] runs.
    pub fn event_loop(&self) -> EventLoop {
        match self {
            Runtime::Uring(runtime) => EventLoop::Uring(runtime.event_loop().clone()),
            Runtime::Epoll(_) => EventLoop::Epoll,
        }
    }

    /// Runs `future` and the tasks that it spawns, until `future` is done.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Runtime::Uring(runtime) => runtime.block_on(future),
            Runtime::Epoll(runtime) => runtime.block_on(future),
        }
    }

    /// Runs a future that waits for many things. A runtime polls the future of [`Self::block_on`] in each iteration,
    /// but a task only when it is woken, so this makes a task of it.
    ///
    /// # Panics
    /// If `future` does.
    pub fn run<F: Future<Output: 'static> + 'static>(&self, future: F) -> F::Output {
        let done = self.block_on(async { spawn_local(future).await });
        // The task can't have been aborted: nothing else has its handle.
        done.unwrap_or_else(|end| resume_unwind(end.into_panic()))
    }
}
