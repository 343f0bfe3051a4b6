//! `--user`: root privileges are dropped for good before any client is served. These tests need root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::common::admin::Metrics;
use crate::common::requirement::{ROOT, is_root};
use crate::common::{Server, ringpost, round_trip, run};
use tempfile::TempDir;

/// The number of an ordinary user that every system has.
const NOBODY: u32 = 65534;

/// Returns a directory that every user can read.
fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// Returns a line of the status of each thread.
fn of_each_thread(server: &Server, name: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().flatten();
    let status = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let line = |status: String| status.lines().find_map(|line| Some(line.strip_prefix(name)?.to_owned())).unwrap();
    status.map(line).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn expect_dropped(server: &Server) {
    for (name, value) in [
        ("Uid:", "65534 65534 65534 65534"),
        ("Gid:", "65534 65534 65534 65534"),
        ("Groups:", "65534"),
        ("CapPrm:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        ("CapInh:", "0000000000000000"),
        ("CapAmb:", "0000000000000000"),
    ] {
        let lines = of_each_thread(server, name);
        assert!(lines.len() > 2 && lines.iter().all(|line| line == value), "{name} {lines:?}");
    }
}

fn options<'a>(user: &'a str, data: &'a Path) -> [&'a str; 6] {
    ["--user", user, "--data-dir", data.to_str().unwrap(), "--admin", "127.0.0.1:0"]
}

#[test]
fn root_is_dropped_and_the_journal_belongs_to_the_user() {
    if !ROOT.is_met(is_root()) {
        return;
    }
    let above = open_directory();
    for user in ["65534", "65534:65534"] {
        let data = above.path().join(user).join("data");
        let server = Server::start(&options(user, &data));
        expect_dropped(&server);
        round_trip(&mut server.connect(), 1);
        // Files in /proc belong to root after the change of the user, but the server can still read its own.
        assert!(Metrics::scrape(&server).get("process_open_fds") > 5.0);
        assert!(Metrics::scrape(&server).get("process_resident_memory_bytes") > 0.0);
        let ended = server.stop();
        assert!(ended.status.success() && !ended.log.contains("WARN"), "{}", ended.log);
        let owner = fs::metadata(&data).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (NOBODY, NOBODY));
        assert_eq!(fs::metadata(data.parent().unwrap()).unwrap().uid(), 0, "the directory above still belongs to root");
    }
}

#[test]
fn a_privileged_port_is_bound_and_the_privilege_is_dropped() {
    if !ROOT.is_met(is_root()) {
        return;
    }
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert!(first.trim().parse::<u32>().unwrap() > 979, "port 979 is privileged on this host");
    let mut command = ringpost(&["serve", "--listen", "127.0.0.79:979", "--workers", "2"]);
    command.args(["--user", "65534", "--admin", "127.0.0.79:978"]);
    let server = Server::spawn(command, 1);
    server.wait_for_log("admin address: ");
    expect_dropped(&server);
    round_trip(&mut server.connect(), 1);
    assert!(server.stop().status.success());
}

#[test]
fn an_existing_directory_keeps_its_owner() {
    if !ROOT.is_met(is_root()) {
        return;
    }
    let data = open_directory();
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0"]);
    command.args(options("65534", data.path()));
    let ended = run(command);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("user 65534 can't write to"), "{}", ended.log);
    assert!(ended.log.contains("chown -R 65534:65534"), "{}", ended.log);
    assert_eq!(fs::metadata(data.path()).unwrap().uid(), 0);

    chown(data.path(), Some(NOBODY), None).unwrap();
    let server = Server::start(&options("65534", data.path()));
    round_trip(&mut server.connect(), 1);
    assert_eq!(fs::metadata(data.path()).unwrap().gid(), 0, "the group has changed");
}

#[test]
fn a_user_that_root_can_not_become_is_reported() {
    if !ROOT.is_met(is_root()) {
        return;
    }
    let refused = |user: &str, expected: &[&str]| {
        let ended = run(ringpost(&["serve", "--listen", "127.0.0.1:0", "--user", user]));
        assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
        assert!(expected.iter().all(|expected| ended.log.contains(expected)), "{expected:?} in {}", ended.log);
    };
    refused("no-such-user", &["there is no user no-such-user in /etc/passwd", "or a number"]);
    refused("65534:no-such-group", &["there is no group no-such-group in /etc/group"]);
    refused("root", &["this is root"]);
    refused("0", &["this is root"]);
}

#[test]
fn only_root_can_become_another_user() {
    if !ROOT.is_met(is_root()) {
        return;
    }
    let place = open_directory();
    let copy = place.path().join("ringpost");
    fs::copy(crate::common::BINARY, &copy).unwrap();
    let as_nobody = |user: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
        command.args(["serve", "--listen", "127.0.0.1:0", "--user", user]);
        command
    };
    let ended = run(as_nobody("12345"));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("only root may switch to another user"), "{}", ended.log);
    // The requested user is the current one.
    let server = Server::spawn(as_nobody("65534"), 1);
    round_trip(&mut server.connect(), 1);
}
