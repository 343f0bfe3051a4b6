//! What a journal holds, from its headers alone: quick, and no proof that all can be read.

use std::fs;
use std::path::{Path, PathBuf};

use super::dir;
use super::format::BLOCK_LEN;
use super::id::WriterId;
use super::no_journal::NoJournal;
use super::position;
use super::reader::ReadError;
use super::scan::{Fault, SegmentFile, segment_path};

/// One writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub writer: WriterId,
    pub live: bool,
    pub segments: usize,
    /// Bytes of its segments on disk.
    pub bytes: u64,
    /// The sequence numbers of its first and its last record; of a live writer, the last durable one.
    /// The last is the smaller one where there is none.
    pub first: u64,
    pub last: u64,
}

/// Sums up each writer, oldest first, and lists what can't be read, which the sums leave out.
///
/// # Errors
/// The directory can't be listed, or is not a journal.
pub fn summarize(data_dir: &Path) -> Result<(Vec<Summary>, Vec<ReadError>), ReadError> {
    let io = |source| ReadError::Io { path: data_dir.to_owned(), offset: None, source };
    if let Some(why) = NoJournal::look(data_dir).map_err(io)? {
        return Err(ReadError::NoJournal { path: data_dir.to_owned(), why });
    }
    let (mut summaries, mut unreadable) = (Vec::new(), Vec::new());
    for writer in dir::writers(data_dir).map_err(io)? {
        let path = data_dir.join(writer.to_string());
        let mut note = |path: PathBuf, source| unreadable.push(ReadError::Io { path, offset: None, source });
        let live = dir::is_live(&path).unwrap_or_else(|error| {
            note(path.join(dir::LOCK), error);
            false
        });
        let numbers = dir::segments(&path).unwrap_or_else(|error| {
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
                Err(source) => unreadable.push(ReadError::Io { path: path.join(dir::POSITION), offset: None, source }),
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
