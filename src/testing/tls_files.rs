//! A server that looks at its TLS files more often: every `RINGPOST_TEST_TLS_INTERVAL_MS` milliseconds.

use std::time::Duration;

/// Returns the time between two looks, if the variable sets it.
pub fn interval() -> Option<Duration> {
    Some(Duration::from_millis(std::env::var(VARIABLE).ok()?.parse().ok()?))
}

const VARIABLE: &str = "RINGPOST_TEST_TLS_INTERVAL_MS";
