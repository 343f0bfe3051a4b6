//! The server's health and readiness, which `/healthz` and `/readyz` report.
//!
//! Owns the list of faults. It must not know how a fault is found: the code that finds one reports it here. An
//! unhealthy server needs a restart. A server that is not ready only wants new connections to go elsewhere. Invariant:
//! an unhealthy server is never ready.
//!
//! The command `ringpost health`, which asks a running server, is [`crate::healthcheck`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A server's health. A new server is healthy and ready.
#[derive(Debug, Default)]
pub struct Health {
    draining: AtomicBool,
    /// Whether the server will drain soon.
    leaving: AtomicBool,
    /// Faults that may pass, by the shard's index.
    faults: ByShard,
    /// Faults that last until a restart, by the shard's index.
    failures: ByShard,
    /// Reasons why a shard refuses messages for now, by the shard's index.
    refusals: ByShard,
}

impl Health {
    /// Reports that the server will drain soon. It continues to serve until then, but is no longer ready.
    pub fn drain_is_announced(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Reports that the server has begun to drain and is no longer ready.
    pub fn drain_begins(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Reports a shard's fault, in words that follow "shard N: ". `None` means that the shard has recovered.
    pub fn report(&self, shard: usize, fault: Option<String>) {
        set(&self.faults, shard, fault);
    }

    /// Reports a shard's fault that lasts until a restart. Later reports do not remove it.
    pub fn fails(&self, shard: usize, failure: String) {
        set(&self.failures, shard, Some(failure));
    }

    /// Reports why a shard refuses messages, if that will pass without a restart. `None` means that it accepts them
    /// again.
    pub fn refuses(&self, shard: usize, why: Option<String>) {
        set(&self.refusals, shard, why);
    }

    /// Returns the server's faults, if there are any.
    pub fn fault(&self) -> Option<String> {
        join([list(&self.failures), list(&self.faults)])
    }

    /// Returns why new connections should go elsewhere, if they should.
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

fn set(all: &ByShard, shard: usize, reason: Option<String>) {
    let mut all = lock(all);
    match reason {
        Some(reason) => all.insert(shard, reason),
        None => all.remove(&shard),
    };
}

fn list(all: &ByShard) -> Option<String> {
    join(lock(all).iter().map(|(shard, reason)| Some(format!("shard {shard}: {reason}"))))
}

fn join(parts: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn lock(all: &ByShard) -> MutexGuard<'_, BTreeMap<usize, String>> {
    // Each change is a single insert or remove, so a panic leaves no inconsistent state.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_listed_until_it_is_over() {
        let health = Health::default();
        assert_eq!((health.fault(), health.not_ready()), (None, None));
        health.report(1, Some("event loop stalled for 2 s".into()));
        health.report(0, Some("panicked".into()));
        assert_eq!(health.fault().unwrap(), "shard 0: panicked; shard 1: event loop stalled for 2 s");
        assert_eq!(health.not_ready(), health.fault());
        health.report(1, None);
        assert_eq!(health.fault().unwrap(), "shard 0: panicked");
    }

    #[test]
    fn a_failure_is_listed_until_a_restart_even_after_a_stall() {
        let health = Health::default();
        health.report(1, Some("event loop stalled for 2 s".into()));
        health.fails(1, "refuses messages".into());
        assert_eq!(health.fault().unwrap(), "shard 1: refuses messages; shard 1: event loop stalled for 2 s");
        health.report(1, None);
        assert_eq!(health.fault().unwrap(), "shard 1: refuses messages");
        assert_eq!(health.not_ready(), health.fault());
    }

    #[test]
    fn a_refusal_ends_readiness_but_is_not_a_fault() {
        let health = Health::default();
        health.refuses(1, Some("no space".into()));
        assert_eq!((health.fault(), health.not_ready()), (None, Some("shard 1: no space".into())));
        health.refuses(1, None);
        assert_eq!(health.not_ready(), None);
    }

    #[test]
    fn a_drain_ends_readiness_but_is_not_a_fault() {
        let health = Health::default();
        health.drain_begins();
        assert_eq!(health.not_ready().unwrap(), "draining");
        assert_eq!(health.fault(), None);
    }

    #[test]
    fn an_announced_drain_ends_only_readiness() {
        let health = Health::default();
        health.drain_is_announced();
        assert!(health.not_ready().unwrap().contains("--drain-delay"));
        assert_eq!((health.fault(), health.is_draining()), (None, false));
        health.drain_begins();
        assert_eq!(health.not_ready().unwrap(), "draining");
    }
}
