//! The system calls that a confined server makes under load, on each engine. Each of them must be in the list below. A
//! new call is added there with its reason, or must not be made.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::common::admin::{self, Metrics};
use crate::common::requirement::{STRACE, tried};
use crate::common::{BINARY, Server, expect_acks, ringpost, round_trip, run, submit};

/// The calls of both engines, with their purpose. Some are the names of the same call on other CPUs or with another
/// glibc.
const CALLS: &[(&str, &[&str])] = &[
    ("memory, by glibc", &["mmap", "munmap", "mprotect", "mremap", "madvise", "brk"]),
    (
        "threads, by glibc and std",
        &[
            "clone3",
            "clone",
            "set_robust_list",
            "rseq",
            "prctl",
            "sched_getaffinity",
            "sigaltstack",
            "futex",
            "sched_yield",
            "gettid",
            "getpid",
            "exit",
            "exit_group",
            "rt_sigprocmask",
            "restart_syscall",
        ],
    ),
    ("signals that end the server, and the trial of a ring", &["rt_sigaction", "rt_sigreturn", "socketpair"]),
    ("chance and time", &["getrandom", "clock_gettime", "clock_nanosleep"]),
    ("limits, and what is free", &["prlimit64", "statfs"]),
    ("the control socket is its owner's alone", &["chmod"]),
    ("a stderr that is non-blocking, or may have no room", &["poll", "ppoll"]),
    ("sleep until something is ready", &["epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2"]),
    (
        "listeners and connections",
        &[
            "socket",
            "bind",
            "listen",
            "accept4",
            "setsockopt",
            "getsockopt",
            "getsockname",
            "recvfrom",
            "sendto",
            "shutdown",
            "ioctl",
        ],
    ),
    (
        "files: the journal, /proc",
        &[
            "openat",
            "read",
            "write",
            "writev",
            "pread64",
            "pwrite64",
            "pwritev2",
            "close",
            "fcntl",
            "fstat",
            "newfstatat",
            "statx",
            "getdents64",
            "readlink",
            "readlinkat",
            "mkdir",
            "mkdirat",
            "rename",
            "renameat",
            "renameat2",
            "unlink",
            "unlinkat",
            "rmdir",
            "fsync",
            "ftruncate",
            "fallocate",
            "flock",
        ],
    ),
    (
        "the journal's modes, its file system's kind, a sign of life, and where data ends",
        &["fchmod", "fstatfs", "utimensat", "lseek"],
    ),
];

/// The further calls of an engine on a ring.
const RING_CALLS: &[&str] = &["io_uring_setup", "io_uring_enter"];

/// Returns the calls in the output of strace, from the moment when landlock is in force.
fn calls_of(trace: &str) -> BTreeSet<String> {
    let confined = trace.lines().skip_while(|line| !line.contains("landlock_restrict_self(")).skip(1);
    let names = confined.filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('(').map(|(name, _)| name));
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    names.filter(|name| is_name(name)).map(str::to_owned).collect()
}

/// Makes a server do everything that it does: commits, new segments, their removal, churn, faults, scrapes, a drain.
fn load(server: &Server) {
    let address = server.address().to_string();
    for options in [
        "--connections 20 --window 16 --payload 1000 --warmup 0s --duration 2s",
        "--churn --connections 4 --warmup 0s --duration 500ms",
    ] {
        let mut bench = ringpost(&["bench", "--addr", &address]);
        bench.args(options.split(' '));
        let ended = run(bench);
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.log);
    }
    // One frame is too large, one is invalid, and one never ends.
    for bytes in [&[0x7f, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0, 0, 0, 1, 2], &[0, 0, 0, 20]] {
        server.connect().write_all(bytes).unwrap();
    }
    let mut large = server.connect();
    large.write_all(&submit(1, &[7; 60_000])).unwrap();
    expect_acks(&mut large, [1]);
    for path in ["/healthz", "/readyz", "/nothing"] {
        admin::get(server, path);
    }
    assert!(Metrics::scrape(server).get("process_open_fds") > 5.0);
    round_trip(&mut server.connect(), 1);
}

fn check(engine: &str, trace: &Path) {
    let data = tempfile::tempdir().unwrap();
    let mut command = Command::new("strace");
    // The tracer is a grandchild, so that the child of the test is the server.
    command.args(["-D", "-f", "-qq", "-s", "0", "-o"]).arg(trace).args([BINARY, "serve", "--engine", engine]);
    command.args(["--listen", "127.0.0.1:0", "--workers", "2", "--admin", "127.0.0.1:0", "--confine", "on"]);
    command.args(["--max-frame", "64KiB", "--segment-size", "4MiB", "--retain-bytes", "8MiB"]);
    // Everything is slow under strace.
    command.args(["--stall-timeout", "60s", "--log-level", "debug", "--data-dir"]).arg(data.path());
    let server = Server::spawn(command, 1);
    load(&server);
    let held_on = server.connect();
    let ended = server.stop();
    drop(held_on);
    assert!(ended.status.success(), "{}", ended.log);
    assert!(ended.log.contains("confined by landlock"), "{}", ended.log);

    // The tracer continues to write for a moment.
    crate::common::wait_until("the trace is complete", || {
        fs::read_to_string(trace).is_ok_and(|text| text.contains("exit_group("))
    });
    let calls = calls_of(&fs::read_to_string(trace).unwrap());
    println!("{engine}: {calls:?}");
    assert!(["openat", "write", "close", "listen"].iter().all(|call| calls.contains(*call)), "{calls:?}");
    assert_eq!(calls.contains("io_uring_enter"), engine == "uring", "{calls:?}");
    let known = CALLS.iter().flat_map(|(_, calls)| *calls);
    let rings = RING_CALLS.iter().filter(|_| engine == "uring");
    let known: BTreeSet<_> = known.chain(rings).copied().collect();
    let unlisted: Vec<_> = calls.iter().filter(|call| !known.contains(call.as_str())).collect();
    assert!(unlisted.is_empty(), "{engine}: calls that are not in the list: {unlisted:?}");
}

#[test]
fn a_confined_server_makes_only_the_listed_system_calls() {
    if STRACE.check(tried(Command::new("strace").args(["-D", "-f", "-o", "/dev/null", "true"]))).is_none() {
        return;
    }
    let engines: &[&str] = if crate::common::has_rings() { &["uring", "epoll"] } else { &["epoll"] };
    let traces = tempfile::tempdir().unwrap();
    for engine in engines {
        check(engine, &traces.path().join(engine));
    }
}
