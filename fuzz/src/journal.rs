//! Reads arbitrary bytes as a journal, and compares what the reader returns with a naive model: every record that it
//! returns must be in a commit whose checksums are correct, and no commit may be returned twice.
//!
//! An input is compact, because most bytes of a real segment are zeros. All fields are bytes:
//!
//! | bytes | field |
//! |------:|-------|
//! | 1     | options: see the constants below |
//! | 1     | the sequence number to begin with |
//! | 36    | the position file, if the options say so |
//! | 1     | number of blocks of a segment |
//! | 256 n | the beginning of each block of that segment; the rest of the block is zeros |
//!
//! The last two fields repeat for each segment.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ringpost::journal::{Position, Reader, ReaderOptions, Record, Start, WriterId};

/// Reads an input as a journal.
///
/// # Panics
/// The reader panics, or returns a record that is in no intact commit.
pub fn check(input: &[u8]) {
    let Some((&[options, sequence], mut rest)) = input.split_first_chunk() else { return };
    let position = if options & POSITION_FILE != 0 { take(&mut rest, 36) } else { &[] };
    let mut segments = Vec::new();
    while let (Some((&blocks, after)), true) = (rest.split_first(), segments.len() < SEGMENTS_MAX) {
        rest = after;
        let mut segment = vec![0; usize::from(blocks.min(BLOCKS_MAX)) * BLOCK_LEN];
        for block in segment.chunks_mut(BLOCK_LEN) {
            let bytes = take(&mut rest, HEAD_LEN);
            block[..bytes.len()].copy_from_slice(bytes);
        }
        if options & REPAIR != 0 {
            repair(&mut segment);
        }
        segments.push(segment);
    }
    let id = segments.first().and_then(|segment| segment.get(16..24)).map_or(0, |id| be(id));
    let first = u32::from(options & BEGINS_LATER != 0);
    let data_dir = directory();
    let writer_dir = data_dir.join(WriterId(id).to_string());
    fs::create_dir(&writer_dir).unwrap();
    if !position.is_empty() {
        fs::write(writer_dir.join("position"), position).unwrap();
    }
    let mut intact = HashSet::new();
    let mut count = 0;
    for (number, segment) in (first..).zip(&segments) {
        fs::write(writer_dir.join(format!("{number:010}.seg")), segment).unwrap();
        for at in (BLOCK_LEN..segment.len()).step_by(BLOCK_LEN) {
            let records = commit(&segment[at..], id, number).unwrap_or_default();
            count += records.len();
            intact.extend(records);
        }
    }
    let start = match options & (FROM_POSITION | FROM_TIME) {
        0 => Start::Beginning,
        FROM_POSITION => Start::Positions(vec![Position { writer: WriterId(id), sequence: sequence.into() }]),
        _ => Start::Time(u64::from(sequence) << 56),
    };
    let salvage = options & SALVAGE != 0;
    let mut returned = 0;
    if let Ok(mut reader) = Reader::open(data_dir, ReaderOptions::default().start(start).salvage(salvage)) {
        while let Some(record) = reader.next() {
            let Ok(record) = record else { break };
            assert!(intact.contains(&key(&record)), "{record:?} is in no intact commit");
            returned += 1;
            assert!(returned <= count, "{returned} of {count} records were returned");
            reader.positions();
        }
        for note in reader.take_notes() {
            let _ = note.to_string();
        }
        reader.positions();
        assert!(reader.next().is_none());
    }
    fs::remove_dir_all(&writer_dir).unwrap();
}

/// Options of an input.
const REPAIR: u8 = 1;
const SALVAGE: u8 = 2;
const FROM_POSITION: u8 = 4;
const FROM_TIME: u8 = 8;
const POSITION_FILE: u8 = 16;
const BEGINS_LATER: u8 = 32;

const BLOCK_LEN: usize = 4096;
/// The bytes of each block that an input has.
const HEAD_LEN: usize = 256;
const SEGMENTS_MAX: usize = 4;
const BLOCKS_MAX: u8 = 8;

/// Everything that a record has, with its number and its connection.
type Key = (u64, u64, u64, Vec<u8>, String, Vec<u8>);

fn key(record: &Record) -> Key {
    let Record { position, received, id, connection, peer, payload, .. } = record;
    (position.sequence, *connection, *received, id.0.to_vec(), peer.to_string(), payload.to_vec())
}

/// Returns the records of a commit, or `None` if a checksum is wrong or its entries don't match its header. This
/// follows the tables of the journal's documentation.
fn commit(bytes: &[u8], writer: u64, segment: u32) -> Option<Vec<Key>> {
    let header = bytes.get(..72)?;
    if &header[..4] != b"RPCM" || crc32c::crc32c(&header[8..]) as u64 != be(&header[4..8]) {
        return None;
    }
    let body = bytes.get(72..72 + be(&header[60..64]) as usize)?;
    if be(&header[24..32]) != writer
        || be(&header[56..60]) != u64::from(segment)
        || crc32c::crc32c(body) as u64 != be(&header[68..72])
    {
        return None;
    }
    let (mut rest, mut records, mut source) = (body, Vec::new(), None);
    let mut sequence = be(&header[48..56]);
    while !rest.is_empty() {
        let tag = be(rest.get(..4)?);
        if tag == 1 << 31 {
            let fields = rest.get(..40)?;
            let address = std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&fields[8..24]).unwrap()).to_canonical();
            let peer = std::net::SocketAddr::new(address, be(&fields[6..8]) as u16);
            source = Some((be(&fields[32..40]), be(&fields[24..32]), peer.to_string()));
            rest = &rest[40..];
            continue;
        }
        let (connection, received, peer) = source.clone()?;
        let (id, payload) = (rest.get(4..12)?, rest.get(12..12 + tag as usize)?);
        records.push((sequence, connection, received, id.to_vec(), peer, payload.to_vec()));
        sequence = sequence.checked_add(1)?;
        rest = &rest[12 + tag as usize..];
    }
    (records.len() as u64 == be(&header[64..68])).then_some(records)
}

/// Corrects all checksums, so that mutations reach the code after the checks.
fn repair(segment: &mut [u8]) {
    for at in (0..segment.len()).step_by(BLOCK_LEN) {
        let block = &mut segment[at..];
        if block.starts_with(b"RINGPOST") {
            let crc = crc32c::crc32c(&block[..48]);
            block[48..52].copy_from_slice(&crc.to_be_bytes());
            let crc = crc32c::crc32c(&block[..76]);
            block[76..80].copy_from_slice(&crc.to_be_bytes());
        } else if block.starts_with(b"RPCM") {
            let len = be(&block[60..64]) as usize;
            if let Some(body) = block.get(72..).and_then(|rest| rest.get(..len)) {
                let crc = crc32c::crc32c(body);
                block[68..72].copy_from_slice(&crc.to_be_bytes());
            }
            let crc = crc32c::crc32c(&block[8..72]);
            block[4..8].copy_from_slice(&crc.to_be_bytes());
        }
    }
}

/// Returns up to `len` bytes, and removes them.
fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(len.min(bytes.len()));
    *bytes = rest;
    taken
}

/// Returns a big-endian number of any length.
fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Returns this process's data directory, in memory if possible.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let above = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = above.join(format!("ringpost-fuzz-{}", std::process::id()));
        // A process that had the same number may have left its directory.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("start.lock"), []).unwrap();
        directory
    })
}
