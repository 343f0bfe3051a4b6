//! A connection's acks, from the staging of their requests until they are sent.
//!
//! The outbox owns the connection's sink. Its invariant: acks leave in the order of their requests, and none before its
//! outcome is known.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::time::Instant;

use super::tls::{RECORDS_KEPT, Tls};
use crate::engine::Socket;
use crate::proto::{ACK_LEN, AckResult, Acks, Kind, Received, Session};
use crate::server::shard::Shard;
use crate::server::shard::deadline::Wait;
use crate::server::shard::memory::{acks_per_read_max, held_acks_max};
use crate::server::shard::register::Registration;
use crate::sink::{self, Sink};
use crate::tls::Fault;

/// The acks of one connection, and the sink that decides them.
pub struct Outbox<'a, S> {
    shard: &'a Shard,
    registration: &'a Registration,
    sink: S,
    acks: Acks,
    /// Turns acks into TLS records, and received records into requests. `None` without TLS.
    pub tls: Option<Box<Tls<'a>>>,
    /// When the newest requests were received.
    received: Instant,
    /// Requests whose acks the sink held back, and that are not sent yet: an entry per read, the oldest first.
    held_back: VecDeque<HeldBack>,
    /// The number of requests answered, for the log.
    requests: u64,
    /// Why nothing more can be sent.
    failed: Option<io::Error>,
}

/// Requests of one read whose acks wait, or have waited, for the sink.
struct HeldBack {
    received: Instant,
    requests: u64,
}

/// A batch of requests that the sink is ready for.
pub struct Batch<'o, 'a, B> {
    shard: &'o Shard,
    sink: B,
    /// The connection's TLS, which opens what is received.
    pub tls: &'o mut Option<Box<Tls<'a>>>,
    acks: &'o mut Acks,
    received: &'o mut Instant,
    held_back: &'o mut VecDeque<HeldBack>,
}

impl<'a, S: Sink> Outbox<'a, S> {
    /// Creates the outbox of a connection that was just accepted.
    pub fn new(shard: &'a Shard, registration: &'a Registration, sink: S) -> Self {
        Outbox {
            shard,
            registration,
            sink,
            acks: Acks::new(shard.config.ack_codes),
            tls: shard.config.tls.as_ref().map(|tls| Box::new(Tls::new(tls.mode, &shard.metrics, registration.now()))),
            received: registration.now(),
            held_back: VecDeque::new(),
            requests: 0,
            failed: None,
        }
    }

