//! The clocks: a monotonic one, which decides, and the wall clock, which people see.
//!
//! The journal and the server read no other clock, so a simulation decides what all of them show. The wall clock may be
//! wrong or be set at any moment, so nothing that decides about durability uses it.

#[cfg(feature = "sim")]
pub mod simulated;
#[cfg(feature = "test-hooks")]
mod test_clock;

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the time of the monotonic clock. It is the clock of tokio's timers, which a test may pause.
#[inline]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Blocks this thread for a time, or not at all in a simulation, whose time passes only between tasks.
pub fn pause(time: Duration) {
    #[cfg(feature = "sim")]
    if simulated::wall_nanos().is_some() {
        return;
    }
    thread::sleep(time);
}

/// Returns the time of the wall clock, in nanoseconds since 1970. A clock before 1970 counts as 0.
pub fn wall_nanos() -> u64 {
    #[cfg(feature = "sim")]
    if let Some(nanos) = simulated::wall_nanos() {
        return nanos;
    }
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    #[cfg(feature = "test-hooks")]
    let nanos = test_clock::shown(nanos);
    nanos
}
