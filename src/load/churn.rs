//! One thread of a churn run: connect, send one request, wait for its ack, close, and repeat.
//!
//! A connection is closed with a FIN, as other clients do, so that the server does the same work as in production. The
//! side that closes keeps its port for a while (TIME_WAIT). On loopback [`Connector`] ensures that there are enough
//! ports for any rate. On other networks the ports may run out. The thread then waits for a port, and the report says
//! so, because this host then limits the rate.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::acks::{AckChecker, StreamLost};
use super::connect::{Connector, LoadError};
use super::event::Event;
use super::faults::{ACK_TIMED_OUT, CLOSED_BY_SERVER, Fault, Faults};
use super::frames::Frames;
use super::plan::{SIGNAL_INTERVAL, cut_short};
use super::poll::Poll;
use super::recorder::{Clock, Recorder, Remainder};
use super::tls::Channel;
use crate::ledger::LedgerPen;
use crate::outbound;
use crate::proto::AckCodes;
use crate::signals;

/// The settings of one thread.
#[derive(Clone)]
pub struct ChurnPlan {
    pub connector: Connector,
    pub codes: AckCodes,
    /// The number of connections that are open at the same time.
    pub slots: usize,
    /// The number of this thread's first connection.
    pub number_first: u64,
    /// The difference between the numbers of two successive connections.
    pub number_step: u64,
    /// When the measured time ends.
    pub end: u64,
    /// When the thread stops waiting for missing acks.
    pub give_up: u64,
}

/// Drives the connections of a thread.
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
    /// When the next connection may begin.
    rest_until: u64,
}

struct Conversation {
    number: u64,
    socket: TcpStream,
    tls: Option<Box<Channel>>,
    acks: AckChecker,
    began: u64,
    request: Vec<u8>,
    /// The bytes that are still to be sent: all bytes, until the connection is established.
    unsent: Vec<u8>,
    /// The result, once the conversation has ended.
    end: Option<Result<(), String>>,
}

impl Churn {
    /// Returns a thread's work, before its first connection.
    ///
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
            clock,
            poll: Poll::new(plan.slots).map_err(LoadError::Engine)?,
            slots: (0..plan.slots).map(|_| Slot { conversation: None, rest_until: 0 }).collect(),
            open: 0,
            number: plan.number_first,
            plan,
            port_waits: 0,
            frames,
            input: vec![0; INPUT_LEN].into(),
            faults: Faults::default(),
            recorder,
            ledger,
        })
    }

    /// Opens and closes connections until the end of the measured time, then waits for the open ones.
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
                conversation.acks.finish(ACK_TIMED_OUT, &mut self.faults);
            }
        }
        self.ledger.map_or(Ok(()), LedgerPen::finish).map_err(LoadError::Ledger)?;
        Ok(self.recorder.finish(self.clock.now(), self.faults, 0, self.port_waits))
    }

    /// Begins a conversation. On a fast network the connection is established when the call returns, and the request
    /// can be sent immediately.
    fn begin(&mut self, slot: usize, now: u64) {
        let number = self.number;
        self.number += self.plan.number_step;
        match self.plan.connector.start(number) {
            Ok(socket) => {
                let request = self.frames.one(number);
                let mut acks = AckChecker::new(number, number, self.plan.codes);
                self.recorder.sent(request.len());
                let request = request.to_vec();
                if let (Some(pen), Some(crcs)) = (&mut self.ledger, self.frames.crcs()) {
                    acks.keep_exceptions();
                    pen.sent(number, 0, crcs);
                    crcs.clear();
                }
                acks.send(1);
                let (tls, unsent, end) = (None, Vec::new(), None);
                let mut conversation = Conversation { number, socket, tls, acks, began: now, request, unsent, end };
                conversation.begin(&self.plan.connector);
                if let Err(error) = self.poll.add(&conversation.socket, slot) {
                    conversation.end = Some(Err(format!("epoll refused the socket: {error}")));
                }
                self.slots[slot].conversation = Some(conversation);
                self.open += 1;
            }
            Err(error) if outbound::is_out_of_ports(&error) => {
                self.port_waits += 1;
                self.slots[slot].rest_until = now + REST.as_nanos() as u64;
            }
            Err(error) => {
                self.faults.add(Fault::Connection, format_args!("connection {number} could not be opened: {error}"));
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
                if let Some(tls) = &mut conversation.tls {
                    tls.end(&conversation.socket);
                }
            }
            Err(why) => {
                let what = format_args!(
                    "connection {}, {} in flight: {why}",
                    conversation.number,
                    conversation.acks.in_flight()
                );
                self.faults.add(Fault::Connection, what);
                conversation.acks.finish(&why, &mut self.faults);
                // Without this pause, a server that has ended would get connects in a busy loop.
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
                conversation.receive(&mut self.input, &mut self.faults, &mut self.recorder);
            }
        }
        Ok(())
    }
}

impl Conversation {
    /// Sends the request, or the first bytes of the handshake.
    fn begin(&mut self, connector: &Connector) {
        match connector.begin_tls(&mut self.unsent) {
            Ok(Some(tls)) => self.tls = Some(tls),
            Ok(None) => self.unsent = std::mem::take(&mut self.request),
            Err(error) => self.end = Some(Err(format!("TLS: {error}"))),
        }
        self.send();
    }

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

    fn receive(&mut self, input: &mut [u8], faults: &mut Faults, recorder: &mut Recorder) {
        while self.end.is_none() {
            match self.socket.read(input) {
                Ok(0) => self.end = Some(Err(CLOSED_BY_SERVER.to_owned())),
                Ok(len) if self.tls.is_none() => {
                    let received = self.acks.receive(&input[..len], faults);
                    self.end_after(received);
                }
                Ok(len) => self.receive_tls(&input[..len], faults, recorder),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.end = Some(Err(format!("receiving failed: {error}"))),
            }
        }
    }

    /// Handles bytes of TLS: a part of the handshake, whose end the request follows, or the ack.
    fn receive_tls(&mut self, bytes: &[u8], faults: &mut Faults, recorder: &mut Recorder) {
        let Some(tls) = &mut self.tls else { return };
        let was_handshaking = tls.is_handshaking();
        let (acks, mut why) = (&mut self.acks, None);
        let continues = tls.deliver(bytes, &mut self.unsent, |event| match event {
            Event::Received(payload) => acks.receive(payload, faults),
            Event::Room => Ok(()),
            Event::Ended(ended) => {
                why = Some(ended);
                Ok(())
            }
        });
        if was_handshaking && !tls.is_handshaking() {
            recorder.handshake();
            // If the session can't send, its error arrives with the end of the connection.
            let _ = tls.send(&self.request, &mut self.unsent);
        }
        self.send();
        match why {
            // The ack may arrive with the server's close_notify.
            Some(why) if self.acks.in_flight() > 0 => self.end = Some(Err(why)),
            _ => self.end_after(if continues || why.is_some() { Ok(()) } else { Err(StreamLost) }),
        }
    }

    /// Ends the conversation if the ack has arrived, or the stream can't be parsed.
    fn end_after(&mut self, received: Result<(), StreamLost>) {
        match received {
            Ok(()) if self.acks.in_flight() == 0 => self.end = Some(Ok(())),
            Ok(()) => {}
            Err(lost) => self.end = Some(Err(lost.to_string())),
        }
    }
}

/// The pause of a slot after a connection failed.
const REST: Duration = Duration::from_millis(10);
/// The most bytes of one receive.
const INPUT_LEN: usize = 4096;
