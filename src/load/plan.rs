//! The settings of a run with their limits, validated once, and the arithmetic of its time.
//!
//! Nothing here does I/O or reads a clock. Times are nanoseconds since the beginning of the run.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use crate::ledger::{COUNT_MAX, STAMP_LEN};
use crate::proto::AckCodes;
use crate::tls::client::TlsOptions;

/// The default of `--connections`.
pub const CONNECTIONS: usize = 64;
/// The default of `--window`: requests in flight on each connection.
pub const WINDOW: usize = 1;
/// The largest value of `--window`.
pub const WINDOW_MAX: usize = 1 << 20;
const _: () = assert!(WINDOW_MAX <= COUNT_MAX as usize);
/// The largest payload, in bytes. All frames are encoded before the run, so they use memory.
pub const PAYLOAD_LEN_MAX: u64 = 16 << 20;
/// The largest value of `--threads`.
pub const THREADS_MAX: usize = 1024;
/// The largest value of `--rate`: one request a nanosecond.
pub const RATE_MAX: u64 = 1_000_000_000;
/// The first rate of the search for the knee, in requests per second, unless `--rate` sets it.
pub const KNEE_RATE_FIRST: u64 = 1_000;
/// The part of the requested rate that a run must reach for its schedule to count as met.
pub const RATE_MET_SHARE: f64 = 0.99;

/// The settings of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server as HOST:PORT, not yet resolved.
    pub addr: String,
    pub mode: Mode,
    /// Connections of all threads.
    pub connections: usize,
    /// Requests in flight on each connection.
    pub window: usize,
    pub payload: PayloadSizes,
    /// The measured time, without the warm-up.
    pub duration: Duration,
    pub warmup: Duration,
    pub threads: usize,
    /// How long to wait for missing acks at the end.
    pub ack_timeout: Duration,
    pub ack_codes: AckCodes,
    /// The engine that drives the sockets of a closed or an open loop.
    pub io: Io,
    /// The server's process ID, if it runs on this host.
    pub pid: Option<u32>,
    /// The options of TLS, or `None` if the connections are plain.
    pub tls: Option<TlsOptions>,
    /// The file that records which requests were sent and acked. Payloads then begin with a stamp.
    pub ledger: Option<PathBuf>,
}

/// The rule by which requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each connection sends its next request when its window has room.
    Closed,
    /// Requests are due at fixed times, `rate` of them each second over all connections.
    Open { rate: u64 },
    /// Each connection carries one request and closes.
    Churn,
    /// This many connections are opened and kept open, with one request at the beginning and one at the end.
    Idle { connections: usize },
    /// Open-loop runs at rising rates, until p99 passes `slo` or the rate is not met.
    Knee { rate_first: u64, slo: Duration },
}

impl Mode {
    /// Returns the mode's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Closed => "closed loop",
            Mode::Open { .. } => "open loop",
            Mode::Churn => "churn",
            Mode::Idle { .. } => "idle",
            Mode::Knee { .. } => "knee",
        }
    }
}

/// A setting is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("{option} {asked} is out of range: it must be from 1 to {max}")]
    Range { option: &'static str, asked: u64, max: u64 },
    #[error("--duration {asked:?} is out of range: it must be from 10ms to 1000h")]
    Duration { asked: Duration },
    #[error(
        "--payload {asked} is too small for --ledger: each payload begins with {STAMP_LEN} bytes that identify it; use \
         --payload {STAMP_LEN} or more"
    )]
    LedgerPayload { asked: PayloadSizes },
    #[error("--warmup {asked:?} is too long: it may be at most 1000h")]
    Warmup { asked: Duration },
    #[error(
        "--ack-timeout {asked:?} is out of range: it may be at most 1000h, and with --idle it must be at least 1ms"
    )]
    AckTimeout { asked: Duration },
}

impl Plan {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of its range. The error names its option and the range.
    pub fn validate(&self) -> Result<(), PlanError> {
        let in_range = |option, asked: u64, max: u64| {
            if (1..=max).contains(&asked) { Ok(()) } else { Err(PlanError::Range { option, asked, max }) }
        };
        in_range("--connections", self.connections as u64, u32::MAX.into())?;
        in_range("--window", self.window as u64, WINDOW_MAX as u64)?;
        in_range("--threads", self.threads as u64, THREADS_MAX as u64)?;
        match self.mode {
            Mode::Open { rate } | Mode::Knee { rate_first: rate, .. } => in_range("--rate", rate, RATE_MAX)?,
            Mode::Idle { connections } => in_range("--idle", connections as u64, u32::MAX.into())?,
            Mode::Closed | Mode::Churn => {}
        }
        let longest = Duration::from_secs(3_600_000);
        if !(Duration::from_millis(10)..=longest).contains(&self.duration) {
            return Err(PlanError::Duration { asked: self.duration });
        }
        if self.warmup > longest {
            return Err(PlanError::Warmup { asked: self.warmup });
        }
        // Nothing else ends the wait of an idle connection for its ack.
        let is_idle = matches!(self.mode, Mode::Idle { .. });
        if self.ack_timeout > longest || (is_idle && self.ack_timeout < Duration::from_millis(1)) {
            return Err(PlanError::AckTimeout { asked: self.ack_timeout });
        }
        if self.ledger.is_some() && self.payload.min < STAMP_LEN {
            return Err(PlanError::LedgerPayload { asked: self.payload });
        }
        Ok(())
    }
}

/// The engine that drives sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// io_uring if the kernel allows it, otherwise epoll
    Auto,
    /// io_uring: needs less CPU per request
    Uring,
    /// epoll: works on any host
    Epoll,
}

impl Io {
    /// Returns the engine's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Io::Auto => "auto",
            Io::Uring => "io_uring",
            Io::Epoll => "epoll",
        }
    }
}

