//! The turns of this thread's runtime. In one turn every task runs that is ready; what they submit goes to
//! the kernel in one call when the thread parks, and what completed meanwhile begins the next turn.
//!
//! It owns what is the same for a whole turn: the time, and how busy the ring is.

use std::cell::RefCell;
use std::time::Instant;

use tokio::runtime::{Handle, RuntimeMetrics};

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

struct Turn {
    /// Counts how often the thread has parked.
    runtime: RuntimeMetrics,
    number: u64,
    /// Sends in this turn, and in the one before.
    sends: u32,
    sends_before: u32,
    /// When it began, or when the kernel was last called in it; `None` before anybody has asked.
    time: Option<Instant>,
}

impl Turn {
    /// Begins a new turn if the thread has parked since the last look.
    #[inline]
    fn look(&mut self) {
        let number = self.runtime.worker_park_count(0);
        if number != self.number {
            let follows = number == self.number + 1;
            self.sends_before = if follows { self.sends } else { 0 };
            (self.number, self.sends, self.time) = (number, 0, None);
        }
    }
}

/// Counts the turns of the runtime that the thread is in, until dropped.
pub struct Turns(());

impl Turns {
    /// # Panics
    /// Outside of a runtime.
    pub fn of_this_runtime() -> Self {
        let runtime = Handle::current().metrics();
        let turn = Turn { number: runtime.worker_park_count(0), runtime, sends: 0, sends_before: 0, time: None };
        TURN.set(Some(turn));
        Turns(())
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        TURN.set(None);
    }
}

/// The time. One call of the clock a turn will do: what was awaited has completed before the turn began.
#[inline]
pub fn now() -> Instant {
    TURN.with_borrow_mut(|turn| match turn {
        Some(turn) => {
            turn.look();
            *turn.time.get_or_insert_with(Instant::now)
        }
        None => Instant::now(),
    })
}

/// Counts a send, and says whether it is the only one: nothing else came in the turn before, and nothing in
/// this one. Then there is no batch to join, and the ring would only add its completion, a turn of its own.
#[inline]
pub fn sends_alone() -> bool {
    TURN.with_borrow_mut(|turn| {
        turn.as_mut().is_some_and(|turn| {
            turn.look();
            turn.sends += 1;
            turn.sends == 1 && turn.sends_before <= 1
        })
    })
}

/// Something has happened in this turn that took its time: the next look at the clock is a new one.
pub fn time_passed() {
    TURN.with_borrow_mut(|turn| {
        if let Some(turn) = turn {
            turn.time = None;
        }
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ring::{Runtime, round_trip};

    #[test]
    fn a_turn_has_one_time_until_it_ends_or_something_takes_time() {
        Runtime::new(8).unwrap().block_on(async {
            let first = now();
            std::thread::sleep(Duration::from_millis(2));
            assert_eq!(now(), first);
            time_passed();
            let second = now();
            assert!(second >= first + Duration::from_millis(2));
            round_trip().await;
            assert!(now() > second);
        });
    }

    #[test]
    fn a_send_is_alone_where_there_is_one_a_turn() {
        Runtime::new(8).unwrap().block_on(async {
            for _ in 0..3 {
                assert!(sends_alone());
                assert!(!sends_alone(), "the second of a turn");
                round_trip().await;
                assert!(!sends_alone(), "there may be as many as in the turn before");
                round_trip().await;
            }
        });
    }
}
