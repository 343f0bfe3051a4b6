//! Faults on demand, for the tests of what follows from them: in the dev profile alone, and only where
//! a variable asks for them. A release build has nothing of this file.
//!
//! `RINGPOST_TEST_FAILING_WRITE=N` makes the Nth commit that the process writes to its journals fail, once:
//! nothing of it reaches the disk. `RINGPOST_TEST_FAULTS` asks for a sink that does this:
//!
//! | payload                  | what happens                                                    |
//! |--------------------------|-----------------------------------------------------------------|
//! | `fault: panic`           | the sink panics                                                 |
//! | `fault: spin`            | the shard's thread is held for ever                             |
//! | `fault: spin MS`         | the same for so many milliseconds                               |
//! | `fault: panic task`      | the shard's next sweep panics                                   |
//! | `fault: panic shard`     | so does its whole thread                                        |

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Settled, Sink};
use crate::proto::{AckResult, Submit};

/// The variable that asks for this sink, whatever its value.
const VARIABLE: &str = "RINGPOST_TEST_FAULTS";

/// Whether faults are wanted.
pub fn wanted() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// The variable that numbers the write to fail.
const FAILING_WRITE: &str = "RINGPOST_TEST_FAILING_WRITE";

/// Whether the write of this commit is to fail. Counts it.
pub fn write_fails() -> bool {
    static FAILING: LazyLock<Option<u64>> = LazyLock::new(|| std::env::var(FAILING_WRITE).ok()?.parse().ok());
    static WRITES: AtomicU64 = AtomicU64::new(0);
    FAILING.is_some_and(|failing| WRITES.fetch_add(1, Ordering::Relaxed) + 1 == failing)
}

/// Where on a shard's thread a panic can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a task that the shard can't do without.
    Task,
    /// In the shard itself, once such a task is gone.
    Shard,
}

thread_local! {
    static WANTED: Cell<Option<Place>> = const { Cell::new(None) };
}

/// Panics if that was asked for.
///
/// # Panics
/// That is what it is for.
pub fn panic_if_wanted(here: Place) {
    // Where the whole shard is to panic, a task has to go first.
    assert!(WANTED.get() < Some(here), "a fault for a test");
}

/// Acks every message with 0, unless it asks for a fault.
#[derive(Debug, Clone, Copy)]
pub struct Faulty;

impl Sink for Faulty {
    fn of_connection(&self, _connection: u64, _peer: SocketAddr) -> Self {
        Faulty
    }

    async fn ready(&mut self) {}

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
                spin(Duration::from_millis(millis.expect("a fault that is known")));
            }
        }
        AckResult::Success
    }

    fn owes(&self) -> bool {
        false
    }

    async fn settle(&mut self) -> Settled {
        Settled::default()
    }
}

fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}