/// The sizes of payloads, in bytes: uniformly distributed from `min` to `max`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadSizes {
    pub min: usize,
    pub max: usize,
}

impl std::str::FromStr for PayloadSizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let size = |part: &str| match part.trim().parse::<ByteSize>() {
            Ok(size) if size.as_u64() <= PAYLOAD_LEN_MAX => Ok(size.as_u64() as usize),
            _ => Err(format!("{part:?} is not a size; write 32, 16KiB or 16..16384, each at most 16MiB")),
        };
        let sizes = PayloadSizes { min: size(min)?, max: size(max)? };
        if sizes.min > sizes.max {
            return Err(format!("{min} is more than {max}: write the smaller size first"));
        }
        Ok(sizes)
    }
}

impl std::fmt::Display for PayloadSizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{}..{}", self.min, self.max) }
    }
}

/// A run, cut into intervals of a second, with the warm-up first. Each interval is one row of the time series.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// The beginning of the measured time.
    pub begin: u64,
    /// The end of the measured time.
    pub end: u64,
    pub intervals: Vec<Interval>,
}

/// A second, or a part of one at the end of the warm-up or of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    pub from: u64,
    pub to: u64,
    /// Whether the interval is part of the measured time.
    pub measured: bool,
}

impl Timeline {
    /// Cuts a run with this warm-up and this measured time.
    pub fn new(warmup: Duration, duration: Duration) -> Self {
        let begin = warmup.as_nanos() as u64;
        let end = begin + duration.as_nanos() as u64;
        let mut intervals = Vec::new();
        for (from, to, measured) in [(0, begin, false), (begin, end, true)] {
            let mut at = from;
            while at < to {
                let next = (at + NANOS_PER_SECOND).min(to);
                intervals.push(Interval { from: at, to: next, measured });
                at = next;
            }
        }
        Timeline { begin, end, intervals }
    }
}

/// The times at which the requests of an open-loop run are due.
///
/// Request `n` of the run is due at `n / rate`, whatever the server does. The connections alternate: connection `index`
/// of `connections` sends the requests `index`, `index + connections`, and so on.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    nanos_per_request: f64,
    connections: u64,
}

impl Schedule {
    /// Returns the schedule of this many requests per second over all connections.
    pub fn new(rate: u64, connections: usize) -> Self {
        assert!(rate > 0 && connections > 0);
        Schedule { nanos_per_request: NANOS_PER_SECOND as f64 / rate as f64, connections: connections as u64 }
    }

    /// Returns when request `number` of connection `index` is due.
    #[inline]
    pub fn due(&self, index: usize, number: u64) -> u64 {
        ((number * self.connections + index as u64) as f64 * self.nanos_per_request) as u64
    }
}

/// The longest that a thread waits before it checks for a signal, in nanoseconds.
pub const SIGNAL_INTERVAL: u64 = NANOS_PER_SECOND / 10;
/// How long to wait for missing acks once a signal has ended the run, in nanoseconds, unless `--ack-timeout` is
/// shorter.
const SIGNAL_ACK_TIMEOUT: u64 = NANOS_PER_SECOND;

/// Returns when a run that a signal ends at `now` stops sending, and when it stops waiting for acks: never later than
/// planned.
pub fn cut_short(now: u64, end: u64, give_up: u64) -> (u64, u64) {
    let ack_timeout = give_up.saturating_sub(end).min(SIGNAL_ACK_TIMEOUT);
    let end = end.min(now);
    (end, end.saturating_add(ack_timeout))
}

/// The nanoseconds of a second.
pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_size_is_one_size_or_a_range() {
        assert_eq!("32".parse(), Ok(PayloadSizes { min: 32, max: 32 }));
        assert_eq!("0".parse(), Ok(PayloadSizes { min: 0, max: 0 }));
        assert_eq!("16..16384".parse(), Ok(PayloadSizes { min: 16, max: 16384 }));
        assert_eq!("16..16KiB".parse(), Ok(PayloadSizes { min: 16, max: 16384 }));
        for bad in ["", "x", "2..1", "1..", "17MiB", "-1"] {
            assert!(bad.parse::<PayloadSizes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_timeline_is_cut_into_seconds_without_a_gap() {
        let timeline = Timeline::new(Duration::from_millis(1500), Duration::from_millis(2250));
        let lengths: Vec<_> = timeline.intervals.iter().map(|i| ((i.to - i.from) / 1_000_000, i.measured)).collect();
        assert_eq!(lengths, [(1000, false), (500, false), (1000, true), (1000, true), (250, true)]);
        assert!(timeline.intervals.windows(2).all(|pair| pair[0].to == pair[1].from));
        assert_eq!(timeline.intervals.last().unwrap().to, timeline.end);
        assert_eq!(Timeline::new(Duration::ZERO, Duration::from_secs(1)).intervals.len(), 1);
    }

    #[test]
    fn a_schedule_spreads_its_rate_evenly_over_the_connections() {
        let schedule = Schedule::new(1_000_000, 4);
        let mut due: Vec<u64> = (0..4).flat_map(|index| (0..250).map(move |n| schedule.due(index, n))).collect();
        due.sort_unstable();
        assert_eq!(due, (0..1000).map(|n| n * 1000).collect::<Vec<u64>>());
    }

    #[test]
    fn a_schedule_does_not_drift() {
        // A day at a rate at which the time between requests is not a whole number of nanoseconds.
        let (rate, day) = (300_007, 86_400);
        let last = Schedule::new(rate, 7).due(0, rate * day / 7);
        assert!(last.abs_diff(day * NANOS_PER_SECOND) < 30_000, "{last}");
    }
}
