//! Reads lines from a file or from standard input.
//!
//! [`Input`] owns the thread that reads, [`Lines`] the split into lines. Neither knows what is done with a line.
//! Invariant: a line is never longer in memory than the limit plus one chunk.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;

use tokio::sync::mpsc;

/// The chunks that the reading thread has read. The channel closes at the end of the input.
pub(super) type Chunks = mpsc::Receiver<io::Result<Vec<u8>>>;

/// The source of the lines.
pub(super) enum Input {
    /// Standard input.
    Stdin,
    /// A file that is open for reading.
    File(File),
}

/// A file could not be opened, or is a directory.
#[derive(Debug, thiserror::Error)]
#[error("could not open {path}: {error}", path = .path.display())]
pub(super) struct OpenError {
    path: PathBuf,
    error: io::Error,
}

impl Input {
    /// Opens the file, or standard input if there is none.
    pub(super) fn open(path: Option<&Path>) -> Result<Input, OpenError> {
        let Some(path) = path else {
            return Ok(Input::Stdin);
        };
        // A directory can be opened. Only the first read would fail.
        let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => Ok(file),
        });
        opened.map(Input::File).map_err(|error| OpenError { path: path.to_owned(), error })
    }

    /// Returns the length of the input in bytes, if it is known.
    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Input::Stdin => None,
            Input::File(file) => file.metadata().ok().filter(|metadata| metadata.is_file()).map(|file| file.len()),
        }
    }

    /// Starts to read on a separate thread. A read that blocks delays neither the run nor the end of the process.
    pub(super) fn read(self) -> io::Result<Chunks> {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let mut input: Box<dyn Read + Send> = match self {
            Input::Stdin => Box::new(io::stdin()),
            Input::File(file) => Box::new(file),
        };
        thread::Builder::new().name("input".into()).spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK_LEN];
                let chunk = match input.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(len) => {
                        chunk.truncate(len);
                        Ok(chunk)
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = chunk.is_err();
                if sender.blocking_send(chunk).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(chunks)
    }
}

/// Splits chunks into lines. A line ends with `\n`, which is not part of it. The last line may lack it.
///
/// It holds one chunk and the beginning of one line, which is never longer than the limit.
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// The start of the next line in the buffer.
    start: usize,
    /// The end of the part of the buffer that is known to have no `\n`.
    searched: usize,
    number: u64,
    taken: u64,
    line_len_max: usize,
    ended: bool,
}

/// A line is too long for a frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {number} is longer than {line_len_max} bytes, the longest that fits into a frame: split it, or raise \
     --max-frame here and on the server; no line after it was sent"
)]
pub(super) struct LineTooLong {
    number: u64,
    line_len_max: usize,
}

impl Lines {
    /// Creates an empty buffer for lines of at most `line_len_max` bytes.
    pub(super) fn new(line_len_max: usize) -> Self {
        Lines { buffer: Vec::new(), start: 0, searched: 0, number: 0, taken: 0, line_len_max, ended: false }
    }

    /// Returns the number of bytes of the lines returned so far, their ends included.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Adds a chunk. Read every whole line first, since the rest of the buffer is moved.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(chunk);
    }

    /// Marks the end of the input. The rest of the buffer is the last line.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Discards the rest of the buffer.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        (self.start, self.searched) = (0, 0);
    }

    /// Returns the next whole line, if there is one.
    ///
    /// # Errors
    /// The line is longer than the limit.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, LineTooLong> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        let end = found.map_or(self.buffer.len(), |offset| self.searched + offset);
        self.searched = end;
        if end - self.start > self.line_len_max {
            return Err(LineTooLong { number: self.number + 1, line_len_max: self.line_len_max });
        }
        if found.is_none() && (!self.ended || end == self.start) {
            return Ok(None);
        }
        let start = self.start;
        self.start = end + usize::from(found.is_some());
        self.searched = self.start;
        self.number += 1;
        self.taken += (self.start - start) as u64;
        Ok(Some(&self.buffer[start..end]))
    }
}

/// Bytes of one read.
const CHUNK_LEN: usize = 64 << 10;
/// Chunks that the thread reads ahead.
const CHUNKS_AHEAD: usize = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(input: &[u8], chunk_len: usize, line_len_max: usize) -> Result<Vec<Vec<u8>>, LineTooLong> {
        let mut lines = Lines::new(line_len_max);
        let mut all = Vec::new();
        for chunk in input.chunks(chunk_len) {
            lines.push(chunk);
            while let Some(line) = lines.next()? {
                all.push(line.to_vec());
            }
        }
        lines.end();
        while let Some(line) = lines.next()? {
            all.push(line.to_vec());
        }
        assert_eq!(lines.taken(), input.len() as u64);
        Ok(all)
    }

    #[test]
    fn input_is_split_into_lines() {
        for (input, expected) in [
            (&b""[..], &[][..]),
            (b"\n", &[&b""[..]]),
            (b"a", &[b"a"]),
            (b"a\n", &[b"a"]),
            (b"a\r\n\n\rb", &[b"a\r", b"", b"\rb"]),
        ] {
            assert_eq!(lines(input, 1, 10).unwrap(), expected, "{input:?}");
            assert_eq!(lines(input, 100, 10).unwrap(), expected, "{input:?}");
        }
    }

    #[test]
    fn line_over_the_limit_is_reported_with_its_number() {
        assert_eq!(lines(b"1\n333\n", 2, 3).unwrap().len(), 2);
        for chunk_len in 1..8 {
            let error = lines(b"1\n4444\n1", chunk_len, 3).unwrap_err();
            assert_eq!(error, LineTooLong { number: 2, line_len_max: 3 });
        }
        // A line without an end is rejected before all of it is in memory.
        let mut endless = Lines::new(3);
        endless.push(b"4444");
        assert!(endless.next().is_err());
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_chunks(input in "[a\r\n]{0,60}", chunk_len in 1usize..20) {
            let mut expected: Vec<_> = input.split('\n').map(|line| line.as_bytes().to_vec()).collect();
            if expected.last().is_some_and(Vec::is_empty) {
                expected.pop();
            }
            prop_assert_eq!(lines(input.as_bytes(), chunk_len, 60).unwrap(), expected);
        }
    }
}
