//! `ringpost journal cat`: each record as a line.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::journal::{Reader, ReaderOptions, Record, Start};

/// What a line shows of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The payload as it is, and a newline
    Raw,
    /// An object with position, time, ID, connection, peer, and the payload as base64
    Json,
    /// The payload in hexadecimal digits
    Hex,
}

/// Writes every record to stdout. Says whether none was lost.
pub fn cat(data_dir: &Path, start: Start, follow: bool, salvage: bool, format: Format) -> anyhow::Result<bool> {
    let mut reader = Reader::open(data_dir, ReaderOptions { start, follow, salvage })?;
    let mut out = BufWriter::with_capacity(BUFFER_LEN, io::stdout().lock());
    let mut line = Vec::new();
    let mut damaged = super::tell(reader.take_notes());
    loop {
        let next = reader.try_next();
        let notes = reader.take_notes();
        if !notes.is_empty() {
            // What is told comes behind the records before it.
            out.flush()?;
            damaged += super::tell(notes);
        }
        match next {
            Some(Ok(record)) => {
                line.clear();
                show(&record, format, &mut line);
                out.write_all(&line)?;
            }
            Some(Err(error)) => {
                out.flush()?;
                return Err(error.into());
            }
            None if follow => {
                out.flush()?;
                reader.wait();
            }
            None => break,
        }
    }
    out.flush()?;
    Ok(damaged == 0)
}

/// One line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    position: String,
    time: String,
    id: String,
    connection: u64,
    peer: String,
    payload: &'a str,
}

fn show(record: &Record, format: Format, line: &mut Vec<u8>) {
    match format {
        Format::Raw => line.extend_from_slice(&record.payload),
        Format::Hex => {
            for byte in &record.payload {
                line.extend([byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]));
            }
        }
        Format::Json => {
            let shown = Line {
                position: record.position.to_string(),
                time: humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(record.received)).to_string(),
                id: record.id.to_string(),
                connection: record.connection,
                peer: record.peer.to_string(),
                payload: &STANDARD.encode(&record.payload),
            };
            serde_json::to_writer(&mut *line, &shown).expect("writing to memory does not fail");
        }
    }
    line.push(b'\n');
}

const HEX: [u8; 16] = *b"0123456789abcdef";
const BUFFER_LEN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Position, WriterId};
    use crate::proto::Id;

    #[test]
    fn each_format_is_one_line() {
        let record = Record {
            position: Position { writer: WriterId(0xabc), sequence: 7 },
            received: 1_700_000_000_000_000_001,
            id: Id(*b"00000001"),
            connection: 3,
            peer: "[::1]:80".parse().unwrap(),
            payload: b"a\xff".as_slice().into(),
        };
        let shown = |format| {
            let mut line = Vec::new();
            show(&record, format, &mut line);
            line
        };
        assert_eq!(shown(Format::Raw), b"a\xff\n");
        assert_eq!(shown(Format::Hex), b"61ff\n");
        let json = String::from_utf8(shown(Format::Json)).unwrap();
        let expected = r#"{"position":"0000000000000abc:7","time":"2023-11-14T22:13:20.000000001Z","id":"3030303030303031","connection":3,"peer":"[::1]:80","payload":"Yf8="}"#;
        assert_eq!(json, format!("{expected}\n"));
    }
}
