//! The ledger of a load run: what was sent, and what each ack said. `bench --ledger` writes it,
//! `journal check` holds it against a journal.
//!
//! Each payload of such a run begins with a [`Stamp`], so that a record in a journal says which send
//! it is:
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |  0     | 8     | run: a random number |
//! |  8     | 8     | connection's number in the run |
//! | 16     | 8     | send's number on its connection, from 0 on |
//!
//! The file begins with the magic `RPLEDGER`, the version 1 (u32) and the run (u64). Entries follow, in
//! the order of each connection; each begins with a byte that says which it is. All integers are
//! big-endian.
//!
//! | entry     | fields |
//! |-----------|--------|
//! | sent `S`    | connection u64, number of the first send u64, count u32, and for each send its payload's CRC32C u32 |
//! | result `R`  | connection u64, number of the first send u64, count u32, result u8: 0 acked, 1 failed |
//! | end `E`     | none: the run came to its end, and the ledger is whole |
//!
//! A send without a result had no ack.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut};

/// Bytes of a stamp.
pub const STAMP_LEN: usize = 24;

const MAGIC: [u8; 8] = *b"RPLEDGER";
const VERSION: u32 = 1;
const SENT: u8 = b'S';
const RESULT: u8 = b'R';
const END: u8 = b'E';
/// Bytes that a thread gathers before it writes.
const BUFFER_LEN: usize = 256 << 10;

/// What a payload begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub run: u64,
    pub connection: u64,
    pub number: u64,
}

impl Stamp {
    #[inline]
    pub fn encode(self) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        bytes[..8].copy_from_slice(&self.run.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.connection.to_be_bytes());
        bytes[16..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// None where the payload is too short for one.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut fields = payload.get(..STAMP_LEN)?;
        Some(Stamp { run: fields.get_u64(), connection: fields.get_u64(), number: fields.get_u64() })
    }
}

/// What an ack said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerResult {
    Acked,
    Failed,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Sent { connection: u64, first: u64, crcs: Vec<u32> },
    Result { connection: u64, first: u64, count: u32, result: LedgerResult },
    End,
}

/// A ledger that is written, by all threads of a run.
#[derive(Debug)]
pub struct Ledger {
    pub run: u64,
    file: Mutex<File>,
}

impl Ledger {
    /// Makes the file, for a run of this number.
    ///
    /// # Errors
    /// The file can't be made.
    pub fn create(path: &Path, run: u64) -> io::Result<Arc<Self>> {
        // Other users must not read what was sent.
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut head = MAGIC.to_vec();
        head.put_u32(VERSION);
        head.put_u64(run);
        file.write_all(&head)?;
        Ok(Arc::new(Ledger { run, file: Mutex::new(file) }))
    }

    /// A thread's pen.
    pub fn pen(self: &Arc<Self>) -> LedgerPen {
        LedgerPen { ledger: self.clone(), buffer: Vec::with_capacity(BUFFER_LEN), error: None }
    }

    /// Says that the run has ended and every pen is done.
    ///
    /// # Errors
    /// It can't be written.
    pub fn end(&self) -> io::Result<()> {
        self.write(&[END])
    }

    fn write(&self, entries: &[u8]) -> io::Result<()> {
        // A thread that panicked while it wrote has left a part of an entry: then no end follows it.
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(entries)
    }
}

/// What one thread writes with. Entries are gathered and written together; the first error is kept.
#[derive(Debug)]
pub struct LedgerPen {
    ledger: Arc<Ledger>,
    buffer: Vec<u8>,
    error: Option<io::Error>,
}

impl LedgerPen {
    /// These sends are on their way, with payloads of these checksums.
    #[inline]
    pub fn sent(&mut self, connection: u64, first: u64, crcs: &[u32]) {
        self.begin(SENT, connection, first, crcs.len());
        for crc in crcs {
            self.buffer.put_u32(*crc);
        }
        self.flush_if_full();
    }

    /// These sends were answered.
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
        self.buffer.put_u32(u32::try_from(count).expect("a window has at most 2^20 requests"));
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

    /// Writes what is left.
    ///
    /// # Errors
    /// Something could not be written, now or before.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush();
        self.error.take().map_or(Ok(()), Err)
    }
}

/// A pen that is dropped without a word still leaves what it had: a run that failed has a ledger too.
impl Drop for LedgerPen {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Why a ledger can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("could not read {path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path} is no ledger of version {VERSION}, or is damaged")]
    Damaged { path: String },
}

/// A ledger that is read, entry by entry. It ends where the file does, whole or not.
#[derive(Debug)]
pub struct LedgerReader {
    pub run: u64,
    path: String,
    input: BufReader<File>,
}

impl LedgerReader {
    /// # Errors
    /// The file can't be read, or is no ledger.
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

    /// The next entry; none behind the last whole one.
    ///
    /// # Errors
    /// The file can't be read, or an entry makes no sense.
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

/// The most sends of one entry: the largest window of a run.
const COUNT_MAX: u32 = 1 << 20;
const _: () = assert!(COUNT_MAX as usize >= crate::load::plan::WINDOW_MAX);

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
