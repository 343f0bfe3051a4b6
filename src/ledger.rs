//! The ledger of a load run: what was sent, and the result of each ack. `bench --ledger` writes it, and `journal check`
//! compares it with a journal.
//!
//! This module owns the file's format and knows neither the load generator nor the journal. Each payload of such a run
//! begins with a [`Stamp`], so that a record in a journal can be matched with its send:
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |  0     | 8     | run: a random number |
//! |  8     | 8     | number of the connection in the run |
//! | 16     | 8     | number of the send on its connection, from 0 on |
//!
//! The file begins with the magic `RPLEDGER`, the version 1 (u32) and the run (u64). Entries follow, in the order of
//! each connection. Each entry begins with a byte that shows its kind. All integers are big-endian.
//!
//! | entry     | fields |
//! |-----------|--------|
//! | sent `S`    | connection u64, number of the first send u64, count u32, and the CRC32C of each payload u32 |
//! | result `R`  | connection u64, number of the first send u64, count u32, result u8: 0 acked, 1 failed |
//! | end `E`     | none: the run has ended, and the ledger is complete |
//!
//! A send without a result got no ack.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut};

/// The beginning of each payload, which identifies the send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The run's random number.
    pub run: u64,
    /// The number of the connection in the run.
    pub connection: u64,
    /// The number of the send on its connection, from 0 on.
    pub number: u64,
}

impl Stamp {
    /// Returns the stamp's bytes.
    #[inline]
    pub fn encode(self) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        bytes[..8].copy_from_slice(&self.run.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.connection.to_be_bytes());
        bytes[16..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// Reads the stamp at the beginning of a payload. Returns `None` if the payload is too short.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut fields = payload.get(..STAMP_LEN)?;
        Some(Stamp { run: fields.get_u64(), connection: fields.get_u64(), number: fields.get_u64() })
    }
}

/// The result in an ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerResult {
    /// Result 0: the message was accepted.
    Acked,
    /// Any other result.
    Failed,
}

/// One entry of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Sends of one connection.
    Sent {
        /// The number of the connection.
        connection: u64,
        /// The number of the first send.
        first: u64,
        /// The CRC32C of each payload.
        crcs: Vec<u32>,
    },
    /// Acks of one connection.
    Result {
        /// The number of the connection.
        connection: u64,
        /// The number of the first send that was answered.
        first: u64,
        /// How many sends were answered.
        count: u32,
        /// The result of all of them.
        result: LedgerResult,
    },
    /// The run has ended, and the ledger is complete.
    End,
}

/// A ledger that all threads of a run write to.
#[derive(Debug)]
pub struct Ledger {
    /// The run's random number.
    pub run: u64,
    file: Mutex<File>,
}

impl Ledger {
    /// Creates the file for a run.
    ///
    /// # Errors
    /// The file can't be created or written.
    pub fn create(path: &Path, run: u64) -> io::Result<Arc<Self>> {
        // Only this user may read the ledger.
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut head = MAGIC.to_vec();
        head.put_u32(VERSION);
        head.put_u64(run);
        file.write_all(&head)?;
        Ok(Arc::new(Ledger { run, file: Mutex::new(file) }))
    }

    /// Returns a writer for one thread.
    pub fn pen(self: &Arc<Self>) -> LedgerPen {
        LedgerPen { ledger: self.clone(), buffer: Vec::with_capacity(BUFFER_LEN), error: None }
    }

    /// Marks the ledger as complete. Call this after every pen has finished.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn end(&self) -> io::Result<()> {
        self.write(&[END])
    }

    fn write(&self, entries: &[u8]) -> io::Result<()> {
        // A thread that panicked during a write has left a part of an entry. Such a run writes no end.
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(entries)
    }
}

/// One thread's buffered writer of a ledger. It keeps its first error until [`finish`](Self::finish).
#[derive(Debug)]
pub struct LedgerPen {
    ledger: Arc<Ledger>,
    buffer: Vec<u8>,
    error: Option<io::Error>,
}

impl LedgerPen {
    /// Records sends, with the checksums of their payloads. Call this before they can be answered.
    #[inline]
    pub fn sent(&mut self, connection: u64, first: u64, crcs: &[u32]) {
        self.begin(SENT, connection, first, crcs.len());
        for crc in crcs {
            self.buffer.put_u32(*crc);
        }
        self.flush_if_full();
    }

    /// Records the result of sends that were answered.
    #[inline]
    pub fn answered(&mut self, connection: u64, first: u64, count: u64, result: LedgerResult) {
        if count > 0 {
            self.begin(RESULT, connection, first, count as usize);
            self.buffer.put_u8(result as u8);
            self.flush_if_full();
        }
    }

    fn begin(&mut self, kind: u8, connection: u64, first: u64, count: usize) {
        self.buffer.put_u8(kind);
        self.buffer.put_u64(connection);
        self.buffer.put_u64(first);
        self.buffer.put_u32(u32::try_from(count).expect("a window has at most COUNT_MAX requests"));
    }

    #[inline]
    fn flush_if_full(&mut self) {
        if self.buffer.len() >= BUFFER_LEN {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.error.is_none() {
            self.error = self.ledger.write(&self.buffer).err();
        }
        self.buffer.clear();
    }

    /// Writes the buffered entries.
    ///
    /// # Errors
    /// An entry could not be written, now or earlier.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush();
        self.error.take().map_or(Ok(()), Err)
    }
}

