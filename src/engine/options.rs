//! The options of an engine.

use super::choice::{Choice, Chosen};
#[cfg(feature = "sim")]
use super::choice::{Engine, Reason};
use crate::invalid_option::InvalidOption;
use crate::ring::RingError;
#[cfg(feature = "sim")]
use crate::sim::kernel::ProcessId;

/// The options of an engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// The engine to run on.
    pub choice: Choice,
    /// Submission queue entries of each ring: a power of two from 1 to 32768. Epoll has no ring.
    pub ring_entries: u32,
    /// The simulated process that the server is, whatever the choice.
    #[cfg(feature = "sim")]
    pub simulated: Option<ProcessId>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            choice: Choice::Auto,
            ring_entries: RING_ENTRIES,
            #[cfg(feature = "sim")]
            simulated: None,
        }
    }
}

impl Options {
    /// Chooses an engine.
    ///
    /// # Errors
    /// The errors of [`Choice::choose`].
    pub fn choose(&self) -> Result<Chosen, RingError> {
        #[cfg(feature = "sim")]
        if let Some(process) = self.simulated {
            return Ok(Chosen { engine: Engine::Sim(process), reason: Reason::Asked });
        }
        self.choice.choose()
    }

    /// Checks the options.
    ///
    /// # Errors
    /// The kernel accepts no ring of this size.
    pub fn validate(&self) -> Result<(), InvalidOption> {
        if !self.ring_entries.is_power_of_two() || self.ring_entries > RING_ENTRIES_MAX {
            let rule = format!("must be a power of two from 1 to {RING_ENTRIES_MAX}");
            return Err(InvalidOption::new("ring_entries", self.ring_entries, rule));
        }
        Ok(())
    }
}

/// The default of [`Options::ring_entries`].
pub const RING_ENTRIES: u32 = 1024;
/// The most entries that the kernel accepts (IORING_MAX_ENTRIES).
const RING_ENTRIES_MAX: u32 = 1 << 15;

const _: () = assert!(RING_ENTRIES.is_power_of_two());
