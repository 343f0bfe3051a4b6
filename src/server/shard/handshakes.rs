//! The TLS handshakes of one shard: how many may be in flight, and how many steps one event-loop iteration may do.
//!
//! A handshake needs more memory than an open connection, and each of its steps needs the shard's thread for a while.
//! So neither a storm of reconnects nor an attack may have as many as it likes.

use std::cell::Cell;

use super::bulk_buffer::BulkBuffer;
use super::pacer::{HANDSHAKE_STEPS_PER_ITERATION, Pacer};
use crate::fair_queue::FairQueue;
use crate::server::tls_options::TlsOptions;
use crate::tls::session::{HANDSHAKE_LEN_MAX, RECORD_LEN_MAX};

/// The TLS handshakes of one shard.
pub struct Handshakes {
    /// The most in flight; `usize::MAX` once the shard drains.
    limit: Cell<usize>,
    in_flight: Cell<usize>,
    waiting: FairQueue,
    /// Limits the steps in one event-loop iteration.
    pub steps: Pacer,
    /// The buffer in which connections open the records that they have received into their own.
    pub scratch: BulkBuffer,
}

/// A place among the handshakes in flight.
pub struct Place<'a>(&'a Handshakes);

impl Handshakes {
    /// Creates the handshakes of a shard without connections.
    pub fn new(options: &TlsOptions) -> Self {
        Handshakes {
            limit: Cell::new(options.handshakes_max),
            in_flight: Cell::new(0),
            waiting: FairQueue::default(),
            steps: Pacer::new(HANDSHAKE_STEPS_PER_ITERATION),
            // With less room, a message that is too large would look like one that has not arrived yet.
            scratch: BulkBuffer::new(HANDSHAKE_LEN_MAX + RECORD_LEN_MAX),
        }
    }

    /// Waits for a place, which is free again when it is dropped. Cancel-safe.
    pub async fn begin(&self) -> Place<'_> {
        self.waiting.wait_until(|| self.in_flight.get() < self.limit.get()).await;
        self.in_flight.set(self.in_flight.get() + 1);
        Place(self)
    }

    /// Lets all handshakes begin. A drain must not wait for places.
    pub fn lift_limit(&self) {
        self.limit.set(usize::MAX);
        self.waiting.notify();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.waiting.notify();
    }
}
