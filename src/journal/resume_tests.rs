//! Tests where reading begins: after any number of records, after records that retention removed, and at a time,
//! whatever the wall clock did meanwhile.

use std::fs;
use std::path::Path;

use super::damage_tests::{LATE, SEGMENT_BLOCKS, tempdir, write, write_at, write_to};
use super::dir::{WriterDir, claim};
use super::error::Note;
use super::format::{BLOCK_LEN, SegmentHeader};
use super::id::{Position, WriterId};
use super::layout::{self, segment_name};
use super::position::{Durable, PositionFile};
use super::reader::{Reader, ReaderOptions, Start};
use super::record::Record;
use crate::clock::wall_nanos;

/// Returns the record sizes of `count` commits with one small record each. Three such commits fill a segment.
fn commits(count: usize) -> Vec<Vec<usize>> {
    vec![vec![1]; count]
}

const SECOND: u64 = 1_000_000_000;
const COMMITS_PER_SEGMENT: usize = SEGMENT_BLOCKS - 1;

fn reader(data_dir: &Path, start: Start, follow: bool) -> Reader {
    Reader::open(data_dir, ReaderOptions::default().start(start).follow(follow)).unwrap()
}

/// Returns all records that are readable now.
fn read(reader: &mut Reader) -> Vec<Record> {
    std::iter::from_fn(|| reader.try_next()).map(Result::unwrap).collect()
}

fn places(records: &[Record]) -> Vec<(WriterId, u64)> {
    let mut places: Vec<_> = records.iter().map(|r| (r.position.writer, r.position.sequence)).collect();
    places.sort_unstable();
    places
}

fn sequences(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.position.sequence).collect()
}

fn live(data_dir: &Path) -> WriterDir {
    claim(data_dir, 1, true).unwrap().pop().unwrap()
}

fn remove(data_dir: &Path, writer: WriterId, segments: std::ops::Range<u32>) {
    for number in segments {
        fs::remove_file(data_dir.join(writer.to_string()).join(segment_name(number))).unwrap();
    }
}

