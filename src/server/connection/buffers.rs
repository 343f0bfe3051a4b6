//! A connection's buffers, and their share of the shard's memory.
//!
//! The buffers are the read buffer and the acks of the [`Outbox`]. This module decides when they grow and shrink, and
//! keeps the time of the frame that is at the head of the read buffer in part. It receives and sends nothing.

use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::read_buffer::{Growth, ReadBuffer};
use crate::proto::HEADER_LEN;
use crate::server::options::READ_BUFFER_MIN;
use crate::server::shard::deadline::Wait;
use crate::server::shard::memory::{Memory, Share};
use crate::sink::Sink;
use crate::tls::session::RECORD_LEN_MAX;

/// The buffers of one connection.
pub struct Buffers<'a> {
    /// The bytes received and not yet consumed.
    pub input: ReadBuffer,
    memory: &'a Memory,
    share: Share<'a>,
    /// The length of the frame at the head of `input`, as far as it is known.
    frame_len: usize,
    /// When that frame began, if a part of it has arrived.
    frame_began: Option<Instant>,
}

impl<'a> Buffers<'a> {
    /// Creates the empty buffers of the connection with this key in the shard's register.
    pub fn new(memory: &'a Memory, key: usize, read_buffer_max: usize) -> Self {
        Buffers {
            input: ReadBuffer::new(read_buffer_max),
            memory,
            share: Share::new(memory, key),
            frame_len: HEADER_LEN,
            frame_began: None,
        }
    }

    /// Makes room for the next receive, and accounts for the buffers. Returns whether there is room. If not, the
    /// connection has to [wait for memory](Self::wait_to_grow).
    #[inline]
    pub fn prepare<S: Sink>(&mut self, outbox: &mut Outbox<'_, S>) -> bool {
        if self.memory.is_short() {
            self.return_unneeded(outbox);
        }
        if let Some(growth) = self.input.growth(self.frame_len)
            && !self.grow(growth)
        {
            return false;
        }
        self.share.set(self.input.capacity(), outbox.capacity());
        true
    }

    /// Accounts for the buffers after acks were encoded, and returns memory if it is short.
    #[inline]
    pub fn account<S: Sink>(&mut self, outbox: &mut Outbox<'_, S>) {
        if self.memory.is_short() {
            self.return_unneeded(outbox);
        }
        self.share.set(self.input.capacity(), outbox.capacity());
    }

    /// Lets the read buffer grow as far as memory allows. Returns `false` if it is full and may not grow.
    #[cold]
    fn grow(&mut self, Growth { least, best }: Growth) -> bool {
        let promised = self.share.has_promise();
        let capacity = if best <= READ_BUFFER_MIN || (!promised && self.share.may_grow_to(best)) {
            best
        } else if promised || least == self.input.capacity() || self.share.may_grow_to(least) {
            least
        } else {
            return false;
        };
        if capacity > self.input.capacity() {
            self.input.grow_to(capacity);
        }
        true
    }

    /// Returns whether the read buffer is full inside a frame.
    pub fn needs_memory(&self) -> bool {
        self.input.growth(self.frame_len).is_some()
    }

    /// Waits until the frame in the full read buffer can continue, and grows the buffer. Cancel-safe.
    pub async fn wait_to_grow<S: Sink>(&mut self, outbox: &Outbox<'_, S>) {
        let Some(Growth { least, .. }) = self.input.growth(self.frame_len) else { return };
        // With TLS, a record in part may follow the last bytes of the frame.
        let records = if self.share.has_state() { RECORD_LEN_MAX } else { 0 };
        self.share.wait_to_grow_to(self.frame_len + records).await;
        self.input.grow_to(least);
        self.share.set(self.input.capacity(), outbox.capacity());
    }

    /// Returns memory that is not needed now, so that waiting connections can use it.
    #[cold]
    fn return_unneeded<S: Sink>(&mut self, outbox: &mut Outbox<'_, S>) {
        self.input.shrink();
        if self.input.is_small() {
            outbox.shrink(QUIET_ACKS_LEN);
        }
        self.share.set(self.input.capacity(), outbox.capacity());
    }

    /// Returns the number of bytes that the outbox should keep for the next acks.
    #[inline]
    pub fn acks_kept(&self) -> usize {
        if self.input.is_small() { QUIET_ACKS_LEN } else { usize::MAX }
    }

    /// Returns what a receive waits for.
    #[inline]
    pub fn wait(&self) -> Wait {
        self.frame_wait().unwrap_or(Wait::Request)
    }

    /// Returns what a receive waits for if a frame has begun.
    #[inline]
    pub fn frame_wait(&self) -> Option<Wait> {
        self.frame_began.map(|began| Wait::Frame { began })
    }

    /// Records what is at the head of the input: of a frame with `frame_len` bytes, as far as is known, a part or
    /// nothing. If something was `consumed` since the last call, the frame is a new one, whose time begins at `now`.
    #[inline]
    pub fn frame_continues(&mut self, frame_len: usize, consumed: usize, now: Instant) {
        self.frame_len = frame_len.max(self.input.record_end());
        let began = if consumed == 0 { self.frame_began } else { None };
        self.frame_began = if self.input.all().is_empty() { None } else { began.or(Some(now)) };
    }

    /// Does not count `time` as time of the frame that has begun: the server did not read the connection meanwhile.
    pub fn pause_frame(&mut self, time: Duration) {
        self.frame_began = self.frame_began.map(|began| began + time);
    }

    /// Records how much memory the connection's TLS holds.
    pub fn set_tls_memory(&mut self, len: usize) {
        self.share.set_state(len);
    }

    /// Releases what the connection held for its TLS handshake. From now on its read buffer may grow to `busy_len`.
    pub fn end_handshake(&mut self, busy_len: usize) {
        self.input.set_busy_len(busy_len);
        self.input.shrink();
    }

    /// Releases all buffers. Returns an empty buffer in their place, of at most `len` bytes.
    pub fn swap_for_scratch<S: Sink>(&mut self, outbox: &mut Outbox<'_, S>, len: usize) -> Vec<u8> {
        self.input = ReadBuffer::new(0);
        outbox.shrink(0);
        self.share.set(0, 0);
        let large = self.share.may_grow_to(len);
        let scratch = Vec::with_capacity(if large { len } else { READ_BUFFER_MIN });
        self.share.set(scratch.capacity(), 0);
        scratch
    }
}

/// The bytes of an ack buffer that a quiet connection keeps. It returns a larger one.
const QUIET_ACKS_LEN: usize = 256;
