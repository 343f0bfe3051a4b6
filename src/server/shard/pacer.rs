//! Limits how much of one kind of work a shard does in one event-loop iteration.
//!
//! Acks: a commit settles the acks of many connections at the same time. If all of them left in one iteration, their
//! sends would be one call into the kernel. No completion would be seen during that call, the clients' next requests
//! would arrive together after it, and disk and CPU would wait for each other alternately. In portions, the requests
//! that answer the first portion are on their way to the disk while the next portion is sent. The limit counts acks and
//! not sends: if each connection has one request in flight, many small portions cost more CPU than they save time.
//!
//! Handshakes: a step of a TLS handshake that signs or verifies needs the thread for a tenth of a millisecond. After a
//! few steps, the other connections are served.

use std::cell::Cell;

use tokio::sync::Notify;

use crate::engine::EventLoop;
use crate::fair_queue::FairQueue;

/// The pacer of one kind of work. Tasks pass it in the order in which they came.
///
/// A task waits only while nothing is left in this event-loop iteration, and [`Self::refill`] then provides anew. No
/// wait depends on another task passing, whatever their amounts.
pub struct Pacer {
    per_iteration: u32,
    /// How much may still be done in this event-loop iteration. The last task may do more.
    left: Cell<u32>,
    tasks: FairQueue,
    /// Notified when at most half of an iteration's work is left. The notification is kept while [`Self::refill`] is
    /// busy.
    low: Notify,
}

impl Pacer {
    /// Creates a pacer that lets the work of one iteration pass. More passes only while [`Self::refill`] runs.
    pub fn new(per_iteration: u32) -> Self {
        Pacer { per_iteration, left: Cell::new(per_iteration), tasks: FairQueue::default(), low: Notify::new() }
    }

    /// Waits until this amount may be done. Cancel-safe.
    #[inline]
    pub async fn pass(&self, amount: u64) {
        self.tasks.wait_until(|| self.left.get() > 0).await;
        let left = self.left.get().saturating_sub(u32::try_from(amount).unwrap_or(u32::MAX));
        self.left.set(left);
        if left <= self.per_iteration / 2 {
            self.low.notify_one();
        }
    }

    /// Refills the pacer, once per event-loop iteration in which something passes. Never returns.
    pub async fn refill(&self, event_loop: &EventLoop) {
        loop {
            self.low.notified().await;
            // Everything queued so far has then reached the kernel.
            event_loop.round_trip().await;
            self.left.set(self.per_iteration);
            self.tasks.notify();
        }
    }
}

