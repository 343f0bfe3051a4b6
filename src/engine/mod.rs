//! What a shard runs on: a runtime for its thread, sockets and files. There are two engines, and who uses
//! this module does not know which it has: [`crate::ring`], for which Ringpost is made, and
//! [`crate::epoll`] for hosts where io_uring is switched off. [`Choice`] picks one, once a process.
//!
//! What holds of both: one receive and one send at a time on a socket; memory is lent to an op and comes
//! back with its result; and **an op is never dropped while it may be in flight**: on a ring the
//! kernel would go on with it ([`crate::ring`] says what is lost). Whoever has waited long enough
//! cancels the op, and awaits it all the same.

mod choice;
mod file;
mod listener;
mod lone;
mod socket;
mod tcp;

use std::future::Future;
use std::io;
use std::panic::resume_unwind;
use std::time::Instant;

pub use choice::{Choice, Chosen, Reason};
pub use file::File;
pub use listener::{Acceptor, Listener};
pub use socket::{Socket, SocketHandle};
pub use tokio::task::spawn_local as spawn;

use crate::epoll;
use crate::ring::{self, RingError};

/// One of the engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Completions, on a ring of the thread's own.
    Uring,
    /// Readiness, and threads for what has none: the journal's files.
    Epoll,
}

impl Engine {
    /// As it is typed and shown.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Uring => "uring",
            Engine::Epoll => "epoll",
        }
    }

    /// The time, for what this thread's tasks measure. A ring's is that of its turn: what is awaited
    /// completes between two turns.
    #[inline]
    pub fn now(self) -> Instant {
        match self {
            Engine::Uring => ring::turn::now(),
            Engine::Epoll => Instant::now(),
        }
    }

    /// Returns once the engine has turned: whatever was ready before has been seen. A sign of life. May
    /// be dropped: it holds no data.
    pub async fn round_trip(self) {
        match self {
            Engine::Uring => ring::round_trip().await,
            // Behind the tasks that are ready, and behind a look at epoll.
            Engine::Epoll => tokio::task::yield_now().await,
        }
    }
}

/// Why a thread has no runtime.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("can't make its ring: {0}")]
    Uring(RingError),
    #[error("can't make its epoll: {0}. Look at RLIMIT_NOFILE (`ulimit -n`)")]
    Epoll(io::Error),
}

/// One thread's running engine, which runs its tasks. Dropping it waits for no op. An op that is still in flight
/// keeps its memory.
pub enum Runtime {
    Uring(ring::Runtime),
    Epoll(epoll::Runtime),
}

impl Runtime {
    /// For this thread alone; a ring has `ring_entries` submission queue entries.
    ///
    /// # Errors
    /// The kernel refused; the error says why and what to do.
    pub fn new(engine: Engine, ring_entries: u32) -> Result<Runtime, EngineError> {
        Ok(match engine {
            Engine::Uring => Runtime::Uring(ring::Runtime::new(ring_entries).map_err(EngineError::Uring)?),
            Engine::Epoll => Runtime::Epoll(epoll::Runtime::new().map_err(EngineError::Epoll)?),
        })
    }

    /// Runs `future`, and what it spawns, until `future` is done.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Runtime::Uring(runtime) => runtime.block_on(future),
            Runtime::Epoll(runtime) => runtime.block_on(future),
        }
    }

    /// The same for a future that waits for many things. A runtime polls what it was told to run in
    /// each of its turns, but a task only when it is woken: so this makes a task of it.
    ///
    /// # Panics
    /// If `future` does.
    pub fn run<F: Future<Output: 'static> + 'static>(&self, future: F) -> F::Output {
        let done = self.block_on(async { spawn(future).await });
        // Nobody aborts it.
        done.unwrap_or_else(|end| resume_unwind(end.into_panic()))
    }
}
