//! One open commit: records are copied into its buffer, one after the other, until it is sealed.
//!
//! The builder owns the bytes and their layout. It knows no disk and no numbering: its caller chooses the header's
//! numbers when it seals the commit. The buffer never grows, so an open commit has a fixed size limit.

use std::rc::Rc;
use std::time::Instant;

use super::super::buffer::Buffer;
use super::super::format::{
    COMMIT_HEADER_LEN, CommitHeader, RECORD_HEAD_LEN, SOURCE_LEN, encode_record_head, padded_len,
};
use super::super::record::Source;
use super::outcome::CommitOutcome;
use crate::clock;
use crate::proto::Id;

/// An open commit. The header's bytes at the start of the buffer are reserved.
#[derive(Debug)]
pub struct CommitBuilder {
    buffer: Buffer,
    records: u32,
    /// The source of the last record.
    source: Option<Source>,
    opened: Instant,
    outcome: Rc<CommitOutcome>,
}

impl CommitBuilder {
    /// Opens an empty commit in this buffer.
    pub fn new(mut buffer: Buffer) -> Self {
        buffer.clear();
        buffer.push(&[0; COMMIT_HEADER_LEN]);
        CommitBuilder { buffer, records: 0, source: None, opened: clock::now(), outcome: Rc::default() }
    }

    /// Returns the cell that will hold the commit's outcome.
    pub fn outcome(&self) -> &Rc<CommitOutcome> {
        &self.outcome
    }

    /// Returns the number of records.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Returns when the commit was opened, which is when its first record was staged.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Returns the length of the body so far, in bytes.
    pub fn body_len(&self) -> usize {
        self.buffer.len() - COMMIT_HEADER_LEN
    }

    /// Returns how many bytes of a segment the commit needs, header and padding included.
    pub fn padded_len(&self) -> u64 {
        padded_len(self.body_len()) as u64
    }

    /// Appends a record and returns by how many bytes the body has grown, or `None` if the record doesn't fit.
    #[inline]
    pub fn push(&mut self, source: &Source, id: Id, payload: &[u8]) -> Option<usize> {
        let has_source = self.source.as_ref() == Some(source);
        let len = RECORD_HEAD_LEN + payload.len() + if has_source { 0 } else { SOURCE_LEN };
        if len > self.buffer.room() {
            return None;
        }
        if !has_source {
            self.buffer.push(&source.encode());
            self.source = Some(*source);
        }
        self.buffer.push(&encode_record_head(id, payload.len()));
        self.buffer.push(payload);
        self.records += 1;
        Some(len)
    }

    /// Completes the commit: fills in the header, computes the checksum of the body once, and pads the commit to whole
    /// blocks. The fields of `header` that describe the body are ignored.
    pub fn seal(mut self, header: CommitHeader) -> (Buffer, Rc<CommitOutcome>) {
        let body = &self.buffer.as_slice()[COMMIT_HEADER_LEN..];
        let header = CommitHeader {
            body_len: body.len() as u32,
            records: self.records,
            body_crc: crc32c::crc32c(body),
            ..header
        };
        self.buffer.as_mut_slice()[..COMMIT_HEADER_LEN].copy_from_slice(&header.encode());
        self.buffer.pad();
        (self.buffer, self.outcome)
    }
}
