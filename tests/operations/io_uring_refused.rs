//! A host that refuses io_uring. `--engine auto` serves on epoll, and logs what refuses it and what to do. `--engine
//! uring` reports the same and exits with 1.

use std::process::Command;

use crate::common::admin::Metrics;
use crate::common::refuse::refuse_io_uring;
use crate::common::{BINARY, Server, ringpost, round_trip, run};

const OPTIONS: [&str; 7] = ["serve", "--listen", "127.0.0.1:0", "--workers", "2", "--admin", "127.0.0.1:0"];

/// Returns `ringpost serve` under a seccomp filter that makes io_uring_setup fail with `errno`.
fn refused(errno: i32, engine: &str) -> Command {
    let mut command = ringpost(&OPTIONS);
    command.args(["--engine", engine]);
    refuse_io_uring(&mut command, errno);
    command
}

/// Checks both answers to a refusal: the warning of `auto`, and the error of `uring`.
fn check(command: impl Fn(&str) -> Command, reason: &str, expected: &[&str]) {
    let server = Server::spawn(command("auto"), 1);
    assert_eq!(server.rings(), 0);
    for _ in 0..10 {
        round_trip(&mut server.connect(), 1);
    }
    let info = format!("ringpost_engine_info{{engine=\"epoll\",reason=\"{reason}\"}}");
    assert_eq!(Metrics::scrape(&server).get(&info), 1.0);
    let ended = server.stop();
    assert!(ended.status.success(), "{}", ended.log);
    let warnings: Vec<_> = ended.log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{}", ended.log);

    let ended = run(command("uring"));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert_eq!(ended.stdout, "");
    for expected in expected {
        assert!(warnings[0].contains(expected), "{expected:?} in {}", warnings[0]);
        assert!(ended.log.contains(expected), "{expected:?} in {}", ended.log);
    }
}

#[test]
fn a_seccomp_filter_is_named_whatever_error_it_returns() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let expected = ["seccomp filter", "io_uring_setup, io_uring_enter and io_uring_register"];
        check(|engine| refused(errno, engine), "seccomp", &expected);
    }
}

#[test]
fn an_old_kernel_is_distinguished() {
    check(|engine| refused(libc::EINVAL, engine), "old_kernel", &["Linux 6.0 or later"]);
}

/// The shell that changes the setting outlives the server, and restores the setting however the server ends.
#[test]
#[ignore = "turns off io_uring on the whole host for a moment; as root: \
            cargo test --test operations the_sysctl -- --ignored --test-threads=1"]
fn the_sysctl_that_disables_io_uring_is_named() {
    let guarded = |engine: &str| {
        let guardian = "
            setting=/proc/sys/kernel/io_uring_disabled
            before=$(cat $setting)
            trap 'echo $before > $setting' EXIT
            trap 'kill $server' INT TERM HUP
            echo 2 > $setting
            timeout -s KILL 20 \"$@\" &
            server=$!
            wait $server || wait $server";
        let mut command = Command::new("bash");
        command.args(["-c", guardian, "guardian", BINARY]).args(OPTIONS).args(["--engine", engine]);
        command
    };
    check(guarded, "sysctl", &["kernel.io_uring_disabled is 2", "sysctl -w kernel.io_uring_disabled=0"]);
}
