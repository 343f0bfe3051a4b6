//! Tests of claims, locks and the tidying up after dead writers, on real files.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::super::format::{BLOCK_LEN, CommitHeader, SegmentHeader};
use super::super::id::{MICROS_MAX, SHARDS_MAX, WriterId};
use super::super::layout::{
    Access, LOCK, POSITION, START_LOCK, segment_name, segment_path, segments, temporary_name, writers,
};
use super::super::moment::BootTime;
use super::super::position::{Durable, PositionFile};
use super::claim::{ClaimError, claim, claim_for, start_micros};
use super::dead_writer::{QUIET_LEN, reclaim};
use super::locks::{Own, Owned, has_lock, is_live, lock_start, try_own};

#[test]
fn the_ids_of_a_later_start_are_higher_whatever_the_clock_shows() {
    let max = MICROS_MAX;
    assert_eq!((start_micros(7, 0), start_micros(7, 9), start_micros(9, 9)), (Some(7), Some(10), Some(10)));
    assert_eq!(
        (start_micros(max, 9), start_micros(max + 1, 9), start_micros(max + 20, 9)),
        (Some(max), Some(10), Some(19))
    );
    assert_eq!((start_micros(7, max - 1), start_micros(7, max), start_micros(max + 20, max)), (Some(max), None, None));
    assert!(WriterId::new(max, 1) > WriterId::new(max - 1, SHARDS_MAX - 1));
}

#[test]
fn the_id_of_a_writer_that_a_start_removes_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let in_future = WriterId::new(MICROS_MAX - 9, 0);
    let path = dir.path().join(in_future.to_string());
    fs::create_dir(&path).unwrap();
    fs::write(path.join(segment_name(0)), [1; 2 * BLOCK_LEN]).unwrap();
    fs::write(path.join(LOCK), []).unwrap();
    for after in 1..4 {
        let unused = claim(dir.path(), 1, false).unwrap();
        assert_eq!(unused[0].id, WriterId::new(MICROS_MAX - 9 + after, 0));
        assert_eq!(writers(dir.path()).unwrap(), [in_future, unused[0].id]);
    }
}

#[test]
fn a_start_is_refused_while_a_writer_is_alive_and_the_error_names_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("a/b");
    let first = claim(&data_dir, 2, false).unwrap();
    assert_eq!(writers(&data_dir).unwrap(), [first[0].id, first[1].id]);
    assert!(is_live(&first[1].path).unwrap());
    let error = claim(&data_dir, 1, false).unwrap_err().to_string();
    assert!(error.contains(&format!("process {}, shard 0", std::process::id())), "{error}");
    assert_eq!(claim(&data_dir, 1, true).unwrap().len(), 1, "shared");
    let paths = [first[0].path.clone(), first[1].path.clone()];
    for path in &paths {
        fs::write(path.join(segment_name(0)), [1; 2 * BLOCK_LEN]).unwrap();
    }
    drop(first);
    assert!(!is_live(&paths[0]).unwrap());
    let second = claim(&data_dir, 1, false).unwrap();
    assert!(second[0].path > paths[1] && paths[1].exists(), "a start creates a new writer and keeps the old one");
}

#[test]
fn a_dead_writer_has_at_most_one_owner_and_readers_see_it_as_dead() {
    let dir = tempfile::tempdir().unwrap();
    let path = claim(dir.path(), 1, false).unwrap().remove(0).path;
    let Owned::Free(lock) = try_own(&path).unwrap() else { panic!("no process holds the lock") };
    assert!(!is_live(&path).unwrap());
    assert!(matches!(try_own(&path).unwrap(), Owned::Held));
    drop(lock);
    assert!(matches!(try_own(&path).unwrap(), Owned::Free(_)));
}

