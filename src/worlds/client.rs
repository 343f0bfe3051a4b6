//! A client of a world: sends requests as its plan says, and checks each ack when it comes.
//!
//! It encodes requests and decodes acks by itself, so that a fault in the server's code can't hide itself here.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::peer::Peer;
use super::plan::{ClientPlan, Ending, Event, Garbage, MIXED_LARGE_ONE_IN, Payloads, Reading, Sending};
use super::records::{Outcome, Request, Sent, id, payload};
use super::wire::{Received, StreamEnd, Wire};
use super::world::World;
use crate::clock;
use crate::sim::random::Random;
use crate::sim::trace;

/// Runs a client from its connect to the end of its connection.
pub async fn run(world: Rc<World>, plan: ClientPlan, sent: Rc<RefCell<Sent>>) {
    let address = sent.borrow().address;
    let mut random = Random(plan.seed);
    sleep_until((world.began + plan.start).into()).await;
    // Without this, a slow disk would let most clients come before the first server accepts.
    while !world.has_served() && !world.calm.get() {
        sleep(START_LOOK).await;
    }
    let (disturbances, begins_disturbed) = (world.disturbances.get(), world.is_disturbed.get());
    let outcome = match Peer::connect(address, world.address, plan.link.clone(), &mut random).await {
        Ok(peer) => {
            let wire = if plan.tls.is_some() { Wire::secured(peer) } else { Wire::plain(peer) };
            let mut client = Client::new(&world, &plan, &sent, random);
            let outcome = client.converse(&wire).await;
            trace::add("client ended", plan.number.into(), outcome as u64);
            outcome
        }
        Err(_) => Outcome::Refused,
    };
    let mut sent = sent.borrow_mut();
    sent.outcome = Some(outcome);
    sent.undisturbed = world.disturbances.get() == disturbances && !begins_disturbed && !world.is_disturbed.get();
}

struct Client<'a> {
    world: &'a World,
    plan: &'a ClientPlan,
    sent: &'a RefCell<Sent>,
    random: Random,
    /// Bytes that the kernel has not accepted yet.
    outgoing: Vec<u8>,
    /// The ends of the requests in the stream that the kernel has not accepted.
    ends: std::collections::VecDeque<u64>,
    encoded: u64,
    accepted: u64,
    incoming: Vec<u8>,
    /// Whether everything was encoded, also what is no request.
    finished: bool,
    stream_ended: bool,
    /// Since when it has waited for nothing.
    quiet_since: Option<Instant>,
    /// The disturbances when it began.
    disturbances: u64,
    send_at: Instant,
    read_at: Instant,
    /// When the kernel last accepted something.
    accepted_at: Instant,
}

impl<'a> Client<'a> {
    fn new(world: &'a World, plan: &'a ClientPlan, sent: &'a RefCell<Sent>, random: Random) -> Self {
        let now = clock::now();
        Client {
            world,
            plan,
            sent,
            random,
            outgoing: Vec::new(),
            ends: Default::default(),
            encoded: 0,
            accepted: 0,
            incoming: Vec::new(),
            finished: false,
            stream_ended: false,
            quiet_since: None,
            disturbances: world.disturbances.get(),
            send_at: now,
            read_at: now,
            accepted_at: now,
        }
    }

