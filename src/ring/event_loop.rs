//! The event loop of a ring's thread. In one iteration every ready task runs. The operations that they submit go
//! to the kernel in one call when the thread parks, and the completions that arrive meanwhile begin the next iteration.
//!
//! Owns what is constant for an iteration: the time, and how many sends the iteration has. It must not know sockets or
//! ops. Invariant: it is used only by tasks of its runtime, while that runtime runs.
//!
//! An iteration ends when tokio's runtime counts another park of its thread. Neither tokio-uring nor its builder has a
//! hook for that moment, and a task that runs in each iteration would keep the thread from sleeping. This file is the
//! only one that relies on tokio's count, and has a test of what it relies on.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use tokio::runtime::{Handle, RuntimeMetrics};

/// A handle of this thread's event loop. Cloning it is cheap.
#[derive(Clone)]
pub struct EventLoop(Rc<State>);

struct State {
    /// Counts how often the thread has parked.
    metrics: RuntimeMetrics,
    /// Whether the runtime is in `block_on`.
    running: Cell<bool>,
    /// The count of parks at the beginning of this iteration.
    parks: Cell<u64>,
    /// Sends in this iteration.
    sends: Cell<u32>,
    /// Sends in the previous iteration.
    sends_before: Cell<u32>,
    /// The time of this iteration, if a task has asked for it since the iteration began or a system call was made.
    time: Cell<Option<Instant>>,
}

impl EventLoop {
    /// Returns the event loop of the runtime that calls this.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub(super) fn of_this_runtime() -> Self {
        EventLoop(Rc::new(State {
            metrics: Handle::current().metrics(),
            running: Cell::new(false),
            parks: Cell::new(0),
            sends: Cell::new(0),
            sends_before: Cell::new(0),
            time: Cell::new(None),
        }))
    }

    /// Begins an iteration. The event loop can be used until the returned guard is dropped.
    ///
    /// # Panics
    /// The event loop is running already.
    pub(super) fn run(&self) -> Running {
        assert!(!self.0.running.replace(true), "the event loop is running already");
        self.0.begin(self.0.metrics.worker_park_count(0), 0);
        Running(self.clone())
    }

    /// Returns the time. The clock is read at most once per iteration, which is accurate enough: completions seen in
    /// this iteration happened before it began.
    ///
    /// # Panics
    /// The event loop is not running.
    #[inline]
    pub fn now(&self) -> Instant {
        self.0.look();
        let time = self.0.time.get().unwrap_or_else(Instant::now);
        self.0.time.set(Some(time));
        time
    }

    /// Counts a send. Returns whether it is the only one: the first of this iteration, after an iteration with at most
    /// one. Then there is no batch to join, and the ring would only add a completion, which is an iteration of its own.
    ///
    /// # Panics
    /// The event loop is not running.
    #[inline]
    pub(super) fn is_only_send(&self) -> bool {
        self.0.look();
        self.0.sends.set(self.0.sends.get() + 1);
        self.0.sends.get() == 1 && self.0.sends_before.get() <= 1
    }

    /// Forgets the time, because a system call was made in this iteration. The next [`Self::now`] reads the clock.
    pub fn forget_time(&self) {
        self.0.time.set(None);
    }
}

impl State {
    /// Begins an iteration if the thread has parked since the current one began.
    #[inline]
    fn look(&self) {
        assert!(self.running.get(), "the event loop is used while its runtime doesn't run");
        let parks = self.metrics.worker_park_count(0);
        if parks != self.parks.get() {
            let follows = parks == self.parks.get() + 1;
            self.begin(parks, if follows { self.sends.get() } else { 0 });
        }
    }

    fn begin(&self, parks: u64, sends_before: u32) {
        self.parks.set(parks);
        self.sends_before.set(sends_before);
        self.sends.set(0);
        self.time.set(None);
    }
}

/// An event loop that is running, until this is dropped.
pub(super) struct Running(EventLoop);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.set(false);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    use tokio::task::{spawn_local, yield_now};

    use super::*;
    use crate::ring::{Runtime, round_trip};

    #[test]
    fn an_iteration_has_one_time_until_it_ends_or_the_time_is_forgotten() {
        let runtime = Runtime::new(8).unwrap();
        let event_loop = runtime.event_loop().clone();
        runtime.block_on(async {
            let first = event_loop.now();
            std::thread::sleep(Duration::from_millis(2));
            assert_eq!(event_loop.now(), first);
            event_loop.forget_time();
            let second = event_loop.now();
            assert!(second >= first + Duration::from_millis(2));
            round_trip().await;
            assert!(event_loop.now() > second);
        });
    }

    #[test]
    fn a_send_is_the_only_one_if_each_iteration_has_one() {
        let runtime = Runtime::new(8).unwrap();
        let event_loop = runtime.event_loop().clone();
        runtime.block_on(async {
            for _ in 0..3 {
                assert!(event_loop.is_only_send());
                assert!(!event_loop.is_only_send(), "the second of an iteration");
                round_trip().await;
                assert!(!event_loop.is_only_send(), "there may be as many as in the iteration before");
                round_trip().await;
            }
        });
    }

    #[test]
    fn an_event_loop_is_used_only_while_its_runtime_runs() {
        let runtime = Runtime::new(8).unwrap();
        let event_loop = runtime.event_loop().clone();
        let use_it = || catch_unwind(AssertUnwindSafe(|| event_loop.now()));
        assert!(use_it().is_err());
        let first = runtime.block_on(async { use_it().unwrap() });
        assert!(use_it().is_err());
        std::thread::sleep(Duration::from_millis(2));
        let second = runtime.block_on(async { use_it().unwrap() });
        assert!(second >= first + Duration::from_millis(2), "each `block_on` begins an iteration");
    }

    /// The behaviour of tokio that this file relies on. If tokio counted otherwise, a send would bypass the ring
    /// although others could join it, or the time would not advance.
    #[test]
    fn tokio_counts_one_park_between_two_iterations_and_none_within_one() {
        Runtime::new(8).unwrap().block_on(async {
            let metrics = Handle::current().metrics();
            assert_eq!(metrics.num_workers(), 1);
            let parks = || metrics.worker_park_count(0);
            // Tasks that are ready run in one iteration, even if they yield to each other.
            round_trip().await;
            let before = parks();
            let tasks: Vec<_> = (0..10).map(|_| spawn_local(async { yield_now().await })).collect();
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(parks(), before, "a park within an iteration");
            for round_trips in 1..=10 {
                round_trip().await;
                assert_eq!(parks(), before + round_trips, "one park for each wait for a completion");
            }
        });
    }
}
