//! One thread of a closed-loop or open-loop run: its connections, and the loop that drives them.
//!
//! An iteration of the loop reads every ready connection, reads the clock once, records latencies, and then sends. An
//! ack therefore counts as received a little later than it was, and a request as sent a little earlier: the latencies
//! include the generator's own work, and never hide it.

use std::collections::VecDeque;

use super::acks::AckChecker;
use super::connect::{LoadError, Wire};
use super::engine::Engine;
use super::event::Event;
use super::faults::{ACK_TIMED_OUT, Fault, Faults};
use super::frames::Frames;
use super::plan::{Io, SIGNAL_INTERVAL, Schedule, cut_short};
use super::recorder::{Clock, Recorder, Remainder};
use crate::ledger::LedgerPen;
use crate::proto::{ACK_LEN, AckCodes};
use crate::signals;

/// The settings of one thread.
#[derive(Debug, Clone, Copy)]
pub struct LoopPlan {
    pub io: Io,
    pub codes: AckCodes,
    pub window: u64,
    /// The schedule of an open loop. `None` in a closed loop.
    pub schedule: Option<Schedule>,
    /// When the measured time ends.
    pub end: u64,
    /// When the thread stops waiting for missing acks.
    pub give_up: u64,
}

/// Drives the connections of one thread.
pub struct LoopThread {
    plan: LoopPlan,
    clock: Clock,
    engine: Engine,
    connections: Vec<Connection>,
    open: usize,
    /// Requests in flight, over all connections.
    in_flight: u64,
    /// Connections that have latencies to record or room to send, each once.
    active: Vec<usize>,
    next_due: Option<NextDue>,
    faults: Faults,
    recorder: Recorder,
    ledger: Option<LedgerPen>,
}

/// The next request of an open loop's schedule.
#[derive(Debug, Clone, Copy)]
struct NextDue {
    slot: usize,
    number: u64,
    due: u64,
}

struct Connection {
    /// The connection's number in the run.
    index: usize,
    acks: AckChecker,
    /// Why the connection was lost, once it is.
    lost: Option<String>,
    /// Answered requests whose latency is recorded.
    recorded: u64,
    /// How many requests the schedule has released. A closed loop has no such limit.
    due: u64,
    /// When requests without a recorded latency were sent, and how many each time (closed loop only).
    sent_at: VecDeque<(u64, u64)>,
    active: bool,
}

impl LoopThread {
    /// Returns a thread's work for these connections, each with its number in the run.
    ///
    /// # Errors
    /// The kernel refuses what the engine needs.
    pub fn new(
        plan: LoopPlan,
        clock: Clock,
        wires: Vec<(usize, Wire)>,
        frames: Frames,
        recorder: Recorder,
        ledger: Option<LedgerPen>,
    ) -> Result<Self, LoadError> {
        let (indices, wires): (Vec<usize>, Vec<Wire>) = wires.into_iter().unzip();
        let engine = Engine::new(plan.io, wires, frames, plan.window as usize * ACK_LEN).map_err(LoadError::Engine)?;
        let next_due = plan.schedule.map(|schedule| NextDue { slot: 0, number: 0, due: schedule.due(indices[0], 0) });
        let connection = |index: usize| Connection {
            index,
            acks: AckChecker::new(index as u64, (index as u64) << ID_BITS_PER_CONNECTION, plan.codes),
            lost: None,
            recorded: 0,
            due: if plan.schedule.is_some() { 0 } else { u64::MAX },
            sent_at: VecDeque::new(),
            active: plan.schedule.is_none(),
        };
        Ok(LoopThread {
            plan,
            clock,
            engine,
            open: indices.len(),
            in_flight: 0,
            active: if plan.schedule.is_none() { (0..indices.len()).collect() } else { Vec::new() },
            next_due,
            connections: indices.into_iter().map(connection).collect(),
            faults: Faults::default(),
            recorder,
            ledger,
        }
        .with_exceptions())
    }

    /// Makes the connections remember the requests without a good ack, if there is a ledger.
    fn with_exceptions(mut self) -> Self {
        if self.ledger.is_some() {
            self.connections.iter_mut().for_each(|connection| connection.acks.keep_exceptions());
        }
        self
    }

    /// Sends until the end of the measured time, then waits for the missing acks.
    ///
    /// # Errors
    /// The kernel fails to wait.
    pub fn run(mut self) -> Result<Remainder, LoadError> {
        loop {
            let now = self.clock.now();
            if signals::caught().is_some() {
                (self.plan.end, self.plan.give_up) = cut_short(now, self.plan.end, self.plan.give_up);
            }
            let sending = now < self.plan.end;
            self.advance_schedule(now);
            for at in 0..self.active.len() {
                let slot = self.active[at];
                self.connections[slot].active = false;
                self.record(slot, now);
                if sending {
                    self.send(slot, now)?;
                }
            }
            self.active.clear();
            self.recorder.tick(now, self.open, self.faults.total());
            if self.open == 0 || (!sending && (self.in_flight == 0 || now >= self.plan.give_up)) {
                break;
            }
            self.wait(now)?;
        }
        self.finish()
    }

