//! Summarizes what a journal holds, from headers alone. This is fast, and proves nothing about the records: only a
//! reader finds out whether they can be read.

use std::fs;
use std::path::{Path, PathBuf};

use super::dir;
use super::error::ReadError;
use super::format::BLOCK_LEN;
use super::id::WriterId;
use super::layout::{self, LOCK, POSITION, segment_path};
use super::no_journal::NoJournal;
use super::position;
use super::segment_file::{Fault, SegmentFile};

/// The segments and records of one writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The writer.
    pub writer: WriterId,
    /// Whether the writer is alive.
    pub live: bool,
    /// The number of segments.
    pub segments: usize,
    /// The size of the segments on disk, in bytes.
    pub bytes: u64,
    /// The sequence number of the first record.
    pub first: u64,
    /// The sequence number of the last record, or of the last durable one if the writer is alive. It is smaller than
    /// `first` if there is no record.
    pub last: u64,
}

/// Summarizes each writer, oldest first. Also returns an error for each file that can't be read. The summaries omit
/// what is in these files.
///
/// # Errors
/// The directory can't be listed, or is not a journal.
pub fn summarize(data_dir: &Path) -> Result<(Vec<Summary>, Vec<ReadError>), ReadError> {
    let io = |source| ReadError::Io { path: data_dir.to_owned(), offset: None, source };
    if let Some(why) = NoJournal::look(data_dir).map_err(io)? {
        return Err(ReadError::NoJournal { path: data_dir.to_owned(), why });
    }
    let (mut summaries, mut unreadable) = (Vec::new(), Vec::new());
    for writer in layout::writers(data_dir).map_err(io)? {
        let path = data_dir.join(writer.to_string());
        let mut note = |path: PathBuf, source| unreadable.push(ReadError::Io { path, offset: None, source });
        let live = dir::is_live(&path).unwrap_or_else(|error| {
            note(path.join(LOCK), error);
            false
        });
        let numbers = layout::segments(&path).unwrap_or_else(|error| {
            note(path.clone(), error);
            Vec::new()
        });
        let mut summary = Summary { writer, live, segments: numbers.len(), bytes: 0, first: 1, last: 0 };
        for (at, number) in numbers.iter().enumerate() {
            let path = segment_path(&path, *number);
            summary.bytes += fs::metadata(&path).map_or(0, |metadata| metadata.len());
            let is_near_the_end = at + 2 >= numbers.len();
            match of_segment(&path, *number, writer, is_near_the_end) {
                Ok(Some((first, last))) => {
                    if at == 0 {
                        summary.first = first;
                    }
                    summary.last = last.unwrap_or(summary.last);
                }
                Ok(None) => {}
                Err(fault) => {
                    unreadable.push(ReadError::Io { path, offset: Some(fault.offset), source: fault.error });
                }
            }
        }
        if live {
            match position::read(&path) {
                Ok(durable) => summary.last = durable.sequence,
                Err(source) => unreadable.push(ReadError::Io { path: path.join(POSITION), offset: None, source }),
            }
        }
        summaries.push(summary);
    }
    Ok((summaries, unreadable))
}

/// Returns the sequence numbers of a segment's first record and, near the end of the writer, of its last record. For
/// all segments except the last two, the next segment shows where they end.
fn of_segment(
    path: &Path,
    number: u32,
    writer: WriterId,
    is_near_the_end: bool,
) -> Result<Option<(u64, Option<u64>)>, Fault> {
    let segment = SegmentFile::open(path.to_owned(), number, writer).map_err(|error| Fault { offset: 0, error })?;
    let Some(segment) = segment else { return Ok(None) };
    if let Some(fault) = segment.header_fault() {
        return Err(fault);
    }
    let salt = segment.header.map(|header| header.salt);
    let mut offset = BLOCK_LEN as u64;
    let Some(mut header) = segment.commit_header(offset, salt)? else { return Ok(None) };
    let first = header.first_sequence;
    if !is_near_the_end {
        return Ok(Some((first, None)));
    }
    loop {
        offset += header.padded_len();
        match segment.commit_header(offset, salt)? {
            Some(next) if next.number == header.number.saturating_add(1) => header = next,
            _ => break,
        }
    }
    let last = header.first_sequence.saturating_add(header.records.into()).saturating_sub(1);
    Ok(Some((first, Some(last))))
}
