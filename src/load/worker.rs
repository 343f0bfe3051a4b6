//! One thread of a closed-loop or open-loop run: its connections, and the loop that drives them.
//!
//! A turn of the loop reads what has come on every ready connection, asks the clock once, records,
//! and then sends. So an ack counts as received a little later than it was, and a request as sent a
//! little earlier: the tool's own work is inside the latencies, never hidden from them.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use super::acks::AckChecker;
use super::connect::LoadError;
use super::faults::{Fault, Faults};
use super::frames::Frames;
use super::plan::Schedule;
use super::poll::Poll;
use super::recorder::{Clock, Recorder, Remainder};
use crate::proto::AckCodes;

/// What a thread needs to know of the plan.
#[derive(Debug, Clone, Copy)]
pub struct WorkerPlan {
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
    poll: Poll,
    connections: Vec<Connection>,
    open: usize,
    /// Requests on their way, over all connections.
    owed: u64,
    /// Connections that have acks to record or room to send, each once.
    active: Vec<usize>,
    turn: Option<Turn>,
    frames: Frames,
    input: Box<[u8]>,
    faults: Faults,
    recorder: Recorder,
}

/// The request that an open loop's schedule comes to next.
#[derive(Debug, Clone, Copy)]
struct Turn {
    connection: usize,
    number: u64,
    due: u64,
}

struct Connection {
    /// Its number in the run.
    index: usize,
    /// None once it is lost.
    socket: Option<TcpStream>,
    /// Why it was lost.
    lost: Option<String>,
    acks: AckChecker,
    /// Answered requests whose latency is recorded.
    recorded: u64,
    /// Requests that the schedule has let go. A closed loop has no such limit.
    due: u64,
    /// When requests that are not recorded yet were sent, and how many each time (closed loop).
    sent_at: VecDeque<(u64, u64)>,
    /// The frame that is sent next.
    frame: usize,
    /// Bytes that the kernel had no room for.
    unsent: Vec<u8>,
    active: bool,
}

impl Worker {
    /// A worker for these connections, each with its number in the run.
    ///
    /// # Errors
    /// The kernel refuses an epoll instance or a socket in it.
    pub fn new(
        plan: WorkerPlan,
        clock: Clock,
        sockets: Vec<(usize, TcpStream)>,
        codes: AckCodes,
        frames: Frames,
        recorder: Recorder,
    ) -> Result<Self, LoadError> {
        let poll = Poll::new(sockets.len().clamp(1, EVENTS_MAX)).map_err(LoadError::Epoll)?;
        let mut connections = Vec::with_capacity(sockets.len());
        for (slot, (index, socket)) in sockets.into_iter().enumerate() {
            socket.set_nonblocking(true).and_then(|()| poll.add(&socket, slot)).map_err(LoadError::Epoll)?;
            connections.push(Connection {
                index,
                socket: Some(socket),
                lost: None,
                acks: AckChecker::new(index as u64, (index as u64) << ID_BITS_PER_CONNECTION, codes),
                recorded: 0,
                due: if plan.schedule.is_some() { 0 } else { u64::MAX },
                sent_at: VecDeque::new(),
                frame: index % frames.count(),
                unsent: Vec::new(),
                active: plan.schedule.is_none(),
            });
        }
        let turn =
            plan.schedule.map(|schedule| Turn { connection: 0, number: 0, due: schedule.due(connections[0].index, 0) });
        Ok(Worker {
            plan,
            clock,
            poll,
            open: connections.len(),
            owed: 0,
            active: (0..connections.len()).filter(|slot| connections[*slot].active).collect(),
            turn,
            connections,
            frames,
            input: vec![0; INPUT_LEN].into(),
            faults: Faults::default(),
            recorder,
        })
    }

    /// Sends until the end, then waits for the acks that are still owed.
    ///
    /// # Errors
    /// The kernel fails to wait.
    pub fn run(mut self) -> Result<Remainder, LoadError> {
        loop {
            let now = self.clock.now();
            let sending = now < self.plan.end;
            self.advance_schedule(now);
            for at in 0..self.active.len() {
                let slot = self.active[at];
                self.connections[slot].active = false;
                self.record(slot, now);
                if sending {
                    self.send(slot, now);
                }
            }
            self.active.clear();
            self.recorder.tick(now, self.open, self.faults.total());
            if self.open == 0 || (!sending && (self.owed == 0 || now >= self.plan.give_up)) {
                break;
            }
            self.wait(now)?;
        }
        Ok(self.finish())
    }

