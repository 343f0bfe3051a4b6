//! One thread of a closed-loop or open-loop run: its connections, and the loop that drives them.
//!
//! A turn of the loop reads what has come on every ready connection, asks the clock once, records,
//! and then sends. So an ack counts as received a little later than it was, and a request as sent a
//! little earlier: the tool's own work is inside the latencies, never hidden from them.

use std::collections::VecDeque;
use std::net::TcpStream;

use super::acks::AckChecker;
use super::connect::LoadError;
use super::engine::{Engine, Event, Io};
use super::faults::{Fault, Faults};
use super::frames::Frames;
use super::plan::{SIGNAL_INTERVAL, Schedule, cut_short};
use super::recorder::{Clock, Recorder, Remainder};
use crate::ledger::LedgerPen;
use crate::proto::{ACK_LEN, AckCodes};
use crate::signals;

/// What a thread needs to know of the plan.
#[derive(Debug, Clone, Copy)]
pub struct WorkerPlan {
    pub io: Io,
    pub codes: AckCodes,
    pub window: u64,
    /// The open loop's; none in a closed loop.
    pub schedule: Option<Schedule>,
    /// When the measured time ends, and when owed acks are no longer waited for.
    pub end: u64,
    pub give_up: u64,
}

/// Drives some of a run's connections.
pub struct Worker {
    plan: WorkerPlan,
    clock: Clock,
    engine: Engine,
    connections: Vec<Connection>,
    open: usize,
    /// Requests on their way, over all connections.
    owed: u64,
    /// Connections that have acks to record or room to send, each once.
    active: Vec<usize>,
    turn: Option<Turn>,
    faults: Faults,
    recorder: Recorder,
    ledger: Option<LedgerPen>,
}

/// The request that an open loop's schedule comes to next.
#[derive(Debug, Clone, Copy)]
struct Turn {
    slot: usize,
    number: u64,
    due: u64,
}

struct Connection {
    /// Its number in the run.
    index: usize,
    acks: AckChecker,
    /// Why it was lost, once it is.
    lost: Option<String>,
    /// Answered requests whose latency is recorded.
    recorded: u64,
    /// Requests that the schedule has let go. A closed loop has no such limit.
    due: u64,
    /// When requests that are not recorded yet were sent, and how many each time (closed loop).
    sent_at: VecDeque<(u64, u64)>,
    active: bool,
}

impl Worker {
    /// A worker for these connections, each with its number in the run.
    ///
    /// # Errors
    /// The kernel refuses what the engine needs.
    pub fn new(
        plan: WorkerPlan,
        clock: Clock,
        sockets: Vec<(usize, TcpStream)>,
        frames: Frames,
        recorder: Recorder,
        ledger: Option<LedgerPen>,
    ) -> Result<Self, LoadError> {
        let (indices, streams): (Vec<usize>, Vec<TcpStream>) = sockets.into_iter().unzip();
        let engine =
            Engine::new(plan.io, streams, frames, plan.window as usize * ACK_LEN).map_err(LoadError::Engine)?;
        let turn = plan.schedule.map(|schedule| Turn { slot: 0, number: 0, due: schedule.due(indices[0], 0) });
        let connection = |index: usize| Connection {
            index,
            acks: AckChecker::new(index as u64, (index as u64) << ID_BITS_PER_CONNECTION, plan.codes),
            lost: None,
            recorded: 0,
            due: if plan.schedule.is_some() { 0 } else { u64::MAX },
            sent_at: VecDeque::new(),
            active: plan.schedule.is_none(),
        };
        Ok(Worker {
            plan,
            clock,
            engine,
            open: indices.len(),
            owed: 0,
            active: if plan.schedule.is_none() { (0..indices.len()).collect() } else { Vec::new() },
            turn,
            connections: indices.into_iter().map(connection).collect(),
            faults: Faults::default(),
            recorder,
            ledger,
        }
        .with_exceptions())
    }

    fn with_exceptions(mut self) -> Self {
        if self.ledger.is_some() {
            self.connections.iter_mut().for_each(|connection| connection.acks.keep_exceptions());
        }
        self
    }

    /// Sends until the end, then waits for the acks that are still owed.
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
            if self.open == 0 || (!sending && (self.owed == 0 || now >= self.plan.give_up)) {
                break;
            }
            self.wait(now)?;
        }
        self.finish()
    }

    /// Lets go every request that is due.
    fn advance_schedule(&mut self, now: u64) {
        let (Some(schedule), Some(mut turn)) = (self.plan.schedule, self.turn) else { return };
        while turn.due <= now.min(self.plan.end.saturating_sub(1)) {
            self.connections[turn.slot].due += 1;
            self.activate(turn.slot);
            turn.slot += 1;
            if turn.slot == self.connections.len() {
                (turn.slot, turn.number) = (0, turn.number + 1);
            }
            turn.due = schedule.due(self.connections[turn.slot].index, turn.number);
        }
        self.turn = Some(turn);
    }

    fn activate(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.active {
            connection.active = true;
            self.active.push(slot);
        }
    }

    /// Records the latency of every request that was answered since the last time. In an open loop
    /// it counts from when the request was due, however late it was sent.
    fn record(&mut self, slot: usize, now: u64) {
        let connection = &mut self.connections[slot];
        let answered = connection.acks.answered();
        let mut fresh = answered - connection.recorded;
        self.recorder.acked(fresh);
        self.owed -= fresh;
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
                let taken = fresh.min(*count);
                self.recorder.latency(*sent_at, now, taken);
                (fresh, *count) = (fresh - taken, *count - taken);
                if *count == 0 {
                    connection.sent_at.pop_front();
                }
            }
        }
        connection.recorded = answered;
    }

    /// Sends what the window, the schedule and the kernel have room for.
    fn send(&mut self, slot: usize, now: u64) -> Result<(), LoadError> {
        let connection = &mut self.connections[slot];
        let acks = &mut connection.acks;
        let wanted = (self.plan.window - acks.owed()).min(connection.due - acks.sent());
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
            self.owed += count as u64;
            self.recorder.sent(bytes);
            if self.plan.schedule.is_none() {
                connection.sent_at.push_back((now, count as u64));
            }
        }
        Ok(())
    }

    /// Waits until something happens or is due, and takes what has come.
    fn wait(&mut self, now: u64) -> Result<(), LoadError> {
        let sending = now < self.plan.end;
        let until = if sending { self.recorder.next_tick() } else { self.plan.give_up };
        let until = self.turn.filter(|_| sending).map_or(until, |turn| until.min(turn.due));
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
            if received.is_err() {
                connection.lose("behind a wrong length its stream can't be followed".to_owned(), &mut self.faults);
            }
            if connection.lost.is_some() {
                self.open -= 1;
                self.owed -= connection.acks.owed();
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
            let why = connection.lost.as_deref().unwrap_or("it had not come when --ack-timeout was over");
            connection.acks.finish(why, &mut self.faults);
        }
        self.ledger.map_or(Ok(()), LedgerPen::finish).map_err(LoadError::Ledger)?;
        Ok(self.recorder.finish(self.clock.now(), self.faults, unsent, 0))
    }
}

impl Connection {
    /// Gives it up. What it is owed now is missing, once the run is over.
    #[cold]
    fn lose(&mut self, why: String, faults: &mut Faults) {
        let what = format_args!("connection {}, {} acks owed: {why}", self.index, self.acks.owed());
        faults.add(Fault::Connection, what);
        self.lost = Some(why);
    }
}

/// Each connection counts from an ID of its own: an ack that went to the wrong connection is seen.
pub const ID_BITS_PER_CONNECTION: u32 = 40;
