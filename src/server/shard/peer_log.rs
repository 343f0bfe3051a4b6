//! Log lines about faults of peers, of which a shard writes a bounded number per second.
//!
//! Peers can cause faults as often as they like. The limit keeps a flood of faults from flooding the log. Suppressed
//! lines are counted, and so is every fault.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::clock;
use crate::metrics::{CloseReason, Label, ShardMetrics};
use crate::proto::Violation;
use crate::tls::{Fault, FaultReason};

/// The log of one shard's peers.
pub struct PeerLog {
    shard: usize,
    metrics: Arc<ShardMetrics>,
    /// The start of the current second, and the lines asked for in it.
    second: Cell<Option<Instant>>,
    lines: Cell<u32>,
}

impl PeerLog {
    /// Creates the log of a shard.
    pub fn new(shard: usize, metrics: Arc<ShardMetrics>) -> Self {
        PeerLog { shard, metrics, second: Cell::default(), lines: Cell::default() }
    }

    /// Returns whether a line about a peer may be written now. Counts the line as suppressed if not.
    pub fn may_log(&self) -> bool {
        self.may_log_at(clock::now())
    }

    fn may_log_at(&self, now: Instant) -> bool {
        if self.second.get().is_none_or(|start| now.duration_since(start) >= Duration::from_secs(1)) {
            self.second.set(Some(now));
            self.lines.set(0);
        }
        self.lines.set(self.lines.get() + 1);
        let allowed = self.lines.get() <= FAULT_LINES_PER_SECOND;
        self.metrics.fault_lines_suppressed.add(u64::from(!allowed));
        allowed
    }

    /// Counts and logs a peer's violation of the protocol.
    pub fn violation(&self, peer: SocketAddr, violation: &Violation) {
        let reason = violation.reason();
        self.metrics.frames_rejected.of(reason).add(1);
        if self.may_log() {
            warn!(%peer, shard = self.shard, reason = reason.name(), "closing a connection: {violation}");
        }
    }

    /// Counts and logs that TLS has failed.
    pub fn tls_failed(&self, peer: SocketAddr, fault: &Fault) {
        self.metrics.tls_failures.of(fault.reason).add(1);
        if self.may_log() {
            let advice = match fault.reason {
                FaultReason::NotTls => " (--tls allow serves clients without TLS)",
                FaultReason::Version => " (--tls-min 1.2 accepts older clients)",
                FaultReason::Protocol => " (clients may offer `ringpost`, or nothing)",
                FaultReason::Certificate => " (--tls-client-ca, --tls-crl)",
                FaultReason::Timeout => " (--tls-handshake-timeout, --tls-handshakes-max)",
                _ => "",
            };
            warn!(%peer, shard = self.shard, reason = fault.reason.name(), "closing a connection: {fault}{advice}");
        }
    }

    /// Logs that the kernel has given up a connection for this reason.
    pub fn vanished(&self, peer: SocketAddr, reason: CloseReason) {
        let complaint = match reason {
            CloseReason::Keepalive => "the peer no longer answers (--tcp-keepalive)",
            _ => "the peer's host did not acknowledge its acks (--write-timeout)",
        };
        self.closing(peer, reason, complaint);
    }

    /// Logs why a connection is being closed.
    pub fn closing(&self, peer: SocketAddr, reason: CloseReason, complaint: &str) {
        if self.may_log() {
            warn!(%peer, shard = self.shard, reason = reason.name(), "closing a connection: {complaint}");
        }
    }
}

/// The number of lines per second that one shard logs about its peers' faults. Further lines are only counted.
const FAULT_LINES_PER_SECOND: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_faults_writes_a_bounded_number_of_lines_per_second() {
        let log = PeerLog::new(0, Arc::default());
        let start = Instant::now();
        let allowed = |millis| (0..1000).filter(|_| log.may_log_at(start + Duration::from_millis(millis))).count();
        let most = FAULT_LINES_PER_SECOND as usize;
        assert_eq!((allowed(0), allowed(999), allowed(1000)), (most, 0, most));
        assert_eq!(log.metrics.fault_lines_suppressed.get(), 3000 - 2 * u64::from(FAULT_LINES_PER_SECOND));
    }
}
