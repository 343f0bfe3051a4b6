//! How many acks leave in one turn of the engine.
//!
//! A commit settles the acks of many connections at once. If all of them left in one turn, their sends
//! would be one call into the kernel; meanwhile no completion is seen, the clients' next requests come in
//! one heap behind it, and disk and CPU wait for each other in turns. In parts, the requests that answer
//! the first part are on their way to the disk while the next part is sent.
//!
//! It is counted in acks and not in sends: where each connection has one request on its way, many small
//! parts cost more CPU than they save time.

use tokio::sync::{Notify, Semaphore};

use crate::config::ACKS_PER_TURN;
use crate::engine::Engine;

/// The gate that a shard's settled acks leave by, in the order of their coming.
pub struct Gate {
    acks: Semaphore,
    /// Half of what may leave in a turn has left.
    low: Notify,
}

impl Gate {
    /// An open gate. It closes for good if nobody runs [`Self::turns`].
    pub fn new() -> Self {
        Gate { acks: Semaphore::new(ACKS_PER_TURN as usize), low: Notify::new() }
    }

    /// Waits until so many acks may leave. Cancel-safe.
    #[inline]
    pub async fn pass(&self, acks: u64) {
        let acks = acks.min(ACKS_PER_TURN.into()) as u32;
        self.acks.acquire_many(acks).await.expect("nobody closes it").forget();
        if self.acks.available_permits() <= ACKS_PER_TURN as usize / 2 {
            self.low.notify_one();
        }
    }

    /// Opens the gate again, turn by turn. Never ends.
    pub async fn turns(&self, engine: Engine) {
        loop {
            self.low.notified().await;
            // What was queued so far is with the kernel then.
            engine.round_trip().await;
            self.acks.add_permits(ACKS_PER_TURN as usize - self.acks.available_permits());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::engine::{Runtime, spawn};

    /// Sends of many sizes pass in their order, each turn no more than it may, until the last one has passed.
    #[test]
    fn acks_pass_in_order_and_a_bounded_number_in_a_turn() {
        Runtime::new(Engine::Uring, 8).unwrap().block_on(async {
            let gate = Rc::new(Gate::new());
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
                let gate = gate.clone();
                async move { gate.turns(Engine::Uring).await }
            });
            let counter = spawn({
                let turn = turn.clone();
                async move {
                    loop {
                        Engine::Uring.round_trip().await;
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
            // A send waits until all of its part is there, so up to two parts may leave at once.
            assert!(most <= 2 * u64::from(ACKS_PER_TURN), "{most} acks in one turn");
            assert!(in_turn.len() > 100, "{} turns", in_turn.len());
        });
    }
}
