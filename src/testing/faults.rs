//! Faults of a shard and of its disk.
//!
//! `RINGPOST_TEST_FAILING_WRITE=N` makes the Nth commit that the process writes to its journals fail once, without
//! writing any of it. `RINGPOST_TEST_FAULTS` replaces the sink by one that looks for these payloads:
//!
//! | payload              | effect                                         |
//! |----------------------|------------------------------------------------|
//! | `fault: panic`       | the sink panics                                |
//! | `fault: spin`        | the shard's thread spins for ever              |
//! | `fault: spin MS`     | the shard's thread spins for MS milliseconds   |
//! | `fault: panic task`  | the shard's next sweep panics                  |
//! | `fault: panic shard` | the sweep panics, and then the whole thread    |

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::journal::Settled;
use crate::proto::{AckResult, Submit};
use crate::sink::{Batch, Sink};

/// Returns whether the sink should be [`Faulty`].
pub fn wanted() -> bool {
    std::env::var_os(FAULTS).is_some()
}

/// Counts a commit's write. Returns whether it should fail.
pub fn write_fails() -> bool {
    static FAILING: LazyLock<Option<u64>> = LazyLock::new(|| std::env::var(FAILING_WRITE).ok()?.parse().ok());
    static WRITES: AtomicU64 = AtomicU64::new(0);
    FAILING.is_some_and(|failing| WRITES.fetch_add(1, Ordering::Relaxed) + 1 == failing)
}

/// A place on a shard's thread at which a payload can ask for a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A task that the shard needs.
    Task,
    /// The shard itself, after such a task has panicked.
    Shard,
}

thread_local! {
    static WANTED: Cell<Option<Place>> = const { Cell::new(None) };
}

/// Panics if a payload asked for it.
///
/// # Panics
/// A payload asked for it.
pub fn panic_if_wanted(here: Place) {
    // The shard looks only after one of its tasks has panicked, so a panic of the shard begins with one of the task.
    assert!(WANTED.get() < Some(here), "a fault for a test");
}

/// A sink that acks every message with 0, unless the payload asks for a fault.
#[derive(Debug, Clone, Copy)]
pub struct Faulty;

impl Sink for Faulty {
    type Batch<'a> = Faulty;

    fn of_connection(&self, _connection: u64, _peer: SocketAddr) -> Self {
        Faulty
    }

    async fn ready(&mut self) -> Faulty {
        Faulty
    }

    fn has_unsettled(&self) -> bool {
        false
    }

    async fn settle(&mut self) -> Settled {
        Settled::default()
    }
}

impl Batch for Faulty {
    fn stage(&mut self, submit: Submit<'_>) -> AckResult {
        let payload = std::str::from_utf8(submit.payload).unwrap_or_default();
        match payload.strip_prefix("fault: ") {
            None => {}
            Some("panic") => panic!("a fault for a test"),
            Some("panic task") => WANTED.set(Some(Place::Task)),
            Some("panic shard") => WANTED.set(Some(Place::Shard)),
            Some("spin") => spin(Duration::MAX),
            Some(other) => {
                let millis = other.strip_prefix("spin ").and_then(|millis| millis.parse().ok());
                spin(Duration::from_millis(millis.expect("a known fault")));
            }
        }
        AckResult::Success
    }

    fn has_unsettled(&self) -> bool {
        false
    }
}

fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// The variable that asks for the sink [`Faulty`], whatever its value.
const FAULTS: &str = "RINGPOST_TEST_FAULTS";

/// The variable with the number of the write that should fail.
const FAILING_WRITE: &str = "RINGPOST_TEST_FAILING_WRITE";
