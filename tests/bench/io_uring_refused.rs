//! If the kernel or a container refuses io_uring, the load generator runs on epoll and reports it.

use std::thread;

use crate::common::peer_load::{bench, peer};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Makes the kernel refuse io_uring with EPERM to this thread and its future children, as a container's default profile
/// does.
fn refuse_io_uring() {
    let rules = [(libc::SYS_io_uring_setup, Vec::new())].into();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
fn bench_runs_on_epoll_if_io_uring_is_refused() {
    let addr = peer(|request| Some(request.ack())).to_string();
    thread::spawn(move || {
        refuse_io_uring();
        let words = "--connections 4 --duration 200ms --warmup 0s";
        let outcome = bench(&addr, words);
        assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
        assert_eq!(outcome.json["settings"]["io"], "epoll");
        let outcome = bench(&addr, &format!("{words} --io uring"));
        assert_eq!(outcome.code, 1);
        assert!(outcome.stderr.contains("--io auto"), "{}", outcome.stderr);
    })
    .join()
    .unwrap();
}
