//! One commit in the making: records are copied behind each other until it is sealed.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Notify;

use super::buffer::Buffer;
use super::format::{COMMIT_HEADER_LEN, CommitHeader, RECORD_HEAD_LEN, SOURCE_LEN, encode_record_head, padded_len};
use super::record::Source;
use crate::proto::Id;

/// A commit that gathers. Its buffer has room for the header in front.
#[derive(Debug)]
pub struct Gather {
    buffer: Buffer,
    records: u32,
    /// The source of the last record.
    source: Option<Source>,
    /// When the first record came.
    began: Instant,
    ticket: Rc<Ticket>,
}

/// What becomes of a commit, for all who have staged into it.
#[derive(Debug, Default)]
pub struct Ticket {
    outcome: Cell<Option<Outcome>>,
    resolved: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Durable,
    /// It is not known to be on disk, and never will be.
    Failed,
}

impl Ticket {
    /// Tells everyone, once.
    pub fn resolve(&self, outcome: Outcome) {
        debug_assert!(self.outcome.get().is_none());
        self.outcome.set(Some(outcome));
        self.resolved.notify_waiters();
    }

    /// The outcome, if it is known.
    pub fn known(&self) -> Option<Outcome> {
        self.outcome.get()
    }

    /// Waits for the outcome. Cancel-safe.
    pub async fn outcome(&self) -> Outcome {
        // Nothing can resolve it between the look and the wait: both are in one poll of one thread.
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome;
            }
            self.resolved.notified().await;
        }
    }
}

impl Gather {
    /// An empty commit in this buffer.
    pub fn new(mut buffer: Buffer) -> Self {
        buffer.clear();
        buffer.push(&[0; COMMIT_HEADER_LEN]);
        Gather { buffer, records: 0, source: None, began: Instant::now(), ticket: Rc::default() }
    }

    pub fn ticket(&self) -> &Rc<Ticket> {
        &self.ticket
    }

    pub fn records(&self) -> u32 {
        self.records
    }

    pub fn began(&self) -> Instant {
        self.began
    }

    /// Bytes of its records.
    pub fn body_len(&self) -> usize {
        self.buffer.len() - COMMIT_HEADER_LEN
    }

    /// Bytes that it takes in a segment.
    pub fn padded_len(&self) -> u64 {
        padded_len(self.body_len()) as u64
    }

    /// Adds a record and returns the bytes that it took; none if it does not fit.
    #[inline]
    pub fn push(&mut self, source: &Source, id: Id, payload: &[u8]) -> Option<usize> {
        let known = self.source.as_ref() == Some(source);
        let len = RECORD_HEAD_LEN + payload.len() + if known { 0 } else { SOURCE_LEN };
        if len > self.buffer.room() {
            return None;
        }
        if !known {
            self.buffer.push(&source.encode());
            self.source = Some(*source);
        }
        self.buffer.push(&encode_record_head(id, payload.len()));
        self.buffer.push(payload);
        self.records += 1;
        Some(len)
    }

    /// Completes the commit: fills the rest of the header in, checksums the bytes, once, and pads
    /// them. `header` says all but what only the body knows.
    pub fn seal(mut self, header: CommitHeader) -> (Buffer, Rc<Ticket>) {
        let body = &self.buffer.as_slice()[COMMIT_HEADER_LEN..];
        let header = CommitHeader {
            body_len: body.len() as u32,
            records: self.records,
            body_crc: crc32c::crc32c(body),
            ..header
        };
        self.buffer.as_mut_slice()[..COMMIT_HEADER_LEN].copy_from_slice(&header.encode());
        self.buffer.pad();
        (self.buffer, self.ticket)
    }
}
