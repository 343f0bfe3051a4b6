//! The report of a run.
//!
//! [`Report`] holds every number once. The table, the JSON, the CSV and the page are all written from it, so they can't
//! differ. The names of its fields are the keys of the JSON: `_us` is microseconds, `_ns` nanoseconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::connect::Connector;
use super::faults::{Fault, Faults};
use super::measured::{Measured, Second};
use super::plan::{Io, Mode, NANOS_PER_SECOND, Plan, RATE_MET_SHARE};
use super::tls::TlsFacts;
use super::usage::{CpuTime, Memory};
use crate::proto::AckCodes;
use crate::signals;

/// Everything about one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub version: &'static str,
    /// The end of the run, in UTC.
    pub finished: String,
    pub settings: Settings,
    /// The signal that ended the run early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupted_by: Option<&'static str>,
    /// The reason why the ledger could not be written completely.
    #[serde(skip)]
    pub ledger_error: Option<String>,
    /// The measured time, in seconds.
    pub seconds: f64,
    /// The number of acks that arrived in the measured time.
    pub requests: u64,
    pub requests_per_second: f64,
    /// The bytes of requests that were sent. A megabyte is 1,000,000 bytes.
    pub megabytes_per_second: f64,
    pub latency: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleReport>,
    /// The load generator's own CPU time.
    pub own_cpu: CpuReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knee: Option<KneeReport>,
    /// Full handshakes of TLS in the measured time. Only churn makes any in that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes: Option<u64>,
    /// How often churn waited for a free source port.
    pub port_waits: u64,
    pub faults: FaultReport,
    pub series: Vec<Second>,
    /// Latency by percentile, with more points towards the slow end.
    pub curve: Vec<CurvePoint>,
}

/// The settings of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    pub mode: &'static str,
    /// The server as the user named it.
    pub addr: String,
    /// The address that was connected to.
    pub target: String,
    pub connections: usize,
    pub window: usize,
    pub payload: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    pub duration_s: f64,
    pub warmup_s: f64,
    pub threads: usize,
    pub ack_codes: &'static str,
    /// The engine that drove the sockets.
    pub io: &'static str,
    /// The TLS of the connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFacts>,
}

/// The latencies of all requests that began in the measured time, until their acks.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub p9999_us: f64,
    pub max_us: f64,
}

/// Whether an open loop kept its schedule.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ScheduleReport {
    pub asked_per_second: u64,
    pub achieved_per_second: f64,
    /// Requests that were due and not sent when the measured time ended.
    pub unsent: u64,
    pub met: bool,
}

/// The CPU time of a process in the measured time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CpuReport {
    pub ns_per_request: f64,
    /// The number of busy cores: 1.0 is a core that is never idle.
    pub cores: f64,
}

/// The CPU time and memory of the server.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ServerReport {
    pub pid: u32,
    /// CPU time from the process's user and system ticks.
    pub cpu: CpuReport,
    pub user_ns_per_request: f64,
    pub system_ns_per_request: f64,
    /// CPU time from the scheduler's exact count, if it can be read.
    pub scheduled_ns_per_request: Option<f64>,
    /// The memory at the end of the measured time.
    pub memory: Memory,
}

/// The cost of idle connections.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct IdleReport {
    pub connections: usize,
    pub opening_seconds: f64,
    /// The server's memory before the first of these connections.
    pub memory_before: Option<Memory>,
    /// The server's memory while all connections were open and idle.
    pub memory_held: Option<Memory>,
    /// The growth of resident memory divided by the number of connections, in bytes.
    pub resident_per_connection: Option<f64>,
    /// The growth of anonymous memory divided by the number of connections, in bytes.
    pub anonymous_per_connection: Option<f64>,
}

/// The result of the search for the knee.
#[derive(Debug, Clone, Serialize)]
pub struct KneeReport {
    pub slo_us: f64,
    /// The highest good rate. `None` if even the lowest rate was too high.
    pub rate: Option<u64>,
    pub steps: Vec<KneeStep>,
}

