//! A full disk: messages are acked with 1, connections stay, and service comes back by itself when
//! there is room again.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use common::admin::{Metrics, get};
use common::disk::{make_ext4, serve_on};
use common::kept::{cat, expect_sound, serve, text};
use common::{submit, submit_ack, wait_until};

/// One SUBMIT; says what it is acked with.
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
        // Until it is full.
        while {
            id += 1;
            result_of(&mut stream, id) == 0
        } {
            acked.push(id);
            assert!(id < 4000, "64 MB fit into 24 MiB");
        }
        assert!(acked.len() > before + 100, "only {} before it was full", acked.len() - before);
        for stream in [&mut stream, &mut bystander, &mut server.connect()] {
            for _ in 0..20 {
                id += 1;
                assert_eq!(result_of(stream, id), 1, "refused while it is full");
            }
        }
        let ready = get(&server, "/readyz");
        assert_eq!(ready.status, 503, "{}", ready.body);
        assert!(ready.body.contains("worker 0 refuses messages until there is room: "), "{}", ready.body);
        assert!(ready.body.contains("bytes are free"), "{}", ready.body);
        assert_eq!(get(&server, "/healthz").status, 200, "a full disk is no fault of the server's");
        assert_eq!(Metrics::scrape(&server).get("ringpost_journal_condition{shard=\"0\"}"), 1.0);
        server.wait_for_log("refuses messages until there is room");
        expect_sound(&seen.join("data"));
        if round == 0 {
            fs::remove_file(seen.join("ballast")).unwrap();
            wait_until("it is ready", || get(&server, "/readyz").status == 200);
            server.wait_for_log("the journal has room again");
            // The same connections as before.
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
    println!("{} messages fitted", acked.len());
}

#[test]
fn a_small_file_system_fills_up() {
    check("-rm", "mount -t tmpfs -o size=24m,mode=755 none \"$0\"", "--min-free 0");
}

#[test]
fn a_small_disk_fills_up() {
    let Some(image) = make_ext4(24 << 20) else { return };
    // In a user namespace nobody may mount a disk.
    check("-m", &format!("mount -o loop {} \"$0\"", text(image.path())), "--min-free 1MiB");
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
    assert!(ready.body.contains("--min-free") && ready.body.contains("worker 1 refuses"), "{}", ready.body);
    drop(streams);
    assert!(server.stop().status.success());
    assert_eq!(cat(dir.path()).len(), 0);
}
