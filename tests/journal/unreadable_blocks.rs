//! If a disk can't read a part of a journal, only that part is lost. Commands read the rest and report the lost part by
//! file and offset, and a server starts.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::journal::{journal, write};
use crate::common::kept::serve;
use crate::common::unreadable::Unreadable;
use crate::common::{Ended, run};

fn message(number: u64) -> (u64, Vec<u8>) {
    (number % 3, format!("message {number}").into_bytes())
}

/// Writes six commits of two messages, each in its own block after the header's, and then another writer with one
/// message.
fn journal_of_two(closed: bool) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let batches: Vec<_> = (0..6).map(|batch| vec![message(2 * batch), message(2 * batch + 1)]).collect();
    let writer = write(dir.path(), &batches, closed);
    write(dir.path(), &[vec![(0, b"of another writer".to_vec())]], true);
    (dir, writer)
}

fn lines(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().map(|number| format!("message {number}\n")).collect()
}

fn outcome(words: &str, data_dir: &Path) -> (Option<i32>, Ended) {
    let ended = run(journal(words, data_dir));
    (ended.status.code(), ended)
}

/// Checks that `cat --salvage` shows all messages except those of these commits, and that it and `verify` name the
/// place.
fn expect_lost(data_dir: &Path, commits: &[u64], place: &str) {
    let left = (0..12).filter(|number| !commits.contains(&(number / 2 + 1)));
    let (code, cat) = outcome("cat --salvage", data_dir);
    assert_eq!((code, &cat.stdout), (Some(1), &(lines(left) + "of another writer\n")), "{}", cat.log);
    assert!(cat.log.contains(place) && cat.log.contains("Input/output error"), "{}", cat.log);
    let (code, verify) = outcome("verify", data_dir);
    let records = 13 - 2 * commits.len();
    assert!(
        code == Some(1) && verify.stdout.starts_with(&format!("NOT sound: {records} records")),
        "{}",
        verify.stdout
    );
    assert!(verify.log.contains(place), "{}", verify.log);
}

#[test]
fn an_unreadable_block_loses_only_its_commit() {
    let (dir, writer) = journal_of_two(true);
    let segment = writer.join("0000000000.seg");
    for commit in 1..=6 {
        let begin = 4096 * commit;
        let Some(_cover) = Unreadable::file(&segment, begin..begin + 1) else { return };
        expect_lost(dir.path(), &[commit], &format!("0000000000.seg, offset {begin}: commit {commit} of"));
        let (code, cat) = outcome("cat", dir.path());
        assert_eq!((code, cat.stdout), (Some(1), lines(0..2 * commit - 2)), "{}", cat.log);
        assert!(cat.log.contains(&format!("0000000000.seg, offset {begin}")), "{}", cat.log);
        assert!(cat.log.contains("--salvage"), "{}", cat.log);
        // Nothing is wrong before or after the place that can't be read.
        assert!(outcome("stats", dir.path()).1.stdout.contains(" segments, "));
    }
    assert_eq!(outcome("verify", dir.path()).0, Some(0));
}

#[test]
fn an_unreadable_place_within_a_long_commit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let long = vec![vec![(0, b"before".to_vec())], vec![(0, vec![b'x'; 12_000])], vec![(0, b"after".to_vec())]];
    let segment = write(dir.path(), &long, true).join("0000000000.seg");
    let Some(_cover) = Unreadable::file(&segment, 16_000..16_001) else { return };
    let (code, cat) = outcome("cat --salvage", dir.path());
    assert_eq!((code, cat.stdout), (Some(1), "before\nafter\n".to_owned()), "{}", cat.log);
    assert!(cat.log.contains("0000000000.seg, offset 12288: commit 2 of"), "{}", cat.log);
}

#[test]
fn a_run_of_unreadable_blocks_is_skipped() {
    let (dir, writer) = journal_of_two(true);
    let Some(_cover) = Unreadable::file(&writer.join("0000000000.seg"), 8192..5 * 4096) else { return };
    expect_lost(dir.path(), &[2, 3, 4], "0000000000.seg, offset 8192: commit 2 of");
}

