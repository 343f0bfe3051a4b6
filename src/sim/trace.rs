//! The trace of a simulation: the last events, a checksum of all, and the first violation of a law.
//!
//! It belongs to the thread that simulates. Equal runs have equal checksums.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::clock;

/// The events of a simulation.
struct Trace {
    began: Instant,
    events: VecDeque<Event>,
    checksum: u32,
    count: u64,
    violation: Option<String>,
}

#[derive(Clone, Copy)]
struct Event {
    at: Duration,
    what: &'static str,
    who: u64,
    number: u64,
}

thread_local! {
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

/// Begins a trace on this thread.
pub fn begin() {
    let (began, events) = (clock::now(), VecDeque::new());
    TRACE.set(Some(Trace { began, events, checksum: 0, count: 0, violation: None }));
}

/// Ends the trace.
pub fn end() {
    TRACE.set(None);
}

fn with<T>(access: impl FnOnce(&mut Trace) -> T) -> T {
    TRACE.with_borrow_mut(|trace| access(trace.as_mut().expect("a simulation runs on this thread")))
}

/// Adds an event. `who` and `number` identify what it is about.
pub fn add(what: &'static str, who: u64, number: u64) {
    with(|trace| {
        let at = clock::now() - trace.began;
        let mut checksum = crc32c::crc32c_append(trace.checksum, &(at.as_nanos() as u64).to_be_bytes());
        checksum = crc32c::crc32c_append(checksum, what.as_bytes());
        checksum = crc32c::crc32c_append(checksum, &who.to_be_bytes());
        trace.checksum = crc32c::crc32c_append(checksum, &number.to_be_bytes());
        trace.count += 1;
        if trace.events.len() == EVENTS_MAX {
            trace.events.pop_front();
        }
        trace.events.push_back(Event { at, what, who, number });
    });
}

/// Records that a law was broken. The first violation counts.
pub fn violated(what: impl FnOnce() -> String) {
    with(|trace| {
        trace.violation.get_or_insert_with(what);
    });
}

/// Returns the first violation.
pub fn violation() -> Option<String> {
    with(|trace| trace.violation.clone())
}

/// Returns a checksum of all events, and their number.
pub fn checksum() -> (u32, u64) {
    with(|trace| (trace.checksum, trace.count))
}

/// Returns the last events, a line each.
pub fn last_events() -> String {
    with(|trace| {
        let mut text = String::new();
        for Event { at, what, who, number } in &trace.events {
            let _ = writeln!(text, "{:>10.3} s {what} {who} {number}", at.as_secs_f64());
        }
        text
    })
}

/// The number of events that a trace keeps.
const EVENTS_MAX: usize = 400;
