//! Notices a shard whose event loop has stalled.
//!
//! Each shard counts its sweeps as heartbeats, which adds nothing to the path of a request. The watchdog checks them on
//! a thread that belongs to no shard. It owns the judgement, and its caller decides what follows from it.
//!
//! Its invariant: only time in which the watchdog itself ran counts. After a process was stopped, or a virtual machine
//! was suspended, no shard is to blame.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::warn;

use crate::clock;
use crate::health::Health;
use crate::metrics::ShardMetrics;

/// Watches the shards of one server.
pub struct Watchdog {
    shards: Vec<WatchedShard>,
    health: Arc<Health>,
    /// The silence after which the server ends; zero for never.
    stall_timeout: Duration,
    last_look: Instant,
}

struct WatchedShard {
    metrics: Arc<ShardMetrics>,
    /// The shard's heartbeats at the last look.
    heartbeats: u64,
    /// The time that the watchdog has run since the heartbeats changed.
    silent: Duration,
    /// Whether the shard has reported its end or a fault by itself.
    gone: bool,
}

impl Watchdog {
    /// Creates a watchdog that watches these shards from now on. It reports stalls to `health`.
    pub fn new(shards: &[Arc<ShardMetrics>], health: Arc<Health>, stall_timeout: Duration) -> Self {
        let watched = |metrics: &Arc<ShardMetrics>| WatchedShard {
            metrics: metrics.clone(),
            heartbeats: metrics.heartbeats.get(),
            silent: Duration::ZERO,
            gone: false,
        };
        Watchdog { shards: shards.iter().map(watched).collect(), health, stall_timeout, last_look: clock::now() }
    }

    /// Stops watching this shard.
    pub fn leave(&mut self, shard: usize) {
        self.shards[shard].gone = true;
    }

    /// Watches until a shard has stalled for the timeout. Returns the shard's index and how long it has been silent.
    ///
    /// Cancel-safe: a time between two calls counts as one step, of limited length.
    pub async fn stalled(&mut self) -> (usize, Duration) {
        loop {
            sleep(LOOK_INTERVAL).await;
            let now = clock::now();
            let elapsed = now - self.last_look;
            self.last_look = now;
            if let Some(stalled) = self.look(elapsed) {
                return stalled;
            }
        }
    }

    /// Checks every shard, `elapsed` after the last check.
    fn look(&mut self, elapsed: Duration) -> Option<(usize, Duration)> {
        let step = elapsed.min(STEP_MAX);
        for (index, shard) in self.shards.iter_mut().enumerate().filter(|(_, shard)| !shard.gone) {
            let before = shard.silent;
            let heartbeats = shard.metrics.heartbeats.get();
            if heartbeats == shard.heartbeats {
                shard.silent += step;
            } else {
                shard.heartbeats = heartbeats;
                shard.silent = Duration::ZERO;
            }
            let was_well = before < STALL_UNHEALTHY;
            if was_well && shard.silent >= STALL_UNHEALTHY {
                let silent = seconds(shard.silent);
                warn!(shard = index, silent, "event loop stalled; the server is unhealthy");
                self.health.report(index, Some(format!("event loop stalled for {silent}")));
            } else if !was_well && shard.silent < STALL_UNHEALTHY {
                warn!(shard = index, silent = seconds(before), "event loop runs again; the server is healthy");
                self.health.report(index, None);
            }
            if !self.stall_timeout.is_zero() && shard.silent >= self.stall_timeout {
                return Some((index, shard.silent));
            }
        }
        None
    }
}

/// Formats a time for people, to a tenth of a second.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// How long a shard may be silent before the server reports itself unhealthy.
const STALL_UNHEALTHY: Duration = Duration::from_secs(2);
/// How often the shards' heartbeats are read.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The most time that one look counts, however long ago the last one was. The process may have been stopped since, and
/// the shards with it.
const STEP_MAX: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = LOOK_INTERVAL;

    fn watchdog(stall_timeout: Duration) -> (Watchdog, Vec<Arc<ShardMetrics>>, Arc<Health>) {
        let shards = vec![Arc::new(ShardMetrics::default()), Arc::new(ShardMetrics::default())];
        let health = Arc::new(Health::default());
        (Watchdog::new(&shards, health.clone(), stall_timeout), shards, health)
    }

    /// Ticks until `done`. Returns how long that took by the watchdog's clock.
    fn tick_until(watchdog: &mut Watchdog, beating: &ShardMetrics, done: impl Fn() -> bool) -> Duration {
        let mut time = Duration::ZERO;
        while !done() {
            time += TICK;
            assert!(time < Duration::from_secs(60));
            beating.heartbeats.add(1);
            assert_eq!(watchdog.look(TICK), None);
        }
        time
    }

    #[test]
    fn a_stalled_shard_is_reported_until_it_recovers() {
        let (mut watchdog, shards, health) = watchdog(Duration::ZERO);
        let time = tick_until(&mut watchdog, &shards[0], || health.fault().is_some());
        assert_eq!(time, STALL_UNHEALTHY);
        let fault = health.fault().unwrap();
        assert!(fault.contains('1') && fault.contains("event loop stalled for 2.0 s"), "{fault}");
        shards[1].heartbeats.add(1);
        watchdog.look(TICK);
        assert_eq!(health.fault(), None);
        assert_eq!(tick_until(&mut watchdog, &shards[0], || health.fault().is_some()), STALL_UNHEALTHY);
    }

    #[test]
    fn a_shard_has_stalled_after_the_timeout_unless_it_has_ended() {
        let (mut watchdog, shards, _) = watchdog(Duration::from_secs(3));
        for _ in 1..30 {
            shards[1].heartbeats.add(1);
            assert_eq!(watchdog.look(TICK), None);
        }
        assert_eq!(watchdog.look(TICK), Some((0, Duration::from_secs(3))));
        watchdog.leave(0);
        assert_eq!(watchdog.look(TICK), None);
    }

    #[test]
    fn time_during_which_the_watchdog_did_not_run_does_not_count() {
        let (mut watchdog, shards, health) = watchdog(Duration::from_secs(3));
        assert_eq!(watchdog.look(Duration::from_secs(3600)), None);
        assert_eq!(health.fault(), None);
        shards.iter().for_each(|shard| shard.heartbeats.add(1));
        for _ in 0..9 {
            assert_eq!(watchdog.look(Duration::from_secs(3600)), None, "nine steps of 200 ms at most");
        }
        assert_eq!(health.fault(), None);
    }
}
