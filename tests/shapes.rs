//! Servers with random options under loads of any shape: no connection hangs, every ack is right, a drain ends in
//! time and with exit code 0, and the journal holds every message that was acked with 0, once and in order.
//!
//! A seed decides everything but the timing. The seeds are printed, and a failure names its seed:
//!
//! | variable                                        | what runs                  |
//! |-------------------------------------------------|----------------------------|
//! | none                                            | a few fresh seeds          |
//! | `RINGPOST_TEST_SEEDS=2000`                      | the seeds 1 to 2,000       |
//! | `RINGPOST_TEST_SEED=7`                          | seed 7 alone               |
//! | `RINGPOST_TEST_SEED=7 RINGPOST_TEST_SEEDS=100`  | 100 seeds from 7 on        |
//! | `RINGPOST_TEST_PARALLEL=4`                      | so many servers at a time  |

#[path = "common/shapes/client.rs"]
mod client;
mod common;
#[path = "common/shapes/journal.rs"]
mod journal;
#[path = "common/shapes/options.rs"]
mod options;
#[path = "common/shapes/world.rs"]
mod world;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::raise_descriptor_limit;
use world::{Tally, World};

/// Servers of a run that names no number.
const SERVERS: u64 = 60;
/// Servers that run at a time: mostly they wait for a disk or a clock.
const PARALLEL: u64 = 4;
/// Failures after which the run ends.
const FAILURES_MAX: usize = 20;

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value}: not a number")))
}

/// The first seed, and how many.
fn seeds() -> (u64, u64) {
    match (number("RINGPOST_TEST_SEED"), number("RINGPOST_TEST_SEEDS")) {
        (Some(first), count) => (first, count.unwrap_or(1)),
        (None, Some(count)) => (1, count),
        (None, None) => (SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64, SERVERS),
    }
}

#[test]
fn no_shape_of_load_and_options_hangs_a_server_or_loses_an_ack() {
    raise_descriptor_limit();
    let (first, count) = seeds();
    println!("RINGPOST_TEST_SEED={first} RINGPOST_TEST_SEEDS={count}");
    let (next, failures, sum) = (AtomicU64::new(first), Mutex::new(Vec::new()), Mutex::new(Tally::default()));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..number("RINGPOST_TEST_PARALLEL").unwrap_or(PARALLEL).min(count) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failures.lock().unwrap().len() >= FAILURES_MAX {
                        return;
                    }
                    match run(seed) {
                        Ok(tally) => sum.lock().unwrap().add(&tally),
                        Err(failure) => {
                            println!("seed {seed} FAILED after {:.0?}: {failure}\n", start.elapsed());
                            failures.lock().unwrap().push(seed);
                        }
                    }
                }
            });
        }
    });
    let (failures, sum) = (failures.into_inner().unwrap(), sum.into_inner().unwrap());
    println!("{} servers in {:.1?}: {sum:?}", count, start.elapsed());
    assert!(failures.is_empty(), "{} seeds failed: {failures:?}", failures.len());
    // What was met, or the worlds prove less than they say.
    if count >= SERVERS {
        sum.expect_variety();
    }
}

/// Runs one world. An error describes it, and what went wrong.
fn run(seed: u64) -> Result<Tally, String> {
    let world = World::new(seed);
    let began = Instant::now();
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let took = began.elapsed();
    let failure = match ended {
        Ok(Ok(tally)) if took < WORLD_MAX => return Ok(tally),
        Ok(Ok(_)) => "it took too long".to_owned(),
        Ok(Err(failure)) => failure,
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => text.clone(),
            (_, Some(text)) => (*text).to_owned(),
            _ => "a panic".to_owned(),
        },
    };
    Err(format!("{failure}\nthe world, after {took:.1?}:\n{world}"))
}

/// No world takes so long, however busy the machine is.
const WORLD_MAX: Duration = Duration::from_secs(120);