    /// Releases every request that is due.
    fn advance_schedule(&mut self, now: u64) {
        let (Some(schedule), Some(mut next)) = (self.plan.schedule, self.next_due) else { return };
        while next.due <= now.min(self.plan.end.saturating_sub(1)) {
            self.connections[next.slot].due += 1;
            self.activate(next.slot);
            next.slot += 1;
            if next.slot == self.connections.len() {
                (next.slot, next.number) = (0, next.number + 1);
            }
            next.due = schedule.due(self.connections[next.slot].index, next.number);
        }
        self.next_due = Some(next);
    }

    fn activate(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.active {
            connection.active = true;
            self.active.push(slot);
        }
    }

    /// Records the latency of every request that was answered since the last call. In an open loop, the latency counts
    /// from the time at which the request was due, however late it was sent.
    fn record(&mut self, slot: usize, now: u64) {
        let connection = &mut self.connections[slot];
        let answered = connection.acks.answered();
        let mut fresh = answered - connection.recorded;
        self.recorder.acked(fresh);
        self.in_flight -= fresh;
        if let Some(pen) = &mut self.ledger
            && fresh > 0
        {
            connection.acks.enter(connection.recorded, pen);
        }
        if let Some(schedule) = self.plan.schedule {
            for number in connection.recorded..answered {
                self.recorder.latency(schedule.due(connection.index, number), now, 1);
            }
        } else {
            while fresh > 0 {
                let (sent_at, count) = connection.sent_at.front_mut().expect("each request has its time");
                let answered = fresh.min(*count);
                self.recorder.latency(*sent_at, now, answered);
                (fresh, *count) = (fresh - answered, *count - answered);
                if *count == 0 {
                    connection.sent_at.pop_front();
                }
            }
        }
        connection.recorded = answered;
    }

    /// Sends as many requests as the window, the schedule and the kernel allow.
    fn send(&mut self, slot: usize, now: u64) -> Result<(), LoadError> {
        let connection = &mut self.connections[slot];
        let acks = &mut connection.acks;
        let wanted = (self.plan.window - acks.in_flight()).min(connection.due - acks.sent());
        if wanted == 0 || connection.lost.is_some() {
            return Ok(());
        }
        let (count, bytes) = self.engine.send(slot, acks.next_id(), wanted as usize).map_err(LoadError::Engine)?;
        if count > 0 {
            if let (Some(pen), Some(crcs)) = (&mut self.ledger, self.engine.frames().crcs()) {
                pen.sent(connection.index as u64, acks.sent(), crcs);
                crcs.clear();
            }
            acks.send(count as u64);
            self.in_flight += count as u64;
            self.recorder.sent(bytes);
            if self.plan.schedule.is_none() {
                connection.sent_at.push_back((now, count as u64));
            }
        }
        Ok(())
    }

    /// Waits until a socket has an event or a request is due, and handles the events.
    fn wait(&mut self, now: u64) -> Result<(), LoadError> {
        let sending = now < self.plan.end;
        let until = if sending { self.recorder.next_tick() } else { self.plan.give_up };
        let until = self.next_due.filter(|_| sending).map_or(until, |next| until.min(next.due));
        let until = until.min(now + SIGNAL_INTERVAL);
        let waited = self.engine.wait(until.saturating_sub(now), |slot, event| {
            let connection = &mut self.connections[slot];
            if !connection.active {
                connection.active = true;
                self.active.push(slot);
            }
            let received = match event {
                Event::Received(bytes) => connection.acks.receive(bytes, &mut self.faults),
                Event::Room => Ok(()),
                Event::Ended(why) => {
                    connection.lose(why, &mut self.faults);
                    Ok(())
                }
            };
            if let Err(lost) = &received {
                connection.lose(lost.to_string(), &mut self.faults);
            }
            if connection.lost.is_some() {
                self.open -= 1;
                self.in_flight -= connection.acks.in_flight();
            }
            received
        });
        waited.map_err(LoadError::Engine)
    }

    fn finish(mut self) -> Result<Remainder, LoadError> {
        let mut unsent = 0;
        for connection in &mut self.connections {
            if self.plan.schedule.is_some() {
                unsent += connection.due - connection.acks.sent();
            }
            let why = connection.lost.as_deref().unwrap_or(ACK_TIMED_OUT);
            connection.acks.finish(why, &mut self.faults);
        }
        self.ledger.map_or(Ok(()), LedgerPen::finish).map_err(LoadError::Ledger)?;
        Ok(self.recorder.finish(self.clock.now(), self.faults, unsent, 0))
    }
}

impl Connection {
    /// Marks the connection as lost. The acks of its requests in flight are counted as missing at the end of the run.
    #[cold]
    fn lose(&mut self, why: String, faults: &mut Faults) {
        let what = format_args!("connection {}, {} in flight: {why}", self.index, self.acks.in_flight());
        faults.add(Fault::Connection, what);
        self.lost = Some(why);
    }
}

/// The bits of an ID that count a connection's requests. The other bits are the connection's number, so that an ack
/// that went to the wrong connection is detected.
pub const ID_BITS_PER_CONNECTION: u32 = 40;