/// One rate that the search for the knee tried.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct KneeStep {
    pub rate: u64,
    pub achieved_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Whether the rate was reached.
    pub met: bool,
    /// Whether the rate was reached with a p99 within the limit.
    pub good: bool,
}

/// The server's mistakes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FaultReport {
    pub total: u64,
    /// The number of faults of each kind that occurred.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Descriptions of the first faults.
    pub first: Vec<String>,
}

/// A point of the latency curve.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CurvePoint {
    /// The share of requests with at most this latency.
    pub quantile: f64,
    pub us: f64,
}

impl Report {
    /// Returns the report of a run in `mode`, which is the plan's mode except for the steps of a search for the knee.
    pub fn new(plan: &Plan, mode: Mode, connector: &Connector, measured: Measured) -> Self {
        let seconds = measured.nanos as f64 / NANOS_PER_SECOND as f64;
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let achieved = per_second(measured.acks as f64);
        let cpu = |nanos: u64| CpuReport::new(nanos, measured.acks, seconds);
        Report {
            version: env!("CARGO_PKG_VERSION"),
            finished: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            settings: Settings::new(plan, mode, connector),
            interrupted_by: signals::caught().map(signals::name),
            ledger_error: measured.ledger_error.as_ref().map(ToString::to_string),
            seconds,
            requests: measured.acks,
            requests_per_second: achieved,
            megabytes_per_second: per_second(measured.bytes as f64) / 1e6,
            latency: Latency::of(&measured.latencies),
            schedule: match mode {
                Mode::Open { rate } => Some(ScheduleReport {
                    asked_per_second: rate,
                    achieved_per_second: achieved,
                    unsent: measured.unsent,
                    // A single ack that is still in flight does not miss the schedule.
                    met: (measured.acks + 1) as f64 >= rate as f64 * seconds * RATE_MET_SHARE,
                }),
                _ => None,
            },
            own_cpu: cpu(measured.own_cpu),
            server: plan
                .pid
                .zip(measured.server)
                .map(|(pid, (time, memory))| ServerReport::new(pid, time, memory, measured.acks, seconds)),
            idle: None,
            knee: None,
            handshakes: (connector.tls_facts().is_some() && mode == Mode::Churn).then_some(measured.handshakes),
            port_waits: measured.port_waits,
            faults: FaultReport::new(&measured.faults),
            curve: curve(&measured.latencies),
            series: measured.series,
        }
    }

    /// Returns whether every request was acked correctly.
    pub fn is_sound(&self) -> bool {
        self.faults.total == 0 && self.latency.count > 0
    }

    /// Returns the whole report as JSON.
    pub fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("a report is plain data");
        json.push('\n');
        json
    }

    /// Returns the time series as CSV, with a header.
    pub fn csv(&self) -> String {
        let mut csv = String::from("second,rate,p50_us,p99_us,max_us,connections,errors\n");
        for Second { second, rate, p50_us, p99_us, max_us, connections, errors } in &self.series {
            let _ = writeln!(csv, "{second:.2},{rate:.1},{p50_us:.1},{p99_us:.1},{max_us:.1},{connections},{errors}");
        }
        csv
    }
}

impl Settings {
    /// Returns the settings of a run in `mode`.
    pub fn new(plan: &Plan, mode: Mode, connector: &Connector) -> Self {
        Settings {
            mode: mode.name(),
            addr: plan.addr.clone(),
            target: connector.target.to_string(),
            connections: match mode {
                Mode::Idle { connections } => connections,
                _ => plan.connections,
            },
            window: match mode {
                Mode::Churn | Mode::Idle { .. } => 1,
                _ => plan.window,
            },
            payload: plan.payload.to_string(),
            rate: match mode {
                Mode::Open { rate } => Some(rate),
                _ => None,
            },
            duration_s: plan.duration.as_secs_f64(),
            warmup_s: match mode {
                Mode::Idle { .. } => 0.0,
                _ => plan.warmup.as_secs_f64(),
            },
            threads: plan.threads,
            ack_codes: match plan.ack_codes {
                AckCodes::Spec => "spec",
                AckCodes::Published => "published",
            },
            io: match mode {
                Mode::Churn => Io::Epoll.name(),
                Mode::Idle { .. } => "blocking calls",
                _ => plan.io.name(),
            },
            tls: connector.tls_facts(),
        }
    }
}

