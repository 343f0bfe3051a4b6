//! Worlds: servers with random options, clients with random behavior, and checks of the results.

mod client;
mod journal;
mod options;
mod world;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

pub use self::world::{Tally, World};
use crate::common::raise_descriptor_limit;

/// The number of worlds that run at the same time. They mostly wait for a disk or a clock.
const PARALLEL: u64 = 4;
/// The number of failures after which a run ends.
const FAILURES_MAX: usize = 20;
/// A time in which every world ends, however busy the machine is.
const WORLD_MAX: Duration = Duration::from_secs(180);

/// Returns the number in an environment variable.
pub fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value}: not a number")))
}

/// The worlds of a run.
#[derive(Debug, Clone, Copy)]
pub struct Seeds {
    first: u64,
    /// The number of worlds, if the time does not end the run before.
    count: u64,
    /// The time after which no other world begins.
    time: Option<Duration>,
}

impl Seeds {
    /// Returns the seed in `RINGPOST_TEST_SEED`, or a fresh one, and `few` fresh ones or `count` from 1 on.
    pub fn new(few: u64, count: Option<u64>) -> Seeds {
        let (first, count) = match (number("RINGPOST_TEST_SEED"), count) {
            (Some(first), count) => (first, count.unwrap_or(1)),
            (None, Some(count)) => (1, count),
            (None, None) => (fresh(), few),
        };
        Seeds { first, count, time: None }
    }

    /// Returns the seeds of a run that lasts `time`, from `RINGPOST_TEST_SEED` on. Without a time, that seed alone
    /// runs, or fresh ones for the time `short`.
    pub fn lasting(time: Option<Duration>, short: Duration) -> Seeds {
        match (number("RINGPOST_TEST_SEED"), time) {
            (Some(first), None) => Seeds { first, count: 1, time },
            (first, time) => {
                Seeds { first: first.unwrap_or_else(fresh), count: u64::MAX, time: Some(time.unwrap_or(short)) }
            }
        }
    }
}

/// Returns a seed that no earlier run had.
fn fresh() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

/// Runs the worlds of these seeds, several at a time. Fails if one of them fails.
pub fn run_all(seeds: Seeds, world: impl Fn(u64) -> World + Sync) -> Tally {
    raise_descriptor_limit();
    let Seeds { first, count, time } = seeds;
    println!("seeds from {first} on");
    let (next, failures, sum) = (AtomicU64::new(first), Mutex::new(Vec::new()), Mutex::new(Tally::default()));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..number("RINGPOST_TEST_PARALLEL").unwrap_or(PARALLEL).min(count) {
            scope.spawn(|| {
                loop {
                    let over = time.is_some_and(|time| start.elapsed() >= time);
                    if over || failures.lock().unwrap().len() >= FAILURES_MAX {
                        return;
                    }
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed - first >= count {
                        return;
                    }
                    match run(&world(seed)) {
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
    println!("seeds {first} to {} in {:.1?}: {sum:?}", next.into_inner() - 1, start.elapsed());
    let test = thread::current().name().unwrap_or_default().to_owned();
    let repeat: Vec<_> = failures.iter().map(|seed| format!("RINGPOST_TEST_SEED={seed}")).collect();
    assert!(failures.is_empty(), "{} worlds failed; repeat {test} with: {}", failures.len(), repeat.join(", "));
    sum
}

/// Runs one world. An error describes the world and the failure.
fn run(world: &World) -> Result<Tally, String> {
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
