//! What the kernel says when it refuses a ring, in words: what was asked, what came back, what to do.

use std::fs;
use std::io;

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error(
        "io_uring is switched off on this host: sysctl kernel.io_uring_disabled is {value} ({source}). Switch it on with \
         `sysctl -w kernel.io_uring_disabled=0`{group}"
    )]
    Sysctl { value: String, group: &'static str, source: io::Error },
    #[error(
        "a seccomp filter or security module refuses io_uring_setup ({source}), as containers do by default since \
         Docker 25 and containerd 2.0. Allow io_uring_setup, io_uring_enter and io_uring_register in the container's \
         seccomp profile"
    )]
    Filtered { source: io::Error },
    #[error("this kernel ({release}) has no io_uring ({source}). Run on Linux 6.0 or later with CONFIG_IO_URING")]
    Kernel { release: String, source: io::Error },
    #[error(
        "this kernel ({release}) does not know what was asked of io_uring: {entries} entries with SINGLE_ISSUER, \
         COOP_TASKRUN and SUBMIT_ALL ({source}). Run on Linux 6.0 or later"
    )]
    Old { release: String, entries: u32, source: io::Error },
    #[error(
        "no memory for a ring of {entries} entries ({source}): the locked-memory limit (RLIMIT_MEMLOCK) is {limit}, and \
         all rings of this user count to it. Raise it (`ulimit -l`, LimitMEMLOCK=, --ulimit memlock=), or ask for less \
         with --workers or --ring-entries"
    )]
    Memlock { entries: u32, limit: String, source: io::Error },
    #[error("out of file descriptors for a ring ({source}). Raise RLIMIT_NOFILE (`ulimit -n`, LimitNOFILE=)")]
    Descriptors { source: io::Error },
    #[error("io_uring_setup with {entries} entries failed: {source}")]
    Other { entries: u32, source: io::Error },
}

impl RingError {
    /// Tells apart who refused, from the error and from what the host says of itself.
    pub(super) fn explain(source: io::Error, entries: u32) -> RingError {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
        let disabled = disabled.trim();
        match source.raw_os_error() {
            Some(libc::EPERM) if disabled == "2" => {
                RingError::Sysctl { value: "2, for everybody".into(), group: "", source }
            }
            Some(libc::EPERM) if disabled == "1" && !rustix::process::geteuid().is_root() => RingError::Sysctl {
                value: "1, for the unprivileged".into(),
                group: ", or join the group that kernel.io_uring_group names",
                source,
            },
            Some(libc::EPERM | libc::EACCES) => RingError::Filtered { source },
            // Since 5.1 only a filter answers so where the kernel was built with it.
            Some(libc::ENOSYS) if seccomp_filtered() => RingError::Filtered { source },
            Some(libc::ENOSYS) => RingError::Kernel { release: release(), source },
            Some(libc::EINVAL) => RingError::Old { release: release(), entries, source },
            Some(libc::ENOMEM) => RingError::Memlock { entries, limit: memlock(), source },
            Some(libc::EMFILE | libc::ENFILE) => RingError::Descriptors { source },
            _ => RingError::Other { entries, source },
        }
    }
}

/// Whether this process runs under a seccomp filter, as `/proc` tells it.
fn seccomp_filtered() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"]))
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn memlock() -> String {
    match rustix::process::getrlimit(rustix::process::Resource::Memlock).current {
        Some(bytes) => format!("{} KiB", bytes / 1024),
        None => "unlimited".into(),
    }
}
