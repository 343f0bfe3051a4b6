//! Whether the server is well, and whether it takes new connections: what `/healthz` and `/readyz`
//! answer from.
//!
//! Whoever finds a fault reports it here; nothing here looks for one. Not well means that a restart
//! is needed; not ready means only that new connections should go elsewhere.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A server's health. It starts without a fault, and ready.
#[derive(Debug, Default)]
pub struct Health {
    draining: AtomicBool,
    /// Whether the server will drain soon.
    leaving: AtomicBool,
    /// What is wrong with a shard, by its index.
    faults: ByShard,
    /// What is wrong with a shard for good, by its index.
    failures: ByShard,
    /// Why a shard refuses messages for now, by its index.
    refusals: ByShard,
}

impl Health {
    /// Reports that the server will drain soon. It serves as before until then, but is no longer ready.
    pub fn drain_is_announced(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Reports that the server has begun to drain and is no longer ready.
    pub fn drain_begins(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Reports what is wrong with a shard, in words that follow "worker N"; `None` once it is well
    /// again.
    pub fn report(&self, shard: usize, fault: Option<String>) {
        tell(&self.faults, shard, fault);
    }

    /// Reports what is wrong with a shard until a restart, whatever is reported of it later.
    pub fn fails(&self, shard: usize, failure: String) {
        tell(&self.failures, shard, Some(failure));
    }

    /// Reports why a shard refuses messages, which will pass without a restart; `None` once it takes
    /// them again.
    pub fn refuses(&self, shard: usize, why: Option<String>) {
        tell(&self.refusals, shard, why);
    }

    /// What is wrong with the server, if anything is.
    pub fn fault(&self) -> Option<String> {
        join([list(&self.failures), list(&self.faults)])
    }

    /// Why new connections should go elsewhere, if they should.
    pub fn not_ready(&self) -> Option<String> {
        if self.is_draining() {
            return Some("draining".into());
        }
        if self.leaving.load(Ordering::Relaxed) {
            return Some("stopping: the drain begins after --drain-delay".into());
        }
        self.fault().or_else(|| list(&self.refusals))
    }
}

type ByShard = Mutex<BTreeMap<usize, String>>;

fn tell(all: &ByShard, shard: usize, what: Option<String>) {
    let mut all = lock(all);
    match what {
        Some(what) => all.insert(shard, what),
        None => all.remove(&shard),
    };
}

fn list(all: &ByShard) -> Option<String> {
    join(lock(all).iter().map(|(shard, what)| Some(format!("worker {shard} {what}"))))
}

fn join(parts: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn lock(all: &ByShard) -> MutexGuard<'_, BTreeMap<usize, String>> {
    // Each change is one insert or remove: there is no half-made state to be afraid of.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_until_they_are_gone() {
        let health = Health::default();
        assert_eq!((health.fault(), health.not_ready()), (None, None));
        health.report(1, Some("has not turned for 2 s".into()));
        health.report(0, Some("panicked".into()));
        assert_eq!(health.fault().unwrap(), "worker 0 panicked; worker 1 has not turned for 2 s");
        assert_eq!(health.not_ready(), health.fault());
        health.report(1, None);
        assert_eq!(health.fault().unwrap(), "worker 0 panicked");
    }

    #[test]
    fn a_failure_is_named_until_the_end_also_once_a_stall_is_over() {
        let health = Health::default();
        health.report(1, Some("has not turned for 2 s".into()));
        health.fails(1, "refuses messages".into());
        assert_eq!(health.fault().unwrap(), "worker 1 refuses messages; worker 1 has not turned for 2 s");
        health.report(1, None);
        assert_eq!(health.fault().unwrap(), "worker 1 refuses messages");
        assert_eq!(health.not_ready(), health.fault());
    }

    #[test]
    fn a_refusal_ends_readiness_and_is_no_fault() {
        let health = Health::default();
        health.refuses(1, Some("has no room".into()));
        assert_eq!((health.fault(), health.not_ready()), (None, Some("worker 1 has no room".into())));
        health.refuses(1, None);
        assert_eq!(health.not_ready(), None);
    }

    #[test]
    fn a_drain_ends_readiness_and_is_no_fault() {
        let health = Health::default();
        health.drain_begins();
        assert_eq!(health.not_ready().unwrap(), "draining");
        assert_eq!(health.fault(), None);
    }

    #[test]
    fn a_drain_that_is_announced_ends_readiness_and_nothing_else() {
        let health = Health::default();
        health.drain_is_announced();
        assert!(health.not_ready().unwrap().contains("--drain-delay"));
        assert_eq!((health.fault(), health.is_draining()), (None, false));
        health.drain_begins();
        assert_eq!(health.not_ready().unwrap(), "draining");
    }
}
