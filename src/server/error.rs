//! Errors of a server: why it could not start, and why it ended by itself.

use std::io;
use std::time::Duration;

use super::watchdog::seconds;
use crate::engine::EngineError;
use crate::invalid_option::InvalidOption;
use crate::journal::dir::ClaimError;
use crate::net::BindError;
use crate::ring::RingError;

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An option is invalid.
    #[error(transparent)]
    Options(#[from] InvalidOption),
    /// io_uring was requested and is unavailable, or only a limit prevents its use.
    #[error(transparent)]
    Engine(RingError),
    /// The engine of a shard refused a listener.
    #[error("shard {index} can't watch its listeners: {source}")]
    Listener {
        /// The number of the shard.
        index: usize,
        /// The system's error.
        source: io::Error,
    },
    /// The event loop of a shard could not be created.
    #[error("shard {index} {source}")]
    Runtime {
        /// The number of the shard.
        index: usize,
        /// The engine's error.
        source: EngineError,
    },
    /// An address could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// There was no descriptor for a shard's copy of a listener.
    #[error("shard {index} can't get a listener: {source}. Check RLIMIT_NOFILE (`ulimit -n`)")]
    Share {
        /// The number of the shard.
        index: usize,
        /// The system's error.
        source: io::Error,
    },
    /// The system refused a thread.
    #[error("can't start the thread of shard {index}: {source}")]
    Thread {
        /// The number of the shard.
        index: usize,
        /// The system's error.
        source: io::Error,
    },
    /// A shard could not be pinned to a CPU.
    #[error("can't pin shard {index} to CPU {cpu}: {source}. Drop --pin, or allow more CPUs")]
    Pin {
        /// The number of the shard.
        index: usize,
        /// The number of the CPU.
        cpu: usize,
        /// The system's error.
        source: io::Error,
    },
    /// The data directory could not be claimed.
    #[error(transparent)]
    DataDir(#[from] ClaimError),
    /// The journal of a shard could not be opened.
    #[error("can't open the journal of shard {index}: {source}. Fix the cause, or run with --sink discard")]
    Journal {
        /// The number of the shard.
        index: usize,
        /// The system's error.
        source: io::Error,
    },
    /// The thread of a shard ended while it was starting.
    #[error("shard {index} ended before it accepted connections")]
    Gone {
        /// The number of the shard.
        index: usize,
    },
}

/// Why a server ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A task that the shard needs panicked, or its whole thread.
    #[error("shard {index} panicked: {message}")]
    Panicked {
        /// The number of the shard.
        index: usize,
        /// The panic's message.
        message: String,
    },
    /// The shard ended although the server was not draining.
    #[error("shard {index} ended unexpectedly")]
    Ended {
        /// The number of the shard.
        index: usize,
    },
    /// The shard's event loop did not run for `silent`.
    #[error("shard {index}: event loop stalled for {}, longer than --stall-timeout allows", seconds(*silent))]
    Stalled {
        /// The number of the shard.
        index: usize,
        /// The time since its last iteration.
        silent: Duration,
    },
}