/// Changes a segment's header to show that the segment was created at this time.
fn set_created(data_dir: &Path, writer: WriterId, segment: u32, created: u64) {
    let path = data_dir.join(writer.to_string()).join(segment_name(segment));
    let mut bytes = fs::read(&path).unwrap();
    let header = SegmentHeader { created, ..SegmentHeader::decode(&bytes).unwrap() };
    bytes[..52].copy_from_slice(&header.encode());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_reader_that_resumes_after_any_number_of_records_returns_exactly_the_rest() {
    let dir = tempdir();
    // Two writers that wrote alternately, one that received a record before its own start time, and a live one.
    write(dir.path(), &commits(7), true);
    write(dir.path(), &[vec![1, 1, 1], vec![1, 1]], false);
    write_at(dir.path(), &commits(4), true, |number| 1_000 + number);
    let live = live(dir.path());
    write_to(&live, &commits(5), false, |number| LATE + 3 * number);
    let all = places(&read(&mut reader(dir.path(), Start::Beginning, false)));
    assert_eq!(all.len(), 7 + 5 + 4 + 5);
    for follow in [false, true] {
        for count in 0..=all.len() {
            let mut first = reader(dir.path(), Start::Beginning, follow);
            let mut records: Vec<_> = std::iter::from_fn(|| first.try_next()).take(count).map(Result::unwrap).collect();
            let positions = first.positions();
            let mut second = reader(dir.path(), Start::Positions(positions.clone()), follow);
            let rest = read(&mut second);
            assert_eq!(rest.len(), all.len() - count, "after {count}, at {positions:?}");
            records.extend(rest);
            assert_eq!(places(&records), all, "after {count}, at {positions:?}");
            assert_eq!(second.take_notes(), []);
            // A reader that has read nothing more is where the first one was, and knows all writers by the end.
            assert_eq!(second.positions().len(), 4);
            assert!(read(&mut reader(dir.path(), Start::Positions(second.positions()), false)).is_empty());
        }
    }
}

#[test]
fn resuming_a_reader_that_began_at_a_time_omits_the_earlier_records_too() {
    let dir = tempdir();
    let (early, _) = write_at(dir.path(), &commits(7), true, |number| LATE + number);
    let (later, _) = write_at(dir.path(), &commits(7), true, |number| LATE + 10 + number);
    let mut first = reader(dir.path(), Start::Time(LATE + 12), false);
    assert_eq!(places(&read(&mut first)), (3..=7).map(|sequence| (later, sequence)).collect::<Vec<_>>());
    let at_end = |writer| Position { writer, sequence: 8 };
    assert_eq!(first.positions(), [at_end(early), at_end(later)]);
}

#[test]
fn a_writer_without_a_position_is_read_from_its_beginning_however_old_it_is() {
    let dir = tempdir();
    let made = claim(dir.path(), 2, true).unwrap();
    for writer in &made {
        write_to(writer, &commits(5), false, |number| LATE + number);
    }
    let named = Position { writer: made[1].id, sequence: 3 };
    let expected = [(1..=5).map(|n| (made[0].id, n)).collect::<Vec<_>>(), (3..=5).map(|n| (made[1].id, n)).collect()];
    for follow in [false, true] {
        let mut sibling = reader(dir.path(), Start::Positions(vec![named]), follow);
        assert_eq!(places(&read(&mut sibling)), expected.concat(), "follow: {follow}");
    }
    drop(made);
    let mut ended = reader(dir.path(), Start::Positions(vec![named]), false);
    assert_eq!(places(&read(&mut ended)), expected.concat());
}

#[test]
fn a_gap_that_retention_left_is_reported_with_its_range() {
    let dir = tempdir();
    let (writer, _) = write(dir.path(), &commits(3 * COMMITS_PER_SEGMENT), true);
    remove(dir.path(), writer, 0..1);
    let removed = |first, last| Note::Removed { writer, first, last };
    let notes = |start| {
        let mut reader = reader(dir.path(), start, false);
        assert_eq!(sequences(&read(&mut reader)).last(), Some(&9));
        reader.take_notes()
    };
    let from = |sequence| Start::Positions(vec![Position { writer, sequence }]);
    assert_eq!(notes(from(1)), [removed(Some(1), Some(3))]);
    assert_eq!(notes(from(3)), [removed(Some(3), Some(3))]);
    assert_eq!(notes(from(4)), []);
    assert_eq!(notes(from(9)), []);
    // The requested records are all that is left.
    assert_eq!(notes(Start::Beginning), []);
    // The first remaining record is LATE + 3.
    assert_eq!(notes(Start::Time(LATE + 4)), []);
    assert_eq!(notes(Start::Time(LATE + 3)), [removed(None, Some(3))]);
    assert_eq!(notes(Start::Time(LATE)), [removed(None, Some(3))]);
}

#[test]
fn a_gap_of_a_writer_without_a_position_is_reported() {
    let dir = tempdir();
    let (read_whole, _) = write(dir.path(), &commits(4), true);
    let (sibling, _) = write(dir.path(), &commits(2 * COMMITS_PER_SEGMENT), true);
    remove(dir.path(), sibling, 0..1);
    let start = Start::Positions(vec![Position { writer: read_whole, sequence: 5 }]);
    let mut reader = reader(dir.path(), start, false);
    assert_eq!(sequences(&read(&mut reader)), [4, 5, 6]);
    assert_eq!(reader.take_notes(), [Note::Removed { writer: sibling, first: Some(1), last: Some(3) }]);
}

#[test]
fn a_removed_writer_is_reported_and_keeps_its_position() {
    let dir = tempdir();
    write(dir.path(), &commits(4), true);
    let gone = Position { writer: WriterId(77), sequence: 5 };
    let mut reader = reader(dir.path(), Start::Positions(vec![gone]), false);
    assert_eq!(read(&mut reader).len(), 4);
    assert_eq!(reader.take_notes(), [Note::NoWriter { position: gone }]);
    assert!(reader.positions().contains(&gone));
}

#[test]
fn a_gap_is_reported_if_only_a_segment_without_a_commit_is_left() {
    let dir = tempdir();
    let made = live(dir.path());
    let (writer, path) = (made.id, made.path.clone());
    write_to(&made, &commits(3 * COMMITS_PER_SEGMENT), false, |number| LATE + number);
    let last = 3 * COMMITS_PER_SEGMENT as u64;
    let published = |sequence| {
        let durable = Durable { commit: sequence, sequence, segment: 2, end: 0 };
        PositionFile::create(&path).unwrap().publish(durable).unwrap();
    };
    published(last);
    drop(made);
    remove(dir.path(), writer, 0..2);
    // The state of a ready segment after a power cut: a header, and nothing of this writer after it.
    let segment = path.join(segment_name(2));
    let mut bytes = fs::read(&segment).unwrap();
    bytes[BLOCK_LEN..].fill(0);
    fs::write(&segment, bytes).unwrap();
    let notes_from = |sequence| {
        let mut reader = reader(dir.path(), Start::Positions(vec![Position { writer, sequence }]), false);
        assert!(read(&mut reader).is_empty());
        reader.take_notes()
    };
    for first in [1, 4, last] {
        assert_eq!(notes_from(first), [Note::Removed { writer, first: Some(first), last: None }]);
    }
    assert_eq!(notes_from(last + 1), [], "everything was read");
    published(0);
    assert_eq!(notes_from(1), [], "no record is known to have existed");
}

#[test]
fn a_follower_that_retention_overtakes_gets_a_note_of_what_it_missed() {
    let dir = tempdir();
    let live = live(dir.path());
    let writer = live.id;
    write_to(&live, &commits(5 * COMMITS_PER_SEGMENT), false, |number| LATE + number);
    let publish = |commit: u64| {
        let segment = (commit as usize - 1) / COMMITS_PER_SEGMENT;
        let end = (((commit as usize - 1) % COMMITS_PER_SEGMENT + 2) * BLOCK_LEN) as u64;
        let durable = Durable { commit, sequence: commit, segment: segment as u32, end };
        PositionFile::create(&live.path).unwrap().publish(durable).unwrap();
    };
    publish(2);
    let mut reader = reader(dir.path(), Start::Beginning, true);
    assert_eq!(sequences(&read(&mut reader)), [1, 2]);
    publish(15);
    remove(dir.path(), writer, 0..3);
    reader.wait();
    // The reader still has the segment open that it was reading.
    assert_eq!(sequences(&read(&mut reader)), [3, 10, 11, 12, 13, 14, 15]);
    assert_eq!(reader.take_notes(), [Note::Removed { writer, first: Some(4), last: Some(9) }]);

    let path = live.path.clone();
    drop(live);
    fs::remove_dir_all(path).unwrap();
    while reader.take_notes() != [Note::Removed { writer, first: Some(16), last: None }] {
        reader.wait();
        assert!(read(&mut reader).is_empty());
    }
}

#[test]
fn reading_from_a_time_begins_at_the_first_such_record_and_omits_nothing_after_it() {
    let dir = tempdir();
    // In seconds: 0 10 20 ... 70 15 25 35 ... 85 30 ...: the clock is set back every eighth record.
    let clock = |number| LATE + (number / 8 * 15 + number % 8 * 10) * SECOND;
    let (writer, path) = write_at(dir.path(), &commits(30), true, clock);
    // A segment is created when the one before it comes into use.
    for number in layout::segments(&path).unwrap() {
        set_created(
            dir.path(),
            writer,
            number,
            clock(u64::from(number.saturating_sub(1)) * COMMITS_PER_SEGMENT as u64),
        );
    }
    for time in (0..150).map(|time| LATE + time * SECOND) {
        let first = (0..30).find(|number| clock(*number) >= time).map_or(31, |number| number + 1);
        let shown = sequences(&read(&mut reader(dir.path(), Start::Time(time), false)));
        assert_eq!(shown, (first..=30).collect::<Vec<_>>(), "from {}", (time - LATE) / SECOND);
    }
}

#[test]
fn a_follower_from_a_time_returns_everything_written_later_whatever_the_clock_shows() {
    let dir = tempdir();
    let old = live(dir.path());
    write_to(&old, &commits(9), false, |number| LATE + number);
    let whole = Durable { commit: 9, sequence: 9, segment: 2, end: 4 * BLOCK_LEN as u64 };
    let publish = |durable| PositionFile::create(&old.path).unwrap().publish(durable).unwrap();
    publish(Durable { commit: 4, sequence: 4, segment: 1, end: 2 * BLOCK_LEN as u64 });
    // No record was received at or after this time.
    let mut reader = reader(dir.path(), Start::Time(LATE + 100), true);
    assert!(read(&mut reader).is_empty());
    publish(whole);
    reader.wait();
    assert_eq!(sequences(&read(&mut reader)), [5, 6, 7, 8, 9], "of a writer that already existed");
    let new = live(dir.path());
    write_to(&new, &commits(3), false, |number| 1_000 + number);
    let (ended, _) = write_at(dir.path(), &commits(3), true, |number| 2_000 + number);
    let mut shown = Vec::new();
    while shown.len() < 6 {
        reader.wait();
        shown.extend(read(&mut reader));
    }
    let expected = [(1..=3).map(|n| (new.id, n)).collect::<Vec<_>>(), (1..=3).map(|n| (ended, n)).collect()];
    assert_eq!(places(&shown), expected.concat(), "of writers that start later");
}

#[test]
fn a_follower_does_not_wait_for_the_time_of_a_writer_that_starts_in_the_future() {
    let dir = tempdir();
    let busy = live(dir.path());
    write_to(&busy, &commits(9), false, |number| wall_nanos() - 1_000_000 + number);
    let publish = |commit: u64| {
        let (segment, place) = ((commit - 1) / 3, (commit - 1) % 3 + 2);
        let durable = Durable { commit, sequence: commit, segment: segment as u32, end: place * BLOCK_LEN as u64 };
        PositionFile::create(&busy.path).unwrap().publish(durable).unwrap();
    };
    publish(1);
    let mut reader = reader(dir.path(), Start::Beginning, true);
    assert_eq!(read(&mut reader).len(), 1);
    // A writer that has ended, with records that were received in the future.
    let (future, _) = write_at(dir.path(), &commits(2), true, |number| LATE + number);
    let hour = 3_600_000_000_u64 << super::id::SHARD_BITS;
    let renamed = WriterId(future.0 + hour);
    fs::rename(dir.path().join(future.to_string()), dir.path().join(renamed.to_string())).unwrap();
    for number in layout::segments(&dir.path().join(renamed.to_string())).unwrap() {
        rename_in(&dir.path().join(renamed.to_string()).join(segment_name(number)), renamed);
    }
    let mut shown = Vec::new();
    // The busy writer always has a record with an earlier time, and the reader has time to look for more.
    for commit in 2..=9 {
        publish(commit);
        std::thread::sleep(std::time::Duration::from_millis(120));
        match reader.try_next() {
            Some(record) => shown.push(record.unwrap().position),
            None => reader.wait(),
        }
    }
    assert!(shown.iter().any(|position| position.writer == renamed), "{shown:?}");
}

/// Writes another writer's ID into a segment's header and commits.
fn rename_in(path: &Path, writer: WriterId) {
    use super::format::CommitHeader;
    let mut bytes = fs::read(path).unwrap();
    let header = SegmentHeader { writer, ..SegmentHeader::decode(&bytes).unwrap() };
    bytes[..52].copy_from_slice(&header.encode());
    for block in bytes.chunks_mut(BLOCK_LEN).skip(1) {
        if let Some(commit) = CommitHeader::decode(block) {
            block[..72].copy_from_slice(&CommitHeader { writer, ..commit }.encode());
        }
    }
    fs::write(path, bytes).unwrap();
}
