//! What a journal holds, from its headers alone: quick, and no proof that all can be read.

use std::fs;
use std::path::Path;

use super::dir;
use super::format::BLOCK_LEN;
use super::id::WriterId;
use super::position;
use super::reader::ReadError;
use super::scan::{SegmentFile, segment_path};

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

/// Sums up each writer, oldest first.
///
/// # Errors
/// The files can't be read.
pub fn summarize(data_dir: &Path) -> Result<Vec<Summary>, ReadError> {
    let io = |source| ReadError::Io { path: data_dir.to_owned(), source };
    let mut summaries = Vec::new();
    for writer in dir::writers(data_dir).map_err(io)? {
        let path = data_dir.join(writer.to_string());
        let live = dir::is_live(&path).map_err(io)?;
        let durable = position::read(&path).map_err(io)?;
        let numbers = dir::segments(&path).map_err(io)?;
        let mut summary = Summary { writer, live, segments: numbers.len(), bytes: 0, first: 1, last: 0 };
        for (at, number) in numbers.iter().enumerate() {
            summary.bytes += fs::metadata(segment_path(&path, *number)).map_or(0, |metadata| metadata.len());
            let Some(segment) = SegmentFile::open(segment_path(&path, *number), *number, writer).map_err(io)? else {
                continue;
            };
            let salt = segment.header.map(|header| header.salt);
            let Some(mut header) = segment.commit_header(BLOCK_LEN as u64, salt).map_err(io)? else { continue };
            if at == 0 {
                summary.first = header.first_sequence;
            }
            // Of all but the last two segments the next one tells where they end.
            let mut offset = BLOCK_LEN as u64;
            while at + 2 >= numbers.len() {
                summary.last = header.first_sequence.saturating_add(header.records.into()).saturating_sub(1);
                offset += header.padded_len();
                match segment.commit_header(offset, salt).map_err(io)? {
                    Some(next) if next.number == header.number.saturating_add(1) => header = next,
                    _ => break,
                }
            }
        }
        if live {
            summary.last = durable.sequence;
        }
        summaries.push(summary);
    }
    Ok(summaries)
}
