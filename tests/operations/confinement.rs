//! `--confine`: a server can't reach a file outside of its data directory, by any system call or op of a ring, and does
//! all its work within this limit. The kernel of a running server is the judge.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::refuse::refuse;
use crate::common::{Ended, Server, has_rings, ringpost, run};
use tempfile::TempDir;

/// Returns a directory with a file `there` for the server to try.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("there"), "kept").unwrap();
    directory
}

/// Returns the results of one way of access in one directory, as `(attempt, result)`.
fn attempts(log: &str, way: &str, directory: &Path) -> Vec<(String, String)> {
    let (start, middle) = (format!("reached: {way}: "), format!(": {}: ", directory.display()));
    let lines = log.lines().filter_map(|line| line.split_once(&start)?.1.split_once(&middle));
    lines.map(|(attempt, result)| (attempt.to_owned(), result.trim_end().to_owned())).collect()
}

/// Starts a server with a journal that has tried both directories on each of its two shards.
fn reach(confine: &str, data: &Path, outside: &Path) -> Server {
    let dirs = std::env::join_paths([data, outside]).unwrap();
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0", "--workers", "2", "--confine", confine]);
    command.arg("--data-dir").arg(data).env("RINGPOST_TEST_REACH", dirs);
    let server = Server::spawn(command, 1);
    for shard in 0..2 {
        server.wait_for_log(&format!("reached: all was tried shard={shard}"));
    }
    server
}

/// Returns the ways of access, and how many attempts each makes on two shards.
fn ways() -> Vec<(&'static str, usize)> {
    let mut ways = vec![("thread", 24), ("blocking", 24)];
    if has_rings() {
        ways.push(("ring", 20));
    }
    ways
}

/// Returns the names and lengths of the files in a directory.
fn listing(directory: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())).collect()
}

#[test]
fn a_confined_server_reaches_nothing_outside_of_its_data_directory() {
    let (data, outside) = (directory(), directory());
    let server = reach("on", data.path(), outside.path());
    let log = server.log();
    assert!(log.contains("confined by landlock") && log.contains(data.path().to_str().unwrap()), "{log}");
    for (way, count) in ways() {
        let refused = attempts(&log, way, outside.path());
        assert_eq!(refused.len(), count, "{way}: {log}");
        assert!(refused.iter().all(|(_, result)| result.starts_with("Permission denied")), "{way}: {refused:?}");
        let inside = attempts(&log, way, data.path());
        assert_eq!(inside.len(), count, "{way}: {log}");
        for (attempt, result) in inside {
            // A journal's directory has no symbolic links.
            let expected = if attempt == "make a symbolic link" { "Permission denied (os error 13)" } else { "done" };
            assert_eq!(result, expected, "{way}: {attempt}");
        }
    }
    assert_eq!(listing(outside.path()), [("there".into(), 4)]);
    assert!(server.stop().status.success());
}

/// These attempts succeed if nothing prevents them, so it is landlock that refuses them.
#[test]
fn without_confinement_the_same_files_can_be_reached() {
    let (data, outside) = (directory(), directory());
    let server = reach("off", data.path(), outside.path());
    let log = server.log();
    assert!(log.contains("not confined, because of --confine off"), "{log}");
    for (way, count) in ways() {
        let reached = attempts(&log, way, outside.path());
        assert_eq!(reached.len(), count, "{way}: {log}");
        assert!(reached.iter().all(|(_, result)| result == "done"), "{way}: {reached:?}");
    }
}

#[test]
fn no_thread_of_a_confined_server_can_gain_privileges() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().to_str().unwrap();
    for confine in ["--confine", "--confine=off"] {
        let server = Server::start(&["--data-dir", data, "--admin", "127.0.0.1:0", confine]);
        crate::common::round_trip(&mut server.connect(), 1);
        let threads: Vec<_> = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().flatten().collect();
        assert!(threads.len() > 2, "{threads:?}");
        for thread in threads {
            // A thread that waited for work may end at this moment.
            let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
            assert!(status.contains("NoNewPrivs:\t1"), "{confine}: {status}");
        }
        assert!(server.stop().status.success());
    }
}

/// Returns `ringpost serve` on a kernel whose landlock calls fail with `errno`.
fn refused(errno: i32, confine: &str) -> Command {
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0", "--confine", confine]);
    refuse(&mut command, libc::SYS_landlock_create_ruleset, vec![], errno);
    command
}

#[test]
fn a_kernel_without_landlock_is_reported() {
    let switched_off = (libc::EOPNOTSUPP, "switched off", "lsm=landlock");
    let missing = (libc::ENOSYS, "has no landlock", "Linux 5.13");
    let filtered = (libc::EPERM, "a seccomp filter refuses it", "landlock_restrict_self");
    for (errno, why, remedy) in [switched_off, missing, filtered] {
        let server = Server::spawn(refused(errno, "auto"), 1);
        crate::common::round_trip(&mut server.connect(), 1);
        let ended = server.stop();
        let warnings: Vec<_> = ended.log.lines().filter(|line| line.contains("not confined")).collect();
        assert!(warnings.len() == 1 && warnings[0].contains("WARN"), "{}", ended.log);
        assert!(warnings[0].contains(why) && warnings[0].contains(remedy), "{}", warnings[0]);

        let Ended { status, stdout, log } = run(refused(errno, "on"));
        assert_eq!((status.code(), &*stdout), (Some(1), ""), "{log}");
        assert!(log.contains("--confine on: ") && log.contains(why) && log.contains(remedy), "{log}");

        let mut doctor = ringpost(&["doctor", "--json", "--listen", "127.0.0.1:0", "--confine", "on"]);
        refuse(&mut doctor, libc::SYS_landlock_create_ruleset, vec![], errno);
        let Ended { status, stdout, log } = run(doctor);
        assert_eq!(status.code(), Some(1), "{stdout}{log}");
        assert!(stdout.contains("\"landlock\"") && stdout.contains(remedy), "{stdout}");
    }
}
