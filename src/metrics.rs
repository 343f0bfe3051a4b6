//! What is counted: one catalogue, one set of counters a shard, summed when somebody asks.
//!
//! A shard alone writes its counters, with a plain load and store (0.7 ns; a shared `fetch_add` takes
//! 26), and they stand on cache lines that no other shard writes. Readers may see one counter a
//! moment before another.
//!
//! To add a metric: a line in the catalogue, and one call at its site.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::proto::session::Reason;

/// A number that one thread counts up and any thread may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the shard that owns the counter may call it.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! catalogue {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// One shard's counters.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardMetrics {
            $($(#[doc = $doc])+ pub $name: Counter,)+
            /// Connections closed for breaking the protocol, by [`Reason`].
            pub violations: [Counter; Reason::ALL.len()],
        }

        /// The sums over all shards.
        #[derive(Debug, Default, Clone, PartialEq, Eq)]
        pub struct Totals {
            $($(#[doc = $doc])+ pub $name: u64,)+
            /// Connections closed for breaking the protocol, by [`Reason`].
            pub violations: [u64; Reason::ALL.len()],
        }

        impl Totals {
            /// Adds one shard's counters.
            pub fn add(&mut self, shard: &ShardMetrics) {
                $(self.$name += shard.$name.get();)+
                for (sum, counter) in self.violations.iter_mut().zip(&shard.violations) {
                    *sum += counter.get();
                }
            }
        }
    };
}

catalogue! {
    /// Connections accepted.
    connections_accepted,
    /// Connections whose task has ended.
    connections_closed,
    /// Connections that the peer reset, or that failed otherwise.
    connections_reset,
    /// Connections cut because they still held on at the end of a drain.
    connections_cut,
    /// Connections whose task panicked: a fault of ours, or of the sink.
    connections_panicked,
    /// Accepts that failed.
    accept_errors,
    /// CONNs and SUBMITs answered.
    requests,
    /// Requests answered with 1.
    failures,
    /// Bytes received.
    bytes_received,
    /// Bytes of acks sent.
    bytes_sent,
    /// Fault lines that were not written, to keep the log readable.
    fault_lines_suppressed,
}

impl ShardMetrics {
    /// Counts a connection's violation.
    pub fn violation(&self, reason: Reason) {
        self.violations[reason as usize].add(1);
    }
}

impl Totals {
    /// The violations that were seen, by name: `unknown_command=3 ...`.
    pub fn violations_by_name(&self) -> String {
        let seen = Reason::ALL.iter().zip(self.violations).filter(|(_, count)| *count > 0);
        seen.map(|(reason, count)| format!("{}={count}", reason.name())).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_sum_up() {
        let (one, two) = (ShardMetrics::default(), ShardMetrics::default());
        one.requests.add(3);
        one.violation(Reason::Truncated);
        two.requests.add(4);
        two.violation(Reason::Truncated);
        let mut totals = Totals::default();
        totals.add(&one);
        totals.add(&two);
        assert_eq!((totals.requests, totals.failures), (7, 0));
        assert_eq!(totals.violations_by_name(), "truncated_frame=2");
    }

    #[test]
    fn shards_do_not_share_a_cache_line() {
        assert_eq!(align_of::<ShardMetrics>(), 128);
    }
}
