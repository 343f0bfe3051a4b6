//! Tests of retention: which segments are removed or recycled, in which order, and when.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use super::super::dir;
use super::super::format::{BLOCK_LEN, CommitHeader, SEGMENT_HEADER_LEN, SegmentHeader};
use super::super::id::WriterId;
use super::super::layout::{self, segment_path};
use super::super::moment::{BOOT_TIME_LEN, BootTime, Moment};
use super::super::position::{Durable, PositionFile};
use super::enforcer::{Enforcer, Removed};
use super::limits::Retention;
use super::plan::CLOCK_GRACE;
use crate::sim::random::Random;

const SECOND: u64 = 1_000_000_000;
/// 2026-01-01.
const TODAY: u64 = 1_767_225_600 * SECOND;

fn boot(id: u128, seconds: u64) -> Option<BootTime> {
    Some(BootTime { id, nanos: seconds * SECOND })
}

fn at(wall: u64, boot: Option<BootTime>) -> Moment {
    Moment { wall, boot }
}

/// Makes a segment of four blocks at this moment, with a commit without records if it was used.
fn segment(dir: &Path, writer: WriterId, number: u32, made: Moment, used: bool) {
    let header = SegmentHeader { segment: number, writer, salt: 5, created: made.wall, len: 0, recycled: false };
    let header = header.encode();
    let mut bytes = vec![0; LEN as usize];
    bytes[..SEGMENT_HEADER_LEN].copy_from_slice(&header);
    if let Some(boot) = made.boot {
        bytes[SEGMENT_HEADER_LEN..][..BOOT_TIME_LEN].copy_from_slice(&boot.encode(&header));
    }
    if used {
        let commit = CommitHeader {
            number: u64::from(number) + 1,
            durable: 0,
            writer,
            salt: 5,
            first_commit: u64::from(number) + 1,
            first_sequence: 1,
            segment: number,
            body_len: 0,
            records: 0,
            body_crc: 0,
        };
        bytes[BLOCK_LEN..BLOCK_LEN + 72].copy_from_slice(&commit.encode());
    }
    fs::write(segment_path(dir, number), bytes).unwrap();
}

const LEN: u64 = 4 * BLOCK_LEN as u64;

/// Makes a dead writer with segments that were made at these moments.
fn writer(data_dir: &Path, micros: u64, shard: usize, made: &[Moment]) -> WriterId {
    let id = WriterId::new(micros, shard);
    let dir = data_dir.join(id.to_string());
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("lock"), "").unwrap();
    for (number, made) in made.iter().enumerate() {
        segment(&dir, id, number as u32, *made, true);
    }
    id
}

fn left(data_dir: &Path) -> Vec<(WriterId, Vec<u32>)> {
    let writers = layout::writers(data_dir).unwrap();
    writers.into_iter().map(|id| (id, layout::segments(&data_dir.join(id.to_string())).unwrap())).collect()
}

fn enforce(data_dir: &Path, bytes_max: Option<u64>, age_max: Option<u64>, now: Moment) -> Removed {
    let retention = Retention { bytes_max, age_max: age_max.map(Duration::from_secs) };
    Enforcer::new(retention, data_dir.to_owned()).enforce(now).unwrap()
}

#[test]
fn zero_is_no_limit() {
    let dir = tempfile::tempdir().unwrap();
    let old = at(TODAY, boot(1, 5000));
    writer(dir.path(), 1, 0, &[old, old, old]);
    let retention = Retention { bytes_max: Some(0), age_max: Some(Duration::ZERO) };
    assert!(retention.is_off() && retention.roll_age().is_none());
    assert_eq!(enforce(dir.path(), Some(0), Some(0), at(TODAY + 99 * SECOND, boot(1, 5099))), Removed::default());
    // Each limit by itself, while the other limit is in force and not reached.
    let now = at(TODAY + 99 * SECOND, boot(1, 5099));
    assert_eq!(enforce(dir.path(), Some(0), Some(1000), now).segments, 0);
    assert_eq!(enforce(dir.path(), Some(1 << 20), Some(0), now).segments, 0);
    assert_eq!(enforce(dir.path(), Some(1), Some(0), now).segments, 3);
}