#[test]
fn a_start_removes_what_dead_writers_left_unused_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let made = claim(dir.path(), 2, false).unwrap();
    let (used, unused) = (made[0].path.clone(), made[1].path.clone());
    let segment = |used: bool| [vec![7; BLOCK_LEN], vec![0; 3 * BLOCK_LEN + 5], vec![u8::from(used)]].concat();
    fs::write(used.join(segment_name(0)), segment(true)).unwrap();
    fs::write(used.join(segment_name(1)), segment(false)).unwrap();
    fs::write(used.join(temporary_name(2)), segment(true)).unwrap();
    fs::write(unused.join(segment_name(0)), segment(false)).unwrap();
    fs::create_dir(dir.path().join(format!("{}.new", WriterId(9)))).unwrap();
    drop(made);
    let next = claim(dir.path(), 1, false).unwrap();
    assert_eq!(
        writers(dir.path()).unwrap(),
        [used.file_name().unwrap().to_str().unwrap().parse().unwrap(), next[0].id]
    );
    assert_eq!(segments(&used).unwrap(), [0]);
    let names: Vec<_> = fs::read_dir(&used).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "its lock, its position and a segment: {names:?}");
    assert!(!dir.path().join(format!("{}.new", WriterId(9))).exists());
}

#[test]
fn old_content_of_a_recycled_segment_does_not_count_as_use() {
    let dir = tempfile::tempdir().unwrap();
    let made = claim(dir.path(), 1, false).unwrap();
    let (id, path) = (made[0].id, made[0].path.clone());
    let write = |number: u32, of: u32| {
        let header = SegmentHeader { segment: number, writer: id, salt: 5, created: 1, len: 0, recycled: true };
        let (durable, first) = (0, 1);
        let commit = CommitHeader {
            number: first,
            durable,
            writer: id,
            salt: 5,
            first_commit: first,
            first_sequence: first,
            segment: of,
            body_len: 0,
            records: 0,
            body_crc: 0,
        };
        let mut bytes = vec![7; 4 * BLOCK_LEN];
        bytes[..52].copy_from_slice(&header.encode());
        bytes[2 * BLOCK_LEN..2 * BLOCK_LEN + 72].copy_from_slice(&commit.encode());
        fs::write(path.join(segment_name(number)), bytes).unwrap();
    };
    write(1, 1);
    write(2, 0);
    write(3, 1);
    drop(made);
    claim(dir.path(), 1, false).unwrap();
    assert_eq!(segments(&path).unwrap(), [1]);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn other_users_can_not_open_what_a_start_creates_unless_the_group_has_access() {
    for (access, directory, file) in [(Access::Owner, 0o700, 0o600), (Access::Group, 0o750, 0o640)] {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let made = claim_for(&data_dir, 1, false, access).unwrap().remove(0);
        super::super::file_storage::FileStorage::new(&made.path).unwrap();
        assert_eq!((mode(&data_dir), mode(&made.path)), (directory, directory));
        assert_eq!(mode(&made.path.join(POSITION)), file);
        assert_eq!(mode(&made.path.join(LOCK)), 0o600, "a reader could hold the lock");
        assert_eq!(mode(&data_dir.join(START_LOCK)), 0o600);
    }
}

#[test]
fn a_start_restricts_files_that_an_earlier_version_left_open_to_all() {
    let dir = tempfile::tempdir().unwrap();
    let made = claim(dir.path(), 1, false).unwrap().remove(0);
    fs::write(made.path.join(segment_name(0)), [1; 2 * BLOCK_LEN]).unwrap();
    let path = made.path.clone();
    let lock = path.join(LOCK);
    drop(made);
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    for file in [&lock, &dir.path().join(START_LOCK)] {
        fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
    }
    claim(dir.path(), 1, false).unwrap();
    assert_eq!((mode(&path), mode(&lock), mode(&dir.path().join(START_LOCK))), (0o700, 0o600, 0o600));
    assert_eq!(mode(dir.path()), 0o755, "an existing directory may belong to somebody else");
}

#[test]
fn a_reader_that_may_not_open_the_lock_file_probes_the_position_file() {
    let dir = tempfile::tempdir().unwrap();
    let made = claim_for(dir.path(), 1, false, Access::Group).unwrap().remove(0);
    let file = File::open(made.path.join(POSITION)).unwrap();
    let probe = || flock(&file, FlockOperation::NonBlockingLockShared);
    assert_eq!(probe(), Err(Errno::WOULDBLOCK));
    let path = made.path.clone();
    fs::write(path.join(segment_name(0)), [1; 2 * BLOCK_LEN]).unwrap();
    drop(made);
    assert_eq!(probe(), Ok(()));
    // A process that holds that lock blocks no start.
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    claim(dir.path(), 1, false).unwrap();
}

#[test]
fn a_writer_without_a_lock_file_is_dead_only_if_its_files_do_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let made = claim(dir.path(), 1, false).unwrap().remove(0);
    fs::write(made.path.join(segment_name(0)), [1; 2 * BLOCK_LEN]).unwrap();
    fs::write(made.path.join(temporary_name(1)), [1; BLOCK_LEN]).unwrap();
    fs::remove_file(made.path.join(LOCK)).unwrap();
    let position = PositionFile::create(&made.path).unwrap();
    // Open it as another process would.
    Own::all().remove(&made.path);
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut commit = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                commit += 1;
                let durable = Durable { commit, sequence: 1, segment: 0, end: 8192 };
                position.publish(durable).unwrap();
                thread::sleep(Duration::from_millis(50));
            }
        });
        let error = claim(dir.path(), 1, false).unwrap_err();
        assert!(matches!(error, ClaimError::LivesElsewhere { writer, .. } if writer == made.id), "{error}");
        assert!(made.path.join(temporary_name(1)).exists(), "nothing of that writer was swept");
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    claim(dir.path(), 1, false).unwrap();
    assert!(!made.path.join(temporary_name(1)).exists());
    assert!(has_lock(&made.path).unwrap(), "the writer is now like any other dead one");
}

