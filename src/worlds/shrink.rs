//! Makes a failing world smaller: it leaves out clients, events and followers as long as the same law is broken.

use std::path::Path;

use super::plan::{Plan, Without};

/// Returns the parts that can be left out of a failing world, whose failure began with `law`.
pub fn shrink(seed: u64, law: &str, dir: &Path) -> Without {
    let mut without = Without::default();
    let whole = Plan::new(seed, &without);
    let mut runs = 0;
    let mut fails = |without: &Without| {
        runs += 1;
        let report = super::run(seed, without, dir);
        runs <= RUNS_MAX && report.violation.is_some_and(|violation| law_of(&violation) == law)
    };
    let mut attempt = |change: &dyn Fn(&mut Without)| {
        let mut smaller = without.clone();
        change(&mut smaller);
        if fails(&smaller) {
            without = smaller;
        }
    };
    attempt(&|smaller| smaller.disk_faults = true);
    attempt(&|smaller| smaller.followers.extend(0..whole.followers.len()));
    // Halves first, then one by one.
    let clients = whole.clients.len();
    for part in [0..clients / 2, clients / 2..clients] {
        attempt(&|smaller| smaller.clients.extend(part.clone()));
    }
    for number in 0..clients {
        attempt(&|smaller| smaller.clients.extend([number]));
    }
    for number in 0..whole.events.len() {
        attempt(&|smaller| smaller.events.extend([number]));
    }
    for number in 0..whole.followers.len() {
        attempt(&|smaller| smaller.followers.extend([number]));
    }
    without
}

/// Returns the law that a failure is about: its text before the first colon.
pub fn law_of(violation: &str) -> &str {
    violation.split_once(':').map_or(violation, |(law, _)| law)
}

/// How many worlds a search may run.
const RUNS_MAX: u32 = 300;
