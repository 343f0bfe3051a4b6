//! Which engine a process runs on, and why.

use std::fmt;

use super::Engine;
use crate::ring::{self, RingError};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// io_uring, or epoll where the host has none or refuses it.
    Auto,
    /// io_uring, or no start.
    Uring,
    /// epoll.
    Epoll,
}

/// What was chosen.
#[derive(Debug)]
pub struct Chosen {
    pub engine: Engine,
    pub reason: Reason,
}

/// Why.
#[derive(Debug)]
pub enum Reason {
    /// It was asked for by name.
    Asked,
    /// io_uring works here.
    Available,
    /// It does not.
    Unavailable(RingError),
}

impl Choice {
    /// Tries io_uring out, where the answer depends on that.
    ///
    /// # Errors
    /// io_uring was asked for and is refused; or something has run out, which is not for [`Choice::Auto`]
    /// to hide.
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
    /// In a word, for a metric's label.
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
