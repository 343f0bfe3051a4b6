//! `--retain-bytes` of a running server. Old segments are removed or recycled, the active one never, and readers
//! continue.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::common::admin::Metrics;
use crate::common::kept::{Line, cat, cat_live, expect_sound, journal, serve, text};
use crate::common::{Server, expect_acks, ringpost, submit, wait_until};

const MIB: u64 = 1 << 20;
const PAYLOAD: usize = 16 << 10;

/// Submits the next `count` messages.
fn fill(server: &Server, next: &mut u64, count: u64) {
    let mut stream = server.connect();
    let end = *next + count;
    while *next < end {
        let ids = *next..(*next + 32).min(end);
        stream.write_all(&ids.clone().flat_map(|id| submit(id, &[id as u8; PAYLOAD])).collect::<Vec<_>>()).unwrap();
        *next = ids.end;
        expect_acks(&mut stream, ids);
    }
}

/// Names, lengths and inodes of all segments.
fn segments(data_dir: &Path) -> Vec<(String, u64, u64)> {
    let mut segments = Vec::new();
    for writer in fs::read_dir(data_dir).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        for file in fs::read_dir(writer.path()).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            // The segment may be gone by now.
            if let (true, Ok(metadata)) = (name.ends_with(".seg"), file.metadata()) {
                segments.push((name, metadata.len(), metadata.ino()));
            }
        }
    }
    segments.sort();
    segments
}

fn bytes(data_dir: &Path) -> u64 {
    segments(data_dir).iter().map(|(_, len, _)| len).sum()
}

/// Fails unless `lines` are messages without a gap, up to the last one.
fn expect_the_newest(lines: &[Line], next: u64) {
    let first = lines.first().expect("the active segment is never removed").id;
    assert!(lines.iter().map(|line| line.id).eq(first..next), "from {first} to {next}, but {}", lines.len());
    assert!(lines.iter().all(|line| line.payload == [line.id as u8; PAYLOAD]));
}

#[test]
fn old_segments_are_removed_down_to_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 8MiB");
    let mut next = 0;
    fill(&server, &mut next, 1200);
    // Readers get everything that is left, at any moment of a removal. A reader that is overtaken reports it and
    // continues, so its lines have a gap there. The messages of the active segment count toward the limit, but not the
    // unused rest of it, nor the next segment that is ready.
    wait_until("old segments are removed", || {
        let ended = journal("cat --format json", dir.path());
        assert!(ended.status.success(), "{}", ended.log);
        let lines: Vec<_> = ended.stdout.lines().map(Line::parse).collect();
        let gaps: Vec<_> = (1..lines.len()).filter(|at| lines[*at].id != lines[at - 1].id + 1).collect();
        let reported = ended.log.matches("were removed by retention").count();
        assert!(gaps.len() <= reported, "gaps before {gaps:?}, and {reported} reported: {}", ended.log);
        expect_the_newest(&lines[gaps.last().copied().unwrap_or(0)..], next);
        bytes(dir.path()) <= 12 * MIB
    });
    assert!(bytes(dir.path()) > 8 * MIB, "more was removed than needed: {:?}", segments(dir.path()));
    fill(&server, &mut next, 400);
    expect_the_newest(&cat_live(dir.path()), next);
    assert!(server.stop().status.success());
    expect_sound(dir.path());
    expect_the_newest(&cat(dir.path()), next);
}

#[test]
fn a_removed_segment_is_recycled_as_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 8MiB --admin 127.0.0.1:0");
    let mut next = 0;
    fill(&server, &mut next, 400);
    let inodes = || segments(dir.path()).iter().map(|(.., inode)| *inode).collect::<BTreeSet<_>>();
    // Without a segment that has lost its old name and has not got its new one yet.
    wait_until("five segments are there", || inodes().len() == 5);
    let before = inodes();
    for _ in 0..10 {
        fill(&server, &mut next, 100);
        let kept = bytes(dir.path());
        assert!(
            kept <= 10 * MIB,
            "{kept} bytes are more than the limit, the rest of the active segment and the next one: {:?}",
            segments(dir.path())
        );
    }
    wait_until("only the first segments had to be preallocated", || {
        let metrics = Metrics::scrape(&server);
        let made = metrics.get("ringpost_journal_segments_total{shard=\"0\"}");
        let recycled = metrics.get("ringpost_journal_segments_recycled_total{shard=\"0\"}");
        made >= 11.0 && made - recycled == 5.0
    });
    wait_until("the segments are the earlier files", || inodes() == before);
    expect_the_newest(&cat_live(dir.path()), next);

    // The old contents of recycled segments are not mistaken for a torn tail, although the server was killed and its
    // files were left as they are.
    let mut server = server;
    server.signal(libc::SIGKILL);
    server.reap();
    let ended = journal("verify", dir.path());
    assert!(ended.status.success() && !ended.log.contains("torn"), "{}{}", ended.stdout, ended.log);
    expect_the_newest(&cat(dir.path()), next);
}

