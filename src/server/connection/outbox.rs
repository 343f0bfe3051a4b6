//! What one connection owes its peer: the acks, from the staging of their requests to their leaving.
//!
//! It owns the connection's part of the sink. Its invariant: acks leave in the order of their
//! requests, and none before the sink has told what it says.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use crate::engine::Socket;
use crate::proto::{ACK_LEN, AckResult, Acks, Kind, Received, Session};
use crate::server::shard::{Registration, Shard};
use crate::sink::Sink;

/// The acks of one connection, and the sink that they wait for.
pub struct Outbox<'a, S> {
    shard: &'a Shard,
    registration: &'a Registration,
    sink: S,
    acks: Acks,
    /// When the newest requests were complete.
    complete: Instant,
    /// The same for requests whose acks had to wait for the sink, and how many: oldest first.
    waiting: VecDeque<(Instant, u64)>,
    /// Requests answered, for the log.
    requests: u64,
    /// Why nothing more can be sent.
    failed: Option<io::Error>,
}

impl<'a, S: Sink> Outbox<'a, S> {
    pub fn new(shard: &'a Shard, registration: &'a Registration, sink: S) -> Self {
        Outbox {
            shard,
            registration,
            sink,
            acks: Acks::new(shard.config.ack_codes),
            complete: registration.now(),
            waiting: VecDeque::new(),
            requests: 0,
            failed: None,
        }
    }

    /// Waits until the sink has room for what one read brings. Cancel-safe.
    #[inline]
    pub async fn ready(&mut self) {
        self.sink.ready().await;
    }

    /// The time when the connection was accepted or last received bytes.
    pub fn last_received(&self) -> Instant {
        self.complete
    }

    /// A receive has just completed: the latency of the requests that it brought counts from here.
    #[inline]
    pub fn received(&mut self) {
        self.complete = self.shard.now();
    }

    /// Stages every whole frame of `input`. To be called once the sink is [ready](Self::ready).
    #[inline]
    pub fn take(&mut self, session: &mut Session, input: &[u8]) -> Received {
        let before = self.acks.len();
        let progress = session.receive(input, &mut self.acks, |submit| self.sink.stage(submit));
        if !self.sink.owes() {
            self.acks.settle_all();
        } else if self.acks.len() > before {
            self.waiting.push_back((self.complete, (self.acks.len() - before) as u64));
            self.acks.settle(0, 0);
        }
        progress
    }

    /// Whether so much waits for the sink that nothing more should be read.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= READS_AHEAD && self.waits()
    }

    /// Whether acks wait for the sink.
    #[inline]
    pub fn waits(&self) -> bool {
        self.sink.owes() && self.failed.is_none()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.acks.is_empty()
    }

    /// Waits until the sink has told something. Cancel-safe.
    pub async fn settle(&mut self) {
        let settled = self.sink.settle().await;
        self.acks.settle(settled.taken, settled.failed);
    }

    /// Sends every ack that may leave, and keeps the memory for the next ones up to `keep` bytes. Waits
    /// while the peer does not read; [`Self::failure`] tells if that ended badly. Not cancel-safe.
    #[inline]
    pub async fn send(&mut self, socket: &Socket, keep: usize) {
        if !self.acks.has_settled() || self.failed.is_some() {
            return;
        }
        let (bytes, counts) = self.acks.take_settled();
        let (requests, conns, failures) = ((bytes.len() / ACK_LEN) as u64, counts.conns as u64, counts.failures as u64);
        let metrics = &self.shard.metrics;
        metrics.requests.of(Kind::Conn).add(conns);
        metrics.requests.of(Kind::Submit).add(requests - conns);
        self.requests += requests;
        // Acks that no sink holds back come one connection at a time, as their requests do.
        if !self.waiting.is_empty() {
            self.shard.ack_pacer.pass(requests).await;
        }
        self.registration.waits_for_room();
        let (result, bytes) = socket.send_all(bytes).await;
        if let Err(error) = result {
            self.failed = Some(error);
            return;
        }
        self.record_latency(requests);
        metrics.acks.of(AckResult::Success).add(requests - failures);
        metrics.acks.of(AckResult::Failure).add(failures);
        metrics.bytes_sent.add(bytes.len() as u64);
        if bytes.capacity() <= keep {
            self.acks.put_back(bytes);
        }
    }

    #[inline]
    fn record_latency(&mut self, mut requests: u64) {
        let latency = &self.shard.metrics.latency;
        let now = self.shard.now();
        while let Some((complete, count)) = self.waiting.front_mut()
            && requests > 0
        {
            let sent = requests.min(*count);
            latency.record(now - *complete, sent);
            (*count, requests) = (*count - sent, requests - sent);
            if *count == 0 {
                self.waiting.pop_front();
            }
        }
        if requests > 0 {
            latency.record(now - self.complete, requests);
        }
    }

    /// Waits for the sink to settle everything, and sends it.
    pub async fn flush(&mut self, socket: &Socket) {
        while !self.is_empty() && self.failed.is_none() {
            if self.sink.owes() {
                self.registration.waits_no_more();
                self.settle().await;
            }
            self.send(socket, 0).await;
        }
    }

    /// Whether nothing more can be sent.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Why nothing more can be sent, once.
    pub fn failure(&mut self) -> Option<io::Error> {
        self.failed.take()
    }

    /// Bytes that it holds memory for.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.acks.capacity()
    }

    /// Gives the memory back, if no ack is in it and it is more than `keep` bytes.
    pub fn shrink(&mut self, keep: usize) {
        if self.acks.is_empty() && self.acks.capacity() > keep {
            self.acks = Acks::new(self.shard.config.ack_codes);
        }
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.requests
    }
}

/// Reads of one connection while the sink is busy with earlier ones.
const READS_AHEAD: usize = 4;
