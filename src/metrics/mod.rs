//! What is counted: one catalogue, one set of counters a shard, summed when somebody asks.
//!
//! A shard alone writes its counters, with a plain load and store (0.7 ns; a shared `fetch_add` takes
//! 26), and they stand on cache lines that no other shard writes. Readers may see one counter a
//! moment before another.
//!
//! To add a metric: an entry in the catalogue below, and one call at its site. Names follow
//! Prometheus' conventions: what only counts up ends in `_total`, everything else is a gauge. What ends
//! in `_seconds` is kept in milliseconds and shown in seconds.
//!
//! * [`label`]: what counters are told apart by.
//! * [`histogram`]: latencies and sizes.
//! * [`exposition`]: all of it as text, with Linux's figures about the process ([`process`]).

pub mod exposition;
pub mod histogram;
pub mod label;
pub mod process;

use std::borrow::Borrow;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{Histogram, Latency, Sizes};
pub use label::Label;
use label::Unlabelled;
pub use label::{AcceptError, CloseReason};

use crate::proto::{AckResult, Kind, Reason};

/// A number that one thread changes and any thread may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the shard that owns the counter may call it.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Takes `count` off a gauge. Only the shard that owns it may call it.
    #[inline]
    pub fn subtract(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
    }

    /// Sets a gauge. Only the shard that owns it may call it.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter for each value of a label.
#[derive(Debug)]
pub struct Counters<L, const N: usize> {
    counters: [Counter; N],
    label: PhantomData<fn(L)>,
}

impl<L, const N: usize> Default for Counters<L, N> {
    fn default() -> Self {
        Counters { counters: std::array::from_fn(|_| Counter::default()), label: PhantomData }
    }
}

impl<L: Label, const N: usize> Counters<L, N> {
    /// The counter of one value of the label.
    #[inline]
    pub fn of(&self, value: L) -> &Counter {
        &self.counters[value.index()]
    }

    /// The sum over all values.
    pub fn sum(&self) -> u64 {
        self.counters.iter().map(Counter::get).sum()
    }

    /// What was counted, by name: `unknown_command=3 ...`; nothing of what is 0.
    pub fn by_name(&self) -> String {
        let counted = L::ALL.iter().map(|value| (value.name(), self.of(*value).get())).filter(|(_, count)| *count > 0);
        counted.map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(" ")
    }
}

/// Without a label it is one counter.
impl std::ops::Deref for Counters<Unlabelled, 1> {
    type Target = Counter;

    fn deref(&self) -> &Counter {
        &self.counters[0]
    }
}

/// One entry of the catalogue.
struct Family {
    name: &'static str,
    help: &'static str,
    /// Whether each shard is shown by itself; otherwise their sum.
    per_shard: bool,
    label: &'static str,
    value: fn(usize) -> &'static str,
    counters: fn(&ShardMetrics) -> &[Counter],
}

const PER_SHARD: bool = true;
const SUMMED: bool = false;

