//! One thread of a churn run: connect, one request, its ack, close, and again.
//!
//! A connection is closed as clients close it, with a FIN, so the server is measured doing what it
//! does in service. The closing side keeps its port for a while (TIME_WAIT): see
//! [`Connector`] for the loopback, where the ports last for any rate. Elsewhere they may run out;
//! then the thread waits for one, and the report says so, for the rate is then the client host's.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::acks::AckChecker;
use super::connect::{Connector, LoadError};
use super::faults::{Fault, Faults};
use super::frames::Frames;
use super::plan::{SIGNAL_INTERVAL, cut_short};
use super::poll::Poll;
use super::recorder::{Clock, Recorder, Remainder};
use crate::ledger::LedgerPen;
use crate::outbound;
use crate::proto::AckCodes;
use crate::signals;

/// What a thread needs to know of the plan.
#[derive(Debug, Clone, Copy)]
pub struct ChurnPlan {
    pub connector: Connector,
    pub codes: AckCodes,
    /// Connections at a time.
    pub slots: usize,
    /// The number of this thread's first connection, and how many apart the others are.
    pub number_first: u64,
    pub number_step: u64,
    /// When the measured time ends, and when owed acks are no longer waited for.
    pub end: u64,
    pub give_up: u64,
}

/// Drives a thread's connections.
pub struct Churn {
    plan: ChurnPlan,
    clock: Clock,
    poll: Poll,
    slots: Vec<Slot>,
    open: usize,
    number: u64,
    /// How often no source port was free.
    port_waits: u64,
    frames: Frames,
    input: Box<[u8]>,
    faults: Faults,
    recorder: Recorder,
    ledger: Option<LedgerPen>,
}

/// Room for one connection.
struct Slot {
    conversation: Option<Conversation>,
    /// When the next one may begin.
    rest_until: u64,
}

struct Conversation {
    number: u64,
    socket: TcpStream,
    acks: AckChecker,
    began: u64,
    /// What is still to be sent. Until the connection is made that is all.
    unsent: Vec<u8>,
    /// How it ended; None while it goes on.
    end: Option<Result<(), String>>,
}

impl Churn {
    /// # Errors
    /// The kernel refuses an epoll instance.
    pub fn new(
        plan: ChurnPlan,
        clock: Clock,
        frames: Frames,
        recorder: Recorder,
        ledger: Option<LedgerPen>,
    ) -> Result<Self, LoadError> {
        Ok(Churn {
            plan,
            clock,
            poll: Poll::new(plan.slots).map_err(LoadError::Engine)?,
            slots: (0..plan.slots).map(|_| Slot { conversation: None, rest_until: 0 }).collect(),
            open: 0,
            number: plan.number_first,
            port_waits: 0,
            frames,
            input: vec![0; INPUT_LEN].into(),
            faults: Faults::default(),
            recorder,
            ledger,
        })
    }

    /// Opens and closes connections until the end, then waits for those that are open.
    ///
    /// # Errors
    /// The kernel fails to wait.
    pub fn run(mut self) -> Result<Remainder, LoadError> {
        loop {
            let now = self.clock.now();
            if signals::caught().is_some() {
                (self.plan.end, self.plan.give_up) = cut_short(now, self.plan.end, self.plan.give_up);
            }
            for slot in 0..self.slots.len() {
                self.close_if_ended(slot, now);
                if now < self.plan.end && self.slots[slot].conversation.is_none() && now >= self.slots[slot].rest_until
                {
                    self.begin(slot, now);
                }
            }
            self.recorder.tick(now, self.open, self.faults.total());
            if now >= self.plan.end && (self.open == 0 || now >= self.plan.give_up) {
                break;
            }
            self.wait(now)?;
        }
        for slot in &mut self.slots {
            if let Some(conversation) = &mut slot.conversation {
                conversation.acks.finish("it had not come when --ack-timeout was over", &mut self.faults);
            }
        }
        self.ledger.map_or(Ok(()), LedgerPen::finish).map_err(LoadError::Ledger)?;
        Ok(self.recorder.finish(self.clock.now(), self.faults, 0, self.port_waits))
    }