/// Acks that may leave a shard in one event-loop iteration, once their outcome is known. A single send may have more.
pub const ACKS_PER_ITERATION: u32 = 2048;
/// Steps of TLS handshakes that sign or verify in one event-loop iteration.
pub const HANDSHAKE_STEPS_PER_ITERATION: u32 = 2;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::engine::{Engine, Runtime, spawn};

    /// Sends of many sizes pass in order, a bounded number in each iteration, until the last one has passed.
    #[test]
    fn acks_pass_in_order_and_a_bounded_number_per_iteration() {
        run(Engine::Uring, async |event_loop| {
            let pacer = Rc::new(Pacer::new(ACKS_PER_ITERATION));
            let (passed, iteration) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(0u32)));
            let sizes: Vec<u64> = (0..500u64).map(|number| 1 + number * number % 3000).collect();
            let tasks: Vec<_> = sizes
                .iter()
                .map(|acks| {
                    let (pacer, passed, iteration, acks) = (pacer.clone(), passed.clone(), iteration.clone(), *acks);
                    spawn(async move {
                        pacer.pass(acks).await;
                        passed.borrow_mut().push((iteration.get(), acks));
                    })
                })
                .collect();
            let refill = spawn({
                let (pacer, event_loop) = (pacer.clone(), event_loop.clone());
                async move { pacer.refill(&event_loop).await }
            });
            let counter = spawn({
                let (iteration, event_loop) = (iteration.clone(), event_loop.clone());
                async move {
                    loop {
                        event_loop.round_trip().await;
                        iteration.set(iteration.get() + 1);
                    }
                }
            });
            for task in tasks {
                let passed = tokio::time::timeout(Duration::from_secs(10), task).await;
                passed.expect("every send passes").unwrap();
            }
            refill.abort();
            counter.abort();
            let passed = passed.borrow();
            assert!(passed.iter().map(|(_, acks)| acks).eq(&sizes), "in the order in which they came");
            let (mut in_iteration, mut most) = (std::collections::HashMap::new(), 0);
            for (iteration, acks) in passed.iter() {
                let sum = in_iteration.entry(*iteration).or_insert(0);
                *sum += acks.min(&ACKS_PER_ITERATION.into());
                most = most.max(*sum);
            }
            // The last send of an iteration may have more acks than are left, up to a whole portion.
            assert!(most <= 2 * u64::from(ACKS_PER_ITERATION), "{most} acks in one iteration");
            assert!(in_iteration.len() > 100, "{} iterations", in_iteration.len());
        });
    }

    /// Runs a test with the event loop of a new runtime.
    fn run<F: Future<Output = ()>>(engine: Engine, test: impl FnOnce(EventLoop) -> F) {
        let runtime = Runtime::new(engine, 8).unwrap();
        runtime.block_on(test(runtime.event_loop()));
    }

    const ENGINES: [Engine; 2] = [Engine::Uring, Engine::Epoll];

    /// Starts sends of these sizes together, and waits until all have passed.
    async fn all_pass(event_loop: &EventLoop, sizes: &[u64]) {
        let pacer = Rc::new(Pacer::new(ACKS_PER_ITERATION));
        let refill = spawn({
            let (pacer, event_loop) = (pacer.clone(), event_loop.clone());
            async move { pacer.refill(&event_loop).await }
        });
        let sends: Vec<_> = sizes
            .iter()
            .map(|acks| {
                let (pacer, acks) = (pacer.clone(), *acks);
                spawn(async move { pacer.pass(acks).await })
            })
            .collect();
        for (number, send) in sends.into_iter().enumerate() {
            let passed = tokio::time::timeout(Duration::from_secs(10), send).await;
            passed
                .unwrap_or_else(|_| panic!("send {number} of {sizes:?} hangs on {}", event_loop.engine().name()))
                .unwrap();
        }
        refill.abort();
    }

    /// The first send leaves fewer acks than the second one needs, but more than half. The pacer once was not refilled
    /// in this case.
    #[test]
    fn a_small_send_and_a_large_one_after_it_both_pass() {
        for engine in ENGINES {
            run(engine, async |event_loop| {
                let most = u64::from(ACKS_PER_ITERATION);
                for first in [0, 1, most / 2 - 1, most / 2, most / 2 + 1, most - 1, most, most + 1, 100_000] {
                    for second in [0, 1, most / 2, most / 2 + 1, most - 1, most, most + 1, 100_000, u64::MAX] {
                        all_pass(&event_loop, &[first, second]).await;
                    }
                }
            });
        }
    }

    #[test]
    fn sends_of_every_size_up_to_100_000_acks_pass() {
        for engine in ENGINES {
            run(engine, async |event_loop| {
                let pacer = Rc::new(Pacer::new(ACKS_PER_ITERATION));
                let refill = spawn({
                    let (pacer, event_loop) = (pacer.clone(), event_loop.clone());
                    async move { pacer.refill(&event_loop).await }
                });
                for acks in 1..=100_000 {
                    for acks in [1, acks] {
                        let passed = tokio::time::timeout(Duration::from_secs(10), pacer.pass(acks)).await;
                        passed.unwrap_or_else(|_| panic!("{acks} acks hang on {}", engine.name()));
                    }
                }
                refill.abort();
            });
        }
    }

    /// Tries random sizes and cancellations, with and without pauses.
    #[test]
    fn no_order_of_sends_and_cancellations_leaves_a_send_waiting() {
        for engine in ENGINES {
            run(engine, async |event_loop| {
                for seed in 0..200u64 {
                    let mut state = seed + 1;
                    let mut random = |below: u64| {
                        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        (state >> 33) % below
                    };
                    let pacer = Rc::new(Pacer::new(ACKS_PER_ITERATION));
                    let refill = spawn({
                        let (pacer, event_loop) = (pacer.clone(), event_loop.clone());
                        async move { pacer.refill(&event_loop).await }
                    });
                    let mut sends = Vec::new();
                    for _ in 0..50 {
                        let most = [2, 100, 2048, 100_000][random(4) as usize];
                        let acks = 1 + random(most);
                        let pacer = pacer.clone();
                        sends.push(spawn(async move { pacer.pass(acks).await }));
                        match random(4) {
                            0 => event_loop.round_trip().await,
                            1 => sends[random(sends.len() as u64) as usize].abort(),
                            _ => {}
                        }
                    }
                    for send in sends {
                        match tokio::time::timeout(Duration::from_secs(10), send).await {
                            Ok(passed) => assert!(passed.is_ok() || passed.unwrap_err().is_cancelled()),
                            Err(_) => panic!("a send hangs with seed {seed} on {}", engine.name()),
                        }
                    }
                    refill.abort();
                }
            });
        }
    }
}