    async fn converse(&mut self, wire: &Wire) -> Outcome {
        loop {
            self.encode();
            self.check_quiet(wire);
            self.check_blocked();
            if let Some(outcome) = self.act(wire) {
                return outcome;
            }
            let now = clock::now();
            let calm = self.world.calm.get();
            let may_send = (!self.outgoing.is_empty() || wire.has_records()) && self.send_at <= now;
            let may_read = match self.plan.reading {
                Reading::Prompt => true,
                // Otherwise there would be no connection.
                _ if wire.is_handshaking() => true,
                Reading::Slow(..) => calm || self.read_at <= now,
                Reading::Late => calm,
                Reading::Never => false,
            };
            let (send_len, read_len) = (self.send_len(), self.read_len(wire.is_handshaking()));
            let is_looked_at = self.quiet_since.is_some() || (may_send && self.plan.reading == Reading::Never);
            let look_at = is_looked_at.then(|| now + QUIET_SLACK);
            let next =
                [Some(self.send_at), Some(self.read_at), look_at].into_iter().flatten().filter(|at| *at > now).min();
            tokio::select! {
                biased;
                result = wire.send(&self.outgoing, send_len), if may_send => match result {
                    Ok(count) => self.accepted(count),
                    // Acks that were received before can still be read.
                    Err(error) if is_reset(&error) => return Outcome::Reset,
                    Err(_) => self.outgoing.clear(),
                },
                result = wire.receive(&mut self.incoming, read_len), if may_read => match result {
                    Ok(Received::End) => {
                        self.check_quiet(wire);
                        return Outcome::Ended;
                    }
                    Ok(Received::Nothing) => {}
                    Ok(Received::Bytes) => {
                        if let Reading::Slow(_, pause) = self.plan.reading {
                            self.read_at = clock::now() + pause;
                        }
                        self.check_acks();
                    }
                    Err(_) => return Outcome::Reset,
                },
                () = sleep_until(next.unwrap_or(now).into()), if next.is_some() => {}
                () = self.world.calmed(), if !calm => {}
                () = wire.closed(), if !may_read && !may_send => return Outcome::Reset,
            }
        }
    }

    /// Does what the plan has for this moment, apart from sending and reading.
    fn act(&mut self, wire: &Wire) -> Option<Outcome> {
        match self.plan.ending {
            Ending::Reset(at) if self.accepted >= at => {
                wire.reset();
                return Some(Outcome::Left);
            }
            Ending::Vanish(at) if self.accepted >= at => {
                wire.vanish();
                return Some(Outcome::Left);
            }
            _ => {}
        }
        // A client that never reads can only leave.
        if self.plan.reading == Reading::Never && self.world.calm.get() {
            return Some(Outcome::Left);
        }
        if !self.finished || !self.outgoing.is_empty() || wire.is_handshaking() {
            return None;
        }
        let sent = self.sent.borrow();
        let has_acks = sent.acks == sent.requests.len();
        let calm = self.world.calm.get();
        match self.plan.ending {
            Ending::Leave | Ending::Reset(_) | Ending::Vanish(_) => return Some(Outcome::Left),
            Ending::Close if has_acks => return Some(Outcome::Left),
            Ending::Close => return None,
            Ending::Stay | Ending::StayInFrame if !calm => return None,
            _ => {}
        }
        if !std::mem::replace(&mut self.stream_ended, true) {
            wire.end_stream(self.plan.tls.unwrap_or(StreamEnd::Fin));
        }
        None
    }

    /// Encodes as many requests as the window allows.
    fn encode(&mut self) {
        if !self.outgoing.is_empty() || self.finished || self.send_at > clock::now() {
            return;
        }
        let mut sent = self.sent.borrow_mut();
        let unacked = sent.requests.len() - sent.acks;
        let left = self.plan.requests as usize - sent.requests.len();
        let count = (self.plan.window as usize - unacked.min(self.plan.window as usize)).min(left);
        let count = if count == 0 { 0 } else { count.min(self.plan.burst as usize) };
        for _ in 0..count {
            let number = sent.requests.len() as u32;
            let is_conn = self.random.one_in(self.plan.conn_one_in);
            let len = self.payload_len();
            self.outgoing.extend_from_slice(&(13 + len).to_be_bytes());
            self.outgoing.push(if is_conn { 1 } else { 2 });
            self.outgoing.extend_from_slice(&id(self.plan.number, number).to_be_bytes());
            self.outgoing.extend(payload(self.plan.number, number, len));
            self.encoded += 13 + u64::from(len);
            self.ends.push_back(self.encoded);
            sent.requests.push(Request { is_conn, is_too_long: false, len, result: None });
        }
        if let Sending::Paced(pause) = self.plan.sending
            && count > 0
        {
            self.send_at = clock::now() + pause;
        }
        if sent.requests.len() == self.plan.requests as usize {
            self.finished = true;
            match self.plan.ending {
                Ending::Garbage(garbage) => self.encode_garbage(garbage, &mut sent),
                Ending::StayInFrame => self.encode_garbage(Garbage::Part, &mut sent),
                _ => {}
            }
        }
    }

