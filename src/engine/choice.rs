//! Which engine a process runs on, and why.
//!
//! Owns the engines' names and the choice between them. It must not know how an engine works. Invariant: an exhausted
//! limit is an error, never a reason to fall back to epoll.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;

use rustix::event::{EventfdFlags, eventfd};

use super::raw_socket::HeldDescriptor;
use crate::ring::{self, RingError};
#[cfg(feature = "sim")]
use crate::sim;

/// One of the engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Completions, on a ring of the thread's own.
    Uring,
    /// Readiness, and threads for the journal's files, which epoll can't wait for.
    Epoll,
    /// A simulated process with this number.
    #[cfg(feature = "sim")]
    Sim(sim::kernel::ProcessId),
}

impl Engine {
    /// Opens a descriptor that is held in reserve.
    ///
    /// # Errors
    /// The process has no free descriptor, or the system refuses one for another reason.
    pub fn hold_descriptor(self) -> io::Result<HeldDescriptor> {
        #[cfg(feature = "sim")]
        if let Engine::Sim(process) = self {
            return Ok(HeldDescriptor::Sim(sim::kernel::hold_descriptor(process)?));
        }
        // An eventfd needs no file, which might not exist.
        Ok(HeldDescriptor::Os(eventfd(0, EventfdFlags::CLOEXEC)?))
    }

    /// Returns a number that nobody else knows.
    pub fn random(self) -> u64 {
        #[cfg(feature = "sim")]
        if let Engine::Sim(process) = self {
            return sim::kernel::random(process);
        }
        RandomState::new().build_hasher().finish()
    }

    /// Returns the name that is typed and shown.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Uring => "uring",
            Engine::Epoll => "epoll",
            #[cfg(feature = "sim")]
            Engine::Sim(_) => "sim",
        }
    }
}

/// The engine that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// io_uring, or epoll if this host has no io_uring or refuses it.
    Auto,
    /// io_uring, or an error.
    Uring,
    /// epoll.
    Epoll,
}

/// The engine that was chosen, and the reason.
#[derive(Debug)]
pub struct Chosen {
    /// The engine.
    pub engine: Engine,
    /// The reason.
    pub reason: Reason,
}

/// The reason for an engine.
#[derive(Debug)]
pub enum Reason {
    /// It was asked for by name.
    Asked,
    /// io_uring works here.
    Available,
    /// io_uring can't be used here.
    Unavailable(RingError),
}

impl Choice {
    /// Chooses an engine. Tries io_uring out if the answer depends on it.
    ///
    /// # Errors
    /// io_uring was asked for and is refused. Or a limit is exhausted, which [`Choice::Auto`] must not hide.
    pub fn choose(self) -> Result<Chosen, RingError> {
        Ok(match self {
            Choice::Epoll => Chosen { engine: Engine::Epoll, reason: Reason::Asked },
            Choice::Uring => {
                ring::probe()?;
                Chosen { engine: Engine::Uring, reason: Reason::Asked }
            }
            Choice::Auto => match ring::probe() {
                Ok(()) => Chosen { engine: Engine::Uring, reason: Reason::Available },
                Err(error) if error.is_unavailable() => {
                    Chosen { engine: Engine::Epoll, reason: Reason::Unavailable(error) }
                }
                Err(error) => return Err(error),
            },
        })
    }
}

impl Reason {
    /// Returns one word, for a metric's label.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::Asked => "asked",
            Reason::Available => "available",
            Reason::Unavailable(error) => error.name(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Asked => out.write_str("asked for with --engine"),
            Reason::Available => out.write_str("io_uring works here"),
            Reason::Unavailable(error) => error.fmt(out),
        }
    }
}
