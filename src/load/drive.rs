//! Starts the threads of a run, gathers their measurements, and shows them on the terminal every second.
//!
//! It knows nothing of reports. The server's mistakes are counted as faults, not returned as errors.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use hdrhistogram::Histogram;

use super::churn::{Churn, ChurnPlan};
use super::connect::{Connector, LoadError, Wire};
use super::frames::Frames;
use super::loops::{ID_BITS_PER_CONNECTION, LoopPlan, LoopThread};
use super::measured::{Measured, Second};
use super::plan::{Interval, Mode, NANOS_PER_SECOND, Plan, Schedule, Timeline};
use super::recorder::{Clock, Recorder, Remainder, Tick, new_histogram};
use super::terminal::LiveLine;
use super::units::{count, duration_text};
use super::usage::{CpuTime, Memory, own_cpu_time};
use crate::ledger::Ledger;
use crate::signals;

/// Runs a closed loop, an open loop or churn.
///
/// # Errors
/// The run could not start, or the kernel refused to continue. The server's mistakes are not errors here: they are in
/// [`Measured::faults`].
pub fn drive(plan: &Plan, mode: Mode, connector: &Connector) -> Result<Measured, LoadError> {
    let timeline = Arc::new(Timeline::new(plan.warmup, plan.duration));
    let ledger = match &plan.ledger {
        Some(path) => Some(Ledger::create(path, random()).map_err(LoadError::Ledger)?),
        None => None,
    };
    let threads = start_threads(plan, mode, connector, &timeline, ledger.as_ref())?;

    let server_cpu = || plan.pid.and_then(|pid| CpuTime::of(pid).ok());
    let mut measured = Measured::new();
    let live = LiveLine::on_stderr();
    let (mut own_before, mut server_before) = (own_cpu_time(), server_cpu());
    for interval in &timeline.intervals {
        let ticks: Vec<Tick> = threads.iter().filter_map(|thread| thread.ticks.recv().ok()).collect();
        if ticks.is_empty() {
            break;
        }
        // A signal, or the loss of every connection, ends an interval early.
        let to = ticks.iter().map(|tick| tick.to).max().unwrap_or(interval.to);
        let interval = &Interval { to: to.clamp(interval.from + 1, interval.to), ..*interval };
        let (second, latencies) = sum_up(&ticks, interval, timeline.begin);
        show(&live, &second, interval.measured);
        if interval.measured {
            measured.nanos = interval.to - timeline.begin;
            measured.acks += ticks.iter().map(|tick| tick.acks).sum::<u64>();
            measured.handshakes += ticks.iter().map(|tick| tick.handshakes).sum::<u64>();
            measured.bytes += ticks.iter().map(|tick| tick.bytes).sum::<u64>();
            measured.latencies += &latencies;
            measured.series.push(second);
        } else if interval.to == timeline.begin {
            (own_before, server_before) = (own_cpu_time(), server_cpu());
        }
    }
    measured.own_cpu = own_cpu_time() - own_before;
    measured.server = server_before.zip(server_cpu()).zip(plan.pid).and_then(|((before, after), pid)| {
        let memory = Memory::of(pid).ok()?;
        Some((after.since(before), memory))
    });
    live.clear();

    for thread in threads {
        let remainder = match thread.handle.join() {
            Ok(Err(LoadError::Ledger(error))) => {
                measured.ledger_error.get_or_insert(error);
                continue;
            }
            Ok(remainder) => remainder?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        measured.latencies += &remainder.latencies;
        measured.faults.merge(&remainder.faults);
        measured.unsent += remainder.unsent;
        measured.port_waits += remainder.port_waits;
    }
    // A ledger without its end mark is known to be incomplete.
    if let Some(ledger) = ledger.filter(|_| measured.ledger_error.is_none()) {
        measured.ledger_error = ledger.end().err();
    }
    Ok(measured)
}

/// Returns a random number that identifies the run.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

struct Thread {
    handle: JoinHandle<Result<Remainder, LoadError>>,
    ticks: Receiver<Tick>,
}

fn start_threads(
    plan: &Plan,
    mode: Mode,
    connector: &Connector,
    timeline: &Arc<Timeline>,
    ledger: Option<&Arc<Ledger>>,
) -> Result<Vec<Thread>, LoadError> {
    let thread_count = plan.threads.min(plan.connections);
    let schedule = match mode {
        Mode::Open { rate } => Some(Schedule::new(rate, plan.connections)),
        _ => None,
    };
    let mut sockets: Vec<Vec<(usize, Wire)>> = (0..thread_count).map(|_| Vec::new()).collect();
    if mode != Mode::Churn {
        for index in 0..plan.connections {
            let socket = connector.connect(index as u64).map_err(|error| LoadError::ConnectMore {
                addr: connector.target,
                number: index + 1,
                count: plan.connections,
                error,
            })?;
            sockets[index % thread_count].push((index, socket));
        }
    }
    let new_frames = |thread: usize| {
        let mut frames = Frames::new(plan.payload, thread as u64);
        if let Some(ledger) = ledger {
            // In churn an ID is the number of its connection, and each connection sends one request.
            frames.stamp(ledger.run, if mode == Mode::Churn { 0 } else { ID_BITS_PER_CONNECTION });
        }
        frames
    };
    let frames: Vec<Frames> = (0..thread_count).map(new_frames).collect();

    let give_up = timeline.end.saturating_add(plan.ack_timeout.as_nanos() as u64);
    let (codes, end) = (plan.ack_codes, timeline.end);
    // From here on a signal ends the run with a report.
    signals::catch();
    let clock = Clock::start();
    let mut threads = Vec::new();
    for (thread, (sockets, frames)) in sockets.into_iter().zip(frames).enumerate() {
        let (sender, ticks) = channel();
        let recorder = Recorder::new(Arc::clone(timeline), sender);
        let pen = ledger.map(Ledger::pen);
        let builder = std::thread::Builder::new().name(format!("load-{thread}"));
        let handle = if mode == Mode::Churn {
            let slots = plan.connections / thread_count + usize::from(thread < plan.connections % thread_count);
            let (number_first, number_step) = (thread as u64, thread_count as u64);
            let connector = connector.clone();
            let churn_plan = ChurnPlan { connector, codes, slots, number_first, number_step, end, give_up };
            builder.spawn(move || Churn::new(churn_plan, clock, frames, recorder, pen)?.run())
        } else {
            let loop_plan = LoopPlan { io: plan.io, codes, window: plan.window as u64, schedule, end, give_up };
            builder.spawn(move || {
                if schedule.is_some() {
                    // By default a sleep ends up to 50 µs late. If the kernel refuses this, the latencies include the
                    // delay.
                    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
                }
                LoopThread::new(loop_plan, clock, sockets, frames, recorder, pen)?.run()
            })
        };
        threads.push(Thread { handle: handle.map_err(LoadError::Thread)?, ticks });
    }
    Ok(threads)
}

/// Returns a row of the time series and its latencies, over all threads.
fn sum_up(ticks: &[Tick], interval: &Interval, begin: u64) -> (Second, Histogram<u64>) {
    let mut latencies = new_histogram();
    for tick in ticks {
        latencies += &tick.latencies;
    }
    let acks = ticks.iter().map(|tick| tick.acks).sum::<u64>();
    let seconds = |nanos: u64| nanos as f64 / NANOS_PER_SECOND as f64;
    let second = Second {
        second: seconds(interval.to.saturating_sub(begin)),
        rate: acks as f64 / seconds(interval.to - interval.from),
        p50_us: latencies.value_at_quantile(0.5) as f64 / 1000.0,
        p99_us: latencies.value_at_quantile(0.99) as f64 / 1000.0,
        max_us: latencies.max() as f64 / 1000.0,
        connections: ticks.iter().map(|tick| tick.connections).sum(),
        errors: ticks.iter().map(|tick| tick.faults).sum(),
    };
    (second, latencies)
}

/// Shows a second on the terminal.
fn show(live: &LiveLine, second: &Second, measured: bool) {
    // The warm-up and a second without acks have no latencies.
    let latency = |us: f64| if us > 0.0 { duration_text(us) } else { "-".to_owned() };
    let when = if measured { format!("{:5.0} s", second.second) } else { "warm-up".to_owned() };
    live.show(&[
        (1, when),
        (2, format!("{:>11}/s", count(second.rate as u64))),
        (4, format!("p50 {:>7}", latency(second.p50_us))),
        (3, format!("p99 {:>7}", latency(second.p99_us))),
        (5, format!("{} open", count(second.connections as u64))),
        // Errors must always be visible.
        (if second.errors > 0 { 0 } else { 6 }, format!("{} errors", count(second.errors))),
    ]);
}
