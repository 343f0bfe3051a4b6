//! Tests that damage is found where it is: after every truncation and every changed byte of a small journal, a reader
//! returns no wrong record, and loses no intact record before the damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tokio::task::LocalSet;

use super::dir::{WriterDir, claim};
use super::error::{Damage, Note, ReadError};
use super::file_storage::FileStorage;
use super::format::{BLOCK_LEN, CommitHeader, SegmentHeader};
use super::id::{Position, WriterId};
use super::layout::{self, segment_name};
use super::options::WriterOptions;
use super::position::{self, Durable, PositionFile};
use super::reader::{Reader, ReaderOptions, Start};
use super::record::Record;
use super::writer::Writer;
use crate::clock::wall_nanos;
use crate::proto::{AckResult, Id};

/// Segments of a header and three blocks.
pub(super) const SEGMENT_BLOCKS: usize = 4;

/// Returns the options of a writer with [`SEGMENT_BLOCKS`] blocks in a segment and at most two blocks in a commit.
pub(super) fn options() -> WriterOptions {
    let len = SEGMENT_BLOCKS * BLOCK_LEN;
    WriterOptions {
        segment_len: len as u64,
        commit_len_max: 2 * BLOCK_LEN,
        min_free: 0,
        space_interval: Duration::from_millis(1),
        ..WriterOptions::default()
    }
}

/// A time after the start of every writer.
pub(super) const LATE: u64 = 4_000_000_000_000_000_000;

/// Writes a journal of one writer, with one commit for each batch of payload lengths.
pub(super) fn write(data_dir: &Path, batches: &[Vec<usize>], close: bool) -> (WriterId, PathBuf) {
    write_at(data_dir, batches, close, |number| LATE + number)
}

/// Writes a journal as [`write`] does. The records of a batch are received at `time` of the number of records before
/// it, in nanoseconds since 1970.
pub(super) fn write_at(
    data_dir: &Path,
    batches: &[Vec<usize>],
    close: bool,
    time: fn(u64) -> u64,
) -> (WriterId, PathBuf) {
    let made = claim(data_dir, 1, true).unwrap().pop().unwrap();
    write_to(&made, batches, close, time);
    (made.id, made.path.clone())
}

/// Writes the records of one writer to the directory that was claimed for it, as [`write_at`] does.
pub(super) fn write_to(made: &WriterDir, batches: &[Vec<usize>], close: bool, time: fn(u64) -> u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let storage = FileStorage::new(&made.path).unwrap();
        let writer = Writer::open(storage, made.id, 0x5a17, options(), ()).await.unwrap();
        let mut appender = writer.appender(7, "192.0.2.1:80".parse().unwrap());
        let mut number = 0;
        for batch in batches {
            let mut records = appender.ready().await.received_at(time(number));
            for len in batch {
                number += 1;
                let payload = vec![number as u8; *len];
                assert_eq!(records.stage(Id::from_number(number), &payload), AckResult::Success);
            }
            assert_eq!(appender.settle().await.durable, batch.len() as u64);
        }
        if close {
            writer.close().await.unwrap();
        } else {
            // Wait until the writer has published its last commit.
            while position::read(&made.path).unwrap().commit < batches.len() as u64 {
                tokio::time::sleep(crate::journal::PUBLISH_INTERVAL).await;
            }
        }
    });
}

/// Returns a temporary directory, in memory if possible, because syncs cost nothing there.
pub(super) fn tempdir() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap()
}

struct Outcome {
    records: Vec<Record>,
    notes: Vec<Note>,
    error: Option<ReadError>,
}

fn read(data_dir: &Path, salvage: bool) -> Outcome {
    let mut reader = Reader::open(data_dir, ReaderOptions::default().salvage(salvage)).unwrap();
    let (mut records, mut error) = (Vec::new(), None);
    for record in reader.by_ref() {
        match record {
            Ok(record) => records.push(record),
            Err(what) => error = Some(what),
        }
    }
    Outcome { records, notes: reader.take_notes(), error }
}

/// Writes a journal of three segments, with commits 1 to 3, 4 and 5, and 6. The writer is not closed, so its last
/// header has durable number 5.
fn journal() -> (tempfile::TempDir, WriterId, PathBuf) {
    let dir = tempdir();
    let batches = [vec![5, 3000], vec![0], vec![10, 20, 30], vec![5000], vec![9], vec![1, 2]];
    let (writer, path) = write(dir.path(), &batches, false);
    (dir, writer, path)
}