/// Creates a dead writer with two segments of this length, from this boot or an earlier one, and writes commits to
/// them at these blocks.
fn dead_writer(data_dir: &Path, len: usize, this_boot: bool, recycled: bool, at: &[usize]) -> PathBuf {
    let made = claim(data_dir, 1, true).unwrap().remove(0);
    let boot = if this_boot { BootTime::now() } else { Some(BootTime { id: 1, nanos: 5 }) };
    for number in 0..2 {
        let header = SegmentHeader { segment: number, writer: made.id, salt: 5, created: 1, len: len as u64, recycled };
        let header = header.encode();
        let mut bytes = vec![if recycled { 9 } else { 0 }; len];
        bytes[..52].copy_from_slice(&header);
        bytes[52..80].copy_from_slice(&boot.unwrap().encode(&header));
        for block in at {
            let number = u64::from(number);
            let commit = CommitHeader {
                number: number + 1,
                durable: number,
                writer: made.id,
                salt: 5,
                first_commit: number + 1,
                first_sequence: 1,
                segment: number as u32,
                body_len: 0,
                records: 0,
                body_crc: 0,
            };
            bytes[block * BLOCK_LEN..][..72].copy_from_slice(&commit.encode());
        }
        fs::write(made.path.join(segment_name(number)), bytes).unwrap();
    }
    made.path.clone()
}

fn lens(writer: &Path) -> Vec<u64> {
    let numbers = segments(writer).unwrap().into_iter();
    numbers.map(|number| fs::metadata(segment_path(writer, number)).unwrap().len()).collect()
}

#[test]
fn reclaiming_a_dead_writer_frees_everything_after_its_last_data() {
    const LEN: usize = 64 * BLOCK_LEN;
    for recycled in [false, true] {
        for this_boot in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let used = dead_writer(dir.path(), LEN, this_boot, recycled, &[1, 2, 7]);
            let full = dead_writer(dir.path(), LEN, this_boot, recycled, &[1, 63]);
            let live = claim(dir.path(), 1, true).unwrap().remove(0);
            fs::copy(used.join(segment_name(1)), live.path.join(segment_name(1))).unwrap();
            assert_eq!(reclaim(dir.path()).unwrap(), (56 * BLOCK_LEN) as u64);
            assert_eq!(lens(&used), [LEN as u64, 8 * BLOCK_LEN as u64]);
            assert_eq!(lens(&full), [LEN as u64; 2], "a commit after damage stays");
            assert_eq!(lens(&live.path), [LEN as u64]);
            assert_eq!(reclaim(dir.path()).unwrap(), 0, "nothing is left to free");
        }
    }
}

