//! The data directory: files that are removed under a running server, space that a killed server leaves preallocated,
//! and the modes of files.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::admin::get;
use crate::common::kept::{cat, cat_live, expect_sound, journal, serve, text};
use crate::common::refuse::refuse;
use crate::common::{Server, expect_acks, ringpost, run, submit, submit_ack, wait_until};

/// Returns the directory of the only writer.
fn writer(data_dir: &Path) -> PathBuf {
    let mut writers = fs::read_dir(data_dir).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let writer = writers.next().expect("a writer");
    assert!(writers.next().is_none());
    writer
}

/// Sends a message and returns the result of its ack.
fn send(stream: &mut std::net::TcpStream, id: u64) -> u8 {
    stream.write_all(&submit(id, b"message")).unwrap();
    let mut bytes = [0; 14];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes[..13], submit_ack(id, 0)[..13]);
    bytes[13]
}

/// Fails unless a server stops acking with 0 soon after its files were changed in this way, and reports why.
fn expect_refusal_after(what: impl Fn(&Path, &Path), named: &str) {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let server = serve(&data_dir, "--workers 1 --segment-size 2MiB --admin 127.0.0.1:0");
    let mut stream = server.connect();
    assert_eq!(send(&mut stream, 0), 0);
    // The server first makes a check that finds no fault.
    thread::sleep(Duration::from_millis(1500));
    assert_eq!((send(&mut stream, 1), get(&server, "/readyz").status), (0, 200));
    what(&data_dir, &writer(&data_dir));
    let (began, mut id) = (Instant::now(), 2);
    while send(&mut stream, id) == 0 {
        assert!(began.elapsed() < Duration::from_secs(8), "{named}: the server still acks with 0");
        id += 1;
        thread::sleep(Duration::from_millis(20));
    }
    let crate::common::admin::Answer { status, body: why, .. } = get(&server, "/readyz");
    assert!(status == 503 && why.contains("was removed, moved or replaced") && why.contains(named), "{status} {why}");
    let log = server.stop().log;
    assert!(log.contains("refuses messages until a restart") && log.contains("restart the server"), "{log}");
}

#[test]
fn a_server_whose_data_directory_is_removed_stops_acking() {
    expect_refusal_after(|data, _| fs::remove_dir_all(data).unwrap(), "/data");
}

#[test]
fn a_server_whose_data_directory_is_replaced_stops_acking_and_acked_messages_are_in_the_old_one() {
    let moved = tempfile::tempdir().unwrap();
    let to = moved.path().join("away");
    let replace = |data: &Path, _: &Path| {
        fs::rename(data, &to).unwrap();
        fs::create_dir(data).unwrap();
    };
    expect_refusal_after(replace, "/data");
    assert!(cat(&to).len() >= 2);
    expect_sound(&to);
}

#[test]
fn a_server_whose_writer_loses_a_file_stops_acking() {
    for name in ["lock", "position", "0000000000.seg", "0000000001.seg"] {
        expect_refusal_after(|_, writer| fs::remove_file(writer.join(name)).unwrap(), name);
    }
}

#[test]
fn a_second_start_removes_nothing_of_a_server_whose_locks_were_removed() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB");
    let mut stream = server.connect();
    assert_eq!(send(&mut stream, 0), 0);
    let own = writer(dir.path());
    let busy = thread::spawn(move || {
        let mut acked = 1;
        while send(&mut stream, acked) == 0 {
            acked += 1;
            thread::sleep(Duration::from_millis(5));
        }
        acked
    });
    thread::sleep(Duration::from_millis(100));
    fs::remove_file(own.join("lock")).unwrap();
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0", "--workers", "1", "--data-dir", text(dir.path())]);
    command.args(["--segment-size", "2MiB"]);
    let second = run(command);
    assert!(!second.status.success(), "the first server still runs");
    assert!(second.log.contains("although its lock is free"), "{}", second.log);
    let acked = busy.join().unwrap();
    assert!(server.stop().log.contains("was removed, moved or replaced"));
    // The message that was in flight at that moment may be there, although it was acked with 1.
    let kept = cat(dir.path()).len() as u64;
    assert!((acked..=acked + 1).contains(&kept), "{kept} of {acked}");
    // After the first server has ended, a start succeeds.
    assert!(serve(dir.path(), "--workers 1 --segment-size 2MiB").stop().status.success());
    assert_eq!(cat(dir.path()).len() as u64, kept);
}

/// Runs `serve` with every lock granted, held or not, as on a file system without locks.
fn serve_without_locks(data_dir: &Path, options: &str) -> std::process::Command {
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0", "--workers", "1", "--data-dir", text(data_dir)]);
    command.args(["--segment-size", "2MiB"]).args(options.split_whitespace());
    refuse(&mut command, libc::SYS_flock, vec![], 0);
    command
}