/// Writes that journal in recycled segments: after its last commit, each segment has the content of other segments.
fn recycled_journal() -> (tempfile::TempDir, WriterId, PathBuf) {
    let (dir, writer, path) = journal();
    recycle(&path);
    (dir, writer, path)
}

/// Changes a writer's segments to what they would be if they had been recycled.
fn recycle(path: &Path) {
    for number in layout::segments(path).unwrap() {
        let file = path.join(segment_name(number));
        let mut bytes = fs::read(&file).unwrap();
        let header = SegmentHeader::decode(&bytes).unwrap();
        bytes[..52].copy_from_slice(&SegmentHeader { recycled: true, ..header }.encode());
        let mut at = BLOCK_LEN;
        while let Some(commit) = CommitHeader::decode(&bytes[at.min(bytes.len())..]) {
            at += commit.padded_len() as usize;
        }
        // Intact commits with plausible numbers, of the same writer and of another one.
        for (block, at) in (at..bytes.len()).step_by(BLOCK_LEN).enumerate() {
            let (writer, segment) = [(header.writer, number + 100), (WriterId(7), number)][block % 2];
            let left = CommitHeader {
                number: 6 + block as u64,
                durable: 1 << 40,
                writer,
                salt: header.salt,
                first_commit: 1,
                first_sequence: 9,
                segment,
                body_len: 0,
                records: 0,
                body_crc: 0,
            };
            bytes[at..at + BLOCK_LEN].fill(0xee);
            bytes[at..at + 72].copy_from_slice(&left.encode());
        }
        fs::write(&file, bytes).unwrap();
    }
}

/// The sequence number of the last record before each commit of that journal, and of the last record.
const BEFORE: [u64; 7] = [0, 2, 3, 6, 7, 8, 10];

/// Returns the number of the commit that holds this byte of this segment.
fn commit_at(segment: usize, offset: usize) -> u64 {
    let block = offset / BLOCK_LEN;
    match (segment, block) {
        (0, 0) => 1,
        (0, block) => block as u64,
        (1, 0..=2) => 4,
        (1, _) => 5,
        _ => 6,
    }
}

/// Checks what a reader reports if commit `damaged` of that journal can't be read. The headers show that this commit
/// was durable, unless it is the last one.
fn assert_judged(outcome: &Outcome, whole: &[Record], damaged: u64, what: &str) {
    let good = BEFORE[damaged as usize - 1] as usize;
    assert!(outcome.records == whole[..good], "{what}: {:?}", sequences(&outcome.records));
    match &outcome.error {
        Some(ReadError::Corrupt(Damage { commit, .. })) => {
            assert_eq!((*commit, damaged < 6), (damaged, true), "{what}")
        }
        Some(ReadError::Version { version, .. }) => assert!(*version > 2 && good != whole.len(), "{what}"),
        Some(error) => panic!("{what}: {error}"),
        None => {
            assert_eq!(damaged, 6, "{what}: it was durable");
            assert!(matches!(outcome.notes[..], [] | [Note::TornTail { .. }]), "{what}: {:?}", outcome.notes);
        }
    }
}

fn sequences(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.position.sequence).collect()
}

#[test]
fn an_undamaged_journal_is_sound() {
    assert_sound(journal());
}

#[test]
fn an_undamaged_journal_of_recycled_segments_is_sound() {
    assert_sound(recycled_journal());
}

fn assert_sound((dir, writer, path): (tempfile::TempDir, WriterId, PathBuf)) {
    let outcome = read(dir.path(), false);
    assert!(outcome.error.is_none() && outcome.notes.is_empty(), "{:?} {:?}", outcome.error, outcome.notes);
    let sizes: Vec<_> = outcome.records.iter().map(|record| record.payload.len()).collect();
    assert_eq!(sizes, [5, 3000, 0, 10, 20, 30, 5000, 9, 1, 2]);
    for (record, sequence) in outcome.records.iter().zip(1..) {
        assert_eq!(record.position, Position { writer, sequence });
        assert_eq!((record.id, record.connection), (Id::from_number(sequence), 7));
        assert!(record.payload.iter().all(|byte| u64::from(*byte) == sequence));
    }
    let header = CommitHeader::decode(&fs::read(path.join(segment_name(2))).unwrap()[BLOCK_LEN..]).unwrap();
    assert_eq!((header.number, header.durable, header.first_sequence), (6, 5, 9));
}

