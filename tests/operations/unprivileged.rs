//! A refusal of the kernel to an ordinary user is reported with a clear message: privileged ports, locked memory. If
//! run as root, these tests become `nobody`.

use std::fs;
use std::process::Command;

use crate::common::requirement::is_root;
use crate::common::{BINARY, Ended, run};

/// Runs the server as an ordinary user.
fn run_unprivileged(limits: &[&str], options: &[&str]) -> Ended {
    let mut words: Vec<&str> = Vec::new();
    if !limits.is_empty() {
        words.push("prlimit");
        words.extend(limits);
    }
    if is_root() {
        words.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    // The binary may be in a directory that only root can access.
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("ringpost");
    fs::copy(BINARY, &copy).unwrap();
    fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let copy = copy.to_str().unwrap().to_owned();
    words.push(&copy);
    words.push("serve");
    words.extend(options);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    run(command)
}

#[test]
fn a_privileged_port_is_refused() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert!(first.trim().parse::<u32>().unwrap() > 80, "port 80 is privileged on this host");
    let ended = run_unprivileged(&[], &["--listen", "127.0.0.1:80"]);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("Ports below 1024 are privileged"), "{}", ended.log);
    assert!(ended.log.contains("CAP_NET_BIND_SERVICE"), "{}", ended.log);
}

#[test]
fn too_little_locked_memory_is_refused() {
    // A user can raise a limit. If io_uring were replaced by epoll here, the cause would be hidden.
    for engine in ["auto", "uring"] {
        let ended = run_unprivileged(&["--memlock=4096:4096"], &["--listen", "127.0.0.1:0", "--engine", engine]);
        assert_eq!(ended.status.code(), Some(1), "{engine}: {}", ended.log);
        assert!(ended.log.contains("RLIMIT_MEMLOCK) is 4 KiB"), "{engine}: {}", ended.log);
        assert!(ended.log.contains("LimitMEMLOCK"), "{engine}: {}", ended.log);
    }
}
