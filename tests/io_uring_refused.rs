//! No io_uring, no server: exit code 1, and the one who refused is named with the way to change it.

mod common;

use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{Ended, ringpost, run};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// Runs the server under a seccomp filter that answers io_uring_setup with `errno`.
fn run_refused(errno: i32) -> Ended {
    let filter = SeccompFilter::new(
        [(libc::SYS_io_uring_setup, vec![])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0", "--workers", "2"]);
    // SAFETY: between fork and exec it only makes the prctl and seccomp calls.
    unsafe {
        command.pre_exec(move || apply_filter(&program).map_err(std::io::Error::other));
    }
    run(command)
}

#[test]
fn a_seccomp_filter_is_named_whatever_it_answers() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let ended = run_refused(errno);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
        assert_eq!(ended.stdout, "");
        assert!(ended.log.contains("seccomp filter"), "{}", ended.log);
        assert!(ended.log.contains("io_uring_setup, io_uring_enter and io_uring_register"), "{}", ended.log);
    }
}

#[test]
fn an_old_kernels_answer_is_told_apart() {
    let ended = run_refused(libc::EINVAL);
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.log.contains("Linux 6.0 or later"), "{}", ended.log);
}

/// It changes the whole host for a moment, so it runs only when asked for, as root, and alone:
/// `RINGPOST_TEST_SYSCTL=1 cargo test --test io_uring_refused sysctl`. The shell that changes the
/// setting outlives the server, and restores it however the server ends.
#[test]
fn the_sysctl_is_named() {
    if std::env::var_os("RINGPOST_TEST_SYSCTL").is_none() {
        return;
    }
    let guardian = "
        setting=/proc/sys/kernel/io_uring_disabled
        before=$(cat $setting)
        trap 'echo $before > $setting' EXIT
        trap : INT TERM HUP
        echo 2 > $setting
        timeout -s KILL 10 \"$0\" serve --listen 127.0.0.1:0";
    let mut command = Command::new("bash");
    command.args(["-c", guardian, common::BINARY]);
    let ended = run(command);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("kernel.io_uring_disabled is 2"), "{}", ended.log);
    assert!(ended.log.contains("sysctl -w kernel.io_uring_disabled=0"), "{}", ended.log);
}
