//! On a full disk, messages are acked with 1 and connections stay open. Service resumes by itself when there is room
//! again.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::common::admin::{Metrics, get};
use crate::common::disk::{make_btrfs, make_ext4, serve_on};
use crate::common::kept::{cat, expect_sound, serve, text};
use crate::common::{submit, submit_ack, wait_until};

/// Sends one SUBMIT, and returns the result of its ack.
fn result_of(stream: &mut TcpStream, id: u64) -> u8 {
    stream.write_all(&submit(id, &[id as u8; 16 << 10])).unwrap();
    let mut ack = [0; 14];
    stream.read_exact(&mut ack).unwrap();
    assert_eq!(ack[..13], submit_ack(id, 0)[..13]);
    ack[13]
}

fn check(unshare: &str, mount: &str, options: &str) {
    let dir = tempfile::tempdir().unwrap();
    let Some((server, seen)) = serve_on(dir.path(), unshare, mount, options) else { return };
    let mut stream = server.connect();
    let mut bystander = server.connect();
    let mut id = 0;
    let mut acked = Vec::new();
    for round in 0..2 {
        let before = acked.len();
        // Until the disk is full.
        while {
            id += 1;
            result_of(&mut stream, id) == 0
        } {
            acked.push(id);
            assert!(id < 4000, "64 MB fit into 24 MiB");
        }
        assert!(
            acked.len() > before + 100,
            "only {} messages were acked before the disk was full",
            acked.len() - before
        );
        for stream in [&mut stream, &mut bystander, &mut server.connect()] {
            for _ in 0..20 {
                id += 1;
                assert_eq!(result_of(stream, id), 1, "messages are refused while the disk is full");
            }
        }
        let ready = get(&server, "/readyz");
        assert_eq!(ready.status, 503, "{}", ready.body);
        assert!(ready.body.contains("shard 0: refuses messages until there is room: "), "{}", ready.body);
        assert!(ready.body.contains("bytes are free"), "{}", ready.body);
        assert_eq!(get(&server, "/healthz").status, 200, "a full disk is not a fault of the server");
        assert_eq!(Metrics::scrape(&server).get("ringpost_journal_condition{shard=\"0\"}"), 1.0);
        server.wait_for_log("refuses messages until there is room");
        expect_sound(&seen.join("data"));
        if round == 0 {
            fs::remove_file(seen.join("ballast")).unwrap();
            wait_until("the server is ready", || get(&server, "/readyz").status == 200);
            server.wait_for_log("the journal has room again");
            // These are the same connections as before.
            for stream in [&mut stream, &mut bystander] {
                id += 1;
                assert_eq!(result_of(stream, id), 0);
                acked.push(id);
            }
        }
    }
    let kept: Vec<_> = cat(&seen.join("data")).iter().map(|line| line.id).collect();
    assert!(kept == acked, "{} kept, {} acked", kept.len(), acked.len());
    drop((stream, bystander));
    let ended = server.stop();
    assert!(ended.status.success(), "{}", ended.log);
    println!("{} messages fit", acked.len());
}

#[test]
fn a_small_file_system_that_is_full_loses_no_acked_message() {
    check("-rm", "mount -t tmpfs -o size=24m,mode=755 none \"$0\"", "--min-free 0");
}

#[test]
fn a_small_disk_that_is_full_loses_no_acked_message() {
    let Some(image) = make_ext4(24 << 20) else { return };
    // A user namespace does not permit to mount a disk.
    check("-m", &format!("mount -o loop {} \"$0\"", text(image.path())), "--min-free 1MiB");
}

/// Fills the whole disk in one step, as another program may do between two checks of free space.
fn fill_up(path: &Path) {
    let file = fs::File::create(path).unwrap();
    let (mut at, mut piece) = (0, 64 << 20);
    while piece >= 4096 {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), at, piece) {
            Ok(()) => at += piece,
            Err(_) => piece /= 2,
        }
    }
}

