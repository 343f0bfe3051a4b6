//! The measurements of one run, before they become a report.

use std::io;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::faults::Faults;
use super::recorder::new_histogram;
use super::usage::{CpuTime, Memory};

/// The measurements of one run. Times are in nanoseconds.
pub struct Measured {
    /// The measured time. It is shorter than requested if all connections were lost, or a signal ended the run.
    pub nanos: u64,
    pub latencies: Histogram<u64>,
    /// The number of acks that arrived in the measured time.
    pub acks: u64,
    /// The handshakes of TLS that were completed in the measured time.
    pub handshakes: u64,
    /// The bytes of requests that were sent in the measured time.
    pub bytes: u64,
    pub series: Vec<Second>,
    pub faults: Faults,
    /// Requests that were due in the measured time and never sent.
    pub unsent: u64,
    /// How often no source port was free for a new connection.
    pub port_waits: u64,
    /// The CPU time of this process.
    pub own_cpu: u64,
    /// CPU time and memory of the server. `None` without `--pid`, or if its process has ended.
    pub server: Option<(CpuTime, Memory)>,
    /// The reason why the ledger could not be written completely.
    pub ledger_error: Option<io::Error>,
}

impl Measured {
    /// Returns the measurements of a run in which nothing has happened yet.
    pub fn new() -> Self {
        Measured {
            nanos: 0,
            latencies: new_histogram(),
            acks: 0,
            handshakes: 0,
            bytes: 0,
            series: Vec::new(),
            faults: Faults::default(),
            unsent: 0,
            port_waits: 0,
            own_cpu: 0,
            server: None,
            ledger_error: None,
        }
    }
}

/// One row of the time series.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Second {
    /// The end of the second, from the beginning of the measured time.
    pub second: f64,
    pub rate: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    pub connections: usize,
    /// The faults since the beginning of the run.
    pub errors: u64,
}
