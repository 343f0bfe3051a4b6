//! `ringpost journal cat`: each record as a line.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::ending::Ending;
use super::out::{Out, OutError};
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

/// Writes every record to stdout, until the end, a signal, or until the reader of stdout closes it. Returns the exit
/// code.
///
/// # Errors
/// The journal can't be read any further, or a write to stdout fails.
pub fn cat(data_dir: &Path, start: Start, follow: bool, salvage: bool, format: Format) -> anyhow::Result<ExitCode> {
    let ending = Ending::catch(LAST_LINE_TIMEOUT).context("can't catch signals")?;
    let mut damaged = 0;
    match copy(data_dir, ReaderOptions { start, follow, salvage }, format, &ending, &mut damaged) {
        Err(error) if !error.downcast_ref::<OutError>().is_some_and(OutError::is_unwanted) => Err(error),
        Ok(Some(code)) => Ok(code),
        // The journal has ended, or the requested range has.
        Ok(None) | Err(_) => Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

/// Returns an exit code if a signal asked the command to end.
fn copy(
    data_dir: &Path,
    options: ReaderOptions,
    format: Format,
    ending: &Ending,
    damaged: &mut u64,
) -> anyhow::Result<Option<ExitCode>> {
    let follow = options.follow;
    let mut reader = Reader::open(data_dir, options)?;
    // The output is flushed only between lines, so that it ends with a whole line whenever the command ends.
    let mut out = BufWriter::with_capacity(BUFFER_LEN, Out::new());
    let mut line = Vec::new();
    *damaged += super::tell(reader.take_notes());
    loop {
        if let Some(code) = ending.asked_for() {
            out.flush().map_err(OutError::from)?;
            return Ok(Some(code));
        }
        let next = reader.try_next();
        let notes = reader.take_notes();
        if !notes.is_empty() {
            // A note is printed after the records that come before it.
            out.flush().map_err(OutError::from)?;
            *damaged += super::tell(notes);
        }
        match next {
            Some(Ok(record)) => {
                line.clear();
                show(&record, format, &mut line);
                out.write_all(&line).map_err(OutError::from)?;
            }
            Some(Err(error)) => {
                out.flush().map_err(OutError::from)?;
                return Err(error.into());
            }
            None => {
                out.flush().map_err(OutError::from)?;
                let mut unwanted = !follow;
                if follow {
                    reader.wait_by(|pause| unwanted = out.get_ref().is_unwanted_within(pause));
                }
                if unwanted {
                    return Ok(None);
                }
            }
        }
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
/// How long the reader of the output may take, after a signal, to read the lines that are already buffered for it.
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
        let expected = r#"{"position":"0000000000000abc:7","time":"2023-11-14T22:13:20.000000001Z","id":"3030303030303031","connection":3,"peer":"[::1]:80","payload":"Yf8="}"#;
        assert_eq!(json, format!("{expected}\n"));
    }
}
