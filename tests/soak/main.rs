//! A soak on real sockets: servers with random options under random loads, on each engine and with each sink.
//!
//! A seed decides a server's options and everything about its clients except the timing: windows from 1 to 100,000,
//! payloads from nothing to the largest frame and beyond, bursts, drips, slow, late and silent readers, half-closes,
//! resets, garbage, and up to a thousand connections at a time. After each round of clients, the server must have
//! answered every request correctly and in order, and must hold nothing. At its end it drains in time or is killed, and
//! the journal has every message that was acked with 0: intact, once, and in the order of its connection.
//!
//! Seeds are printed, and a failure names its seed:
//!
//! | variable                                          | what runs in each test                 |
//! |---------------------------------------------------|----------------------------------------|
//! | none                                              | fresh seeds, for a few seconds         |
//! | `RINGPOST_SOAK_SECONDS=3600`                      | fresh seeds, for an hour               |
//! | `RINGPOST_TEST_SEED=7`                            | seed 7 alone                           |
//! | `RINGPOST_TEST_SEED=7 RINGPOST_SOAK_SECONDS=3600` | seeds from 7 on, for an hour           |
//! | `RINGPOST_TEST_PARALLEL=1`                        | one server at a time instead of four   |

#[path = "../common/mod.rs"]
mod common;

use std::time::Duration;

use crate::common::requirement::IO_URING;
use crate::common::shapes::{Seeds, World, number, run_all};
use crate::common::{alone, has_rings};

#[test]
fn uring_with_journal() {
    soak("uring", true);
}

#[test]
fn uring_with_discard() {
    soak("uring", false);
}

#[test]
fn epoll_with_journal() {
    soak("epoll", true);
}

#[test]
fn epoll_with_discard() {
    soak("epoll", false);
}

fn soak(engine: &'static str, journal: bool) {
    if engine == "uring" && (!has_rings() || IO_URING.check(io_uring::IoUring::new(8)).is_none()) {
        return;
    }
    let _alone = alone();
    let seeds = Seeds::lasting(number("RINGPOST_SOAK_SECONDS").map(Duration::from_secs), SHORT);
    run_all(seeds, |seed| World::new(seed, engine, journal)).expect_variety(journal);
}

/// The time of a test if no variable is set.
const SHORT: Duration = Duration::from_secs(5);