#[test]
fn a_second_start_that_sees_no_locks_leaves_a_live_server_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = serve(dir.path(), "--workers 1 --segment-size 2MiB");
    let mut stream = server.connect();
    assert_eq!(send(&mut stream, 0), 0);
    let segments = || fs::read_dir(writer(dir.path())).unwrap().count();
    wait_until("the next segment is ready", || writer(dir.path()).join("0000000001.seg").exists());
    let before = segments();
    let second = run(serve_without_locks(dir.path(), ""));
    assert!(second.log.contains("file locks do not work in the data directory"), "{}", second.log);
    assert!(!second.status.success() && second.log.contains("although its lock is free"), "{}", second.log);
    assert_eq!((segments(), send(&mut stream, 1)), (before, 0));
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(send(&mut stream, 2), 0, "no file of the live server was removed");
    // After the first server is dead, a start succeeds.
    server.signal(libc::SIGKILL);
    server.reap();
    assert!(Server::spawn(serve_without_locks(dir.path(), ""), 1).stop().status.success());
    assert_eq!(cat(dir.path()).len(), 3);
}

#[test]
fn a_server_without_locks_keeps_the_segments_that_it_writes_to() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::spawn(serve_without_locks(dir.path(), "--retain-bytes 1"), 1);
    let mut stream = server.connect();
    for id in 0..300 {
        stream.write_all(&submit(id, &[7; 16 << 10])).unwrap();
        expect_acks(&mut stream, id..id + 1);
    }
    server.wait_for_log("removed old segments of the journal");
    thread::sleep(Duration::from_secs(6));
    assert_eq!(send(&mut stream, 300), 0, "the active segment still exists");
    assert!(server.stop().status.success());
    let last = cat(dir.path()).pop().unwrap();
    assert_eq!(last.id, 300);
    expect_sound(dir.path());
}

/// Returns the space on disk, in MiB, of the writers of a data directory, without those of a live server.
fn held(data_dir: &Path, but: &Server) -> f64 {
    let mut blocks = 0;
    for writer in fs::read_dir(data_dir).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let lock = fs::read_to_string(writer.path().join("lock")).unwrap_or_default();
        if !lock.contains(&format!("process {},", but.pid())) {
            for file in fs::read_dir(writer.path()).unwrap().flatten() {
                blocks += file.metadata().unwrap().blocks();
            }
        }
    }
    blocks as f64 * 512.0 / (1 << 20) as f64
}

#[test]
fn killed_servers_leave_no_preallocated_space_and_every_acked_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = 0;
    for start in 0..4 {
        let mut server = serve(dir.path(), "--workers 2 --segment-size 16MiB");
        let mut stream = server.connect();
        for id in 0..start * 20 {
            stream.write_all(&submit(id, &[7; 5000])).unwrap();
            expect_acks(&mut stream, id..id + 1);
            expected += 1;
        }
        server.signal(libc::SIGKILL);
        server.reap();
    }
    let server = serve(dir.path(), "--workers 1 --segment-size 16MiB");
    wait_until("the space that the killed servers had preallocated is freed", || held(dir.path(), &server) < 2.0);
    assert_eq!(cat_live(dir.path()).len(), expected);
    assert!(server.log().contains("freed space that earlier writers had preallocated"), "{}", server.log());
    assert!(server.stop().status.success());
    expect_sound(dir.path());
}

#[test]
fn other_users_have_no_access_to_a_journal_whatever_the_umask() {
    let list = |root: &Path| {
        let mut all = vec![root.to_owned()];
        let mut at = 0;
        while at < all.len() {
            if all[at].is_dir() {
                all.extend(fs::read_dir(all[at].clone()).unwrap().flatten().map(|entry| entry.path()));
            }
            at += 1;
        }
        all.into_iter().map(|path| (fs::metadata(&path).unwrap().mode() & 0o777, path)).collect::<Vec<_>>()
    };
    for (option, allowed) in [("", 0o700), ("--allow-group-access", 0o750)] {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let script = format!(
            "umask 0; exec {} serve --sink journal --listen 127.0.0.1:0 --workers 1 --segment-size 2MiB \
             --data-dir {} {option}",
            crate::common::BINARY,
            data_dir.display()
        );
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script]);
        let server = Server::spawn(command, 1);
        let mut stream = server.connect();
        // The messages extend into a second segment.
        for id in 0..200 {
            stream.write_all(&submit(id, &[7; 16 << 10])).unwrap();
            expect_acks(&mut stream, id..id + 1);
        }
        let all = list(&data_dir);
        assert!(all.len() >= 8, "{all:?}");
        for (mode, path) in all {
            assert_eq!(mode & !allowed, 0, "{} has {mode:o}", path.display());
            let is_read = path.extension().is_some_and(|extension| extension == "seg") || path.ends_with("position");
            assert!(option.is_empty() || !is_read || mode == 0o640, "{} has {mode:o}", path.display());
        }
        assert!(server.stop().status.success());
    }
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    ringpost::internal::Ledger::create(&ledger, 1).unwrap();
    assert_eq!(fs::metadata(&ledger).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn files_that_an_earlier_version_left_accessible_are_restricted_and_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB");
    assert_eq!(send(&mut server.connect(), 0), 0);
    assert!(server.stop().status.success());
    let old = writer(dir.path());
    fs::set_permissions(&old, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(old.join("lock"), Permissions::from_mode(0o644)).unwrap();
    let server = serve(dir.path(), "--workers 1 --segment-size 2MiB");
    assert_eq!(fs::metadata(&old).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(old.join("lock")).unwrap().mode() & 0o777, 0o600);
    assert!(server.stop().status.success());
    assert_eq!(cat(dir.path()).len(), 1);
    assert!(journal("verify", dir.path()).status.success());
}