macro_rules! catalogue {
    ($(#[doc = $help:literal] $field:ident: $label:ty => $name:literal, $per_shard:expr;)+) => {
        /// One shard's counters.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardMetrics {
            $(#[doc = $help] pub $field: Counters<$label, { <$label as Label>::ALL.len() }>,)+
            /// From the end of the receive that completed a request to the end of the send of its ack.
            pub latency: Latency,
            /// From the sealing of a commit to the end of its sync.
            pub commit_latency: Latency,
            /// Bytes of commits, padding included.
            pub commit_sizes: Sizes,
        }

        const CATALOGUE: &[Family] = &[$(Family {
            name: $name,
            help: $help,
            per_shard: $per_shard,
            label: <$label as Label>::NAME,
            value: |index| <$label as Label>::ALL[index].name(),
            counters: |metrics| &metrics.$field.counters,
        },)+];
    };
}

catalogue! {
    /// Connections that are open.
    connections_open: Unlabelled => "ringpost_connections_open", PER_SHARD;
    /// Connections that the shard serves or has served, and those that it turned away.
    connections_accepted: Unlabelled => "ringpost_connections_total", PER_SHARD;
    /// Connections that the shard accepted and handed to another one, which had fewer.
    connections_moved: Unlabelled => "ringpost_connections_moved_total", PER_SHARD;
    /// Connections that have ended, by the reason.
    connections_closed: CloseReason => "ringpost_connections_closed_total", SUMMED;
    /// Accepts that failed, by the error.
    accept_errors: AcceptError => "ringpost_accept_errors_total", SUMMED;
    /// Requests received whole, and frames over the limit, by their kind.
    requests: Kind => "ringpost_requests_total", PER_SHARD;
    /// Acks handed to the kernel, by what they said.
    acks: AckResult => "ringpost_acks_total", SUMMED;
    /// Bytes received.
    bytes_received: Unlabelled => "ringpost_received_bytes_total", SUMMED;
    /// Bytes of acks handed to the kernel.
    bytes_sent: Unlabelled => "ringpost_sent_bytes_total", SUMMED;
    /// Frames that broke the protocol, by the reason. Each cost its connection.
    frames_rejected: Reason => "ringpost_frames_rejected_total", SUMMED;
    /// Bytes that the buffers of all connections take, for reading and for acks.
    buffer_bytes: Unlabelled => "ringpost_buffer_bytes", PER_SHARD;
    /// What `--max-memory` leaves each shard for its buffers, in bytes; 0 where there is no limit.
    buffer_limit_bytes: Unlabelled => "ringpost_buffer_limit_bytes", PER_SHARD;
    /// Times that a connection waited for buffer memory in the middle of a frame.
    memory_waits: Unlabelled => "ringpost_memory_waits_total", PER_SHARD;
    /// Times that the shard has looked for deadlines that have passed, about four a second: its heartbeat.
    heartbeats: Unlabelled => "ringpost_heartbeats_total", PER_SHARD;
    /// Messages that are on disk.
    journal_records: Unlabelled => "ringpost_journal_records_total", PER_SHARD;
    /// Bytes of messages that wait for their commit to be written.
    journal_gathered_bytes: Unlabelled => "ringpost_journal_gathered_bytes", PER_SHARD;
    /// Bytes of messages in commits that are being written.
    journal_in_flight_bytes: Unlabelled => "ringpost_journal_in_flight_bytes", PER_SHARD;
    /// How long the oldest message has waited that is not on disk yet, in seconds; 0 for none.
    journal_oldest_unsynced_ms: Unlabelled => "ringpost_journal_oldest_unsynced_seconds", PER_SHARD;
    /// Segments that this start has made.
    journal_segments: Unlabelled => "ringpost_journal_segments_total", PER_SHARD;
    /// Those of them that retention had let go, so that they needed no filling.
    journal_segments_recycled: Unlabelled => "ringpost_journal_segments_recycled_total", PER_SHARD;
    /// Free bytes of the journal's file system.
    journal_free_bytes: Unlabelled => "ringpost_journal_free_bytes", PER_SHARD;
    /// Whether the journal takes messages: 0 it does, 1 it has no room, 2 it has failed.
    journal_condition: Unlabelled => "ringpost_journal_condition", PER_SHARD;
    /// Lines about peers' faults that were not written, to keep the log readable.
    fault_lines_suppressed: Unlabelled => "ringpost_log_lines_suppressed_total", SUMMED;
}

impl ShardMetrics {
    /// The sums over `shards`.
    pub fn sum<M: Borrow<ShardMetrics>>(shards: &[M]) -> ShardMetrics {
        let sums = ShardMetrics::default();
        for shard in shards {
            let shard = shard.borrow();
            for family in CATALOGUE {
                for (sum, counter) in (family.counters)(&sums).iter().zip((family.counters)(shard)) {
                    sum.add(counter.get());
                }
            }
            sums.latency.add_all(&shard.latency);
            sums.commit_latency.add_all(&shard.commit_latency);
            sums.commit_sizes.add_all(&shard.commit_sizes);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_sum_up() {
        let shards = [ShardMetrics::default(), ShardMetrics::default()];
        for (shard, count) in shards.iter().zip([3, 4]) {
            shard.requests.of(Kind::Submit).add(count);
            shard.frames_rejected.of(Reason::Truncated).add(1);
            shard.latency.record(std::time::Duration::from_micros(5), count);
        }
        let sums = ShardMetrics::sum(&shards);
        assert_eq!((sums.requests.of(Kind::Submit).get(), sums.requests.of(Kind::Conn).get()), (7, 0));
        assert_eq!(sums.requests.sum(), 7);
        assert_eq!(sums.frames_rejected.by_name(), "truncated_frame=2");
        assert_eq!(sums.latency.count(), 7);
    }

    #[test]
    fn shards_do_not_share_a_cache_line() {
        assert_eq!(align_of::<ShardMetrics>(), 128);
    }
}
