//! `ringpost journal cat`: writes each record as a line, until the end of the journal, a signal, or until the program
//! that reads the output closes it. The output always ends with a whole line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::notes;
use crate::journal::{Reader, ReaderOptions, Record, Start};
use crate::output::{self, StdoutError};
use crate::signals;

/// The options of [`cat`].
#[derive(Debug)]
pub struct CatOptions {
    /// The journal's directory.
    pub data_dir: PathBuf,
    /// The first record to write.
    pub start: Start,
    /// Whether to wait for more records at the end.
    pub follow: bool,
    /// Whether to skip damage, with a note on stderr.
    pub salvage: bool,
    /// The format in which each record is written.
    pub format: Format,
}

/// A format in which records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The payload as it is, and a newline.
    Raw,
    /// A JSON object with position, time, ID, connection, peer, and the payload as base64.
    Json,
    /// The payload in hexadecimal digits.
    Hex,
}

/// Writes every record to stdout. Returns the exit code.
///
/// # Errors
/// The journal can't be read any further, or a write to stdout fails.
pub fn cat(options: CatOptions) -> anyhow::Result<ExitCode> {
    signals::end_at_signal(LAST_LINE_TIMEOUT);
    let mut damaged = 0;
    match copy(options, &mut damaged) {
        Err(error) if !error.downcast_ref::<StdoutError>().is_some_and(StdoutError::is_closed) => Err(error),
        Ok(Some(code)) => Ok(code),
        // The journal has ended, or the program that reads the output has closed it.
        Ok(None) | Err(_) => Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

/// Copies records to stdout. Returns an exit code if a signal asked the command to end.
fn copy(options: CatOptions, damaged: &mut u64) -> anyhow::Result<Option<ExitCode>> {
    let CatOptions { data_dir, start, follow, salvage, format } = options;
    let mut reader = Reader::open(&data_dir, ReaderOptions::default().start(start).follow(follow).salvage(salvage))?;
    let mut lines = Lines(Vec::with_capacity(BUFFER_LEN));
    *damaged += notes::print(reader.take_notes());
    loop {
        if let Some(code) = signals::caught_exit_code() {
            lines.flush()?;
            return Ok(Some(code));
        }
        let next = reader.try_next();
        let notes = reader.take_notes();
        if !notes.is_empty() {
            // A note is printed after the records that come before it.
            lines.flush()?;
            *damaged += notes::print(notes);
        }
        match next {
            Some(Ok(record)) => lines.push(&record, format)?,
            Some(Err(error)) => {
                lines.flush()?;
                return Err(error.into());
            }
            None => {
                lines.flush()?;
                let mut closed = !follow;
                if follow {
                    reader.wait_with(|pause| closed = output::wait_until_closed(pause));
                }
                if closed {
                    return Ok(None);
                }
            }
        }
    }
}

/// Lines that were not written yet. They are flushed only between lines, so that the output ends with a whole line
/// whenever the command ends.
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, record: &Record, format: Format) -> Result<(), StdoutError> {
        show(record, format, &mut self.0);
        if self.0.len() >= BUFFER_LEN { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StdoutError> {
        let written = output::print_whole(&self.0);
        self.0.clear();
        written
    }
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

/// Appends a record's line.
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
/// Bytes of lines that are written together.
const BUFFER_LEN: usize = 64 << 10;
/// How long after a signal the program that reads the output may need to read the buffered lines.
const LAST_LINE_TIMEOUT: Duration = Duration::from_secs(5);

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
        let expected = concat!(
            r#"{"position":"0000000000000abc:7","time":"2023-11-14T22:13:20.000000001Z","#,
            r#""id":"3030303030303031","connection":3,"peer":"[::1]:80","payload":"Yf8="}"#
        );
        assert_eq!(json, format!("{expected}\n"));
    }
}
