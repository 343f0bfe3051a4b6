//! Worlds: the whole server in simulation, judged by laws.
//!
//! A world is made from a seed ([`plan`]): a host with a disk, a network and clocks that fail in every way that the
//! plan has, server processes that are killed, drained, taken over and started again, clients of every kind, and
//! followers of the journal. The server's code is the real one, on the simulated engine ([`crate::sim`]). A seed gives
//! the same world each time, event by event. [`laws`] lists what must be true in each of them.
//!
//! `scripts/simulate` hunts for worlds that break a law. [`shrink`] makes them smaller.

mod client;
pub mod command;
mod director;
mod follower;
mod laws;
mod peer;
mod plan;
mod process;
mod records;
mod serving;
mod shrink;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

pub use plan::{Plan, Without};

use crate::sim::disk::Disk;
use crate::sim::kernel;
use crate::sim::mount::mount;
use crate::sim::random::Random;
use crate::sim::trace;
use world::World;

/// The outcome of a world.
#[derive(Debug, Clone)]
pub struct Report {
    /// The law that was broken, and how.
    pub violation: Option<String>,
    /// A checksum of the trace, and the number of its events. Equal worlds have equal traces.
    pub trace: (u32, u64),
    /// The last events.
    pub last_events: String,
    /// The virtual time that passed.
    pub time: Duration,
    /// How often certain things happened.
    pub tally: BTreeMap<&'static str, u64>,
}

/// Runs the world of this seed, in a directory that is empty and in memory.
///
/// # Panics
/// The directory can't be used.
pub fn run(seed: u64, without: &Without, dir: &Path) -> Report {
    run_plan(Plan::new(seed, without), dir)
}

fn run_plan(plan: Plan, dir: &Path) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs nothing of the system");
    let data_dir = dir.join("data");
    let report = runtime.block_on(async {
        kernel::begin();
        let began = tokio::time::Instant::now();
        let disk = Disk::new(Random(plan.seed ^ 1).next(), &data_dir, plan.disk_faults.clone(), plan.capacity);
        mount(Some(disk.clone()));
        let world = World::new(plan, data_dir.clone(), disk);
        let tally = world.clone();
        let ended = catch_panic(director::run(world)).await;
        let violation = trace::violation().or(ended.err().map(|panic| format!("a panic: {panic}")));
        let (time, tally) = (began.elapsed(), tally.tally.borrow().clone());
        Report { violation, trace: trace::checksum(), last_events: trace::last_events(), time, tally }
    });
    mount(None);
    kernel::end();
    // A world that ended early has left files.
    if data_dir.exists() {
        std::fs::remove_dir_all(&data_dir).expect("the directory of a world can be removed");
    }
    report
}

/// Runs a future, and returns the message of its panic if it panics.
async fn catch_panic(future: impl Future<Output = ()>) -> Result<(), String> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => std::task::Poll::Ready(Err(message(&*panic))),
    })
    .await
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests;