/// Returns the offsets of the bytes in a segment that are not padding, except for some bytes of long payloads.
fn meaningful(bytes: &[u8]) -> Vec<usize> {
    let mut offsets: Vec<usize> = (0..52).collect();
    let mut at = BLOCK_LEN;
    while at < bytes.len() {
        let own = |commit: &CommitHeader| commit.number <= 6 && commit.durable <= 6;
        let Some(header) = CommitHeader::decode(&bytes[at..]).filter(own) else { break };
        let end = at + 72 + header.body_len as usize;
        offsets.extend((at..end).filter(|offset| offset - at < 200 || offset % 97 == 0 || end - offset < 20));
        at += header.padded_len() as usize;
    }
    offsets
}

#[test]
fn every_changed_byte_is_found_and_costs_nothing_before_it() {
    change_every_byte(journal());
}

#[test]
fn every_changed_byte_of_recycled_segments_is_found_and_costs_nothing_before_it() {
    change_every_byte(recycled_journal());
}

fn change_every_byte((dir, _, path): (tempfile::TempDir, WriterId, PathBuf)) {
    let whole = read(dir.path(), false).records;
    for segment in 0..3 {
        let file = path.join(segment_name(segment as u32));
        let bytes = fs::read(&file).unwrap();
        for offset in meaningful(&bytes) {
            let mut changed = bytes.clone();
            changed[offset] ^= 1 << (offset % 8);
            fs::write(&file, &changed).unwrap();
            let what = format!("segment {segment}, offset {offset}");
            let damaged = commit_at(segment, offset);
            let outcome = read(dir.path(), false);
            assert_judged(&outcome, &whole, damaged, &what);

            // With salvage, the reader returns everything except the damaged commit.
            let salvaged = read(dir.path(), true);
            if salvaged.error.is_some() {
                assert!((8..12).contains(&offset), "{what}: {:?}", salvaged.error);
                continue;
            }
            let first =
                if offset < BLOCK_LEN && damaged < 6 { BEFORE[damaged as usize] } else { BEFORE[damaged as usize - 1] };
            // If only a segment's header is damaged, its commits are returned if they were durable.
            let lost = first..BEFORE[damaged as usize];
            let left: Vec<_> = whole.iter().filter(|r| !lost.contains(&(r.position.sequence - 1))).cloned().collect();
            assert!(salvaged.records == left, "{what}: {:?}", sequences(&salvaged.records));
        }
        fs::write(&file, &bytes).unwrap();
    }
}

#[test]
fn every_truncation_is_found_and_costs_nothing_before_it() {
    truncate_everywhere(journal());
}

#[test]
fn every_truncation_of_recycled_segments_is_found_and_costs_nothing_before_it() {
    truncate_everywhere(recycled_journal());
}

fn truncate_everywhere((dir, _, path): (tempfile::TempDir, WriterId, PathBuf)) {
    let whole = read(dir.path(), false).records;
    for segment in 0..3 {
        let file = path.join(segment_name(segment as u32));
        let bytes = fs::read(&file).unwrap();
        for len in meaningful(&bytes) {
            fs::write(&file, &bytes[..len]).unwrap();
            let what = format!("segment {segment}, {len} bytes");
            assert_judged(&read(dir.path(), false), &whole, commit_at(segment, len), &what);
        }
        fs::remove_file(&file).unwrap();
        let (outcome, what) = (read(dir.path(), false), format!("segment {segment} is gone"));
        match segment {
            // This is the state after retention: the remaining records begin later.
            0 => assert_eq!(outcome.records, whole[6..], "{what}"),
            1 => assert_judged(&outcome, &whole, 4, &what),
            _ => assert_eq!((outcome.records.len(), outcome.error.is_none()), (8, true), "{what}"),
        }
        fs::write(&file, &bytes).unwrap();
    }
}

#[test]
fn damage_in_recycled_segments_is_found_at_its_place() {
    let dir = tempdir();
    // Commits 1 and 2 leave one block of the first segment unused, 3 and 4 fill the second, and 5 is in the third.
    let (_, path) = write(dir.path(), &[vec![5], vec![5], vec![5000], vec![5], vec![5]], false);
    recycle(&path);
    assert_eq!(read(dir.path(), false).records.len(), 5);
    let places = [(0, 1, 1), (0, 2, 2), (1, 1, 3), (1, 3, 4)];
    for (segment, block, commit) in places {
        let file = path.join(segment_name(segment));
        let bytes = fs::read(&file).unwrap();
        // A byte of the header, and one of the body.
        for offset in [20, 100] {
            let mut changed = bytes.clone();
            changed[block * BLOCK_LEN + offset] ^= 1;
            fs::write(&file, changed).unwrap();
            let Some(ReadError::Corrupt(damage)) = read(dir.path(), false).error else { panic!("commit {commit}") };
            let Damage { commit: lost, file: place, offset: at, .. } = damage;
            assert_eq!((lost, place, at), (commit, file.clone(), (block * BLOCK_LEN) as u64));
        }
        fs::write(&file, bytes).unwrap();
    }
}