    fn encode_garbage(&mut self, garbage: Garbage, sent: &mut Sent) {
        let limit = self.world.plan.server.options.frame_len_max;
        let number = sent.requests.len() as u32;
        let before = self.outgoing.len();
        match garbage {
            Garbage::ShortLength => self.outgoing.extend_from_slice(&12u32.to_be_bytes()),
            Garbage::Command => self.outgoing.extend_from_slice(&[0, 0, 0, 13, 0x82]),
            Garbage::LongLength => {
                self.outgoing.extend_from_slice(&(limit + 1).to_be_bytes());
                self.outgoing.push(2);
                self.outgoing.extend_from_slice(&id(self.plan.number, number).to_be_bytes());
                self.ends.push_back(self.encoded + 13);
                let (is_conn, is_too_long, len) = (false, true, 0);
                sent.requests.push(Request { is_conn, is_too_long, len, result: None });
            }
            Garbage::Part => {
                let len = limit.min(200);
                self.outgoing.extend_from_slice(&len.to_be_bytes());
                self.outgoing.push(2);
                let part = self.random.below(u64::from(len) - 5) as usize;
                self.outgoing.extend(std::iter::repeat_n(7, part));
            }
        }
        self.encoded += (self.outgoing.len() - before) as u64;
    }

    fn payload_len(&mut self) -> u32 {
        match self.plan.payloads {
            Payloads::UpTo(most) => self.random.below(u64::from(most) + 1) as u32,
            Payloads::Mixed(most) if self.random.one_in(MIXED_LARGE_ONE_IN) => {
                most - self.random.below(u64::from(most.min(3)) + 1) as u32
            }
            Payloads::Mixed(most) => self.random.below(u64::from(most.min(80)) + 1) as u32,
        }
    }

    fn send_len(&self) -> usize {
        let before_end = match self.plan.ending {
            Ending::Reset(at) | Ending::Vanish(at) => (at - self.accepted.min(at)).max(1) as usize,
            _ => usize::MAX,
        };
        let part = match self.plan.sending {
            Sending::Drip(part, _) if !self.world.calm.get() => part,
            _ => usize::MAX,
        };
        before_end.min(part)
    }

    fn read_len(&self, is_handshaking: bool) -> usize {
        match self.plan.reading {
            Reading::Slow(part, _) if !self.world.calm.get() && !is_handshaking => part,
            _ => 64 << 10,
        }
    }

    fn accepted(&mut self, count: usize) {
        self.accepted_at = clock::now();
        self.outgoing.drain(..count);
        self.accepted += count as u64;
        let mut sent = self.sent.borrow_mut();
        while self.ends.front().is_some_and(|end| *end <= self.accepted) {
            self.ends.pop_front();
            sent.complete += 1;
        }
        if let Sending::Drip(_, pause) = self.plan.sending
            && !self.world.calm.get()
        {
            self.send_at = clock::now() + pause;
        }
    }

