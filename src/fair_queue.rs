//! A fair queue of tasks that wait for the same thing, first come, first served.
//!
//! The queue owns the order of the tasks and does not know what they wait for. Its invariant: **the task at the head of
//! the queue checks its condition when it becomes the head, and after every [`FairQueue::notify`]**. So a wait ends if
//! the code that makes the condition true calls `notify` afterwards. The tasks ahead of it only have to leave, and they
//! leave whether they succeed, are cancelled or panic.
//!
//! The queue belongs to one thread.

use std::cell::Cell;

use tokio::sync::{Mutex, Notify};

/// A fair queue of waiting tasks.
#[derive(Debug, Default)]
pub struct FairQueue {
    /// Held by the head of the queue. A tokio mutex is fair, and a cancelled task leaves its queue.
    head: Mutex<()>,
    /// Makes the head check again. A notification without a head is kept for the next one.
    changed: Notify,
    waiting: Cell<usize>,
}

impl FairQueue {
    /// Returns whether no task waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.get() == 0
    }

    /// Waits until `condition` holds and all tasks that came earlier have left. The caller may act on the condition
    /// until it awaits something: no other task checks its own condition before that.
    ///
    /// Cancel-safe, but the place in the queue is lost.
    pub async fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        if self.is_empty() && condition() {
            return;
        }
        let _waiting = Waiting::new(&self.waiting);
        let _head = self.head.lock().await;
        while !condition() {
            self.changed.notified().await;
        }
    }

    /// Makes the head of the queue check its condition again. Call it after every change that may make a condition
    /// true.
    #[inline]
    pub fn notify(&self) {
        if !self.is_empty() {
            self.changed.notify_one();
        }
    }
}

/// A waiting task. It counts for as long as this value exists.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::Future;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Wait<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

    fn is_ready(wait: &mut Wait<'_>) -> bool {
        wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    /// A task that waits until `left` is not 0, and uses one.
    fn take_one<'a>(queue: &'a FairQueue, left: &'a Cell<u32>) -> Wait<'a> {
        Box::pin(async move {
            queue.wait_until(|| left.get() > 0).await;
            left.set(left.get() - 1);
        })
    }

    #[test]
    fn tasks_leave_in_the_order_in_which_they_came_and_none_overtakes() {
        let (queue, left) = (FairQueue::default(), Cell::new(1));
        assert!(is_ready(&mut take_one(&queue, &left)), "no task waits, and one is left");
        let (mut first, mut second) = (take_one(&queue, &left), take_one(&queue, &left));
        assert!(!is_ready(&mut first) && !is_ready(&mut second));
        left.set(2);
        queue.notify();
        let mut third = take_one(&queue, &left);
        assert!(!is_ready(&mut third) && !is_ready(&mut second), "not before the first");
        assert!(is_ready(&mut first) && is_ready(&mut second));
        assert!(!is_ready(&mut third), "nothing is left");
        left.set(1);
        queue.notify();
        assert!(is_ready(&mut third) && queue.is_empty());
    }

    #[test]
    fn a_head_that_is_cancelled_after_a_notification_passes_it_on() {
        let (queue, left) = (FairQueue::default(), Cell::new(0));
        let (mut first, mut second) = (take_one(&queue, &left), take_one(&queue, &left));
        assert!(!is_ready(&mut first) && !is_ready(&mut second));
        left.set(1);
        queue.notify();
        drop(first);
        assert!(is_ready(&mut second));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_condition_that_panics_costs_only_its_own_task_its_place() {
        let (queue, left) = (FairQueue::default(), Cell::new(0));
        let broken = Cell::new(false);
        let mut first: Wait<'_> = Box::pin(queue.wait_until(|| {
            assert!(!broken.get(), "the condition is broken");
            false
        }));
        let mut second = take_one(&queue, &left);
        assert!(!is_ready(&mut first) && !is_ready(&mut second));
        broken.set(true);
        left.set(1);
        queue.notify();
        catch_unwind(AssertUnwindSafe(|| is_ready(&mut first))).unwrap_err();
        drop(first);
        assert!(is_ready(&mut second) && queue.is_empty());
    }

    /// A notification that no task is left to use must neither block nor confuse later tasks.
    #[test]
    fn a_queue_works_after_all_its_tasks_were_cancelled() {
        let (queue, left) = (FairQueue::default(), Cell::new(0));
        let (mut first, mut second) = (take_one(&queue, &left), take_one(&queue, &left));
        assert!(!is_ready(&mut first) && !is_ready(&mut second) && !queue.is_empty());
        queue.notify();
        drop((second, first));
        assert!(queue.is_empty());
        let mut third = take_one(&queue, &left);
        assert!(!is_ready(&mut third), "nothing is left");
        left.set(1);
        queue.notify();
        assert!(is_ready(&mut third) && queue.is_empty());
    }

    /// Tries any order of arrivals, cancellations and supplies. Whenever something is left, the oldest waiting task
    /// gets it when it is polled, and a notification is never lost.
    #[test]
    fn no_order_of_arrivals_and_cancellations_leaves_a_task_behind() {
        for seed in 0..2000u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) % below
            };
            let (queue, left, done) = (FairQueue::default(), Cell::new(0), RefCell::new(Vec::new()));
            let mut waits: Vec<(u32, Wait<'_>)> = Vec::new();
            for number in 0..60u32 {
                match random(4) {
                    0 | 1 => {
                        let (queue, left, done) = (&queue, &left, &done);
                        let mut wait: Wait<'_> = Box::pin(async move {
                            queue.wait_until(|| left.get() > 0).await;
                            left.set(left.get() - 1);
                            done.borrow_mut().push(number);
                        });
                        if !is_ready(&mut wait) {
                            waits.push((number, wait));
                        }
                    }
                    2 if !waits.is_empty() => drop(waits.remove(random(waits.len() as u64) as usize)),
                    _ => {
                        left.set(left.get() + random(3) as u32);
                        queue.notify();
                    }
                }
                if random(3) == 0 {
                    waits.retain_mut(|(_, wait)| !is_ready(wait));
                    assert!(left.get() == 0 || waits.is_empty(), "seed {seed}: {} left, tasks wait", left.get());
                }
            }
            left.set(u32::MAX);
            queue.notify();
            waits.retain_mut(|(_, wait)| !is_ready(wait));
            assert!(waits.is_empty() && queue.is_empty(), "seed {seed}: tasks wait");
            assert!(done.borrow().is_sorted(), "seed {seed}: {:?}", done.borrow());
        }
    }
}