#[test]
fn a_follower_whose_segment_is_recycled_reports_it_and_continues() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 8MiB");
    let mut next = 0;
    fill(&server, &mut next, 100);
    let mut command = ringpost(&["journal", "cat", "--follow", "--format", "json", "--data-dir", text(dir.path())]);
    let mut follower = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(Line::parse(&lines.next().unwrap()).id, 0);
    // The pipe is full, and the follower is in the first segment, which is recycled now.
    fill(&server, &mut next, 1000);
    let mut last = 0;
    let mut gaps = 0;
    while last != next - 1 {
        let line = Line::parse(&lines.next().expect("the follower continues"));
        assert!(line.id > last && line.payload == [line.id as u8; PAYLOAD], "{} after {last}", line.id);
        gaps += u64::from(line.id != last + 1);
        last = line.id;
    }
    assert!(gaps >= 1, "the follower was overtaken");
    follower.kill().unwrap();
    follower.wait().unwrap();
    let mut log = String::new();
    follower.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let reported = log.matches("were removed by retention").count() as u64;
    assert!(reported == gaps && log.lines().count() as u64 == reported, "{gaps} gaps: {log}");
    assert!(server.stop().status.success());
}

#[test]
fn the_active_segment_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    // An earlier server, all of whose messages may be removed.
    let before = serve(dir.path(), "--workers 2 --segment-size 2MiB");
    fill(&before, &mut 0, 300);
    assert!(before.stop().status.success());
    assert!(cat(dir.path()).len() == 300 && segments(dir.path()).len() >= 3);

    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 1");
    let mut next = 1000;
    fill(&server, &mut next, 500);
    wait_until("every removable segment is removed", || segments(dir.path()).len() <= 2);
    server.wait_for_log("removed old segments of the journal segments=");
    expect_the_newest(&cat_live(dir.path()), next);
    assert!(journal("stats", dir.path()).status.success());
    fill(&server, &mut next, 20);
    expect_the_newest(&cat_live(dir.path()), next);
    assert!(server.stop().status.success());
    expect_sound(dir.path());
    expect_the_newest(&cat(dir.path()), next);
}

#[test]
fn a_limit_of_zero_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 0 --retain-age 0");
    let mut next = 0;
    fill(&server, &mut next, 400);
    // Retention would run at the start, and whenever a segment is created.
    assert_eq!(cat_live(dir.path()).len(), 400);
    assert!(server.stop().status.success());
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 0 --retain-age 0");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(cat_live(dir.path()).len(), 400);
    assert!(server.stop().status.success());
}

#[test]
fn an_idle_server_removes_an_old_message_by_age_and_keeps_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-age 1s");
    let mut next = 0;
    let mut command = ringpost(&["journal", "cat", "--follow", "--format", "json", "--data-dir", text(dir.path())]);
    let mut follower = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map_while(Result::ok);
    fill(&server, &mut next, 3);
    for id in 0..3 {
        assert_eq!(Line::parse(&lines.next().unwrap()).id, id);
    }
    wait_until("the old messages are removed", || cat(dir.path()).is_empty());
    assert!(segments(dir.path()).len() >= 2, "the active and the next segment are kept");
    fill(&server, &mut next, 1);
    assert_eq!(cat_live(dir.path()).iter().map(|line| line.id).collect::<Vec<_>>(), [3]);
    assert_eq!(Line::parse(&lines.next().unwrap()).id, 3, "the follower continues");
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert!(server.stop().status.success());
    expect_sound(dir.path());
}

#[test]
fn messages_written_with_a_wrong_clock_are_removed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let before = serve(dir.path(), "--workers 1 --segment-size 2MiB");
    fill(&before, &mut 0, 400);
    assert!(before.stop().status.success());
    // A copy, a restore, or a wrong clock leaves such times.
    let in_2035 = std::time::SystemTime::now() + Duration::from_secs(300_000_000);
    for writer in fs::read_dir(dir.path()).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        for file in fs::read_dir(writer.path()).unwrap().flatten() {
            fs::File::open(file.path()).unwrap().set_modified(in_2035).unwrap();
        }
    }
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 8MiB");
    let mut next = 1000;
    fill(&server, &mut next, 600);
    wait_until("the earlier server's messages are removed", || cat_live(dir.path())[0].id >= 1000);
    let kept = cat_live(dir.path());
    assert!(kept.len() * PAYLOAD > 4 << 20, "as many new messages are kept as fit: {}", kept.len());
    expect_the_newest(&kept, next);
    assert!(server.stop().status.success());
    expect_sound(dir.path());
}

#[test]
fn one_segment_that_cannot_be_removed_does_not_stop_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    for first in [0, 1000] {
        let before = serve(dir.path(), "--workers 1 --segment-size 2MiB");
        fill(&before, &mut first.clone(), 200);
        assert!(before.stop().status.success());
    }
    let mut writers: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    writers.retain(|path| path.is_dir());
    writers.sort();
    let stuck = writers[0].join("0000000000.seg");
    fs::remove_file(&stuck).unwrap();
    fs::create_dir(&stuck).unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 1");
    wait_until("the other writer is removed", || !writers[1].exists());
    server.wait_for_log("cannot remove old segments of a writer; trying again");
    thread::sleep(Duration::from_secs(6));
    let log = server.stop().log;
    assert_eq!(log.matches("cannot remove old segments").count(), 1, "{log}");
}