#[test]
fn the_oldest_segments_of_all_writers_are_removed_first_whatever_their_clocks_showed() {
    let (future, past) = (TODAY + 900_000_000 * SECOND, 5 * SECOND);
    for (seed, walls) in
        [[TODAY; 7], [future; 7], [past; 7], [future, TODAY, past, future, past, TODAY, past]].into_iter().enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        let made = |index: usize, seconds: u64| at(walls[index] + seconds * SECOND, boot(1, 5000 + seconds));
        // Two shards of one start, then a later start. The times are those at which the segments were made: a
        // segment's last message came when the one after the next one was made.
        let slow = writer(dir.path(), 1, 0, &[made(0, 1), made(1, 2), made(2, 90), made(3, 91)]);
        let quick = writer(dir.path(), 1, 1, &[made(4, 1), made(5, 2), made(6, 20)]);
        let later = writer(dir.path(), 2, 0, &[at(TODAY + 99 * SECOND, boot(1, 5099))]);
        let now = at(TODAY + 100 * SECOND, boot(1, 5100));
        let mut order = Vec::new();
        for keep in (1..8).rev() {
            let before = left(dir.path());
            assert_eq!(enforce(dir.path(), Some(keep * LEN), None, now).segments, 1);
            let gone = before.into_iter().find(|writer| !left(dir.path()).contains(writer)).unwrap();
            order.push((gone.0, gone.1[0]));
        }
        assert_eq!(order[0], (quick, 0), "{seed}");
        assert!(order.iter().all(|(writer, _)| *writer != later), "{seed}: {order:?}");
        assert_eq!(order.iter().filter(|(writer, _)| *writer == slow).count(), 4, "{seed}: {order:?}");
        assert_eq!(left(dir.path()), [(later, vec![0])]);
    }
}

#[test]
fn no_fresh_message_is_removed_by_age_whatever_clock_was_wrong_and_old_ones_are() {
    const AGE: u64 = 1000;
    let mut removed_in_all = 0;
    for seed in 0..300 {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random(seed);
        let clock = |random: &mut Random| [0, -56, 9, 0][random.below(4) as usize] * 31_000_000_i64;
        // The true time: seconds since the journal's first day, and on which boot since when.
        let (mut time, mut boot_id, mut booted) = (10_000_u64, 1, 0_u64);
        let (mut segments, mut wrong) = (Vec::new(), clock(&mut random));
        let moment = |time: u64, wrong: i64, boot_id, booted| {
            let wall = TODAY.saturating_add(time * SECOND).saturating_add_signed(wrong * SECOND as i64);
            at(wall, boot(boot_id, time - booted))
        };
        for start in 0..1 + random.below(4) {
            if start > 0 && random.one_in(3) {
                // An earlier boot's clock was set right in time, at the latest before that boot ended.
                let last = moment(time, 0, boot_id, booted);
                let id = writer(dir.path(), 100 * start + 50, 0, &[last]);
                segments.push((id, 0, time));
                (boot_id, booted, wrong) = (boot_id + 1, time, clock(&mut random));
            }
            let count = 1 + random.below(6);
            let mut made = Vec::new();
            let mut times = Vec::new();
            for _ in 0..count {
                made.push(moment(time, wrong, boot_id, booted));
                times.push(time);
                time += random.below(600);
                if random.one_in(3) {
                    wrong = clock(&mut random);
                }
            }
            let id = writer(dir.path(), 100 * (start + 1), 0, &made);
            // The last message of each segment was received just before the one after the next one was made. The
            // last two segments have no record that would show when that was.
            for number in 0..times.len() {
                let last = times.get(number + 2).copied().unwrap_or(times[number]);
                segments.push((id, number as u32, last));
            }
        }
        // The current start.
        let own = writer(dir.path(), 9000, 0, &[moment(time, wrong, boot_id, booted)]);
        time += random.below(2000);
        // Once the host has been up for a while, its clock counts for messages of earlier boots.
        let wrong = if boot_id == 1 || time - booted < AGE { clock(&mut random) } else { 0 };
        let now = moment(time, wrong, boot_id, booted);
        removed_in_all += enforce(dir.path(), None, Some(AGE), now).segments;
        let left: HashSet<_> = left(dir.path())
            .into_iter()
            .flat_map(|(id, numbers)| numbers.into_iter().map(move |number| (id, number)))
            .collect();
        for (id, number, last) in segments.into_iter().filter(|(id, ..)| *id != own) {
            let fresh = time - last <= AGE;
            assert!(!fresh || left.contains(&(id, number)), "seed {seed}: segment {number} of {id} is fresh");
        }
    }
    assert!(removed_in_all > 100, "{removed_in_all}");
}

