//! `--retain-bytes` while the server serves: old segments go, the active one never, and readers go on.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;

use common::kept::{Line, cat, expect_sound, journal, serve};
use common::{Server, expect_acks, submit, wait_until};

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

/// Names and lengths of all segments.
fn segments(data_dir: &Path) -> Vec<(String, u64)> {
    let mut segments = Vec::new();
    for writer in fs::read_dir(data_dir).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        for file in fs::read_dir(writer.path()).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            // It may be gone by now.
            if let (true, Ok(metadata)) = (name.ends_with(".seg"), file.metadata()) {
                segments.push((name, metadata.len()));
            }
        }
    }
    segments.sort();
    segments
}

fn bytes(data_dir: &Path) -> u64 {
    segments(data_dir).iter().map(|(_, len)| len).sum()
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
    expect_the_newest(&cat(dir.path()), next);
    server.wait_for_log("removed old segments of the journal segments=");
    assert!(server.stop().status.success());
    expect_sound(dir.path());
    expect_the_newest(&cat(dir.path()), next);
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
    expect_the_newest(&cat(dir.path()), next);
    assert!(journal("stats", dir.path()).status.success());
    fill(&server, &mut next, 20);
    expect_the_newest(&cat(dir.path()), next);
    assert!(server.stop().status.success());
    expect_sound(dir.path());
    expect_the_newest(&cat(dir.path()), next);
}
