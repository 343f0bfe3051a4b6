//! `ringpost bench`: a load generator that checks every ack.
//!
//! It owns its sockets and drives them with a ring of its own, or with epoll where io_uring is
//! refused: no async runtime, and not this crate's client, so that it is cheaper than what it
//! measures and runs on any host. It knows the server by its address and, for CPU and memory, by
//! its process ID; never its insides.
//!
//! What must hold:
//!
//! * Every ack is checked, also those of the warm-up: length, command, ID, order, result.
//! * The tool's own work may make a latency longer, never shorter.
//! * In an open loop a request's latency counts from when it was due. A server that stops makes
//!   every request that falls due meanwhile late, and the report shows each of them.
//!
//! The files, in the order of a run:
//!
//! * `plan`: what is asked for, the cutting of time, the schedule of an open loop.
//! * `connect`: the server's address, sources of connections, room for descriptors.
//! * `drive`: starts threads and gathers what they measure.
//! * `worker` (closed and open loop), `churn`, `idle`: what a thread does. The worker's sockets are
//!   driven by an `engine`: `uring` or `epoll`. They share `frames` (the requests' bytes), `acks`
//!   (checks), `faults` (counts), `recorder` (latencies).
//! * `knee`: the search for the highest rate that is sustained.
//! * `usage`: CPU time and memory. `report`, `table` and `page` (with `chart`): the output,
//!   as wide as the `terminal`.

mod acks;
mod chart;
mod churn;
mod connect;
mod drive;
mod engine;
mod epoll;
mod faults;
mod frames;
mod idle;
mod knee;
mod page;
pub mod plan;
mod poll;
mod recorder;
mod report;
mod table;
mod terminal;
mod uring;
mod usage;
mod worker;

use std::io::Write;
use std::path::{Path, PathBuf};

use connect::{Connector, LoadError};
use knee::KneeSearch;
use plan::{Mode, Plan, RATE_MAX};
use report::{KneeReport, KneeStep, Report};
use usage::CpuTime;

use crate::output::print;
use crate::signals;

/// Files that a report is written to besides the terminal.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    pub json: Option<PathBuf>,
    pub csv: Option<PathBuf>,
    pub html: Option<PathBuf>,
}

/// Carries out a plan and prints its report. Says whether every request was acked as it must be.
///
/// # Errors
/// The run could not start or go on, or a file could not be written.
pub fn run(plan: &Plan, outputs: &Outputs) -> Result<bool, LoadError> {
    // What can fail for a reason of this host fails before the server is loaded.
    if let Some(pid) = plan.pid {
        CpuTime::of(pid).map_err(|error| LoadError::NoProcess { pid, error })?;
    }
    connect::make_room(match plan.mode {
        Mode::Idle { connections } => connections,
        _ => plan.connections,
    })?;
    let plan = &Plan { io: plan.io.choose().map_err(LoadError::NoUring)?, ..plan.clone() };
    let rotate = matches!(plan.mode, Mode::Churn | Mode::Idle { .. }) || plan.connections > CONNECTIONS_PER_SOURCE;
    let connector = Connector::find(&plan.addr, rotate)?;
    let report = match plan.mode {
        Mode::Closed | Mode::Open { .. } | Mode::Churn => one_run(plan, plan.mode, connector)?,
        Mode::Idle { connections } => {
            let (measured, idle) = idle::hold(plan, connections, connector)?;
            Report { idle: Some(idle), ..Report::new(plan, plan.mode, &connector, measured) }
        }
        Mode::Knee { rate_first, slo } => find_knee(plan, rate_first, slo.as_secs_f64() * 1e6, connector)?,
    };
    // If one output can't be written, the others are written all the same.
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

/// More connections than this take several source addresses, where there are several.
const CONNECTIONS_PER_SOURCE: usize = 20_000;

fn one_run(plan: &Plan, mode: Mode, connector: Connector) -> Result<Report, LoadError> {
    Ok(Report::new(plan, mode, &connector, drive::drive(plan, mode, connector)?))
}

/// Tries rates until the knee is found. The report is that of the last good run, or of the last
/// one where none was good, and lists every step.
fn find_knee(plan: &Plan, rate_first: u64, slo_us: f64, connector: Connector) -> Result<Report, LoadError> {
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
            // A server that answers wrongly has no knee: its faults are the result.
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