#[test]
fn a_segment_with_a_damaged_header_is_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let writer = dead_writer(dir.path(), 64 * BLOCK_LEN, true, false, &[1]);
    let mut bytes = fs::read(writer.join(segment_name(1))).unwrap();
    bytes[20] ^= 1;
    fs::write(writer.join(segment_name(1)), bytes).unwrap();
    assert_eq!(reclaim(dir.path()).unwrap(), 0);
    assert_eq!(lens(&writer), [64 * BLOCK_LEN as u64; 2]);
}

#[test]
fn a_segment_of_an_earlier_boot_is_read_to_its_end_by_reclaim_and_not_by_a_start() {
    let far = QUIET_LEN as usize / BLOCK_LEN + 100;
    let len = (far + 100) * BLOCK_LEN;
    let dir = tempfile::tempdir().unwrap();
    let earlier = dead_writer(dir.path(), len, false, false, &[1, far]);
    let now = dead_writer(dir.path(), len, true, false, &[1]);
    let unused = dead_writer(dir.path(), len, true, false, &[]);
    let read_so_far = || {
        let io = fs::read_to_string("/proc/thread-self/io").unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse::<u64>().unwrap()
    };
    let before = read_so_far();
    claim(dir.path(), 1, true).unwrap();
    let read = read_so_far() - before;
    assert!(read < 1 << 20, "a start reads {read} bytes of {len} each");
    assert!(!unused.exists());
    let before = read_so_far();
    assert_eq!(reclaim(dir.path()).unwrap(), (99 * BLOCK_LEN + len - 2 * BLOCK_LEN) as u64);
    let read = read_so_far() - before;
    assert!(read < (len as u64 - BLOCK_LEN as u64) + QUIET_LEN + (4 << 20), "{read}");
    assert_eq!(lens(&earlier), [len as u64, ((far + 1) * BLOCK_LEN) as u64]);
    assert_eq!(lens(&now), [len as u64, 2 * BLOCK_LEN as u64]);
}

#[test]
fn lock_files_are_open_for_both_reading_and_writing_as_nfs_requires() {
    let dir = tempfile::tempdir().unwrap();
    let made = claim(dir.path(), 1, false).unwrap().remove(0);
    let path = made.path.clone();
    let start = lock_start(dir.path(), Duration::ZERO).unwrap().unwrap();
    let flags = |file: &File| rustix::fs::fcntl_getfl(file).unwrap() & rustix::fs::OFlags::ACCMODE;
    assert_eq!([&*made.lock, &*made.position, &start].map(flags), [rustix::fs::OFlags::RDWR; 3]);
    drop(made);
    let Owned::Free(owned) = try_own(&path).unwrap() else { panic!("no process holds the lock") };
    assert_eq!(flags(&owned), rustix::fs::OFlags::RDWR);
}

#[test]
fn a_process_knows_its_own_writers_even_without_their_lock_files() {
    let dir = tempfile::tempdir().unwrap();
    let made = claim(dir.path(), 1, false).unwrap().remove(0);
    let path = made.path.clone();
    for replaced in [false, true] {
        fs::remove_file(path.join(LOCK)).unwrap();
        if replaced {
            fs::write(path.join(LOCK), "").unwrap();
        }
        assert!(is_live(&path).unwrap() && matches!(try_own(&path).unwrap(), Owned::Held));
        fs::write(path.join(LOCK), "").unwrap();
    }
    drop(made);
    assert!(!is_live(&path).unwrap() && matches!(try_own(&path).unwrap(), Owned::Free(_)));
}
