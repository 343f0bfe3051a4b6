//! What the service manager is told while a server runs: that every shard turns, how many clients there are,
//! and the start of a drain that nobody asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Notifier;
use crate::health::Health;
use crate::metrics::ShardMetrics;

/// Tells until the server drains. The manager's watchdog is fed at half of its time, and only once every shard has
/// turned since it was fed last: one that hangs is enough for it to run out. A journal that has failed is none of its
/// business; the other shards serve on. Cancel-safe.
pub async fn report(notifier: Arc<Notifier>, shards: Vec<Arc<ShardMetrics>>, health: Arc<Health>) {
    let mut pulse = Pulse::new(&shards);
    let mut feed_next = Instant::now();
    let mut status = Status { told: Instant::now(), requests: requests(&shards), text: String::new() };
    while !health.is_draining() {
        sleep(LOOK_INTERVAL).await;
        let now = Instant::now();
        if let Some(interval) = notifier.watchdog.filter(|_| now >= feed_next && pulse.beats(&shards)) {
            notifier.alive();
            feed_next = now + interval / 2;
        }
        let since = now - status.told;
        if since >= STATUS_INTERVAL && status.changes(&shards, &health, since) {
            notifier.status(&status.text);
        }
    }
    notifier.stopping();
}

/// The heartbeats of all shards when every one of them was last seen to have changed.
struct Pulse(Vec<u64>);

impl Pulse {
    fn new(shards: &[Arc<ShardMetrics>]) -> Pulse {
        Pulse(shards.iter().map(|shard| shard.heartbeats.get()).collect())
    }

    /// Whether every shard has turned since this was last true.
    fn beats(&mut self, shards: &[Arc<ShardMetrics>]) -> bool {
        let now = Pulse::new(shards);
        let all = now.0.iter().zip(&self.0).all(|(now, then)| now != then);
        if all {
            *self = now;
        }
        all
    }
}

/// What was told last, and when.
struct Status {
    told: Instant,
    requests: u64,
    text: String,
}

impl Status {
    /// Whether there is something else to tell than the last time, which was so long ago.
    fn changes(&mut self, shards: &[Arc<ShardMetrics>], health: &Health, since: Duration) -> bool {
        let requests = requests(shards);
        let rate = (requests - self.requests) as f64 / since.as_secs_f64();
        let open: u64 = shards.iter().map(|shard| shard.connections_open.get()).sum();
        let load = format!("{open} connections, {rate:.0} requests a second");
        let text = match health.not_ready() {
            None => format!("Serving {load}"),
            Some(why) => format!("Not ready: {why}; {load}"),
        };
        self.told += since;
        self.requests = requests;
        let changes = text != self.text;
        self.text = text;
        changes
    }
}

fn requests(shards: &[Arc<ShardMetrics>]) -> u64 {
    shards.iter().map(|shard| shard.requests.sum()).sum()
}

/// How often the shards' heartbeats are read.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The shortest time between two status messages.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Kind;

    fn shards() -> Vec<Arc<ShardMetrics>> {
        vec![Arc::default(), Arc::default()]
    }

    #[test]
    fn one_shard_that_hangs_is_enough() {
        let shards = shards();
        let mut pulse = Pulse::new(&shards);
        assert!(!pulse.beats(&shards));
        shards[0].heartbeats.add(1);
        assert!(!pulse.beats(&shards));
        shards[1].heartbeats.add(1);
        assert!(pulse.beats(&shards), "each since the last time, not both at once");
        shards[1].heartbeats.add(1);
        assert!(!pulse.beats(&shards));
    }

    #[test]
    fn a_status_is_told_again_only_if_it_is_another() {
        let (shards, health) = (shards(), Health::default());
        let mut status = Status { told: Instant::now(), requests: 0, text: String::new() };
        shards[0].connections_open.set(3);
        shards[1].requests.of(Kind::Submit).add(40);
        assert!(status.changes(&shards, &health, Duration::from_secs(4)));
        assert_eq!(status.text, "Serving 3 connections, 10 requests a second");
        assert!(status.changes(&shards, &health, Duration::from_secs(4)));
        assert_eq!(status.text, "Serving 3 connections, 0 requests a second");
        assert!(!status.changes(&shards, &health, Duration::from_secs(4)));
        health.refuses(1, Some("has no room".into()));
        assert!(status.changes(&shards, &health, Duration::from_secs(4)));
        assert_eq!(status.text, "Not ready: worker 1 has no room; 3 connections, 0 requests a second");
    }
}
