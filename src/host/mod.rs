//! The host's own reports about itself and this process, in `/proc` and `/sys`.
//!
//! Owns the reading of these files. It must not know what the values are used for. Invariant: a file that is missing or
//! can't be read is `None`, never an error. The root is a parameter, so that tests can describe other hosts.

pub mod cgroup;
mod environment;
mod limits;

use std::fs;
use std::path::{Path, PathBuf};

pub use environment::remove_variables;
pub use limits::raise_open_files;

/// A host, as its files describe it.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// Returns the host that this process runs on.
    pub fn this() -> Host {
        Host::at("/")
    }

    /// Returns the host whose `proc` and `sys` are in this directory.
    pub fn at(root: impl Into<PathBuf>) -> Host {
        Host { root: root.into() }
    }

    /// Returns the text of a file without surrounding white space, or `None` if it can't be read.
    ///
    /// # Panics
    /// If `path` is not absolute.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let path = path.as_ref().strip_prefix("/").expect("an absolute path");
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    /// Returns the value of a kernel setting, by the name that `sysctl` uses.
    pub fn sysctl(&self, name: &str) -> Option<String> {
        self.read(Path::new("/proc/sys").join(name.replace('.', "/")))
    }

    /// Returns the kernel's release, like `6.1.0-13-amd64`.
    pub fn release(&self) -> String {
        let uname = || rustix::system::uname().release().to_string_lossy().into_owned();
        self.sysctl("kernel.osrelease").unwrap_or_else(uname)
    }

    /// Returns the first two numbers of the kernel's release, or `None` if it doesn't begin with numbers.
    pub fn version(&self) -> Option<(u32, u32)> {
        let release = self.release();
        let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// Returns the value of a line of `/proc/self/status`.
    pub fn status(&self, name: &str) -> Option<String> {
        let status = self.read("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    }

    /// Returns whether this process runs under a seccomp filter.
    pub fn is_seccomp_filtered(&self) -> bool {
        self.status("Seccomp").as_deref() == Some("2")
    }

    /// Returns whether this process has a capability for the whole host, and not only within a user namespace.
    /// `number` is from linux/capability.h.
    pub fn has_capability(&self, number: u32) -> bool {
        let effective = self.status("CapEff").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
        let is_initial_namespace =
            self.read("/proc/self/uid_map").is_none_or(|map| map.split_whitespace().eq(ALL_USERS));
        is_initial_namespace && effective.is_some_and(|mask| mask >> number & 1 == 1)
    }

    /// Returns whether this process is in the group with this number.
    pub fn is_in_group(&self, group: u32) -> bool {
        let is_group = |word: &str| word.parse() == Ok(group);
        // The second of the four numbers is the effective group.
        let own = self.status("Gid").is_some_and(|line| line.split_whitespace().nth(1).is_some_and(is_group));
        own || self.status("Groups").is_some_and(|line| line.split_whitespace().any(is_group))
    }
}

/// The `uid_map` of a process in the initial user namespace.
const ALL_USERS: [&str; 3] = ["0", "0", "4294967295"];

/// The capability to lock memory without a limit.
pub const CAP_IPC_LOCK: u32 = 14;
/// The capability of system administration.
pub const CAP_SYS_ADMIN: u32 = 21;

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Returns a host with these files. They exist until the directory is dropped.
    pub fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.strip_prefix('/').unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::at(root.path());
        (root, host)
    }

    #[test]
    fn the_files_of_a_host_are_read() {
        let (_root, host) = host(&[
            ("/proc/sys/kernel/osrelease", "5.14.0-362.el9.x86_64\n"),
            (
                "/proc/self/status",
                "Name:\tx\nGid:\t7\t8\t7\t7\nGroups:\t10 20 \nCapEff:\t0000000000200000\nSeccomp:\t2\n",
            ),
            ("/proc/self/uid_map", "         0          0 4294967295\n"),
        ]);
        assert_eq!(host.version(), Some((5, 14)));
        assert!(host.is_seccomp_filtered());
        assert!(host.has_capability(CAP_SYS_ADMIN) && !host.has_capability(14));
        assert!([8, 10, 20].iter().all(|group| host.is_in_group(*group)));
        assert!(![0, 7, 1, 2].iter().any(|group| host.is_in_group(*group)));
        assert_eq!(host.sysctl("kernel.io_uring_disabled"), None);
    }

    #[test]
    fn root_of_a_user_namespace_has_no_capability_for_the_host() {
        let (_root, host) = host(&[
            ("/proc/self/status", "CapEff:\t000001ffffffffff\n"),
            ("/proc/self/uid_map", "         0       1000          1\n"),
        ]);
        assert!(!host.has_capability(CAP_SYS_ADMIN));
    }
}