#[test]
fn a_torn_commit_in_a_recycled_segment_is_reported_if_its_header_is_intact() {
    let (dir, _, path) = recycled_journal();
    let file = path.join(segment_name(2));
    let mut bytes = fs::read(&file).unwrap();
    bytes[BLOCK_LEN + 100] ^= 1;
    fs::write(&file, bytes).unwrap();
    let outcome = read(dir.path(), false);
    assert_eq!((outcome.records.len(), outcome.error.is_none()), (8, true));
    assert!(matches!(outcome.notes[..], [Note::TornTail { offset: 4096, .. }]), "{:?}", outcome.notes);
}

#[test]
fn a_commit_in_the_place_of_another_is_not_accepted() {
    let (dir, _, path) = journal();
    let whole = read(dir.path(), false).records;
    let file = path.join(segment_name(0));
    let bytes = fs::read(&file).unwrap();
    for (from, to) in [(1, 2), (3, 2), (1, 3), (3, 1)] {
        let mut changed = bytes.clone();
        changed.copy_within(from * BLOCK_LEN..(from + 1) * BLOCK_LEN, to * BLOCK_LEN);
        fs::write(&file, &changed).unwrap();
        assert_judged(&read(dir.path(), false), &whole, to as u64, &format!("commit {from} over {to}"));
    }
}

#[test]
fn a_closed_writer_shows_that_its_last_record_was_durable() {
    let dir = tempdir();
    let (_, path) = write(dir.path(), &[vec![5]], true);
    let file = path.join(segment_name(0));
    assert_eq!(fs::metadata(&file).unwrap().len(), 3 * BLOCK_LEN as u64, "a header, a commit and the closing commit");
    assert!(!path.join(segment_name(1)).exists());
    let mut bytes = fs::read(&file).unwrap();
    bytes[BLOCK_LEN + 100] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(matches!(read(dir.path(), false).error, Some(ReadError::Corrupt(Damage { commit: 1, .. }))));
}

#[test]
fn a_payload_that_looks_like_a_commit_is_not_accepted() {
    let dir = tempdir();
    let (writer, path) = write(dir.path(), &[vec![5], vec![5000]], false);
    let file = path.join(segment_name(0));
    let mut bytes = fs::read(&file).unwrap();
    // The client knows everything except the salt, and places the bytes at the beginning of a block.
    let forged = CommitHeader {
        number: 3,
        durable: 1 << 40,
        writer,
        salt: 1,
        first_commit: 1,
        first_sequence: 3,
        segment: 0,
        body_len: 0,
        records: 0,
        body_crc: 0,
    };
    bytes[3 * BLOCK_LEN..3 * BLOCK_LEN + 72].copy_from_slice(&forged.encode());
    fs::write(&file, bytes).unwrap();
    let outcome = read(dir.path(), true);
    assert_eq!((outcome.records.len(), outcome.error.is_none()), (1, true));
    assert!(matches!(outcome.notes[..], [Note::TornTail { .. }]), "{:?}", outcome.notes);
}

#[test]
fn a_follower_that_opened_a_writer_without_a_segment_continues_after_damage() {
    let dir = tempdir();
    let live = claim(dir.path(), 1, true).unwrap().pop().unwrap();
    let options = ReaderOptions::default().follow(true).salvage(true);
    let mut reader = Reader::open(dir.path(), options).unwrap();
    assert!(reader.try_next().is_none());
    write_to(&live, &[vec![5], vec![5], vec![5], vec![5]], false, |number| LATE + number);
    let file = live.path.join(segment_name(0));
    let mut bytes = fs::read(&file).unwrap();
    bytes[2 * BLOCK_LEN + 100] ^= 1;
    fs::write(&file, bytes).unwrap();
    reader.wait();
    let read: Vec<u64> = std::iter::from_fn(|| reader.try_next()).map(|r| r.unwrap().position.sequence).collect();
    assert_eq!(read, [1, 3, 4]);
    assert!(matches!(reader.take_notes()[..], [Note::Damage(Damage { commit: 2, resumes: Some(3), .. })]));
}

