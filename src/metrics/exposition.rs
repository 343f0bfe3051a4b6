//! Renders the metrics as text for Prometheus (format version 0.0.4): the catalogue, and figures about the process.
//!
//! Owns the format. It must not know how a metric is counted. Invariant: every series exists from the start, with 0 if
//! nothing has happened yet, so that a rate or an alert has a first value.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::catalogue::{CATALOGUE, Family, ShardMetrics};
use super::histogram::Histogram;
use super::label::{Label, ReloadResult};
use super::process::ProcessFiles;
use super::tls_files::TlsFileFigures;

/// Facts about the process that no shard counts.
pub struct ProcessFacts<'a> {
    /// The engine's name.
    pub engine: &'static str,
    /// Why the process uses this engine, as one word.
    pub engine_reason: &'static str,
    /// The start time of the process.
    pub started: SystemTime,
    /// The process's files in `/proc`.
    pub files: &'a ProcessFiles,
    /// Figures about the files of TLS.
    pub tls_files: &'a TlsFileFigures,
    /// Log lines that could not be written.
    pub log_lines_dropped: u64,
}

/// The media type of the text that [`render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the text of one scrape.
pub fn render(shards: &[Arc<ShardMetrics>], facts: &ProcessFacts<'_>) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    let sums = ShardMetrics::sum(shards);
    for family in CATALOGUE {
        page.head(family.name, family.kind(), family.help);
        if family.per_shard {
            for (index, shard) in shards.iter().enumerate() {
                page.family(family, Some(index), shard);
            }
        } else {
            page.family(family, None, &sums);
        }
    }
    let help = "Time from the end of the receive that completed a request to the end of the send of its ack.";
    page.histogram("ringpost_ack_latency_seconds", help, &sums.latency, NANOS_PER_SECOND);
    let help = "Time from a client's first byte to the end of its TLS handshake.";
    page.histogram("ringpost_tls_handshake_seconds", help, &sums.tls_handshake_times, NANOS_PER_SECOND);
    let help = "Time from the sealing of a journal commit to the end of its sync.";
    page.histogram("ringpost_journal_commit_seconds", help, &sums.commit_latency, NANOS_PER_SECOND);
    let help = "Bytes of a journal commit, including padding.";
    page.histogram("ringpost_journal_commit_bytes", help, &sums.commit_sizes, 1.0);
    page.tls_files(facts.tls_files);
    page.process(facts.started, facts.files);
    let help = "Log lines dropped because stderr failed or was too slow.";
    page.single("ringpost_log_lines_dropped_total", "counter", help, facts.log_lines_dropped);
    page.head("ringpost_engine_info", "gauge", "Always 1. The labels are the shards' engine and the reason for it.");
    page.sample("ringpost_engine_info", &[("engine", facts.engine), ("reason", facts.engine_reason)], 1);
    page.head("ringpost_build_info", "gauge", "Always 1. The label is the server's version.");
    page.sample("ringpost_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.0
}

impl Family {
    fn kind(&self) -> &'static str {
        if self.name.ends_with("_total") { "counter" } else { "gauge" }
    }

    /// Returns whether the metric is kept in milliseconds and shown in seconds.
    fn in_seconds(&self) -> bool {
        self.name.ends_with("_seconds")
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {}", help.trim()));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// Adds one sample. No label's value contains a character that must be escaped.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        if labels.is_empty() {
            return self.line(format_args!("{name} {value}"));
        }
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string can't fail");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }

    fn family(&mut self, family: &Family, shard: Option<usize>, metrics: &ShardMetrics) {
        let shard = shard.map(|index| index.to_string());
        for (index, counter) in (family.counters)(metrics).iter().enumerate() {
            let mut labels = Vec::new();
            if let Some(shard) = &shard {
                labels.push(("shard", shard.as_str()));
            }
            if !family.label.is_empty() {
                labels.push((family.label, (family.value)(index)));
            }
            match counter.get() {
                millis if family.in_seconds() => {
                    self.sample(family.name, &labels, millis as f64 / MILLIS_PER_SECOND);
                }
                count => self.sample(family.name, &labels, count),
            }
        }
    }

    /// Adds a histogram. `scale` is the number of the values' units in one unit of the metric: 1e9 if nanoseconds are
    /// shown as seconds.
    fn histogram<const UNIT: u64, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        histogram: &Histogram<UNIT, N>,
        scale: f64,
    ) {
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for (bound, count) in histogram.cumulative() {
            self.sample(&bucket, &[("le", &(bound as f64 / scale).to_string())], count);
        }
        let count = histogram.count();
        self.sample(&bucket, &[("le", "+Inf")], count);
        self.sample(&format!("{name}_sum"), &[], histogram.sum() as f64 / scale);
        self.sample(&format!("{name}_count"), &[], count);
    }

    fn tls_files(&mut self, files: &TlsFileFigures) {
        let help = "End of the TLS certificate, in seconds since 1970. +Inf without TLS.";
        let expiry = files.expiry();
        let expiry = if expiry.is_finite() { expiry.to_string() } else { "+Inf".into() };
        self.single("ringpost_tls_certificate_expiry_time_seconds", "gauge", help, expiry);
        let name = "ringpost_tls_reloads_total";
        self.head(name, "counter", "Attempts to use changed TLS files, by result.");
        for result in ReloadResult::ALL {
            let labels = [(ReloadResult::NAME, result.name())];
            self.sample(name, &labels, files.reloads.of(*result).get());
        }
        let help = "1 if the TLS files can't be used in their present state, so that the server continues with their \
                    previous contents.";
        self.single("ringpost_tls_reload_failing", "gauge", help, files.failing.get());
    }

    /// Adds the figures that every Prometheus client library shows about its process, under the usual names. A figure
    /// that `/proc` does not have is omitted.
    fn process(&mut self, started: SystemTime, files: &ProcessFiles) {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        self.single("process_cpu_seconds_total", "counter", "User and system CPU time used, in seconds.", cpu_seconds);
        if let Ok(since) = started.duration_since(SystemTime::UNIX_EPOCH) {
            let help = "Start time of the process, in seconds since 1970.";
            self.single("process_start_time_seconds", "gauge", help, since.as_secs_f64());
        }
        if let Some(bytes) = files.resident_bytes() {
            self.single("process_resident_memory_bytes", "gauge", "Resident memory in bytes.", bytes);
        }
        if let Some(open) = files.open_descriptors() {
            self.single("process_open_fds", "gauge", "Open file descriptors.", open);
        }
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            self.single("process_max_fds", "gauge", "Limit of open file descriptors.", limit);
        }
    }
}

