//! Why the kernel refuses a ring: what was asked, what the kernel answered, and what to do.
//!
//! Owns the translation of an errno, with what the host reports about itself. It must not know who asked. Invariant:
//! every error has a cause and a remedy.

use std::io;

use super::setup::FLAGS;
use crate::host::{CAP_SYS_ADMIN, Host};

/// The reason why there is no ring.
#[derive(Debug, thiserror::Error)]
#[error("{}. {}", self.cause(), self.remedy())]
pub enum RingError {
    /// The sysctl `kernel.io_uring_disabled` is set.
    Sysctl {
        /// The sysctl's value, and the processes that it excludes.
        value: String,
        /// Another way to allow io_uring, if there is one.
        group: Option<String>,
        /// The kernel's error.
        source: io::Error,
    },
    /// A seccomp filter refuses a call, or, if there is no filter, something else between the process and the kernel.
    Filtered {
        /// The refused call.
        call: &'static str,
        /// Whether this process has a seccomp filter.
        seccomp: bool,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel has no io_uring.
    Kernel {
        /// The kernel's release.
        release: String,
        /// The reason.
        why: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel does not know a flag or an op.
    Old {
        /// The kernel's release.
        release: String,
        /// The unknown flag, op or call.
        asked: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// RLIMIT_MEMLOCK is exhausted.
    Memlock {
        /// The ring's submission queue entries.
        entries: u32,
        /// The limit.
        limit: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// RLIMIT_NOFILE or the host's own limit is exhausted.
    Descriptors {
        /// The kernel's error.
        source: io::Error,
    },
    /// Any other error.
    Other {
        /// The call that failed.
        asked: String,
        /// The kernel's error.
        source: io::Error,
    },
}

/// A request to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Ring { entries: u32 },
    Enter,
    Op { name: &'static str },
}

impl RingError {
    /// Returns whether this process can't use io_uring here at all. Otherwise a limit is exhausted or something failed,
    /// and a fallback to another engine would hide a problem that should be fixed.
    pub fn is_unavailable(&self) -> bool {
        match self {
            RingError::Sysctl { .. }
            | RingError::Filtered { .. }
            | RingError::Kernel { .. }
            | RingError::Old { .. } => true,
            RingError::Memlock { .. } | RingError::Descriptors { .. } | RingError::Other { .. } => false,
        }
    }

    /// Returns one word, for a metric's label.
    pub fn name(&self) -> &'static str {
        match self {
            RingError::Sysctl { .. } => "sysctl",
            RingError::Filtered { seccomp: true, .. } => "seccomp",
            RingError::Filtered { seccomp: false, .. } => "security_module",
            RingError::Kernel { .. } => "no_io_uring",
            RingError::Old { .. } => "old_kernel",
            RingError::Memlock { .. } => "memlock",
            RingError::Descriptors { .. } => "descriptors",
            RingError::Other { .. } => "other",
        }
    }

    /// Returns what was refused, by what, and the kernel's error, without a full stop.
    pub fn cause(&self) -> String {
        match self {
            RingError::Sysctl { value, source, .. } => {
                format!("io_uring is switched off on this host: sysctl kernel.io_uring_disabled is {value} ({source})")
            }
            RingError::Filtered { call, seccomp: true, source } => format!(
                "a seccomp filter refuses {call} ({source}), as containers do by default since Docker 25 and \
                 containerd 2.0"
            ),
            RingError::Filtered { call, seccomp: false, source } => format!(
                "a security module (SELinux, AppArmor) or a sandbox refuses {call} ({source}); it is neither a seccomp \
                 filter of this process nor the sysctl"
            ),
            RingError::Kernel { release, why, source } => {
                format!("this kernel ({release}) has no io_uring ({source}): {why}")
            }
            RingError::Old { release, asked, source } => {
                format!("this kernel ({release}) does not know this part of io_uring: {asked} ({source})")
            }
            RingError::Memlock { entries, limit, source } => format!(
                "no memory for a ring of {entries} entries ({source}): the locked-memory limit (RLIMIT_MEMLOCK) is \
                 {limit}, and all rings of this user share it"
            ),
            RingError::Descriptors { source } => format!("out of file descriptors for a ring ({source})"),
            RingError::Other { asked, source } => format!("{asked} failed: {source}"),
        }
    }

    /// Returns what to do about it: a sentence without a full stop.
    pub fn remedy(&self) -> String {
        match self {
            RingError::Sysctl { group: None, .. } => {
                "Switch it on with `sysctl -w kernel.io_uring_disabled=0`".to_owned()
            }
            RingError::Sysctl { group: Some(group), .. } => {
                format!("Switch it on with `sysctl -w kernel.io_uring_disabled=0`, or {group}")
            }
            RingError::Filtered { seccomp: true, .. } => {
                "Allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"
                    .to_owned()
            }
            RingError::Filtered { seccomp: false, .. } => {
                "Find the refusal in `dmesg` and `ausearch -m avc -ts recent`, and allow io_uring there".to_owned()
            }
            RingError::Kernel { .. } => "Run on Linux 6.0 or later with CONFIG_IO_URING".to_owned(),
            RingError::Old { .. } => "Run on Linux 6.0 or later".to_owned(),
            RingError::Memlock { .. } => "Raise it (`ulimit -l`, LimitMEMLOCK=, --ulimit memlock=), or ask for less \
                                          with --workers or --ring-entries"
                .to_owned(),
            RingError::Descriptors { .. } => "Raise RLIMIT_NOFILE (`ulimit -n`, LimitNOFILE=)".to_owned(),
            RingError::Other { .. } => "Run `ringpost doctor`, which checks each requirement".to_owned(),
        }
    }

    /// Finds out what refused, from the error and from what the host reports about itself.
    pub(super) fn explain(source: io::Error, asked: Asked) -> RingError {
        RingError::explain_on(&Host::this(), source, asked)
    }

    fn explain_on(host: &Host, source: io::Error, asked: Asked) -> RingError {
        let seccomp = host.is_seccomp_filtered();
        // Earlier kernels have no io_uring, so the filter need not be what refused.
        let too_old = host.version().is_some_and(|version| version < IO_URING_SINCE);
        if let (Some(libc::EPERM), Asked::Ring { .. }) = (source.raw_os_error(), asked)
            && let Some((value, group)) = switched_off(host)
        {
            return RingError::Sysctl { value, group, source };
        }
        match (source.raw_os_error(), asked) {
            (Some(libc::EPERM | libc::EACCES), _) => RingError::Filtered { call: asked.call(), seccomp, source },
            // A kernel since 5.1 that was built with io_uring answers so only if a filter refuses the call.
            (Some(libc::ENOSYS | libc::EOPNOTSUPP), Asked::Ring { .. } | Asked::Enter) if seccomp && !too_old => {
                RingError::Filtered { call: asked.call(), seccomp, source }
            }
            (Some(libc::ENOSYS | libc::EOPNOTSUPP), Asked::Ring { .. } | Asked::Enter) => {
                let why =
                    if too_old { "it is older than io_uring" } else { "it was built without io_uring, or is emulated" };
                RingError::Kernel { release: host.release(), why, source }
            }
            (Some(libc::EINVAL | libc::EOPNOTSUPP), _) => {
                RingError::Old { release: host.release(), asked: asked.unknown(), source }
            }
            (Some(libc::ENOMEM), Asked::Ring { entries }) => RingError::Memlock { entries, limit: memlock(), source },
            (Some(libc::EMFILE | libc::ENFILE), _) => RingError::Descriptors { source },
            _ => RingError::Other { asked: asked.in_words(), source },
        }
    }
}

/// The first Linux with io_uring.
const IO_URING_SINCE: (u32, u32) = (5, 1);

/// Returns the sysctl's value if it excludes this process, and what else would allow io_uring.
fn switched_off(host: &Host) -> Option<(String, Option<String>)> {
    match host.sysctl("kernel.io_uring_disabled")?.as_str() {
        "2" => Some(("2 (for all processes)".to_owned(), None)),
        "1" if !host.has_capability(CAP_SYS_ADMIN) => {
            let group = host.sysctl("kernel.io_uring_group").and_then(|group| group.parse::<u32>().ok());
            let way_in = match group {
                Some(group) if host.is_in_group(group) => return None,
                Some(group) => format!("run Ringpost in group {group} (sysctl kernel.io_uring_group)"),
                None => "set sysctl kernel.io_uring_group to a group of the process".to_owned(),
            };
            Some(("1 (for unprivileged processes)".to_owned(), Some(way_in)))
        }
        _ => None,
    }
}

impl Asked {
    fn call(self) -> &'static str {
        match self {
            Asked::Ring { .. } => "io_uring_setup",
            Asked::Enter => "io_uring_enter",
            Asked::Op { .. } => "an op on a ring",
        }
    }

    fn in_words(self) -> String {
        match self {
            Asked::Ring { entries } => format!("io_uring_setup with {entries} entries"),
            Asked::Enter => "io_uring_enter".to_owned(),
            Asked::Op { name } => format!("the op {name} on a ring"),
        }
    }

    /// Returns the part that the kernel does not know, as far as that can be found out.
    fn unknown(self) -> String {
        let Asked::Ring { .. } = self else { return self.in_words() };
        let refused = FLAGS.iter().filter(|flag| flag.check().is_err());
        let flags: Vec<_> = refused.map(|flag| format!("{} (since Linux {})", flag.name, flag.since)).collect();
        if flags.is_empty() { self.in_words() } else { flags.join(", ") }
    }
}

fn memlock() -> String {
    match rustix::process::getrlimit(rustix::process::Resource::Memlock).current {
        Some(bytes) => format!("{} KiB", bytes / 1024),
        None => "unlimited".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::host;

    const RING: Asked = Asked::Ring { entries: 8 };
    const RELEASE: (&str, &str) = ("/proc/sys/kernel/osrelease", "6.8.0-31-generic\n");
    const USERS: (&str, &str) = ("/proc/self/uid_map", "0 0 4294967295\n");
    const NOBODY: (&str, &str) = ("/proc/self/status", "Gid:\t9\t9\t9\t9\nCapEff:\t0\nSeccomp:\t0\n");
    const ROOT: (&str, &str) = ("/proc/self/status", "Gid:\t0\t0\t0\t0\nCapEff:\t1ffffffffff\nSeccomp:\t0\n");
    const DOCKER: (&str, &str) = ("/proc/self/status", "Gid:\t0\t0\t0\t0\nCapEff:\ta80425fb\nSeccomp:\t2\n");

    fn explain(files: &[(&str, &str)], errno: i32, asked: Asked) -> RingError {
        let (_root, host) = host(&[files, &[USERS]].concat());
        RingError::explain_on(&host, io::Error::from_raw_os_error(errno), asked)
    }

    #[test]
    fn the_sysctl_is_distinguished_from_a_filter_and_applies_to_the_right_processes() {
        let disabled = |value| ("/proc/sys/kernel/io_uring_disabled", value);
        let group = |value| ("/proc/sys/kernel/io_uring_group", value);
        let all = explain(&[disabled("2\n"), ROOT], libc::EPERM, RING).to_string();
        assert!(all.contains("io_uring_disabled is 2 (for all processes)"), "{all}");
        assert!(all.ends_with("`sysctl -w kernel.io_uring_disabled=0`"), "{all}");
        // Root in a container does not have the capability that the kernel checks.
        for user in [NOBODY, DOCKER] {
            let error = explain(&[disabled("1"), group("-1"), user], libc::EPERM, RING);
            assert!(matches!(error, RingError::Sysctl { .. }), "{error}");
            assert!(error.to_string().contains("set sysctl kernel.io_uring_group to a group"), "{error}");
        }
        let error = explain(&[disabled("1"), group("77"), NOBODY], libc::EPERM, RING).to_string();
        assert!(error.contains("in group 77 (sysctl"), "{error}");
        let innocent = [
            explain(&[disabled("1"), group("9"), NOBODY], libc::EPERM, RING),
            explain(&[disabled("1"), group("-1"), ROOT], libc::EPERM, RING),
            explain(&[disabled("0"), NOBODY], libc::EPERM, RING),
        ];
        for error in innocent {
            assert!(matches!(error, RingError::Filtered { seccomp: false, .. }), "{error}");
        }
    }

    #[test]
    fn a_filter_is_distinguished_from_a_kernel_without_io_uring() {
        let filtered = explain(&[RELEASE, DOCKER], libc::ENOSYS, RING);
        assert!(matches!(filtered, RingError::Filtered { seccomp: true, .. }), "{filtered}");
        let entered = explain(&[RELEASE, DOCKER], libc::EPERM, Asked::Enter).to_string();
        assert!(entered.contains("refuses io_uring_enter"), "{entered}");
        let bare = explain(&[RELEASE, NOBODY], libc::ENOSYS, RING).to_string();
        assert!(bare.contains("6.8.0-31-generic") && bare.contains("built without"), "{bare}");
        let rhel8 = ("/proc/sys/kernel/osrelease", "4.18.0-513.el8\n");
        let old = explain(&[rhel8, DOCKER], libc::ENOSYS, RING).to_string();
        assert!(old.contains("older than io_uring"), "{old}");
    }

    #[test]
    fn a_missing_io_uring_is_distinguished_from_an_exhausted_limit() {
        for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EOPNOTSUPP, libc::EINVAL] {
            assert!(explain(&[RELEASE, NOBODY], errno, RING).is_unavailable(), "{errno}");
        }
        assert!(explain(&[RELEASE], libc::EINVAL, Asked::Op { name: "RECV" }).to_string().contains("the op RECV"));
        for errno in [libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EIO] {
            let error = explain(&[RELEASE, DOCKER], errno, RING);
            assert!(!error.is_unavailable(), "{error}");
        }
    }
}
