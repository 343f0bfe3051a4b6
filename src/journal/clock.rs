//! The wall clock of the journal.
//!
//! All times of the journal that people see come from here. The clock may be wrong or be set at any moment, so nothing
//! that decides about durability uses it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time of the wall clock, in nanoseconds since 1970. A clock before 1970 counts as 0.
pub fn now_nanos() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    #[cfg(feature = "test-hooks")]
    let nanos = super::test_clock::shown(nanos);
    nanos
}