const NANOS_PER_SECOND: f64 = 1e9;
const MILLIS_PER_SECOND: f64 = 1e3;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::CloseReason;
    use crate::proto::Kind;

    #[test]
    fn the_text_has_the_format_of_prometheus() {
        let shards = [Arc::new(ShardMetrics::default()), Arc::new(ShardMetrics::default())];
        shards[0].requests.of(Kind::Submit).add(3);
        shards[1].connections_closed.of(CloseReason::Reset).add(2);
        shards[1].latency.record(Duration::from_micros(3), 7);
        shards[1].journal_oldest_unsynced_ms.set(1250);
        let facts = ProcessFacts {
            engine: "uring",
            engine_reason: "available",
            started: SystemTime::now(),
            files: &ProcessFiles::open(),
            tls_files: &TlsFileFigures::default(),
            log_lines_dropped: 5,
        };
        let page = render(&shards, &facts);
        for line in [
            "# HELP ringpost_requests_total Complete requests received, by kind. Requests refused for their size are \
             included.",
            "# TYPE ringpost_requests_total counter",
            "ringpost_requests_total{shard=\"0\",kind=\"submit\"} 3",
            "ringpost_requests_total{shard=\"1\",kind=\"conn\"} 0",
            "# TYPE ringpost_connections_open gauge",
            "ringpost_connections_open{shard=\"1\"} 0",
            "ringpost_connections_closed_total{reason=\"reset\"} 2",
            "ringpost_received_bytes_total 0",
            "ringpost_journal_oldest_unsynced_seconds{shard=\"0\"} 0",
            "ringpost_journal_oldest_unsynced_seconds{shard=\"1\"} 1.25",
            "# TYPE ringpost_ack_latency_seconds histogram",
            "ringpost_ack_latency_seconds_bucket{le=\"0.000002\"} 0",
            "ringpost_ack_latency_seconds_bucket{le=\"0.000004\"} 7",
            "ringpost_ack_latency_seconds_bucket{le=\"+Inf\"} 7",
            "ringpost_ack_latency_seconds_sum 0.000021",
            "ringpost_ack_latency_seconds_count 7",
            "ringpost_tls_certificate_expiry_time_seconds +Inf",
            "ringpost_tls_reloads_total{result=\"failure\"} 0",
            "ringpost_log_lines_dropped_total 5",
            "ringpost_engine_info{engine=\"uring\",reason=\"available\"} 1",
        ] {
            assert!(page.lines().any(|have| have == line), "no line {line:?} in\n{page}");
        }
        for name in ["cpu_seconds_total", "start_time_seconds", "resident_memory_bytes", "open_fds", "max_fds"] {
            assert!(page.contains(&format!("\nprocess_{name} ")), "{name}");
        }
    }
}
