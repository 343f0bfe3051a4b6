//! The options of an engine.

use super::choice::Choice;
use crate::invalid_option::InvalidOption;

/// The options of an engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// The engine to run on.
    pub choice: Choice,
    /// Submission queue entries of each ring: a power of two from 1 to 32768. Epoll has no ring.
    pub ring_entries: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { choice: Choice::Auto, ring_entries: RING_ENTRIES }
    }
}

impl Options {
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