    /// Waits until the sink has room for what one read brings. Cancel-safe.
    #[inline]
    pub async fn ready(&mut self) -> Batch<'_, 'a, S::Batch<'_>> {
        let Outbox { shard, sink, acks, tls, received, held_back, .. } = self;
        Batch { shard, sink: sink.ready().await, acks, tls, received, held_back }
    }

    /// Returns the time when the connection was accepted or last received bytes.
    pub fn last_received(&self) -> Instant {
        self.received
    }

    /// Records that a receive has just completed. The latency of the requests that it brought counts from now.
    #[inline]
    pub fn received(&mut self) {
        self.received = self.shard.now();
    }

    /// Returns whether so many acks wait for the sink that nothing more should be read.
    #[inline]
    pub fn is_full(&self) -> bool {
        let has_many = self.acks.len() >= acks_per_read_max(self.shard.config.read_buffer_max);
        (self.held_back.len() >= READS_AHEAD || has_many) && self.waits()
    }

    /// Returns whether acks wait for the sink.
    #[inline]
    pub fn waits(&self) -> bool {
        self.sink.has_unsettled() && self.failed.is_none()
    }

    /// Returns whether there are no acks to send.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.acks.is_empty()
    }

    /// Waits until the outcome of at least one message is known. Cancel-safe.
    pub async fn settle(&mut self) {
        let settled = self.sink.settle().await;
        self.acks.settle(settled.durable, settled.failed);
    }

    /// Sends every ack whose outcome is known, and keeps up to `keep` bytes of memory for the next acks. Waits while
    /// the peer does not read. [`Self::failure`] returns an error. Not cancel-safe.
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
        // Only acks that a sink held back come in bursts, for many connections at the same time.
        if !self.held_back.is_empty() {
            self.shard.ack_pacer.pass(requests).await;
        }
        let bytes = if self.tls.is_some() {
            match self.seal(bytes, keep) {
                Ok(records) => records,
                Err(fault) => {
                    self.failed = Some(io::Error::other(fault));
                    return;
                }
            }
        } else {
            bytes
        };
        let send = pin!(socket.send_all(bytes));
        let (result, bytes) = self.registration.within(Wait::Room, send).await;
        if let Err(error) = result {
            self.failed = Some(error);
            return;
        }
        self.record_latency(requests);
        metrics.acks.of(AckResult::Success).add(requests - failures);
        metrics.acks.of(AckResult::Failure).add(failures);
        metrics.bytes_sent.add(bytes.len() as u64);
        if let Some(tls) = &mut self.tls {
            tls.put_back(bytes);
        } else if bytes.capacity() <= keep {
            self.acks.put_back(bytes);
        }
    }

    /// Turns acks into records. A large buffer of acks is released, since the records need as much.
    fn seal(&mut self, acks: Vec<u8>, keep: usize) -> Result<Vec<u8>, Fault> {
        let tls = self.tls.as_mut().expect("only a connection with TLS seals its acks");
        let records = tls.seal(&acks)?;
        if acks.capacity() <= keep.min(RECORDS_KEPT) {
            self.acks.put_back(acks);
        }
        Ok(records)
    }

    /// Returns whether TLS has records that the peer must get before anything is waited for.
    #[inline]
    pub fn has_records(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_records())
    }

    /// Sends the records that TLS has prepared: parts of the handshake, answers, an alert, the end of the stream. Waits
    /// while the peer does not read. [`Self::failure`] returns an error. Not cancel-safe.
    pub async fn send_records(&mut self, socket: &Socket) {
        let Some(tls) = self.tls.as_mut().filter(|tls| tls.has_records()) else { return };
        if self.failed.is_some() {
            return;
        }
        let wait = tls.wait().unwrap_or(Wait::Room);
        let send = pin!(socket.send_all(tls.take_records()));
        let (result, records) = self.registration.within(wait, send).await;
        match result {
            Ok(()) => self.shard.metrics.bytes_sent.add(records.len() as u64),
            Err(error) => self.failed = Some(error),
        }
    }

    /// Records the latency of the oldest requests, whose acks have just been sent.
    #[inline]
    fn record_latency(&mut self, mut requests: u64) {
        let latency = &self.shard.metrics.latency;
        let now = self.shard.now();
        while let Some(oldest) = self.held_back.front_mut()
            && requests > 0
        {
            let sent = requests.min(oldest.requests);
            latency.record(now - oldest.received, sent);
            oldest.requests -= sent;
            requests -= sent;
            if oldest.requests == 0 {
                self.held_back.pop_front();
            }
        }
        if requests > 0 {
            latency.record(now - self.received, requests);
        }
    }

    /// Waits for the sink to settle everything, and sends all acks.
    pub async fn flush(&mut self, socket: &Socket) {
        while !self.is_empty() && self.failed.is_none() {
            if self.sink.has_unsettled() {
                self.settle().await;
            }
            self.send(socket, 0).await;
        }
    }

    /// Returns whether nothing more can be sent.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Takes the error because of which nothing more can be sent.
    pub fn failure(&mut self) -> Option<io::Error> {
        self.failed.take()
    }

    /// Returns the bytes of memory that the acks hold.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.acks.capacity()
    }

    /// Releases the memory of the acks, if there are none and it is more than `keep` bytes.
    pub fn shrink(&mut self, keep: usize) {
        if self.acks.is_empty() && self.acks.capacity() > keep {
            self.acks = Acks::new(self.shard.config.ack_codes);
        }
    }

    /// Returns the number of requests answered so far.
    pub fn requests(&self) -> u64 {
        self.requests
    }
}

impl<B: sink::Batch> Batch<'_, '_, B> {
    /// Records that a receive has just completed, as [`Outbox::received`] does.
    #[inline]
    pub fn received(&mut self) {
        *self.received = self.shard.now();
    }

    /// Stages every whole frame of `input`, and ends the batch.
    #[inline]
    pub fn stage(mut self, session: &mut Session, input: &[u8]) -> Received {
        let before = self.acks.len();
        let progress = session.receive(input, self.acks, |submit| self.sink.stage(submit));
        if !self.sink.has_unsettled() {
            self.acks.settle_all();
        } else if self.acks.len() > before {
            let requests = (self.acks.len() - before) as u64;
            self.held_back.push_back(HeldBack { received: *self.received, requests });
            // The vector may have doubled beyond what the connection is charged for.
            self.acks.shrink_to(held_acks_max(self.shard.config.read_buffer_max));
            self.acks.settle(0, 0);
        }
        progress
    }
}

/// The number of reads of one connection whose acks may wait for the sink.
const READS_AHEAD: usize = 4;
