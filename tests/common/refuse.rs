//! Refusals by a kernel or a container, simulated by a seccomp filter on a child process.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, apply_filter};

/// Makes `call` fail with `errno`, always or if one of `rules` matches.
pub fn refuse(command: &mut Command, call: i64, rules: Vec<SeccompRule>, errno: i32) {
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let answer = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new([(call, rules)].into(), SeccompAction::Allow, answer, arch);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    // SAFETY: between fork and exec it only makes the prctl and seccomp calls.
    unsafe {
        command.pre_exec(move || apply_filter(&program).map_err(io::Error::other));
    }
}

/// Makes io_uring fail, as containers do.
pub fn refuse_io_uring(command: &mut Command, errno: i32) {
    refuse(command, libc::SYS_io_uring_setup, vec![], errno);
}
