//! Notices a shard that has stalled: one whose thread runs but does not turn any more.
//!
//! Each shard counts its sweeps, and these are its heartbeat: nothing is added to the path of a
//! request. The watchdog looks at them from a thread that is no shard's. It owns the judgement, and
//! leaves to its caller what follows from it.
//!
//! Its invariant: only time in which the watchdog itself ran counts. A process that was stopped, or a
//! virtual machine that was suspended, wakes up with no shard to blame.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::warn;

use crate::health::Health;
use crate::metrics::ShardMetrics;

/// Watches the shards of one server.
pub struct Watchdog {
    shards: Vec<Watched>,
    health: Arc<Health>,
    /// After how much silence a shard has stalled; zero for never.
    stall_timeout: Duration,
    last_look: Instant,
}

struct Watched {
    metrics: Arc<ShardMetrics>,
    /// Its heartbeats at the last look.
    heartbeats: u64,
    /// Time that the watchdog has run since these changed.
    silent: Duration,
    /// Whether its end is known otherwise, or is no fault.
    gone: bool,
}

impl Watchdog {
    /// Watches from now on.
    pub fn new(shards: &[Arc<ShardMetrics>], health: Arc<Health>, stall_timeout: Duration) -> Self {
        let watched = |metrics: &Arc<ShardMetrics>| Watched {
            metrics: metrics.clone(),
            heartbeats: metrics.heartbeats.get(),
            silent: Duration::ZERO,
            gone: false,
        };
        Watchdog { shards: shards.iter().map(watched).collect(), health, stall_timeout, last_look: Instant::now() }
    }

    /// Looks no more at this shard.
    pub fn leave(&mut self, shard: usize) {
        self.shards[shard].gone = true;
    }

    /// Watches until a shard has stalled, and returns its index and for how long it has been silent.
    /// Cancel-safe; what happens between two calls is made up for by the clamp on each step.
    pub async fn stalled(&mut self) -> (usize, Duration) {
        loop {
            sleep(LOOK_INTERVAL).await;
            let now = Instant::now();
            let elapsed = now - self.last_look;
            self.last_look = now;
            if let Some(stalled) = self.look(elapsed) {
                return stalled;
            }
        }
    }

    /// Looks at every shard, `elapsed` after the last look.
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
                let fault = format!("has not turned for {}", seconds(shard.silent));
                warn!("worker {index} {fault}: unhealthy");
                self.health.report(index, Some(fault));
            } else if !was_well && shard.silent < STALL_UNHEALTHY {
                warn!("worker {index} turns again after {}: healthy", seconds(before));
                self.health.report(index, None);
            }
            if !self.stall_timeout.is_zero() && shard.silent >= self.stall_timeout {
                return Some((index, shard.silent));
            }
        }
        None
    }
}

/// A time as people read it, to a tenth of a second.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// How long a shard may give no sign of life before the server reports itself unhealthy.
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

    /// Ticks until `done`, and returns how long that took by the watchdog's clock.
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
    fn a_silent_shard_is_named_and_a_recovered_one_is_well() {
        let (mut watchdog, shards, health) = watchdog(Duration::ZERO);
        let time = tick_until(&mut watchdog, &shards[0], || health.fault().is_some());
        assert_eq!(time, STALL_UNHEALTHY);
        assert_eq!(health.fault().unwrap(), "worker 1 has not turned for 2.0 s");
        shards[1].heartbeats.add(1);
        watchdog.look(TICK);
        assert_eq!(health.fault(), None);
        assert_eq!(tick_until(&mut watchdog, &shards[0], || health.fault().is_some()), STALL_UNHEALTHY);
    }

    #[test]
    fn after_the_timeout_it_has_stalled_unless_it_is_gone() {
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
    fn time_in_which_the_watchdog_did_not_run_does_not_count() {
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