    /// Lets go every request that is due.
    fn advance_schedule(&mut self, now: u64) {
        let (Some(schedule), Some(mut turn)) = (self.plan.schedule, self.turn) else { return };
        while turn.due <= now.min(self.plan.end - 1) {
            self.connections[turn.connection].due += 1;
            self.activate(turn.connection);
            turn.connection += 1;
            if turn.connection == self.connections.len() {
                (turn.connection, turn.number) = (0, turn.number + 1);
            }
            turn.due = schedule.due(self.connections[turn.connection].index, turn.number);
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
    fn send(&mut self, slot: usize, now: u64) {
        let connection = &mut self.connections[slot];
        let Some(mut socket) = connection.socket.as_ref() else { return };
        let acks = &mut connection.acks;
        while connection.unsent.is_empty() {
            let wanted = (self.plan.window - acks.owed()).min(connection.due - acks.sent());
            if wanted == 0 {
                return;
            }
            let frame_count = self.frames.count();
            let (bytes, count) = self.frames.number(connection.frame, acks.next_id(), wanted as usize);
            connection.frame = (connection.frame + count) % frame_count;
            acks.send(count as u64);
            self.owed += count as u64;
            self.recorder.sent(bytes.len());
            if self.plan.schedule.is_none() {
                connection.sent_at.push_back((now, count as u64));
            }
            match socket.write(bytes) {
                Ok(written) => connection.unsent.extend_from_slice(&bytes[written..]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => connection.unsent.extend_from_slice(bytes),
                Err(error) => return self.lose(slot, format!("sending failed: {error}")),
            }
        }
    }

    /// Sends what was left over when the kernel had no room.
    fn send_rest(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        let Some(mut socket) = connection.socket.as_ref() else { return };
        match socket.write(&connection.unsent) {
            Ok(written) => drop(connection.unsent.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.lose(slot, format!("sending failed: {error}")),
        }
    }

    /// Waits until something happens or is due, and reads what has come.
    fn wait(&mut self, now: u64) -> Result<(), LoadError> {
        let sending = now < self.plan.end;
        let until = if sending { self.recorder.next_tick() } else { self.plan.give_up };
        let until = self.turn.filter(|_| sending).map_or(until, |turn| until.min(turn.due));
        self.poll.wait(until.saturating_sub(now)).map_err(LoadError::Epoll)?;
        for at in 0..self.poll.ready_count() {
            let ready = self.poll.ready(at);
            if ready.writable && !self.connections[ready.index].unsent.is_empty() {
                self.send_rest(ready.index);
            }
            if ready.readable {
                self.receive(ready.index, ready.ended);
            }
            self.activate(ready.index);
        }
        Ok(())
    }

    /// Reads until nothing is left. A read that does not fill the buffer has emptied the socket;
    /// only behind the last byte the end has to be asked for.
    fn receive(&mut self, slot: usize, ended: bool) {
        let connection = &mut self.connections[slot];
        let Some(mut socket) = connection.socket.as_ref() else { return };
        loop {
            match socket.read(&mut self.input) {
                Ok(0) => return self.lose(slot, "the server closed it".to_owned()),
                Ok(len) => {
                    if connection.acks.receive(&self.input[..len], &mut self.faults).is_err() {
                        return self.lose(slot, "behind a wrong length its stream can't be followed".to_owned());
                    }
                    if len < self.input.len() && !ended {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.lose(slot, format!("receiving failed: {error}")),
            }
        }
    }

    /// Gives a connection up. What it is owed then is missing, once the run is over.
    #[cold]
    fn lose(&mut self, slot: usize, why: String) {
        let connection = &mut self.connections[slot];
        let (index, owed) = (connection.index, connection.acks.owed());
        self.faults.add(Fault::Connection, format_args!("connection {index}, {owed} acks owed: {why}"));
        connection.socket = None;
        connection.unsent = Vec::new();
        connection.lost = Some(why);
        self.open -= 1;
        self.owed -= owed;
    }

    fn finish(mut self) -> Remainder {
        let mut unsent = 0;
        for connection in &mut self.connections {
            if self.plan.schedule.is_some() {
                unsent += connection.due - connection.acks.sent();
            }
            let why = connection.lost.as_deref().unwrap_or("it had not come when --ack-timeout was over");
            connection.acks.finish(why, &mut self.faults);
        }
        self.recorder.finish(self.faults, unsent, 0)
    }
}

/// Each connection counts from an ID of its own: an ack that went to the wrong connection is seen.
const ID_BITS_PER_CONNECTION: u32 = 40;
/// Events that one wait takes: more would only be handled later.
const EVENTS_MAX: usize = 1024;
/// One read takes the acks of 4,681 requests.
const INPUT_LEN: usize = 64 << 10;