impl Latency {
    /// Returns the percentiles of these latencies, which are in nanoseconds.
    pub fn of(latencies: &Histogram<u64>) -> Self {
        let us = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        Latency {
            count: latencies.len(),
            mean_us: latencies.mean() / 1000.0,
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            p9999_us: us(0.9999),
            max_us: latencies.max() as f64 / 1000.0,
        }
    }
}

impl CpuReport {
    /// Returns the report of a process that used `nanos` of CPU time for `requests` in `seconds`.
    pub fn new(nanos: u64, requests: u64, seconds: f64) -> Self {
        CpuReport {
            ns_per_request: if requests > 0 { nanos as f64 / requests as f64 } else { 0.0 },
            cores: if seconds > 0.0 { nanos as f64 / NANOS_PER_SECOND as f64 / seconds } else { 0.0 },
        }
    }
}

impl ServerReport {
    /// Returns the report of a server that used this CPU time for `requests` in `seconds`.
    pub fn new(pid: u32, time: CpuTime, memory: Memory, requests: u64, seconds: f64) -> Self {
        let per_request = |nanos: u64| nanos as f64 / requests.max(1) as f64;
        ServerReport {
            pid,
            cpu: CpuReport::new(time.user + time.system, requests, seconds),
            user_ns_per_request: per_request(time.user),
            system_ns_per_request: per_request(time.system),
            scheduled_ns_per_request: time.scheduled.map(per_request),
            memory,
        }
    }
}

impl FaultReport {
    /// Returns the report of these faults.
    pub fn new(faults: &Faults) -> Self {
        let kinds = Fault::ALL.into_iter().map(|fault| (fault.name(), faults.count(fault)));
        FaultReport {
            total: faults.total(),
            kinds: kinds.filter(|(_, count)| *count > 0).collect(),
            first: faults.first().to_vec(),
        }
    }
}

/// Returns the points of the latency curve.
fn curve(latencies: &Histogram<u64>) -> Vec<CurvePoint> {
    let points = latencies.iter_quantiles(CURVE_POINTS_PER_HALVING);
    points
        .map(|point| CurvePoint { quantile: point.quantile(), us: point.value_iterated_to() as f64 / 1000.0 })
        .collect()
}

/// How many points the latency curve has each time that the share of slower requests halves.
const CURVE_POINTS_PER_HALVING: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::recorder::new_histogram;

    #[test]
    fn percentiles_match_the_recorded_values() {
        let mut latencies = new_histogram();
        for us in 1..=10_000 {
            latencies.record(us * 1000).unwrap();
        }
        let latency = Latency::of(&latencies);
        let close = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.001;
        assert!(close(latency.p50_us, 5_000.0) && close(latency.p90_us, 9_000.0), "{latency:?}");
        assert!(close(latency.p99_us, 9_900.0) && close(latency.p999_us, 9_990.0), "{latency:?}");
        assert!(close(latency.p9999_us, 9_999.0) && close(latency.max_us, 10_000.0), "{latency:?}");
        assert!(close(latency.mean_us, 5_000.5), "{latency:?}");

        let curve = curve(&latencies);
        assert!(curve.windows(2).all(|pair| pair[0].quantile <= pair[1].quantile && pair[0].us <= pair[1].us));
        assert!(close(curve.last().unwrap().us, 10_000.0));
    }

    #[test]
    fn a_run_without_requests_has_a_report() {
        let latency = Latency::of(&new_histogram());
        assert_eq!((latency.count, latency.max_us), (0, 0.0));
        assert_eq!(CpuReport::new(5, 0, 0.0).cores, 0.0);
        assert!(curve(&new_histogram()).len() <= 1);
    }
}
