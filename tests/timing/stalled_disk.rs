//! A disk that stalls: no connection is closed because of it, and everything continues when the disk does.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::admin::{Metrics, wait_for};
use crate::common::disk::{make_ext4, serve_on};
use crate::common::kept::{cat_live, text};
use crate::common::{BINARY, expect_acks, round_trip, submit, submit_ack, wait_until};

/// A file system that accepts no writes until this is dropped.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(path: &'a Path) -> Option<Self> {
        let frozen = Command::new("fsfreeze").args(["--freeze", text(path)]).status();
        frozen.is_ok_and(|frozen| frozen.success()).then_some(Frozen(path))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = Command::new("fsfreeze").args(["--unfreeze", text(self.0)]).status();
        assert!(thawed.unwrap().success());
    }
}

#[test]
fn no_connection_is_closed_because_the_disk_stalls() {
    let _alone = crate::common::alone();
    let Some(image) = make_ext4(64 << 20) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mount = format!("mount -o loop {} \"$0\"", text(image.path()));
    let options = "--journal-memory 72KiB --frame-timeout 4s --idle-timeout 4s --min-free 0";
    let Some((server, seen)) = serve_on(dir.path(), "-m", &mount, options) else { return };
    let (mut filler, mut slow) = (server.connect(), server.connect());
    round_trip(&mut filler, 1);
    round_trip(&mut slow, 2);
    // No write to the disk is in progress now.
    wait_for(&server, "ringpost_journal_segments_total{shard=\"0\"}", 2.0);
    thread::sleep(Duration::from_millis(200));
    let held = || {
        let metrics = Metrics::scrape(&server);
        let bytes = |name: &str| metrics.get(&format!("ringpost_journal_{name}_bytes{{shard=\"0\"}}"));
        bytes("gathered") + bytes("in_flight")
    };
    let frozen = Frozen::new(&seen).expect("the file system can be frozen");
    // An ack is unsent, so the connection is not idle.
    let mut owed = server.connect();
    owed.write_all(&submit(4, b"one alone")).unwrap();
    wait_until("the message is in the journal's memory", || held() > 0.0);
    for id in 10..20 {
        filler.write_all(&submit(id, &[7; 16 << 10])).unwrap();
    }
    wait_until("the journal accepts no more", || held() >= f64::from(72 << 10));
    let frame = submit(3, b"in three parts");
    slow.write_all(&frame[..7]).unwrap();
    thread::sleep(Duration::from_millis(300));
    slow.write_all(&frame[7..14]).unwrap();
    thread::sleep(Duration::from_secs(6));
    drop(frozen);
    // A part of the four seconds is left.
    thread::sleep(Duration::from_millis(500));
    slow.write_all(&frame[14..]).unwrap();
    let mut acks = vec![0; 14];
    slow.read_exact(&mut acks).unwrap();
    assert_eq!(acks, submit_ack(3, 0));
    expect_acks(&mut owed, [4]);
    round_trip(&mut owed, 5);
    let expected: Vec<u8> = (10..20).flat_map(|id| submit_ack(id, 0)).collect();
    acks.resize(expected.len(), 0);
    filler.read_exact(&mut acks).unwrap();
    assert_eq!(acks, expected);
    assert_eq!(cat_live(&seen.join("data")).len(), 15);
    drop((filler, slow, owed));
    assert!(server.stop().status.success());
}

/// A snapshot freezes the file system under load, between one commit and the next.
#[test]
fn a_server_survives_a_disk_stall_longer_than_the_stall_timeout() {
    let _alone = crate::common::alone();
    let Some(image) = make_ext4(256 << 20) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mount = format!("mount -o loop {} \"$0\"", text(image.path()));
    let Some((server, seen)) = serve_on(dir.path(), "-m", &mount, "--stall-timeout 1s --min-free 0") else { return };
    let mut load = Command::new(BINARY)
        .args(["bench", "--addr", &server.address().to_string(), "--connections", "20", "--window", "4"])
        .args(["--rate", "5000", "--warmup", "0", "--duration", "9s"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(500));
        let frozen = Frozen::new(&seen).expect("the file system can be frozen");
        thread::sleep(Duration::from_secs(3));
        // The server still serves requests that do not need the disk.
        let before = Instant::now();
        let mut bystander = server.connect();
        // A CONN, and its ack.
        bystander.write_all(&[0, 0, 0, 13, 0x01, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap();
        let mut ack = [0; 14];
        bystander.read_exact(&mut ack).unwrap();
        assert_eq!(ack, [0, 0, 0, 14, 0x81, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
        drop(frozen);
    }
    assert!(load.wait().unwrap().success(), "no ack is wrong or missing");
    assert!(server.stop().status.success());
}
