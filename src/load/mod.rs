//! `ringpost bench`: a load generator that checks every ack.
//!
//! It owns its sockets and drives them with its own ring, or with epoll if io_uring is refused. It uses neither an
//! async runtime nor this crate's client, so that it needs less CPU than the server that it measures, and runs on any
//! host. It knows the server only by its address and, for CPU time and memory, by its process ID.
//!
//! Invariants:
//!
//! * Every ack is checked, also during the warm-up: length, command, ID, order and result.
//! * The generator's own work may make a measured latency longer, but never shorter.
//! * In an open loop, the latency of a request counts from the time at which it was due. If the server stops, every
//!   request that becomes due meanwhile is late, and the report shows each of them.
//!
//! The files, in the order of a run:
//!
//! * `plan`: the settings of a run, the cutting of time into seconds, the schedule of an open loop.
//! * `connect`: the server's address, the sources of connections, the limit of descriptors. `tls`: the handshake, and
//!   records between bytes and frames.
//! * `drive`: starts threads and gathers their measurements (`measured`).
//! * `loops` (closed and open loop), `churn` and `idle`: the work of a thread. The sockets of `loops` are driven by an
//!   `engine`, which is `uring` or `epoll` and reports `event`s. All of them share `frames` (the bytes of requests),
//!   `acks` (checks), `faults` (counts) and `recorder` (latencies).
//! * `knee`: the search for the highest rate that a server sustains.
//! * `usage`: CPU time and memory. `report`, `table` and `page` (with `chart`): the output, with numbers formatted by
//!   `units` and lines as wide as the `terminal`.

mod acks;
mod chart;
mod churn;
mod connect;
mod drive;
mod engine;
mod epoll;
mod event;
mod faults;
mod frames;
mod idle;
mod knee;
mod loops;
mod measured;
mod page;
pub mod plan;
mod poll;
mod recorder;
mod report;
mod table;
mod terminal;
mod tls;
mod units;
mod uring;
mod usage;

use std::io::Write;
use std::path::{Path, PathBuf};

use connect::{Connector, LoadError};
use knee::KneeSearch;
use plan::{Mode, Plan, RATE_MAX};
use report::{KneeReport, KneeStep, Report};
use usage::CpuTime;

use crate::output::print;
use crate::signals;

/// The files that a report is written to, besides the terminal.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    pub json: Option<PathBuf>,
    pub csv: Option<PathBuf>,
    pub html: Option<PathBuf>,
}

/// Carries out a plan and prints its report. Returns whether every request was acked correctly.
///
/// # Errors
/// The run could not start or continue, or a file could not be written.
pub fn run(plan: &Plan, outputs: &Outputs) -> Result<bool, LoadError> {
    // Problems of this host are found before the server is loaded.
    if let Some(pid) = plan.pid {
        CpuTime::of(pid).map_err(|error| LoadError::NoProcess { pid, error })?;
    }
    connect::make_room(match plan.mode {
        Mode::Idle { connections } => connections,
        _ => plan.connections,
    })?;
    let plan = &Plan { io: engine::choose(plan.io).map_err(LoadError::NoUring)?, ..plan.clone() };
    let rotate = matches!(plan.mode, Mode::Churn | Mode::Idle { .. }) || plan.connections > CONNECTIONS_PER_SOURCE;
    let tls = match &plan.tls {
        Some(options) => {
            options.warn_if_insecure();
            Some(options.load()?)
        }
        None => None,
    };
    let connector = &Connector::find(&plan.addr, rotate, tls.as_ref())?;
    let report = match plan.mode {
        Mode::Closed | Mode::Open { .. } | Mode::Churn => one_run(plan, plan.mode, connector)?,
        Mode::Idle { connections } => {
            let (measured, idle) = idle::hold(plan, connections, connector)?;
            Report { idle: Some(idle), ..Report::new(plan, plan.mode, connector, measured) }
        }
        Mode::Knee { rate_first, slo } => find_knee(plan, rate_first, slo.as_secs_f64() * 1e6, connector)?,
    };
    // If one output can't be written, the others still are.
    let written = [
        print(report.table(terminal::columns(std::io::stdout()))).map_err(LoadError::Table),
        write(outputs.json.as_deref(), || report.json()),
        write(outputs.csv.as_deref(), || report.csv()),
        write(outputs.html.as_deref(), || page::page(&report)),
    ];
    written.into_iter().collect::<Result<(), _>>()?;
    if let Some(error) = report.ledger_error {
        return Err(LoadError::Ledger(std::io::Error::other(error)));
    }
    Ok(report.is_sound())
}

fn one_run(plan: &Plan, mode: Mode, connector: &Connector) -> Result<Report, LoadError> {
    Ok(Report::new(plan, mode, connector, drive::drive(plan, mode, connector)?))
}

/// Tries rates until the knee is found. Returns the report of the last good run, or of the last run if no run was good.
/// The report lists every step.
fn find_knee(plan: &Plan, rate_first: u64, slo_us: f64, connector: &Connector) -> Result<Report, LoadError> {
    let mut search = KneeSearch::new(rate_first, RATE_MAX);
    let mut steps = Vec::new();
    let (mut best, mut last) = (None, None);
    while let Some(rate) = search.rate() {
        let report = one_run(plan, Mode::Open { rate }, connector)?;
        let met = report.schedule.is_some_and(|schedule| schedule.met);
        let step = KneeStep {
            rate,
            achieved_per_second: report.requests_per_second,
            p50_us: report.latency.p50_us,
            p99_us: report.latency.p99_us,
            met,
            good: met && report.latency.p99_us <= slo_us,
        };
        let _ = write!(std::io::stderr(), "{}", step.row(terminal::columns(std::io::stderr())));
        if signals::caught().is_some() {
            // An unfinished step says nothing about its rate.
            last = Some(report);
            break;
        }
        search.judge(step.good);
        steps.push(step);
        if !report.is_sound() {
            // A server that answers wrongly has no knee. Its faults are the result.
            (best, last) = (None, Some(report));
            break;
        }
        *if step.good { &mut best } else { &mut last } = Some(report);
    }
    let knee = KneeReport { slo_us, rate: search.last_good(), steps };
    let interrupted_by = signals::caught().map(signals::name);
    let report = best.or(last).expect("at least one rate is tried");
    Ok(Report { knee: Some(knee), interrupted_by, ..report })
}

fn write(path: Option<&Path>, text: impl FnOnce() -> String) -> Result<(), LoadError> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, text()).map_err(|error| LoadError::Write { path: path.display().to_string(), error })
}

/// A run with more connections than this uses several source addresses, if there are several.
const CONNECTIONS_PER_SOURCE: usize = 20_000;