#[test]
fn a_copy_on_write_disk_that_was_full_accepts_messages_again() {
    let Some(image) = make_btrfs(512 << 20) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mount = format!("mount -o loop {} \"$0\"", text(image.path()));
    let Some((server, seen)) = serve_on(dir.path(), "-m", &mount, "--min-free 16MiB") else { return };
    let mut stream = server.connect();
    let (mut id, mut acked) = (0, Vec::new());
    for round in 0..3 {
        for _ in 0..10 {
            id += 1;
            assert_eq!(result_of(&mut stream, id), 0, "{}", server.log());
            acked.push(id);
        }
        // After a snapshot, the blocks that were allocated for the segment are shared, and writing to them needs new
        // blocks.
        let snapshot = seen.join(format!("snapshot-{round}"));
        let made = Command::new("btrfs").args(["-q", "subvolume", "snapshot"]).args([&seen, &snapshot]).status();
        assert!(made.unwrap().success());
        fill_up(&seen.join("filler"));
        while {
            id += 1;
            result_of(&mut stream, id) == 0
        } {
            acked.push(id);
            assert!(id < 4000, "64 MB fit into a full disk");
        }
        assert_eq!(get(&server, "/readyz").status, 503);
        assert_eq!(get(&server, "/healthz").status, 200, "a full disk is not a fault of the server");
        expect_sound(&seen.join("data"));
        fs::remove_file(seen.join("filler")).unwrap();
        // Without a sync, the file system frees the space only with its next commit, in half a minute.
        rustix::fs::syncfs(fs::File::open(&seen).unwrap()).unwrap();
        wait_until("the server is ready", || get(&server, "/readyz").status == 200);
        println!("round {round}: full after {} messages", acked.len());
    }
    id += 1;
    assert_eq!(result_of(&mut stream, id), 0);
    acked.push(id);
    assert!(server.log().contains("reason=writing commit "), "a commit found no room: {}", server.log());
    let kept: Vec<_> = cat(&seen.join("data")).iter().map(|line| line.id).collect();
    assert!(kept == acked, "{} kept, {} acked", kept.len(), acked.len());
    drop(stream);
    assert!(server.stop().status.success());
}

/// Returns whether a server reports that its commits go through the page cache, or `None` if that can't be tried.
fn goes_through_the_page_cache(mount: &str) -> Option<bool> {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = serve_on(dir.path(), "-m", mount, "")?;
    assert_eq!(result_of(&mut server.connect(), 1), 0);
    let said = server.log().contains("writing commits one at a time");
    assert!(server.stop().status.success());
    Some(said)
}

#[test]
fn without_direct_io_commits_are_written_one_at_a_time() {
    let on = |options: &str, image: &tempfile::NamedTempFile| {
        goes_through_the_page_cache(&format!("mount -o loop{options} {} \"$0\"", text(image.path())))
    };
    let (ext4, btrfs) = (make_ext4(128 << 20), make_btrfs(256 << 20));
    if let Some(ext4) = ext4 {
        assert!(on("", &ext4).is_none_or(|said| !said), "ext4 has direct I/O");
        assert!(on(",data=journal", &ext4).is_none_or(|said| said), "ext4 with data=journal has no direct I/O");
    }
    assert!(
        btrfs.is_none_or(|btrfs| on("", &btrfs).is_none_or(|said| said)),
        "btrfs has no direct I/O for checksummed files"
    );
    assert!(
        goes_through_the_page_cache("mount -t tmpfs none \"$0\"").is_none_or(|said| said),
        "tmpfs has no direct I/O"
    );
}

#[test]
fn a_server_that_starts_on_a_full_disk_refuses_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 2 --admin 127.0.0.1:0 --min-free 1000TiB");
    let mut streams: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for stream in &mut streams {
        assert_eq!([1, 2].map(|id| result_of(stream, id)), [1, 1]);
    }
    let ready = get(&server, "/readyz");
    assert_eq!((ready.status, get(&server, "/healthz").status), (503, 200));
    assert!(ready.body.contains("--min-free") && ready.body.contains("shard 1: refuses"), "{}", ready.body);
    drop(streams);
    assert!(server.stop().status.success());
    assert_eq!(cat(dir.path()).len(), 0);
}