#[test]
fn a_wrong_clock_changes_nothing_for_segments_of_this_boot() {
    for wall in [TODAY, TODAY + 900_000_000 * SECOND, 7 * SECOND] {
        let dir = tempfile::tempdir().unwrap();
        // The clock was in 2035, then in 1970, then right.
        let made = [(900_000_000 * SECOND + TODAY, 10), (40 * SECOND, 20), (TODAY, 30), (TODAY + SECOND, 500)];
        let made = made.map(|(wall, seconds)| at(wall, boot(1, seconds)));
        let id = writer(dir.path(), 1, 0, &made);
        let now = |seconds| at(wall, boot(1, seconds));
        assert_eq!(enforce(dir.path(), None, Some(100), now(125)).segments, 0, "the first ended at 30: {wall}");
        assert_eq!(enforce(dir.path(), None, Some(100), now(131)).segments, 1, "{wall}");
        assert_eq!(enforce(dir.path(), None, Some(100), now(590)).segments, 0, "{wall}");
        assert_eq!(left(dir.path()), [(id, vec![1, 2, 3])]);
    }
}

#[test]
fn segments_of_an_earlier_boot_stay_until_the_clock_can_be_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let old = at(TODAY, boot(1, 50));
    writer(dir.path(), 1, 0, &[old, old, old]);
    let grace = CLOCK_GRACE.as_secs();
    let later = TODAY + 9_000_000 * SECOND;
    writer(dir.path(), 2, 0, &[at(later, boot(2, 10))]);
    let removed = |age, seconds, wall| enforce(dir.path(), None, Some(age), at(wall, boot(2, seconds))).segments;
    assert_eq!(removed(100_000, grace - 1, later), 0);
    assert_eq!(removed(100_000, grace + 1, 90 * SECOND), 0, "a clock that shows 1970");
    assert_eq!(removed(100_000, grace + 1, later), 3);
}

#[test]
fn prepared_segments_and_the_rest_of_the_active_one_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir::claim(dir.path(), 1, false).unwrap().remove(0);
    for number in 0..4 {
        segment(&made.path, made.id, number, at(TODAY, None), number < 3);
    }
    let durable = Durable { commit: 3, sequence: 3, segment: 2, end: 8192 };
    PositionFile::create(&made.path).unwrap().publish(durable).unwrap();
    let removed = |bytes_max| enforce(dir.path(), Some(bytes_max), None, at(TODAY, None)).segments;
    assert_eq!(removed(2 * LEN + 8192), 0);
    assert_eq!(removed(2 * LEN + 8191), 1);
    assert_eq!(removed(1), 1, "and the active one and the next one stay");
    assert_eq!(layout::segments(&made.path).unwrap(), [2, 3]);
}

#[test]
fn only_a_whole_segment_without_writes_in_flight_is_recycled() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = dir::claim(dir.path(), 2, false).unwrap();
    for (writer, (active, mark)) in made.iter().zip([(3, 10), (2, 20)]) {
        for number in 0..4 {
            fs::write(segment_path(&writer.path, number), [mark + number as u8; 4096]).unwrap();
        }
        let durable = Durable { commit: 9, sequence: 9, segment: active, end: 0 };
        PositionFile::create(&writer.path).unwrap().publish(durable).unwrap();
    }
    let live = made.pop().unwrap();
    let dead = made.pop().unwrap().path;
    // One has no blocks, one has a second name, and one can't be removed.
    fs::remove_file(segment_path(&dead, 1)).unwrap();
    File::create(segment_path(&dead, 1)).unwrap().set_len(4096).unwrap();
    fs::hard_link(segment_path(&live.path, 0), dir.path().join("backup")).unwrap();
    fs::remove_file(segment_path(&live.path, 1)).unwrap();
    fs::create_dir(segment_path(&live.path, 1)).unwrap();
    let to = live.path.join("to");
    let recycle = |bytes_max| {
        let retention = Retention { bytes_max, age_max: None };
        let recycled = retention.recycle(dir.path(), 4096, &to, Moment::now()).unwrap();
        recycled.then(|| fs::read(&to).unwrap()[0])
    };
    assert_eq!((recycle(None), recycle(Some(1 << 20))), (None, None));
    let mut recycled = [recycle(Some(1)), recycle(Some(1))].map(Option::unwrap);
    recycled.sort_unstable();
    assert_eq!(recycled, [10, 12]);
    assert_eq!(recycle(Some(1)), None);
    assert!(!dead.exists(), "the segments before and after it were removed too");
    assert_eq!(layout::segments(&live.path).unwrap(), [1, 2, 3], "and no segment is removed after one that stays");
    assert!(dir.path().join("backup").exists());
}

