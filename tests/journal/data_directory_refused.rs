//! A data directory that a server can't use, because another server uses it or it is not writable. The server reports
//! this and exits with 1 before it accepts a client.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::kept::{cat, expect_sound, serve, text};
use crate::common::requirement::{MOUNTS, is_root, tried};
use crate::common::{BINARY, Ended, ringpost, round_trip, run};

/// Runs a start that must fail, with a command in front of the server's own.
fn refused(before: &[&str], binary: &str, data_dir: &Path) -> Ended {
    let words = [before, &[binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", text(data_dir)]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    let ended = run(command);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{}", ended.log);
    assert!(ended.log.contains(&format!("{} ", data_dir.display())), "the error names the directory: {}", ended.log);
    ended
}

#[test]
fn a_directory_in_use_is_refused_and_its_server_continues() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 2");
    let mut stream = server.connect();
    for id in 0..5 {
        round_trip(&mut stream, id);
        let log = refused(&[], BINARY, dir.path()).log;
        assert!(log.contains("is in use: writer "), "{log}");
        assert!(log.contains(&format!("process {}, shard 0", server.pid())), "{log}");
        assert!(log.contains("Stop that server, or use another --data-dir"), "{log}");
        round_trip(&mut server.connect(), 100 + id);
    }
    assert!(server.stop().status.success());
    expect_sound(dir.path());
    assert_eq!(cat(dir.path()).len(), 10);
    // The directory is free again.
    let server = serve(dir.path(), "--workers 1");
    round_trip(&mut server.connect(), 1);
}

#[test]
fn a_killed_server_does_not_keep_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let mut server = serve(dir.path(), "--workers 2");
        round_trip(&mut server.connect(), round);
        server.signal(libc::SIGKILL);
        server.reap();
        assert_eq!(cat(dir.path()).len() as u64, round);
    }
}

#[test]
fn a_read_only_mount_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mounts = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"";
    // With an empty directory, with a journal in it, and with a directory that does not exist yet.
    let below = dir.path().join("below");
    for data_dir in [dir.path(), dir.path(), &below] {
        let probe = tried(Command::new("unshare").args(["-rm", "sh", "-c", mounts, text(dir.path())]));
        if MOUNTS.check(probe).is_none() {
            return;
        }
        let script = format!("{mounts} && exec \"$@\"");
        let log = refused(&["unshare", "-rm", "sh", "-c", &script, text(dir.path())], BINARY, data_dir).log;
        assert!(log.contains("can't use ") && log.contains("Read-only file system"), "{log}");
        if data_dir == dir.path() {
            let server = serve(data_dir, "--workers 1");
            round_trip(&mut server.connect(), 1);
            assert!(server.stop().status.success());
        }
    }
    assert_eq!(cat(dir.path()).len(), 2, "the contents are unchanged");
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // The binary may be in a directory that only root can access.
    let copy = dir.path().join("ringpost");
    fs::copy(BINARY, &copy).unwrap();
    let data_dir = dir.path().join("data");
    fs::create_dir(&data_dir).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&data_dir, fs::Permissions::from_mode(0o555)).unwrap();
    let nobody: &[&str] =
        if is_root() { &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] } else { &[] };
    let log = refused(nobody, text(&copy), &data_dir).log;
    assert!(log.contains("can't use ") && log.contains("Permission denied"), "{log}");
    assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 0);
}

#[test]
fn a_file_instead_of_a_directory_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let log = refused(&[], BINARY, file.path()).log;
    assert!(log.contains("can't use "), "{log}");
    let mut elsewhere = ringpost(&["serve", "--listen", "127.0.0.1:0", "--data-dir", "/proc/none"]);
    elsewhere.env_remove("RINGPOST_SINK");
    assert_eq!(run(elsewhere).status.code(), Some(1));
}
