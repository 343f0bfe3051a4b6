//! Idle connections: each sends one request, is kept open, and sends one more request. The growth of the server's
//! memory meanwhile, divided by their number, is the memory that an idle connection costs.
//!
//! Each thread opens its connections one after another, so that the server never has more than a few busy connections.
//! After a burst, the server would keep buffers that idle connections don't need.

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::acks::{AckChecker, StreamLost};
use super::connect::{Connector, LoadError, Wire};
use super::event::Event;
use super::faults::{CLOSED_BY_SERVER, Fault, Faults};
use super::frames::Frames;
use super::measured::Measured;
use super::plan::{Plan, SIGNAL_INTERVAL};
use super::recorder::new_histogram;
use super::report::IdleReport;
use super::terminal::LiveLine;
use super::units::count;
use super::usage::{CpuTime, Memory, own_cpu_time};
use crate::signals;

/// Opens `wanted` connections, keeps them open for the plan's duration and checks each once more.
///
/// # Errors
/// A connection could not be opened.
pub fn hold(plan: &Plan, wanted: usize, connector: &Connector) -> Result<(Measured, IdleReport), LoadError> {
    let memory = || plan.pid.and_then(|pid| Memory::of(pid).ok());
    let cpu = || plan.pid.and_then(|pid| CpuTime::of(pid).ok());
    let live = LiveLine::on_stderr();
    let show = |text: String| live.show(&[(0, text)]);

    let memory_before = memory();
    signals::catch();
    show(format!("opening {} connections", count(wanted as u64)));
    let began = Instant::now();
    let mut shares = open(plan, wanted, connector)?;
    // There are fewer connections than requested if a signal has ended the opening.
    let wanted = shares.iter().map(|share| share.connections.len()).sum::<usize>();
    let opening_seconds = began.elapsed().as_secs_f64();
    thread::sleep(SETTLE);

    let (own_before, cpu_before) = (own_cpu_time(), cpu());
    show(format!("holding {} connections for {:?}", count(wanted as u64), plan.duration));
    let held_from = Instant::now();
    while held_from.elapsed() < plan.duration && signals::caught().is_none() {
        let left = plan.duration.saturating_sub(held_from.elapsed());
        thread::sleep(left.min(Duration::from_nanos(SIGNAL_INTERVAL)));
    }
    let held = held_from.elapsed().min(plan.duration);
    let memory_held = memory();
    let own_cpu = own_cpu_time() - own_before;
    let server = cpu().zip(cpu_before).zip(memory_held).map(|((now, before), memory)| (now.since(before), memory));

    show(format!("checking {} connections", count(wanted as u64)));
    thread::scope(|scope| {
        for share in &mut shares {
            scope.spawn(|| share.check());
        }
    });
    live.clear();

    let mut measured = Measured { nanos: held.as_nanos() as u64, own_cpu, server, ..Measured::new() };
    for share in shares {
        measured.acks += share.latencies.len();
        measured.latencies += &share.latencies;
        measured.faults.merge(&share.faults);
    }
    let grown = |part: fn(Memory) -> u64| {
        let (before, held) = (part(memory_before?), part(memory_held?));
        (wanted > 0).then(|| (held as f64 - before as f64) / wanted as f64)
    };
    let report = IdleReport {
        connections: wanted,
        opening_seconds,
        memory_before,
        memory_held,
        resident_per_connection: grown(|memory| memory.resident),
        anonymous_per_connection: grown(|memory| memory.anonymous),
    };
    Ok((measured, report))
}

/// The connections of one thread.
struct Share {
    connections: Vec<Held>,
    frames: Frames,
    latencies: Histogram<u64>,
    faults: Faults,
}

struct Held {
    /// `None` once the connection is lost.
    wire: Option<Wire>,
    acks: AckChecker,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(Wire { socket, tls: Some(tls) }) = &mut self.wire {
            tls.end(socket);
        }
    }
}

/// Opens the connections of all threads, in parallel.
fn open(plan: &Plan, wanted: usize, connector: &Connector) -> Result<Vec<Share>, LoadError> {
    let threads = plan.threads.min(wanted);
    let open_share = |first: usize| {
        let frames = Frames::new(plan.payload, first as u64);
        let mut share =
            Share { connections: Vec::new(), frames, latencies: new_histogram(), faults: Faults::default() };
        for index in (first..wanted).step_by(threads) {
            if signals::caught().is_some() {
                break;
            }
            let connect = || {
                let wire = connector.connect(index as u64)?;
                wire.socket.set_read_timeout(Some(plan.ack_timeout))?;
                wire.socket.set_write_timeout(Some(plan.ack_timeout))?;
                Ok(wire)
            };
            let wire = connect().map_err(|error| LoadError::ConnectMore {
                addr: connector.target,
                number: index + 1,
                count: wanted,
                error,
            })?;
            let acks = AckChecker::new(index as u64, (index as u64) << 1, plan.ack_codes);
            share.connections.push(Held { wire: Some(wire), acks });
            share.exchange(index / threads);
        }
        Ok(share)
    };
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|first| scope.spawn(move || open_share(first))).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

impl Share {
    /// Sends one more request on every connection that is still open.
    fn check(&mut self) {
        for slot in 0..self.connections.len() {
            self.exchange(slot);
        }
    }

    /// Sends one request and waits for its ack.
    fn exchange(&mut self, slot: usize) {
        let Held { wire: Some(Wire { socket, tls }), acks } = &mut self.connections[slot] else { return };
        let request = self.frames.one(acks.next_id());
        let faults = &mut self.faults;
        acks.send(1);
        let began = Instant::now();
        let mut ask = || {
            let mut sealed = Vec::new();
            match tls {
                None => socket.write_all(request)?,
                Some(tls) => {
                    tls.send(request, &mut sealed).map_err(io::Error::other)?;
                    socket.write_all(&sealed)?;
                }
            }
            let mut input = [0; 256];
            while acks.in_flight() > 0 {
                let len = socket.read(&mut input)?;
                if len == 0 {
                    return Err(io::Error::other(CLOSED_BY_SERVER));
                }
                let Some(tls) = tls else {
                    acks.receive(&input[..len], faults).map_err(|lost| io::Error::other(lost.to_string()))?;
                    continue;
                };
                let mut why = StreamLost.to_string();
                sealed.clear();
                let continues = tls.deliver(&input[..len], &mut sealed, |event| match event {
                    Event::Received(payload) => acks.receive(payload, faults),
                    Event::Room => Ok(()),
                    Event::Ended(ended) => {
                        why = ended;
                        Ok(())
                    }
                });
                socket.write_all(&sealed)?;
                if !continues && acks.in_flight() > 0 {
                    return Err(io::Error::other(why));
                }
            }
            Ok(())
        };
        match ask() {
            Ok(()) => self.latencies.saturating_record(began.elapsed().as_nanos() as u64),
            Err(error) => {
                let why = error.to_string();
                self.faults.add(Fault::Connection, format_args!("connection {slot} of its thread: {why}"));
                acks.finish(&why, &mut self.faults);
                self.connections[slot].wire = None;
            }
        }
    }
}

/// The time for the server to finish its work before it is measured.
const SETTLE: Duration = Duration::from_millis(500);