    /// Begins a conversation. On a short way the connection is made by the time that the call
    /// returns, and the request can follow it at once.
    fn begin(&mut self, slot: usize, now: u64) {
        let number = self.number;
        self.number += self.plan.number_step;
        match self.plan.connector.start(number) {
            Ok(socket) => {
                let request = self.frames.one(number);
                let mut acks = AckChecker::new(number, number, self.plan.codes);
                self.recorder.sent(request.len());
                let unsent = request.to_vec();
                if let (Some(pen), Some(crcs)) = (&mut self.ledger, self.frames.crcs()) {
                    acks.keep_exceptions();
                    pen.sent(number, 0, crcs);
                    crcs.clear();
                }
                acks.send(1);
                let mut conversation = Conversation { number, socket, acks, began: now, unsent, end: None };
                conversation.send();
                if let Err(error) = self.poll.add(&conversation.socket, slot) {
                    conversation.end = Some(Err(format!("could not be watched: {error}")));
                }
                self.slots[slot].conversation = Some(conversation);
                self.open += 1;
            }
            Err(error) if outbound::is_out_of_ports(&error) => {
                self.port_waits += 1;
                self.slots[slot].rest_until = now + REST.as_nanos() as u64;
            }
            Err(error) => {
                self.faults.add(Fault::Connection, format_args!("connection {number} could not be made: {error}"));
                self.slots[slot].rest_until = now + REST.as_nanos() as u64;
            }
        }
    }

    fn close_if_ended(&mut self, slot: usize, now: u64) {
        let Some(mut conversation) = self.slots[slot].conversation.take_if(|c| c.end.is_some()) else { return };
        self.open -= 1;
        if let Some(pen) = &mut self.ledger {
            conversation.acks.enter(0, pen);
        }
        match conversation.end.take().expect("it has ended") {
            Ok(()) => {
                self.recorder.latency(conversation.began, now, 1);
                self.recorder.acked(1);
            }
            Err(why) => {
                let what =
                    format_args!("connection {}, {} acks owed: {why}", conversation.number, conversation.acks.owed());
                self.faults.add(Fault::Connection, what);
                conversation.acks.finish(&why, &mut self.faults);
                // A server that is gone would be asked without a pause.
                self.slots[slot].rest_until = now + REST.as_nanos() as u64;
            }
        }
    }

    fn wait(&mut self, now: u64) -> Result<(), LoadError> {
        let sending = now < self.plan.end;
        let mut until = if sending { self.recorder.next_tick() } else { self.plan.give_up };
        if sending && self.open < self.slots.len() {
            until = until.min(now + REST.as_nanos() as u64);
        }
        let until = until.min(now + SIGNAL_INTERVAL);
        self.poll.wait(until.saturating_sub(now)).map_err(LoadError::Engine)?;
        for at in 0..self.poll.ready_count() {
            let ready = self.poll.ready(at);
            let Some(conversation) = &mut self.slots[ready.index].conversation else { continue };
            if ready.writable {
                conversation.send();
            }
            if ready.readable {
                conversation.receive(&mut self.input, &mut self.faults);
            }
        }
        Ok(())
    }
}

impl Conversation {
    fn send(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        match self.socket.write(&self.unsent) {
            Ok(written) => drop(self.unsent.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.end = Some(Err(format!("sending failed: {error}"))),
        }
    }

    fn receive(&mut self, input: &mut [u8], faults: &mut Faults) {
        while self.end.is_none() {
            match self.socket.read(input) {
                Ok(0) => self.end = Some(Err("the server closed it".to_owned())),
                Ok(len) => match self.acks.receive(&input[..len], faults) {
                    Ok(()) if self.acks.owed() == 0 => self.end = Some(Ok(())),
                    Ok(()) => {}
                    Err(_) => self.end = Some(Err("behind a wrong length its stream can't be followed".to_owned())),
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.end = Some(Err(format!("receiving failed: {error}"))),
            }
        }
    }
}

/// How long a place rests after a connection failed.
const REST: Duration = Duration::from_millis(10);
const INPUT_LEN: usize = 4096;
