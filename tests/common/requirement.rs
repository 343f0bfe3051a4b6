//! The requirements of some tests beside the toolchain, and the outcome if one is missing here.
//!
//! A test that cannot run here says so through a [`Requirement`], and in no other way: it is reported as
//! `skipped: TEST: REASON` on stderr, past the capturing of the test harness. With `RINGPOST_TEST_REQUIRE=all` the test
//! fails instead and says how to get what is missing. `.ci/run` sets that variable.

use std::fmt::Display;
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Something that not every host has or permits.
pub struct Requirement {
    pub name: &'static str,
    /// How to get it.
    pub remedy: &'static str,
}

pub const BIRTH_TIMES: Requirement = Requirement {
    name: "a file system that keeps the time at which a file was created",
    remedy: "set TMPDIR to a directory on ext4, XFS or btrfs",
};
pub const BTRFS: Requirement = Requirement { name: "mkfs.btrfs", remedy: "install btrfs-progs" };
pub const CHROMIUM: Requirement = Requirement { name: "chromium", remedy: "install chromium" };
pub const CONTROL_GROUPS: Requirement = Requirement {
    name: "control groups for CPU and memory",
    remedy: "run as root, with /sys/fs/cgroup writable and the controllers `cpu` and `memory` enabled in it",
};
pub const CURL: Requirement = Requirement { name: "curl", remedy: "install curl" };
pub const DOCUMENTED_TOOLS: Requirement = Requirement {
    name: "the commands that the documents use",
    remedy: "use a machine with two CPUs, and install iproute2, jq, man-db, systemd and util-linux",
};
pub const DEV_SHM: Requirement = Requirement { name: "/dev/shm", remedy: "mount -t tmpfs tmpfs /dev/shm" };
pub const EXT4: Requirement = Requirement { name: "mkfs.ext4", remedy: "install e2fsprogs" };
pub const FUSE: Requirement = Requirement { name: "FUSE", remedy: "run as root, with /dev/fuse, and install fuse3" };
pub const GO: Requirement = Requirement { name: "go", remedy: "install Go 1.19 or later" };
pub const IO_URING: Requirement = Requirement {
    name: "io_uring",
    remedy: "use Linux 6.0 or later, permit io_uring (sysctl -w kernel.io_uring_disabled=0), and run outside of \
             containers that refuse it",
};
pub const IPV6: Requirement =
    Requirement { name: "IPv6", remedy: "sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.lo.disable_ipv6=0" };
pub const MOUNTS: Requirement = Requirement {
    name: "mounts in a namespace",
    remedy: "run as root, with loop devices (modprobe loop), and install util-linux",
};
pub const NETWORK_NAMESPACE: Requirement =
    Requirement { name: "a network namespace", remedy: "run as root, and install iproute2" };
pub const OPENSSL: Requirement = Requirement { name: "openssl", remedy: "install openssl" };
pub const PROCESS_NAMESPACE: Requirement = Requirement {
    name: "user and process namespaces",
    remedy: "install util-linux, and permit user namespaces (sysctl -w user.max_user_namespaces=10000)",
};
pub const PYTHON: Requirement = Requirement { name: "python3", remedy: "install python3" };
pub const ROOT: Requirement = Requirement { name: "root", remedy: "run the tests as root" };
pub const STRACE: Requirement =
    Requirement { name: "strace", remedy: "install strace, and permit ptrace (sysctl -w kernel.yama.ptrace_scope=1)" };
pub const SYSTEMD: Requirement = Requirement {
    name: "a systemd that boots in namespaces",
    remedy: "run as root, with overlayfs and control groups of version 2, and install systemd",
};
pub const SYSTEMD_ANALYZE: Requirement =
    Requirement { name: "systemd-analyze of systemd 250 or later", remedy: "install systemd" };

impl Requirement {
    /// Returns the value, or reports why the test that calls it can't run here.
    ///
    /// # Panics
    ///
    /// If it can't, and `RINGPOST_TEST_REQUIRE=all`.
    pub fn check<T, E: Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|reason| self.missing(reason)).ok()
    }

    /// Returns whether a condition holds, or reports that the test that calls it can't run here.
    ///
    /// # Panics
    ///
    /// If it does not hold, and `RINGPOST_TEST_REQUIRE=all`.
    pub fn is_met(&self, met: bool) -> bool {
        self.check(if met { Ok(()) } else { Err("it is missing here") }).is_some()
    }

    /// Reports that the test that calls this can't run here.
    ///
    /// # Panics
    ///
    /// If `RINGPOST_TEST_REQUIRE=all`.
    pub fn missing(&self, reason: impl Display) {
        let Requirement { name, remedy } = self;
        let reason = reason.to_string();
        let reason = reason.trim();
        match std::env::var("RINGPOST_TEST_REQUIRE").as_deref() {
            Ok("all") => panic!("this test needs {name}: {reason}. To run it: {remedy}"),
            Ok(other) => panic!("RINGPOST_TEST_REQUIRE={other}: the only value is `all`"),
            Err(_) => {}
        }
        static SKIPPED: AtomicUsize = AtomicUsize::new(0);
        let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
        let thread = thread::current();
        let test = thread.name().unwrap_or("a test");
        let line = format!("skipped: {test}: it needs {name}: {reason} ({count} skipped so far in this binary)\n");
        // The macros would hand the line to the harness, which drops the output of tests that pass.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// Runs a command that shows whether something is permitted here. The error says what the command wrote.
pub fn tried(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", errors.trim())) }
}

/// Returns whether this process is root's.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
