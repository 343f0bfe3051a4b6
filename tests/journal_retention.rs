//! `--retain-bytes` while the server serves: old segments go or become new ones, the active one never,
//! and readers go on.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use common::admin::Metrics;
use common::kept::{Line, cat, cat_live, expect_sound, journal, serve, text};
use common::{Server, expect_acks, ringpost, submit, wait_until};

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
            // It may be gone by now.
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

/// Fails unless `lines` are messages without a gap, up to the last one of all.
fn expect_the_newest(lines: &[Line], next: u64) {
    let first = lines.first().expect("the active segment is never removed").id;
    assert!(lines.iter().map(|line| line.id).eq(first..next), "from {first} to {next}, but {}", lines.len());
    assert!(lines.iter().all(|line| line.payload == [line.id as u8; PAYLOAD]));
}

#[test]
fn old_segments_go_down_to_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 8MiB");
    let mut next = 0;
    fill(&server, &mut next, 1200);
    // Readers get all that is left, at any moment of a removal. One that is overtaken says so, and goes
    // on: its lines have a gap there.
    wait_until("old segments are gone", || {
        let ended = journal("cat --format json", dir.path());
        assert!(ended.status.success(), "{}", ended.log);
        let lines: Vec<_> = ended.stdout.lines().map(Line::parse).collect();
        let gaps: Vec<_> = (1..lines.len()).filter(|at| lines[*at].id != lines[at - 1].id + 1).collect();
        let told = ended.log.matches("segments were removed by retention").count();
        assert!(gaps.len() <= told, "gaps before {gaps:?}, and told: {}", ended.log);
        expect_the_newest(&lines[gaps.last().copied().unwrap_or(0)..], next);
        bytes(dir.path()) <= 8 * MIB
    });
    assert!(bytes(dir.path()) > 4 * MIB, "no more than needed: {:?}", segments(dir.path()));
    fill(&server, &mut next, 400);
    expect_the_newest(&cat_live(dir.path()), next);
    assert!(server.stop().status.success());
    expect_sound(dir.path());
    expect_the_newest(&cat(dir.path()), next);
}

#[test]
fn a_segment_that_goes_becomes_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 8MiB --admin 127.0.0.1:0");
    let mut next = 0;
    fill(&server, &mut next, 400);
    let inodes = || segments(dir.path()).iter().map(|(.., inode)| *inode).collect::<BTreeSet<_>>();
    // Not one that has just left its old name, and has not got its new one.
    wait_until("four segments are there", || inodes().len() == 4);
    let before = inodes();
    for _ in 0..10 {
        fill(&server, &mut next, 100);
        let kept = bytes(dir.path());
        assert!(kept <= 8 * MIB, "never more than may be, but {kept}: {:?}", segments(dir.path()));
    }
    wait_until("only the first segments had to be filled", || {
        let metrics = Metrics::scrape(&server);
        let made = metrics.get("ringpost_journal_segments_total{shard=\"0\"}");
        let recycled = metrics.get("ringpost_journal_segments_recycled_total{shard=\"0\"}");
        made >= 11.0 && made - recycled == 4.0
    });
    wait_until("they are the files that were there before", || inodes() == before);
    expect_the_newest(&cat_live(dir.path()), next);

    // Nothing of what they held before is taken for a torn tail, with the server killed and its files
    // left as they are.
    let mut server = server;
    server.signal(libc::SIGKILL);
    server.reap();
    let ended = journal("verify", dir.path());
    assert!(ended.status.success() && !ended.log.contains("torn"), "{}{}", ended.stdout, ended.log);
    expect_the_newest(&cat(dir.path()), next);
}

#[test]
fn a_follower_whose_segment_becomes_another_one_says_so_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 8MiB");
    let mut next = 0;
    fill(&server, &mut next, 100);
    let mut command = ringpost(&["journal", "cat", "--follow", "--format", "json", "--data-dir", text(dir.path())]);
    let mut follower = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(Line::parse(&lines.next().unwrap()).id, 0);
    // The pipe is full, and the follower stands in the first segment, which is used again meanwhile.
    fill(&server, &mut next, 1000);
    let mut last = 0;
    let mut gaps = 0;
    while last != next - 1 {
        let line = Line::parse(&lines.next().expect("it goes on"));
        assert!(line.id > last && line.payload == [line.id as u8; PAYLOAD], "{} after {last}", line.id);
        gaps += u64::from(line.id != last + 1);
        last = line.id;
    }
    assert!(gaps >= 1, "it was overtaken");
    follower.kill().unwrap();
    follower.wait().unwrap();
    let mut log = String::new();
    follower.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let told = log.matches("segments were removed by retention").count() as u64;
    assert!(told >= gaps && log.lines().count() as u64 == told, "{gaps} gaps: {log}");
    assert!(server.stop().status.success());
}

#[test]
fn the_active_segment_stays_whatever_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    // A server before this one, all of which may go.
    let before = serve(dir.path(), "--workers 2 --segment-size 2MiB");
    fill(&before, &mut 0, 300);
    assert!(before.stop().status.success());
    assert!(cat(dir.path()).len() == 300 && segments(dir.path()).len() >= 3);

    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB --retain-bytes 1");
    let mut next = 1000;
    fill(&server, &mut next, 500);
    wait_until("all that may go is gone", || segments(dir.path()).len() <= 2);
    server.wait_for_log("removed old segments of the journal segments=");
    expect_the_newest(&cat_live(dir.path()), next);
    assert!(journal("stats", dir.path()).status.success());
    fill(&server, &mut next, 20);
    expect_the_newest(&cat_live(dir.path()), next);
    assert!(server.stop().status.success());
    expect_sound(dir.path());
    expect_the_newest(&cat(dir.path()), next);
}