    /// Law 4: the server ends a connection that is silent for longer than a timeout allows.
    fn check_quiet(&mut self, wire: &Wire) {
        let options = &self.world.plan.server.options;
        let stalls = self.world.plan.events.iter().any(|(_, event)| matches!(event, Event::ShardStall(..)));
        let timeout = match self.plan.ending {
            _ if stalls => return,
            _ if self.plan.reading != Reading::Prompt => return,
            Ending::Stay => options.idle_timeout,
            Ending::StayInFrame => options.frame_timeout,
            _ => return,
        };
        let sent = self.sent.borrow();
        let disturbed = self.world.is_disturbed.get() || self.world.disturbances.get() != self.disturbances;
        if timeout.is_zero()
            || disturbed
            || wire.is_handshaking()
            || !self.finished
            || !self.outgoing.is_empty()
            || self.world.calm.get()
        {
            self.quiet_since = None;
        } else if sent.acks == sent.requests.len() {
            let quiet = clock::now() - *self.quiet_since.get_or_insert_with(clock::now);
            if quiet > timeout * 2 + QUIET_SLACK {
                let client = self.plan.number;
                trace::violated(|| {
                    format!("law 4: client {client} was silent for {quiet:?}, with {timeout:?} permitted")
                });
            }
        }
    }

    /// Law 4: the server cuts a connection whose acks are not read.
    fn check_blocked(&mut self) {
        let (plan, now) = (&self.world.plan, clock::now());
        let options = &plan.server.options;
        let disturbed = self.world.is_disturbed.get() || self.world.disturbances.get() != self.disturbances;
        // Without these, a server that does not read waits for its client to read.
        let has_other_reasons = options.memory_max != Some(0) || options.journal().is_some();
        let is_blocked = !self.outgoing.is_empty() && self.send_at <= now;
        let is_off = options.write_timeout.is_zero() || self.plan.reading != Reading::Never;
        if is_off || disturbed || has_other_reasons || !is_blocked || self.world.calm.get() {
            return;
        }
        let stalls = plan.events.iter().any(|(_, event)| matches!(event, Event::ShardStall(..)));
        let blocked = now - self.accepted_at;
        if blocked > options.write_timeout * 2 + QUIET_SLACK && !stalls && self.plan.link.latency_max < QUIET_SLACK / 4
        {
            let (client, timeout) = (self.plan.number, options.write_timeout);
            trace::violated(|| {
                format!(
                    "law 4: client {client} reads no acks, and is not cut after {blocked:?}, with {timeout:?} permitted"
                )
            });
        }
    }

    /// Law 1: acks come in order, one for each request, with its ID.
    fn check_acks(&mut self) {
        let mut sent = self.sent.borrow_mut();
        let client = self.plan.number;
        let whole = self.incoming.len() / 14 * 14;
        for ack in self.incoming.drain(..whole).collect::<Vec<_>>().chunks(14) {
            let number = sent.acks;
            let Some(request) = sent.requests.get_mut(number) else {
                return trace::violated(|| format!("law 1: client {client} got an ack more than it sent requests"));
            };
            let mut due = vec![0, 0, 0, 14, if request.is_conn { 0x81 } else { 0x82 }];
            due.extend_from_slice(&id(client, number as u32).to_be_bytes());
            let result = ack[13];
            let result_fits = match request {
                Request { is_conn: true, is_too_long: false, .. } => result == 0,
                Request { is_too_long: true, .. } => result == 1,
                _ => result <= 1,
            };
            if ack[..13] != due || !result_fits {
                return trace::violated(|| format!("law 1: client {client} got {ack:?} as ack {number}"));
            }
            if number >= sent.complete + self.ends.len() {
                return trace::violated(|| format!("law 1: client {client} got ack {number} before its request"));
            }
            sent.requests[number].result = Some(result);
            sent.acks += 1;
            trace::add(if result == 0 { "ack" } else { "failure" }, client.into(), number as u64);
        }
    }
}

/// How often a client looks whether the first server accepts.
const START_LOOK: Duration = Duration::from_millis(5);
/// How much later than twice its timeout a connection may end.
const QUIET_SLACK: Duration = Duration::from_millis(1500);

fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset
}
