//! What the host says of itself in `/proc` and `/sys`, and what that means for who runs. It knows nothing of
//! what is made of it. The root is a parameter, so that tests can tell of hosts that they are not on.

pub mod cgroup;

use std::fs;
use std::path::{Path, PathBuf};

/// A host, as its files tell of it.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The one that this process runs on.
    pub fn this() -> Host {
        Host::at("/")
    }

    /// The one whose `proc` and `sys` are in this directory.
    pub fn at(root: impl Into<PathBuf>) -> Host {
        Host { root: root.into() }
    }

    /// The text of a file, without the space around it; `None` if there is none that can be read.
    ///
    /// # Panics
    /// If `path` is not absolute.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let path = path.as_ref().strip_prefix("/").expect("an absolute path");
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    /// The value of a setting of the kernel, by the name that `sysctl` takes.
    pub fn sysctl(&self, name: &str) -> Option<String> {
        self.read(Path::new("/proc/sys").join(name.replace('.', "/")))
    }

    /// The kernel's release, like `6.1.0-13-amd64`.
    pub fn release(&self) -> String {
        let uname = || rustix::system::uname().release().to_string_lossy().into_owned();
        self.sysctl("kernel.osrelease").unwrap_or_else(uname)
    }

    /// Its first two numbers; `None` where they are none.
    pub fn version(&self) -> Option<(u32, u32)> {
        let release = self.release();
        let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// A line of `/proc/self/status`, without its name.
    pub fn status(&self, name: &str) -> Option<String> {
        let status = self.read("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    }

    /// Whether this process runs under a seccomp filter.
    pub fn is_seccomp_filtered(&self) -> bool {
        self.status("Seccomp").as_deref() == Some("2")
    }

    /// Whether this process has a capability for the whole host, and not only within a user namespace, by its
    /// number in linux/capability.h.
    pub fn has_capability(&self, number: u32) -> bool {
        let effective = self.status("CapEff").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
        let everybody = self.read("/proc/self/uid_map").is_none_or(|map| map.split_whitespace().eq(ALL_USERS));
        everybody && effective.is_some_and(|mask| mask >> number & 1 == 1)
    }

    /// Whether this process is in a group, by its number.
    pub fn is_in_group(&self, group: u32) -> bool {
        let is_it = |word: &str| word.parse() == Ok(group);
        // Effective, of all four of the Gid line.
        let own = self.status("Gid").is_some_and(|line| line.split_whitespace().nth(1).is_some_and(is_it));
        own || self.status("Groups").is_some_and(|line| line.split_whitespace().any(is_it))
    }
}

/// The map of a process that is in no user namespace of its own.
const ALL_USERS: [&str; 3] = ["0", "0", "4294967295"];

pub const CAP_IPC_LOCK: u32 = 14;
pub const CAP_SYS_ADMIN: u32 = 21;

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A host with these files, for as long as the directory is kept.
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
    fn what_a_host_says_is_read() {
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