/// Writes the buffered entries, so that a run which failed has a ledger too.
impl Drop for LedgerPen {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The reason why a ledger can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file can't be read.
    #[error("can't read {path}: {source}")]
    Io {
        /// The ledger's file.
        path: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The file's content is not a ledger.
    #[error("{path} is damaged, or is not a ledger of version {VERSION}; name a file that bench --ledger wrote")]
    Damaged {
        /// The ledger's file.
        path: String,
    },
}

/// Reads a ledger, entry by entry. The ledger ends after its last whole entry, even if the run was interrupted.
#[derive(Debug)]
pub struct LedgerReader {
    /// The run's random number.
    pub run: u64,
    path: String,
    input: BufReader<File>,
}

impl LedgerReader {
    /// Opens a ledger.
    ///
    /// # Errors
    /// The file can't be read, or is not a ledger.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let name = path.display().to_string();
        let open = || -> io::Result<_> {
            let mut input = BufReader::with_capacity(BUFFER_LEN, File::open(path)?);
            let mut head = [0; 20];
            input.read_exact(&mut head)?;
            Ok((input, head))
        };
        let (input, head) = match open() {
            Ok(opened) => opened,
            Err(source) if source.kind() == ErrorKind::UnexpectedEof => {
                return Err(LedgerError::Damaged { path: name });
            }
            Err(source) => return Err(LedgerError::Io { path: name, source }),
        };
        let mut fields = &head[8..];
        if head[..8] != MAGIC || fields.get_u32() != VERSION {
            return Err(LedgerError::Damaged { path: name });
        }
        Ok(LedgerReader { run: fields.get_u64(), path: name, input })
    }

    /// Returns the next entry, or `None` after the last whole one.
    ///
    /// # Errors
    /// The file can't be read, or an entry is damaged.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LedgerError> {
        match self.read_entry() {
            Ok(Some(entry)) => Ok(Some(entry)),
            Ok(None) => Err(LedgerError::Damaged { path: self.path.clone() }),
            Err(source) if source.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(source) => Err(LedgerError::Io { path: self.path.clone(), source }),
        }
    }

    fn read_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut kind = [0];
        self.input.read_exact(&mut kind)?;
        if kind[0] == END {
            return Ok(Some(Entry::End));
        }
        let mut head = [0; 20];
        self.input.read_exact(&mut head)?;
        let mut fields = &head[..];
        let (connection, first, count) = (fields.get_u64(), fields.get_u64(), fields.get_u32());
        match kind[0] {
            SENT if count <= COUNT_MAX => {
                let mut crcs = vec![0; count as usize * 4];
                self.input.read_exact(&mut crcs)?;
                let crcs = crcs.chunks_exact(4).map(|mut crc| crc.get_u32()).collect();
                Ok(Some(Entry::Sent { connection, first, crcs }))
            }
            RESULT => {
                let mut result = [0];
                self.input.read_exact(&mut result)?;
                let result = match result[0] {
                    0 => LedgerResult::Acked,
                    1 => LedgerResult::Failed,
                    _ => return Ok(None),
                };
                Ok(Some(Entry::Result { connection, first, count, result }))
            }
            _ => Ok(None),
        }
    }
}

/// Bytes of a stamp.
pub const STAMP_LEN: usize = 24;
/// The most sends in one entry. A load run must not have a larger window.
pub const COUNT_MAX: u32 = 1 << 20;

const MAGIC: [u8; 8] = *b"RPLEDGER";
const VERSION: u32 = 1;
const SENT: u8 = b'S';
const RESULT: u8 = b'R';
const END: u8 = b'E';
/// Bytes that a thread buffers before it writes.
const BUFFER_LEN: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_round_trip_and_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let ledger = Ledger::create(&path, 77).unwrap();
        let mut pen = ledger.pen();
        pen.sent(3, 10, &[1, 2, 3]);
        pen.answered(3, 10, 2, LedgerResult::Acked);
        pen.answered(3, 12, 0, LedgerResult::Acked);
        pen.answered(3, 12, 1, LedgerResult::Failed);
        pen.finish().unwrap();
        ledger.end().unwrap();
        let entries = |path: &Path| {
            let mut reader = LedgerReader::open(path).unwrap();
            assert_eq!(reader.run, 77);
            std::iter::from_fn(move || reader.next_entry().unwrap()).collect::<Vec<_>>()
        };
        let expected = [
            Entry::Sent { connection: 3, first: 10, crcs: vec![1, 2, 3] },
            Entry::Result { connection: 3, first: 10, count: 2, result: LedgerResult::Acked },
            Entry::Result { connection: 3, first: 12, count: 1, result: LedgerResult::Failed },
            Entry::End,
        ];
        assert_eq!(entries(&path), expected);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 2]).unwrap();
        assert_eq!(entries(&path), expected[..2]);
        std::fs::write(&path, b"RPLEDGER").unwrap();
        assert!(LedgerReader::open(&path).is_err());
    }

    #[test]
    fn a_stamp_survives_the_round_trip() {
        let stamp = Stamp { run: 1, connection: 2, number: 3 };
        assert_eq!(Stamp::decode(&[&stamp.encode()[..], b"more"].concat()), Some(stamp));
        assert_eq!(Stamp::decode(&stamp.encode()[..23]), None);
    }
}
