//! A disk that stands still: nobody is cut for it, and all goes on when the disk does.

mod common;

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::admin::wait_for;
use common::disk::{make_ext4, serve_on};
use common::kept::{cat, text};
use common::{round_trip, submit, submit_ack};

/// A file system that takes no writes, until this is dropped.
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
fn a_peer_is_not_cut_for_a_frame_that_the_disk_holds_up() {
    let Some(image) = make_ext4(64 << 20) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mount = format!("mount -o loop {} \"$0\"", text(image.path()));
    let options = "--journal-memory 72KiB --frame-timeout 2s --min-free 0";
    let Some((server, seen)) = serve_on(dir.path(), "-m", &mount, options) else { return };
    let (mut filler, mut slow) = (server.connect(), server.connect());
    round_trip(&mut filler, 1);
    round_trip(&mut slow, 2);
    // So that nothing is on its way to the disk.
    wait_for(&server, "ringpost_journal_segments_total{shard=\"0\"}", 2.0);
    thread::sleep(Duration::from_millis(200));
    let frame = submit(3, b"in three parts");
    slow.write_all(&frame[..7]).unwrap();
    let frozen = Frozen::new(&seen).expect("who may mount may freeze");
    for id in 10..20 {
        filler.write_all(&submit(id, &[7; 16 << 10])).unwrap();
    }
    thread::sleep(Duration::from_millis(300));
    slow.write_all(&frame[7..14]).unwrap();
    thread::sleep(Duration::from_secs(4));
    drop(frozen);
    // A part of the two seconds is left.
    thread::sleep(Duration::from_millis(500));
    slow.write_all(&frame[14..]).unwrap();
    let mut acks = vec![0; 14];
    slow.read_exact(&mut acks).unwrap();
    assert_eq!(acks, submit_ack(3, 0));
    let expected: Vec<u8> = (10..20).flat_map(|id| submit_ack(id, 0)).collect();
    acks.resize(expected.len(), 0);
    filler.read_exact(&mut acks).unwrap();
    assert_eq!(acks, expected);
    assert_eq!(cat(&seen.join("data")).len(), 13);
    drop((filler, slow));
    assert!(server.stop().status.success());
}
