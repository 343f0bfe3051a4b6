//! The catalogue of all metrics, and the counters of a shard, which are made from it.
//!
//! Owns the metrics' names, help texts and labels. It must not know how they are shown. Invariant: a shard's counters
//! are on cache lines that no other shard writes.
//!
//! To add a metric, add an entry to the catalogue and one call where the event happens. Names follow Prometheus'
//! conventions: a counter ends in `_total`, and everything else is a gauge. A metric that ends in `_seconds` is kept in
//! milliseconds and shown in seconds.

use std::borrow::Borrow;

use super::counter::{Counter, Counters};
use super::histogram::{Latency, Sizes};
use super::label::{AcceptError, CloseReason, Label, TlsVersion, Unlabelled};
use crate::proto::{AckResult, Kind, Reason};
use crate::tls::FaultReason;

/// One entry of the catalogue.
pub(super) struct Family {
    /// The metric's name.
    pub(super) name: &'static str,
    /// The help text.
    pub(super) help: &'static str,
    /// Whether each shard is shown by itself. Otherwise their sum is shown.
    pub(super) per_shard: bool,
    /// The label's name, or an empty string.
    pub(super) label: &'static str,
    /// Returns the label's value for a counter.
    pub(super) value: fn(usize) -> &'static str,
    /// Returns a shard's counters, one for each value of the label.
    pub(super) counters: fn(&ShardMetrics) -> &[Counter],
}

const PER_SHARD: bool = true;
const SUMMED: bool = false;

macro_rules! catalogue {
    ($(#[doc = $help:literal] $field:ident: $label:ty => $name:literal, $per_shard:expr;)+) => {
        /// The metrics of one shard.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardMetrics {
            $(#[doc = $help] pub $field: Counters<$label, { <$label as Label>::ALL.len() }>,)+
            /// Times from the end of the receive that completed a request to the end of the send of its ack.
            pub latency: Latency,
            /// Times from a client's first byte to the end of its TLS handshake.
            pub tls_handshake_times: Latency,
            /// Times from the sealing of a commit to the end of its sync.
            pub commit_latency: Latency,
            /// Bytes of commits, including padding.
            pub commit_sizes: Sizes,
        }

        /// All metrics that are counters or gauges of a shard.
        pub(super) const CATALOGUE: &[Family] = &[$(Family {
            name: $name,
            help: $help,
            per_shard: $per_shard,
            label: <$label as Label>::NAME,
            value: |index| <$label as Label>::ALL[index].name(),
            counters: |metrics| metrics.$field.all(),
        },)+];
    };
}

catalogue! {
    /// Open connections.
    connections_open: Unlabelled => "ringpost_connections_open", PER_SHARD;
    /// Connections that a shard has served or refused.
    connections_accepted: Unlabelled => "ringpost_connections_total", PER_SHARD;
    /// Connections that a shard accepted and handed to a shard with fewer connections.
    connections_moved: Unlabelled => "ringpost_connections_moved_total", PER_SHARD;
    /// Closed connections, by reason.
    connections_closed: CloseReason => "ringpost_connections_closed_total", SUMMED;
    /// Failed accepts, by error.
    accept_errors: AcceptError => "ringpost_accept_errors_total", SUMMED;
    /// Complete requests received, by kind. Requests refused for their size are included.
    requests: Kind => "ringpost_requests_total", PER_SHARD;
    /// Acks passed to the kernel, by result.
    acks: AckResult => "ringpost_acks_total", SUMMED;
    /// Bytes received.
    bytes_received: Unlabelled => "ringpost_received_bytes_total", SUMMED;
    /// Bytes passed to the kernel: acks, and whatever TLS adds to them.
    bytes_sent: Unlabelled => "ringpost_sent_bytes_total", SUMMED;
    /// Frames that violated the protocol, by reason. Each of these closed its connection.
    frames_rejected: Reason => "ringpost_frames_rejected_total", SUMMED;
    /// Complete TLS handshakes, by version of TLS.
    tls_handshakes: TlsVersion => "ringpost_tls_handshakes_total", SUMMED;
    /// Connections that failed because of TLS, in the handshake or later, by reason.
    tls_failures: FaultReason => "ringpost_tls_failures_total", SUMMED;
    /// TLS connections that the client ended without a close_notify.
    tls_truncated: Unlabelled => "ringpost_tls_truncated_total", SUMMED;
    /// TLS records with payload that were received.
    tls_records_received: Unlabelled => "ringpost_tls_records_received_total", SUMMED;
    /// TLS records with acks that were sent.
    tls_records_sent: Unlabelled => "ringpost_tls_records_sent_total", SUMMED;
    /// Memory of all connections' read and ack buffers and of their TLS, in bytes.
    buffer_bytes: Unlabelled => "ringpost_buffer_bytes", PER_SHARD;
    /// Limit of a shard's buffers, derived from `--max-memory`, in bytes. 0 means no limit.
    buffer_limit_bytes: Unlabelled => "ringpost_buffer_limit_bytes", PER_SHARD;
    /// Times that a connection waited for buffer memory in the middle of a frame.
    memory_waits: Unlabelled => "ringpost_memory_waits_total", PER_SHARD;
    /// Heartbeats of a shard's event loop, about four per second. The loop beats when it looks for passed deadlines.
    heartbeats: Unlabelled => "ringpost_heartbeats_total", PER_SHARD;
    /// Messages that this process made durable in the journal.
    journal_records: Unlabelled => "ringpost_journal_records_total", PER_SHARD;
    /// Bytes of messages that wait until their commit is written.
    journal_gathered_bytes: Unlabelled => "ringpost_journal_gathered_bytes", PER_SHARD;
    /// Bytes of messages in commits that are being written.
    journal_in_flight_bytes: Unlabelled => "ringpost_journal_in_flight_bytes", PER_SHARD;
    /// Age of the oldest message that is not yet durable, in seconds. 0 means that all messages are durable.
    journal_oldest_unsynced_ms: Unlabelled => "ringpost_journal_oldest_unsynced_seconds", PER_SHARD;
    /// Segments created since the server started.
    journal_segments: Unlabelled => "ringpost_journal_segments_total", PER_SHARD;
    /// Segments created by reusing an expired segment instead of zero-filling a new file.
    journal_segments_recycled: Unlabelled => "ringpost_journal_segments_recycled_total", PER_SHARD;
    /// Free bytes of the journal's file system.
    journal_free_bytes: Unlabelled => "ringpost_journal_free_bytes", PER_SHARD;
    /// State of the journal: 0 accepts messages, 1 has no free space, 2 has failed.
    journal_condition: Unlabelled => "ringpost_journal_condition", PER_SHARD;
    /// Log lines about clients' faults that were suppressed to keep the log readable.
    fault_lines_suppressed: Unlabelled => "ringpost_log_lines_suppressed_total", SUMMED;
}

impl ShardMetrics {
    /// Returns the sums over `shards`.
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
            sums.tls_handshake_times.add_all(&shard.tls_handshake_times);
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
    fn sum_adds_all_shards() {
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
