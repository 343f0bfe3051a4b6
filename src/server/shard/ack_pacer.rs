//! How many acks leave in one turn of the engine.
//!
//! A commit settles the acks of many connections at once. If all of them left in one turn, their sends
//! would be one call into the kernel; meanwhile no completion is seen, the clients' next requests come in
//! one heap behind it, and disk and CPU wait for each other in turns. In parts, the requests that answer
//! the first part are on their way to the disk while the next part is sent.
//!
//! It is counted in acks and not in sends: where each connection has one request on its way, many small
//! parts cost more CPU than they save time.

use std::cell::Cell;

use tokio::sync::Notify;

use crate::engine::EventLoop;
use crate::fair_queue::FairQueue;

/// The gate that a shard's settled acks leave by, in the order of their coming.
///
/// A send waits only while no ack is left in this event-loop iteration, and [`Self::turns`] refills the gate whenever
/// that is so. No wait depends on another send getting through, whatever their sizes.
pub struct AckPacer {
    /// Acks that may still leave in this event-loop iteration. The last send of an iteration may have more.
    left: Cell<u32>,
    sends: FairQueue,
    /// Notified when at most half of an iteration's acks is left. The notification is kept while [`Self::turns`] is
    /// busy.
    low: Notify,
}

impl AckPacer {
    /// An open gate. It closes for good if nobody runs [`Self::turns`].
    pub fn new() -> Self {
        AckPacer { left: Cell::new(ACKS_PER_TURN), sends: FairQueue::default(), low: Notify::new() }
    }

    /// Waits until this number of acks may leave. Cancel-safe.
    #[inline]
    pub async fn pass(&self, acks: u64) {
        self.sends.wait_until(|| self.left.get() > 0).await;
        let left = self.left.get().saturating_sub(u32::try_from(acks).unwrap_or(u32::MAX));
        self.left.set(left);
        if left <= ACKS_PER_TURN / 2 {
            self.low.notify_one();
        }
    }

    /// Opens the gate again, turn by turn. Never ends.
    pub async fn turns(&self, event_loop: &EventLoop) {
        loop {
            self.low.notified().await;
            // What was queued so far is with the kernel then.
            event_loop.round_trip().await;
            self.left.set(ACKS_PER_TURN);
            self.sends.notify();
        }
    }
}

/// Acks that may leave a shard in one event-loop iteration, once their outcome is known. A single send may have more.
const ACKS_PER_TURN: u32 = 2048;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::engine::{Engine, Runtime, spawn};

    /// Sends of many sizes pass in their order, each turn no more than it may, until the last one has passed.
    #[test]
    fn acks_pass_in_order_and_a_bounded_number_in_a_turn() {
        run(Engine::Uring, async |event_loop| {
            let gate = Rc::new(AckPacer::new());
            let (passed, turn) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(0u32)));
            let sizes: Vec<u64> = (0..500u64).map(|number| 1 + number * number % 3000).collect();
            let tasks: Vec<_> = sizes
                .iter()
                .map(|acks| {
                    let (gate, passed, turn, acks) = (gate.clone(), passed.clone(), turn.clone(), *acks);
                    spawn(async move {
                        gate.pass(acks).await;
                        passed.borrow_mut().push((turn.get(), acks));
                    })
                })
                .collect();
            let opener = spawn({
                let (gate, event_loop) = (gate.clone(), event_loop.clone());
                async move { gate.turns(&event_loop).await }
            });
            let counter = spawn({
                let (turn, event_loop) = (turn.clone(), event_loop.clone());
                async move {
                    loop {
                        event_loop.round_trip().await;
                        turn.set(turn.get() + 1);
                    }
                }
            });
            for task in tasks {
                let passed = tokio::time::timeout(Duration::from_secs(10), task).await;
                passed.expect("everyone gets through").unwrap();
            }
            opener.abort();
            counter.abort();
            let passed = passed.borrow();
            assert!(passed.iter().map(|(_, acks)| acks).eq(&sizes), "in the order of their coming");
            let (mut in_turn, mut most) = (std::collections::HashMap::new(), 0);
            for (turn, acks) in passed.iter() {
                let sum = in_turn.entry(*turn).or_insert(0);
                *sum += acks.min(&ACKS_PER_TURN.into());
                most = most.max(*sum);
            }
            // The last send of an iteration may have more acks than are left, up to a whole part.
            assert!(most <= 2 * u64::from(ACKS_PER_TURN), "{most} acks in one turn");
            assert!(in_turn.len() > 100, "{} turns", in_turn.len());
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
        let gate = Rc::new(AckPacer::new());
        let opener = spawn({
            let (gate, event_loop) = (gate.clone(), event_loop.clone());
            async move { gate.turns(&event_loop).await }
        });
        let sends: Vec<_> = sizes
            .iter()
            .map(|acks| {
                let (gate, acks) = (gate.clone(), *acks);
                spawn(async move { gate.pass(acks).await })
            })
            .collect();
        for (number, send) in sends.into_iter().enumerate() {
            let passed = tokio::time::timeout(Duration::from_secs(10), send).await;
            passed
                .unwrap_or_else(|_| panic!("send {number} of {sizes:?} hangs on {}", event_loop.engine().name()))
                .unwrap();
        }
        opener.abort();
    }

    /// The first send leaves fewer acks than the second one needs, but more than half. In this case the gate was once
    /// not refilled.
    #[test]
    fn a_small_send_and_a_large_one_behind_it_both_pass() {
        for engine in ENGINES {
            run(engine, async |event_loop| {
                let most = u64::from(ACKS_PER_TURN);
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
                let gate = Rc::new(AckPacer::new());
                let opener = spawn({
                    let (gate, event_loop) = (gate.clone(), event_loop.clone());
                    async move { gate.turns(&event_loop).await }
                });
                for acks in 1..=100_000 {
                    for acks in [1, acks] {
                        let passed = tokio::time::timeout(Duration::from_secs(10), gate.pass(acks)).await;
                        passed.unwrap_or_else(|_| panic!("{acks} acks hang on {}", engine.name()));
                    }
                }
                opener.abort();
            });
        }
    }

    /// Random sizes, windows and cancellations, with and without pauses.
    #[test]
    fn no_order_of_sends_and_cancellations_leaves_one_behind() {
        for engine in ENGINES {
            run(engine, async |event_loop| {
                for seed in 0..200u64 {
                    let mut state = seed + 1;
                    let mut random = |below: u64| {
                        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        (state >> 33) % below
                    };
                    let gate = Rc::new(AckPacer::new());
                    let opener = spawn({
                        let (gate, event_loop) = (gate.clone(), event_loop.clone());
                        async move { gate.turns(&event_loop).await }
                    });
                    let mut sends = Vec::new();
                    for _ in 0..50 {
                        let most = [2, 100, 2048, 100_000][random(4) as usize];
                        let acks = 1 + random(most);
                        let gate = gate.clone();
                        sends.push(spawn(async move { gate.pass(acks).await }));
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
                    opener.abort();
                }
            });
        }
    }
}