#[test]
fn only_segments_that_would_be_removed_are_recycled() {
    let dir = tempfile::tempdir().unwrap();
    let made = at(TODAY, None);
    let first = writer(dir.path(), 1, 0, &[made; 3]);
    let second = writer(dir.path(), 2, 0, &[made; 3]);
    for id in [first, second] {
        let durable = Durable { commit: 3, sequence: 3, segment: 2, end: LEN };
        PositionFile::create(&dir.path().join(id.to_string())).unwrap().publish(durable).unwrap();
    }
    // A live writer whose position is not yet at its third segment, to which its first commit is being written.
    let live = dir::claim(dir.path(), 1, false).unwrap().remove(0);
    for number in 0..3 {
        segment(&live.path, live.id, number, made, number < 2);
    }
    let durable = Durable { commit: 2, sequence: 2, segment: 1, end: LEN - 4096 };
    let position = PositionFile::create(&live.path).unwrap();
    position.publish(durable).unwrap();
    let to = live.path.join(layout::temporary_name(3));
    let recycle = |bytes_max| {
        let retention = Retention { bytes_max: Some(bytes_max), age_max: None };
        retention.recycle(dir.path(), LEN, &to, made).unwrap()
    };
    assert!(!recycle(8 * LEN + 1));
    assert!(recycle(8 * LEN), "the commit that needs a segment would exceed the limit");
    assert_eq!(left(dir.path())[..2], [(first, vec![1, 2]), (second, vec![0, 1, 2])]);
    position.publish(Durable { commit: 3, sequence: 3, segment: 2, end: 8192 }).unwrap();
    assert_eq!(enforce(dir.path(), Some(7 * LEN + 8192), None, made).segments, 0);
}

#[test]
fn a_dead_writer_is_removed_with_its_last_segment() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = dir::claim(dir.path(), 2, false).unwrap();
    for writer in &made {
        for number in 0..3 {
            fs::write(segment_path(&writer.path, number), [1; 100]).unwrap();
        }
        fs::write(writer.path.join(layout::temporary_name(3)), [0; 100]).unwrap();
    }
    let live = made.pop().unwrap();
    let durable = Durable { commit: 9, sequence: 9, segment: 1, end: 0 };
    PositionFile::create(&live.path).unwrap().publish(durable).unwrap();
    drop(made);
    let removed = enforce(dir.path(), Some(1), None, Moment::now());
    assert_eq!(removed, Removed { segments: 4, bytes: 400, writers: 1, failed: 0 });
    assert_eq!(layout::writers(dir.path()).unwrap(), [live.id], "with the segment that it was making");
    assert_eq!(layout::segments(&live.path).unwrap(), [1, 2]);
    assert!(live.path.join(layout::temporary_name(3)).exists());
}

#[test]
fn a_segment_that_cannot_be_removed_keeps_no_segment_of_other_writers() {
    let dir = tempfile::tempdir().unwrap();
    let made = at(TODAY, None);
    let stuck = writer(dir.path(), 1, 0, &[made; 3]);
    let other = writer(dir.path(), 2, 0, &[made; 3]);
    let path = segment_path(&dir.path().join(stuck.to_string()), 0);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let retention = Retention { bytes_max: Some(1), age_max: None };
    let mut enforcer = Enforcer::new(retention, dir.path().to_owned());
    let removed = enforcer.enforce(made).unwrap();
    assert_eq!((removed.segments, removed.failed), (3, 1));
    assert_eq!(left(dir.path()), [(stuck, vec![0, 1, 2])], "there is no gap, and only {other} is gone");
    assert_eq!(enforcer.enforce(made).unwrap().failed, 1, "the removal is tried again");
    fs::remove_dir(&path).unwrap();
    segment(&dir.path().join(stuck.to_string()), stuck, 0, made, true);
    assert_eq!(enforcer.enforce(made).unwrap(), Removed { segments: 3, bytes: 3 * LEN, writers: 1, failed: 0 });
}

#[test]
fn a_writer_without_a_lock_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let id = writer(dir.path(), 1, 0, &[at(TODAY, None); 3]);
    fs::remove_file(dir.path().join(id.to_string()).join("lock")).unwrap();
    assert_eq!(enforce(dir.path(), Some(1), None, at(TODAY, None)), Removed::default());
}
