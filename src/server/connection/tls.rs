//! TLS of one connection: between what is received and the frames, and between acks and what is sent.
//!
//! The read buffer holds plaintext, and after it the records that are not opened yet. Here they are opened, and acks
//! become records. The session itself is made at the first bytes, so a connection that sends none costs no handshake.

use std::sync::Arc;
use std::time::Instant;

use rustls::{ProtocolVersion, ServerConfig};

use super::read_buffer::ReadBuffer;
use crate::metrics::{ShardMetrics, TlsVersion};
use crate::server::shard::deadline::Wait;
use crate::server::shard::handshakes::Place;
use crate::server::tls_options::TlsMode;
use crate::tls::session::ServerSession;
use crate::tls::{Fault, FaultReason};

/// The TLS of one connection.
pub struct Tls<'a> {
    mode: TlsMode,
    metrics: &'a ShardMetrics,
    /// When the connection was accepted.
    pub accepted: Instant,
    /// When the client's first bytes arrived.
    began: Option<Instant>,
    /// `None` before the client's first bytes.
    session: Option<ServerSession>,
    /// The place among the handshakes in flight, until this one is complete.
    place: Option<Place<'a>>,
    /// Records that are ready to be sent.
    out: Vec<u8>,
}

impl<'a> Tls<'a> {
    /// Creates the TLS of a connection that was accepted at `accepted`.
    pub fn new(mode: TlsMode, metrics: &'a ShardMetrics, accepted: Instant) -> Self {
        Tls { mode, metrics, accepted, began: None, session: None, place: None, out: Vec::new() }
    }

    /// Begins the handshake.
    ///
    /// # Errors
    /// The configuration can't be used.
    pub fn begin(&mut self, config: Arc<ServerConfig>, place: Place<'a>, now: Instant) -> Result<(), Fault> {
        self.session = Some(ServerSession::accept(config).map_err(|error| Fault::of(&error))?);
        self.place = Some(place);
        self.began = Some(now);
        Ok(())
    }

    /// Returns whether the client's first bytes have been seen.
    pub fn has_begun(&self) -> bool {
        self.session.is_some()
    }

    /// Returns whether requests can't be received yet.
    #[inline]
    pub fn is_handshaking(&self) -> bool {
        self.session.as_ref().is_none_or(ServerSession::is_handshaking)
    }

    /// Returns what the connection waits for during its handshake. If TLS is not required, a connection that has sent
    /// nothing may be one without TLS, so it has the time of those.
    #[inline]
    pub fn wait(&self) -> Option<Wait> {
        let is_undecided = self.mode == TlsMode::Allow && self.session.is_none();
        (self.is_handshaking() && !is_undecided).then_some(Wait::Handshake { began: self.accepted })
    }

    /// Returns whether the peer has ended its stream with a close_notify.
    #[inline]
    pub fn peer_has_closed(&self) -> bool {
        self.session.as_ref().is_some_and(ServerSession::peer_has_closed)
    }

    /// Opens the records of a receive into the read buffer itself that brought `received` bytes. Returns the bytes of
    /// plaintext that they had.
    ///
    /// # Errors
    /// The connection can only be closed, after [`Self::take_records`] was sent.
    pub fn open(&mut self, input: &mut ReadBuffer, received: usize, scratch: &mut Vec<u8>) -> Result<usize, Fault> {
        self.count(|session, out, count| {
            input.open(received, scratch, |records, take| {
                session.receive(records, out, |payload| {
                    *count += 1;
                    take(payload);
                })
            })
        })
    }

    /// Opens `records`, which a receive into another buffer has brought, and leaves the plaintext in the read buffer.
    /// They begin with the records that the read buffer held. Returns the bytes of plaintext.
    ///
    /// # Errors
    /// The connection can only be closed, after [`Self::take_records`] was sent.
    pub fn open_from(&mut self, input: &mut ReadBuffer, received: usize, records: &mut [u8]) -> Result<usize, Fault> {
        self.count(|session, out, count| {
            input.open_from(received, records, |records, take| {
                session.receive(records, out, |payload| {
                    *count += 1;
                    take(payload);
                })
            })
        })
    }

    /// Lets `open` open records and count them. After a failure, the connection needs its place no longer.
    fn count(
        &mut self,
        open: impl FnOnce(&mut ServerSession, &mut Vec<u8>, &mut u64) -> Result<usize, Fault>,
    ) -> Result<usize, Fault> {
        let session = self.session.as_mut().ok_or(FaultReason::Internal)?;
        let mut count = 0;
        let opened = open(session, &mut self.out, &mut count);
        self.metrics.tls_records_received.add(count);
        if opened.is_err() {
            self.place = None;
        }
        opened
    }

    /// Records the end of the handshake, if it has just ended. Returns whether it has.
    pub fn completes(&mut self, now: Instant) -> bool {
        if self.is_handshaking() || self.place.take().is_none() {
            return false;
        }
        let is_old = self.session.as_ref().and_then(ServerSession::version) == Some(ProtocolVersion::TLSv1_2);
        self.metrics.tls_handshakes.of(if is_old { TlsVersion::Tls12 } else { TlsVersion::Tls13 }).add(1);
        if let Some(began) = self.began {
            self.metrics.tls_handshake_times.record(now.saturating_duration_since(began), 1);
        }
        true
    }

    /// Returns `acks` as records, after those that are ready to be sent.
    ///
    /// # Errors
    /// The session has failed.
    pub fn seal(&mut self, acks: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut records = std::mem::take(&mut self.out);
        self.session.as_mut().ok_or(FaultReason::Internal)?.send(acks, &mut records)?;
        self.metrics.tls_records_sent.add(1);
        Ok(records)
    }

    /// Prepares the record that ends the stream to the peer. After a failure there is none.
    pub fn close(&mut self) {
        if let Some(session) = &mut self.session {
            // A session that has failed has sent its alert.
            let _ = session.close(&mut self.out);
        }
    }

    /// Returns whether there are records that the peer must get before anything is waited for.
    #[inline]
    pub fn has_records(&self) -> bool {
        !self.out.is_empty()
    }

    /// Takes the records that are ready to be sent.
    pub fn take_records(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Takes a buffer of records back after they were sent, if it is small.
    #[inline]
    pub fn put_back(&mut self, mut records: Vec<u8>) {
        if self.out.is_empty() && records.capacity() <= RECORDS_KEPT {
            records.clear();
            self.out = records;
        }
    }

    /// Returns the bytes of memory that this holds, about.
    pub fn memory(&self) -> usize {
        match &self.session {
            None => size_of::<Self>(),
            Some(session) if session.is_handshaking() => HANDSHAKE_MEMORY,
            Some(_) => SESSION_MEMORY,
        }
    }
}

/// The most bytes of a buffer of acks or records that is kept from one send to the next: 64 acks and their record. A
/// connection whose larger send waits for room holds only the records.
pub const RECORDS_KEPT: usize = 1024;
/// An estimate of the memory of a session after its handshake: a process has about so much more for each idle
/// connection with TLS than for one without (`ringpost bench --idle`).
const SESSION_MEMORY: usize = 4 << 10;
/// An estimate of the memory of a session in its handshake, which also keeps messages.
const HANDSHAKE_MEMORY: usize = 16 << 10;
