//! Notifications of a running server: signs of life, its status, and the start of a drain after a fault.
//!
//! Owns the decision when a message is due. It must not know a shard except by its metrics. Invariant: the watchdog
//! gets a sign of life only if every shard's event loop has run since the previous one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::notifier::Notifier;
use crate::health::Health;
use crate::metrics::ShardMetrics;

/// Notifies the manager until the server drains. The watchdog gets a sign of life after half of its interval, and only
/// if every shard's event loop has run since the previous one, so a single stalled shard lets the watchdog expire. A
/// failed journal does not, because the other shards continue to serve. Cancel-safe.
pub async fn report(notifier: Arc<Notifier>, shards: Vec<Arc<ShardMetrics>>, health: Arc<Health>) {
    let mut pulse = Pulse::new(&shards);
    let mut sign_due = Instant::now();
    let mut status = Status { sent: Instant::now(), requests: requests(&shards), text: String::new() };
    while !health.is_draining() {
        sleep(CHECK_INTERVAL).await;
        let now = Instant::now();
        if let Some(interval) = notifier.watchdog().filter(|_| now >= sign_due && pulse.beats(&shards)) {
            notifier.alive();
            sign_due = now + interval / 2;
        }
        let since = now - status.sent;
        if since >= STATUS_INTERVAL && status.changes(&shards, &health, since) {
            notifier.status(&status.text);
        }
    }
    notifier.stopping();
}

/// The heartbeats of all shards at the time when all of them had last changed.
struct Pulse(Vec<u64>);

impl Pulse {
    fn new(shards: &[Arc<ShardMetrics>]) -> Pulse {
        Pulse(shards.iter().map(|shard| shard.heartbeats.get()).collect())
    }

    /// Returns whether every shard's event loop has run since this was last true.
    fn beats(&mut self, shards: &[Arc<ShardMetrics>]) -> bool {
        let now = Pulse::new(shards);
        let all = now.0.iter().zip(&self.0).all(|(now, then)| now != then);
        if all {
            *self = now;
        }
        all
    }
}

/// The status that was sent last, and when.
struct Status {
    sent: Instant,
    requests: u64,
    text: String,
}

impl Status {
    /// Updates the status, and returns whether it differs from the previous one, which was sent `since` ago.
    fn changes(&mut self, shards: &[Arc<ShardMetrics>], health: &Health, since: Duration) -> bool {
        let requests = requests(shards);
        let rate = (requests - self.requests) as f64 / since.as_secs_f64();
        let open: u64 = shards.iter().map(|shard| shard.connections_open.get()).sum();
        let load = format!("{open} connections, {rate:.0} requests per second");
        let text = match health.not_ready() {
            None => format!("Serving {load}"),
            Some(why) => format!("Not ready: {why}; {load}"),
        };
        self.sent += since;
        self.requests = requests;
        let changes = text != self.text;
        self.text = text;
        changes
    }
}

fn requests(shards: &[Arc<ShardMetrics>]) -> u64 {
    shards.iter().map(|shard| shard.requests.sum()).sum()
}

/// The interval between two looks at the shards' heartbeats.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

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
    fn a_single_stalled_shard_stops_the_pulse() {
        let shards = shards();
        let mut pulse = Pulse::new(&shards);
        assert!(!pulse.beats(&shards));
        shards[0].heartbeats.add(1);
        assert!(!pulse.beats(&shards));
        shards[1].heartbeats.add(1);
        assert!(pulse.beats(&shards), "each shard counts since the last beat, even if not at the same time");
        shards[1].heartbeats.add(1);
        assert!(!pulse.beats(&shards));
    }

    #[test]
    fn a_status_is_sent_only_if_it_has_changed() {
        let (shards, health) = (shards(), Health::default());
        let mut status = Status { sent: Instant::now(), requests: 0, text: String::new() };
        shards[0].connections_open.set(3);
        shards[1].requests.of(Kind::Submit).add(40);
        assert!(status.changes(&shards, &health, Duration::from_secs(4)));
        assert_eq!(status.text, "Serving 3 connections, 10 requests per second");
        assert!(status.changes(&shards, &health, Duration::from_secs(4)));
        assert_eq!(status.text, "Serving 3 connections, 0 requests per second");
        assert!(!status.changes(&shards, &health, Duration::from_secs(4)));
        health.refuses(1, Some("no space".into()));
        assert!(status.changes(&shards, &health, Duration::from_secs(4)));
        assert_eq!(status.text, "Not ready: shard 1: no space; 3 connections, 0 requests per second");
    }
}