#[test]
fn a_writer_that_is_dead_by_the_end_is_read_to_its_own_end() {
    let dir = tempdir();
    let live = claim(dir.path(), 1, true).unwrap().pop().unwrap();
    write_to(&live, &[vec![5], vec![5], vec![5], vec![5]], false, |number| LATE + number);
    // This may be the state after a power loss.
    let stale = Durable { commit: 2, sequence: 2, segment: 0, end: 3 * BLOCK_LEN as u64 };
    PositionFile::create(&live.path).unwrap().publish(stale).unwrap();
    assert_eq!(read(dir.path(), false).records.len(), 2, "the writer is alive");
    let mut reader = Reader::open(dir.path(), ReaderOptions::default()).unwrap();
    assert!(reader.next().is_some());
    drop(live);
    assert_eq!(reader.count(), 3);
}

#[test]
fn a_reader_begins_at_the_positions_it_was_given() {
    let dir = tempdir();
    let (first, _) = write(dir.path(), &vec![vec![1, 1]; 10], true);
    let (second, _) = write(dir.path(), &vec![vec![1, 1]; 10], true);
    let read = |start| {
        let options = ReaderOptions::default().start(start);
        let records = Reader::open(dir.path(), options).unwrap().map(|record| record.unwrap().position);
        records.map(|position| (position.writer, position.sequence)).collect::<Vec<_>>()
    };
    let all = |writer, from: u64| (from..=20).map(move |sequence| (writer, sequence)).collect::<Vec<_>>();
    let sorted = |mut records: Vec<_>| {
        records.sort_unstable();
        records
    };
    for sequence in 1..=20 {
        let position = |writer| Position { writer, sequence };
        let start = Start::Positions(vec![position(first)]);
        assert_eq!(sorted(read(start)), [all(first, sequence), all(second, 1)].concat());
        let start = Start::Positions(vec![position(second)]);
        assert_eq!(sorted(read(start)), [all(first, 1), all(second, sequence)].concat());
        let both = Start::Positions(vec![position(second), position(first)]);
        assert_eq!(sorted(read(both)), [all(first, sequence), all(second, sequence)].concat());
    }
    // The receive times are LATE, LATE + 2, ... in both writers, so their records alternate.
    let merged = read(Start::Beginning);
    assert_eq!(merged[..4], [(first, 1), (first, 2), (second, 1), (second, 2)]);
}

#[test]
fn a_reader_begins_at_a_time() {
    let dir = tempdir();
    for _ in 0..2 {
        write_at(dir.path(), &vec![vec![1, 1]; 20], true, |_| wall_nanos());
    }
    let read = |start| {
        let options = ReaderOptions::default().start(start);
        Reader::open(dir.path(), options).unwrap().map(|record| record.unwrap()).collect::<Vec<_>>()
    };
    let all = read(Start::Beginning);
    assert_eq!(all.len(), 80);
    for time in all.iter().flat_map(|record| [record.received, record.received + 1]) {
        let wanted: Vec<_> = all.iter().filter(|record| record.received >= time).cloned().collect();
        assert!(read(Start::Time(time)) == wanted, "{time}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn no_overwritten_bytes_cause_a_wrong_record(
        recycled in any::<bool>(), segment in 0u32..3, at in 0usize..SEGMENT_BLOCKS * BLOCK_LEN,
        garbage in prop::collection::vec(any::<u8>(), 1..600)
    ) {
        let (dir, _, path) = if recycled { recycled_journal() } else { journal() };
        let whole = read(dir.path(), false).records;
        let file = path.join(segment_name(segment));
        let mut bytes = fs::read(&file).unwrap();
        let end = (at + garbage.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&garbage[..end - at]);
        fs::write(&file, bytes).unwrap();
        let good = BEFORE[commit_at(segment as usize, at) as usize - 1] as usize;
        let outcome = read(dir.path(), false);
        prop_assert!(outcome.records.len() >= good, "{} of {good}", outcome.records.len());
        prop_assert_eq!(&outcome.records[..], &whole[..outcome.records.len()]);
        for record in read(dir.path(), true).records {
            prop_assert_eq!(&record, &whole[record.position.sequence as usize - 1]);
        }
    }
}
