//! The options of `ringpost bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::tls::ClientTls;
use super::{address, values};
use crate::load::Outputs;
use crate::load::plan::{self, Io, Mode, PayloadSizes, Plan, PlanError};
use crate::proto::AckCodes;

/// Options of `ringpost bench`. Without --rate, --churn, --idle or --find-knee, each connection sends
/// its next request when its window has room (a closed loop).
#[derive(Debug, Args)]
pub struct Bench {
    /// Server to load, as HOST:PORT
    #[arg(
        long,
        value_name = "ADDR",
        value_parser = address::server,
        default_value = "localhost:8888",
        env = "RINGPOST_ADDR"
    )]
    pub addr: String,
    /// Connections of all threads; with --churn, those that are open at the same time
    #[arg(long, value_name = "N", default_value_t = plan::CONNECTIONS, env = "RINGPOST_CONNECTIONS")]
    pub connections: usize,
    /// Requests in flight on each connection; one with --churn and --idle
    #[arg(long, value_name = "N", default_value_t = plan::WINDOW, env = "RINGPOST_WINDOW")]
    pub window: usize,
    /// Requests due each second on all connections together, whatever the server does (an open loop).
    /// Latency counts from the time at which a request was due. With --find-knee, the first rate to try
    #[arg(long, value_name = "N", env = "RINGPOST_RATE")]
    pub rate: Option<u64>,
    /// Connect, send one request, wait for its ack, close, and repeat; latency counts from the connect
    #[arg(long, conflicts_with_all = ["rate", "idle", "find_knee"], env = "RINGPOST_CHURN")]
    pub churn: bool,
    /// Open this many connections with one request each, keep them open for --duration, and send one more request on
    /// each
    #[arg(long, value_name = "N", conflicts_with_all = ["rate", "find_knee"], env = "RINGPOST_IDLE")]
    pub idle: Option<usize>,
    /// Raise the rate until p99 passes --slo or the rate is not met, with --duration at each rate, and report
    /// the last good one
    #[arg(long, env = "RINGPOST_FIND_KNEE")]
    pub find_knee: bool,
    /// Highest p99 latency that --find-knee allows
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "5ms", env = "RINGPOST_SLO")]
    pub slo: Duration,
    /// Bytes of each payload: one size, or a range from which sizes are drawn (16..16384)
    #[arg(long, value_name = "SIZE", default_value = "32", env = "RINGPOST_PAYLOAD")]
    pub payload: PayloadSizes,
    /// How long to measure
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "10s", env = "RINGPOST_DURATION")]
    pub duration: Duration,
    /// How long to load the server before the measurement; acks are checked, latencies don't count
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "1s", env = "RINGPOST_WARMUP")]
    pub warmup: Duration,
    /// Threads that share the connections
    #[arg(long, value_name = "N", default_value_t = 1, env = "RINGPOST_THREADS")]
    pub threads: usize,
    /// How long to wait for missing acks at the end; with --idle, how long to wait for each ack
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "5s",
        env = "RINGPOST_ACK_TIMEOUT"
    )]
    pub ack_timeout: Duration,
    /// Commands that the server's acks bear
    #[arg(long, value_enum, default_value_t = AckCodes::Spec, env = "RINGPOST_ACK_CODES")]
    pub ack_codes: AckCodes,
    /// How the connections of a closed or an open loop are driven
    #[arg(long, value_enum, default_value_t = Io::Auto, env = "RINGPOST_IO")]
    pub io: Io,
    /// Process ID of the server on this host: the report then has its CPU time per request and its memory
    #[arg(long, value_name = "PID", env = "RINGPOST_PID")]
    pub pid: Option<u32>,
    /// Begin each payload with run, connection and send number (24 bytes), and record in this file what was sent and
    /// what was acked, for `journal check`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["idle", "find_knee"], env = "RINGPOST_LEDGER")]
    pub ledger: Option<PathBuf>,
    /// How to encrypt the connections.
    #[command(flatten)]
    pub tls: ClientTls,
    /// Write the report to this file as JSON
    #[arg(long, value_name = "FILE", env = "RINGPOST_JSON")]
    pub json: Option<PathBuf>,
    /// Write the time series to this file as CSV, one line a second
    #[arg(long, value_name = "FILE", env = "RINGPOST_CSV")]
    pub csv: Option<PathBuf>,
    /// Write the report to this file as one self-contained HTML page with charts
    #[arg(long, value_name = "FILE", env = "RINGPOST_HTML")]
    pub html: Option<PathBuf>,
}

impl Bench {
    /// Returns what to do and where to write the results, validated.
    ///
    /// # Errors
    /// A value is refused. The error names its option.
    pub fn into_plan(self) -> Result<(Plan, Outputs), PlanError> {
        let mode = match (self.rate, self.idle) {
            (rate, _) if self.find_knee => {
                Mode::Knee { rate_first: rate.unwrap_or(plan::KNEE_RATE_FIRST), slo: self.slo }
            }
            (Some(rate), _) => Mode::Open { rate },
            (_, Some(connections)) => Mode::Idle { connections },
            _ if self.churn => Mode::Churn,
            _ => Mode::Closed,
        };
        let plan = Plan {
            addr: self.addr,
            mode,
            connections: self.connections,
            window: self.window,
            payload: self.payload,
            duration: self.duration,
            warmup: self.warmup,
            threads: self.threads,
            ack_timeout: self.ack_timeout,
            ack_codes: self.ack_codes,
            io: self.io,
            pid: self.pid,
            tls: self.tls.into_options(),
            ledger: self.ledger,
        };
        plan.validate()?;
        Ok((plan, Outputs { json: self.json, csv: self.csv, html: self.html }))
    }
}