#[test]
fn an_unreadable_header_of_a_writers_only_segment_loses_no_message() {
    let (dir, writer) = journal_of_two(true);
    let Some(_cover) = Unreadable::file(&writer.join("0000000000.seg"), 0..52) else { return };
    expect_lost(dir.path(), &[], "0000000000.seg, offset 0: commit 1 of");
}

#[test]
fn an_unreadable_last_commit_of_a_killed_writer_is_not_a_torn_tail() {
    let (dir, writer) = journal_of_two(false);
    let Some(_cover) = Unreadable::file(&writer.join("0000000000.seg"), 6 * 4096..7 * 4096) else { return };
    expect_lost(dir.path(), &[6], "0000000000.seg, offset 24576: commit 6 of");
}

#[test]
fn unreadable_space_that_was_never_used_is_not_a_fault() {
    let (dir, writer) = journal_of_two(false);
    let Some(_cover) = Unreadable::file(&writer.join("0000000000.seg"), 9 * 4096..10 * 4096) else { return };
    let (code, verify) = outcome("verify", dir.path());
    assert_eq!(code, Some(0), "{}{}", verify.stdout, verify.log);
}

#[test]
fn a_wholly_unreadable_segment_loses_only_its_writer() {
    let (dir, writer) = journal_of_two(true);
    let Some(_cover) = Unreadable::file(&writer.join("0000000000.seg"), 0..u64::MAX) else { return };
    expect_lost(dir.path(), &[1, 2, 3, 4, 5, 6], "0000000000.seg, offset 0: commit 1 of");
}

#[test]
fn a_writer_that_cannot_be_listed_is_omitted_and_named() {
    let (dir, writer) = journal_of_two(true);
    let Some(_cover) = Unreadable::directory(&writer) else { return };
    expect_lost(dir.path(), &[1, 2, 3, 4, 5, 6], writer.to_str().unwrap());
    let (code, stats) = outcome("stats", dir.path());
    assert!(code == Some(1) && stats.stdout.contains("\n1 records, "), "{}{}", stats.stdout, stats.log);
    assert!(stats.log.contains(writer.to_str().unwrap()), "{}", stats.log);
}

#[test]
fn a_live_writer_with_an_unreadable_position_loses_only_itself() {
    let (dir, _) = journal_of_two(true);
    let server = serve(dir.path(), "--workers 1");
    crate::common::round_trip(&mut server.connect(), 1);
    let live = ringpost::journal::layout::writers(dir.path()).unwrap().pop().unwrap();
    let position = dir.path().join(live.to_string()).join("position");
    let Some(_cover) = Unreadable::file(&position, 0..1) else { return };
    expect_lost(dir.path(), &[], position.to_str().unwrap());
    let (code, cat) = outcome("cat", dir.path());
    assert!(code == Some(1) && cat.log.contains(position.to_str().unwrap()), "{}", cat.log);
    drop(server);
}

#[test]
fn a_server_starts_beside_an_unreadable_dead_writer_and_does_not_change_it() {
    for place in ["header", "first commit", "tail", "lock", "directory"] {
        let (dir, writer) = journal_of_two(false);
        let segment = writer.join("0000000000.seg");
        let len = fs::metadata(&segment).unwrap().len();
        // The server would remove only a segment that looks unused.
        if place != "tail" {
            fs::write(&segment, vec![0; len as usize]).unwrap();
            fs::remove_file(writer.join("position")).unwrap();
        }
        let cover = match place {
            "header" => Unreadable::file(&segment, 0..1),
            "first commit" => Unreadable::file(&segment, 4096..4097),
            "tail" => Unreadable::file(&segment, len - 1..len),
            "lock" => {
                fs::write(writer.join("lock"), []).unwrap();
                Unreadable::directory(&writer)
            }
            _ => Unreadable::directory(&writer),
        };
        let Some(cover) = cover else { return };
        let server = serve(dir.path(), "--workers 1");
        crate::common::round_trip(&mut server.connect(), 1);
        if place != "tail" {
            server.wait_for_log("can't read a dead writer's file");
            assert!(server.log().contains(writer.to_str().unwrap()), "{place}: {}", server.log());
        }
        let ended = server.stop();
        assert!(ended.status.success(), "{place}: {}", ended.log);
        drop(cover);
        assert_eq!(fs::metadata(&segment).unwrap().len(), len, "{place}");
    }
}
