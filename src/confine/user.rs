//! `--user`: permanently switches from root to an ordinary user. This module knows no server. It gets the directory to
//! create for that user, and the ports that the process will bind.
//!
//! Names are looked up only in `/etc/passwd` and `/etc/group`, not by the modules of glibc, which a static build must
//! not load. Numbers need no file.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Access, Gid, Mode, OFlags, Uid, access, fchown, open};
use rustix::process::{getegid, geteuid, getgid, getuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};
use tracing::info;

use crate::journal::dir;

/// A user to switch to, by name or number, and optionally a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpec {
    user: String,
    group: Option<String>,
}

/// A user and its one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    user: u32,
    group: u32,
}

/// The reason why the process could not switch to another user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name is not in the file.
    #[error("--user {asked}: there is no {what} {name} in {file}. Use a name from that file, or a number")]
    Unknown { asked: String, what: &'static str, name: String, file: &'static str },
    /// The user is root.
    #[error("--user {asked}: this is root, and --user is for giving up root. Name another user")]
    Root { asked: String },
    /// Only root may switch to another user.
    #[error(
        "--user {asked}: this process runs as user {user}, group {group}, and only root may switch to another user. \
         Start it as root, or omit --user"
    )]
    NotRoot { asked: String, user: u32, group: u32 },
    /// The kernel refused a step.
    #[error("--user {asked}: {call} was refused: {source}. The process needs CAP_SETUID and CAP_SETGID for this step")]
    Refused { asked: String, call: &'static str, source: io::Error },
    /// The switch could be undone, which must not happen.
    #[error("--user {asked}: the process could have become root again afterwards. Report this")]
    Regained { asked: String },
    /// The data directory can't be created.
    #[error(
        "--user {asked}: can't create {path} for that user: {source}. Name another --data-dir, or create it",
        path = .path.display()
    )]
    DataDir { asked: String, path: PathBuf, source: io::Error },
    /// The data directory exists and belongs to another user.
    #[error(
        "--user {asked}: user {user} can't write to {path}: {source}. The owner of an existing directory is not \
         changed: as root, run chown -R {user}:{group} {path}", path = .path.display()
    )]
    NotWritable { asked: String, path: PathBuf, user: u32, group: u32, source: io::Error },
}

impl FromStr for UserSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        if user.is_empty() || group.is_some_and(str::is_empty) {
            return Err(
                "write a name or a number, optionally followed by a colon and a group, such as nobody or 65534:65534"
                    .into(),
            );
        }
        Ok(UserSpec { user: user.into(), group: group.map(Into::into) })
    }
}

impl UserSpec {
    fn asked(&self) -> String {
        self.group.as_ref().map_or_else(|| self.user.clone(), |group| format!("{}:{group}", self.user))
    }

    /// Returns the numbers of user and group, given the contents of /etc/passwd and /etc/group.
    fn resolve(&self, passwd: &str, groups: &str) -> Result<Ids, UserError> {
        let unknown =
            |what, name: &str, file| UserError::Unknown { asked: self.asked(), what, name: name.into(), file };
        let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
            fields.first() == Some(&&*self.user) || number(&self.user).is_some_and(|user| third(fields) == Some(user))
        });
        let listed = entry.as_ref().and_then(|fields| third(fields));
        let user = number(&self.user).or(listed).ok_or_else(|| unknown("user", &self.user, PASSWD))?;
        let group = match &self.group {
            Some(group) => number(group).or_else(|| {
                let line = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
                line.filter(|fields| fields.first() == Some(&&**group)).find_map(|fields| third(&fields))
            }),
            // A user that is not in the file has the group of the same number.
            None => entry.map_or(Some(user), |fields| fields.get(3).and_then(|group| number(group))),
        };
        let group = group.ok_or_else(|| unknown("group", self.group.as_ref().unwrap_or(&self.user), GROUP))?;
        Ok(Ids { user, group })
    }
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Parses a number. The largest one is refused, since it asks the kernel for no change.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

fn third(fields: &[&str]) -> Option<u32> {
    fields.get(2).and_then(|id| number(id))
}

/// Switches this process from root to the user of `spec`. Creates `data_dir` for that user first, if it does not exist.
///
/// Call this before the first thread is started, since the kernel keeps a user for each thread.
///
/// If one of `ports` is privileged, the process keeps CAP_NET_BIND_SERVICE until [`drop_capabilities`] is called.
///
/// # Errors
/// There is no such user, this process is not root, or the user can't write to the directory.
pub fn drop_root(
    spec: &UserSpec,
    data_dir: Option<&Path>,
    ports: impl IntoIterator<Item = u16>,
) -> Result<(), UserError> {
    let asked = spec.asked();
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let ids = spec.resolve(&read(PASSWD), &read(GROUP))?;
    if !geteuid().is_root() {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        let other_group = spec.group.is_some() && group != ids.group;
        return if user != ids.user || other_group { Err(UserError::NotRoot { asked, user, group }) } else { Ok(()) };
    }
    if ids.user == 0 {
        return Err(UserError::Root { asked });
    }
    if let Some(path) = data_dir {
        make_for(path, ids).map_err(|source| UserError::DataDir { asked: asked.clone(), path: path.into(), source })?;
    }
    become_user(ids, has_privileged(ports), &asked)?;
    if let Some(path) = data_dir
        && let Err(source) = access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
    {
        let Ids { user, group } = ids;
        return Err(UserError::NotWritable { asked, path: path.into(), user, group, source: source.into() });
    }
    info!(user = ids.user, group = ids.group, "switched from root to another user");
    Ok(())
}

fn become_user(Ids { user, group }: Ids, keep_ports: bool, asked: &str) -> Result<(), UserError> {
    let refused =
        |call| move |source: rustix::io::Errno| UserError::Refused { asked: asked.into(), call, source: source.into() };
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(group));
    // The order matters: each step removes the right to repeat the steps before it.
    set_thread_groups(&[gid]).map_err(refused("setgroups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(refused("setresgid"))?;
    set_keep_capabilities(keep_ports).map_err(refused("PR_SET_KEEPCAPS"))?;
    set_thread_res_uid(uid, uid, uid).map_err(refused("setresuid"))?;
    let kept = if keep_ports { CapabilitySet::NET_BIND_SERVICE } else { CapabilitySet::empty() };
    set_all(kept).map_err(refused("capset"))?;
    set_keep_capabilities(false).map_err(refused("PR_SET_KEEPCAPS"))?;
    let (root, wheel) = (Uid::ROOT, Gid::ROOT);
    let regained = set_thread_res_uid(root, root, root).is_ok()
        || set_thread_res_gid(wheel, wheel, wheel).is_ok() && group != 0
        || set_thread_groups(&[wheel]).is_ok();
    let is_user = [getuid(), geteuid()] == [uid; 2] && [getgid(), getegid()] == [gid; 2];
    if regained || !is_user { Err(UserError::Regained { asked: asked.into() }) } else { Ok(()) }
}

/// Runs `task` on a thread that is the user of `spec`, and then ends. The rest of the process stays what it is. Without
/// another user, the thread is the same user as its caller.
///
/// # Errors
/// There is no such user, or this process is not root.
///
/// # Panics
/// `task` panics.
pub fn try_as<T: Send>(spec: Option<&UserSpec>, task: impl FnOnce() -> T + Send) -> Result<T, UserError> {
    let become_it = || match spec {
        Some(spec) => drop_root(spec, None, []),
        None => Ok(()),
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| become_it().map(|()| task()));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Gives up, in the calling thread, the capability that [`drop_root`] may have kept. Each thread calls this first; the
/// thread that binds the listeners calls it once they are bound. Without a `user` it does nothing.
///
/// # Panics
/// The kernel refuses, which it never does for fewer capabilities.
pub fn drop_capabilities(user: Option<&UserSpec>) {
    if user.is_some() {
        set_all(CapabilitySet::empty()).expect("the kernel lets a thread drop capabilities");
    }
}

fn set_all(set: CapabilitySet) -> rustix::io::Result<()> {
    set_capabilities(None, CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() })
}

/// Returns whether only a privileged process may bind one of `ports`.
fn has_privileged(ports: impl IntoIterator<Item = u16>) -> bool {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first: u16 = first.ok().and_then(|first| first.trim().parse().ok()).unwrap_or(1024);
    ports.into_iter().any(|port| (1..first).contains(&port))
}

/// Creates the directory for the user. A directory that exists is not changed.
fn make_for(path: &Path, Ids { user, group }: Ids) -> io::Result<()> {
    if dir::create(path)? {
        // The owner is changed through a descriptor, so that nobody can put a link in its place.
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = open(path, flags, Mode::empty())?;
        fchown(made.as_fd(), Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nring:x:990:980::/:/bin/false\nbroken\n";
    const GROUPS: &str = "root:x:0:\nlog:x:44:ring\n";

    #[test]
    fn names_and_numbers_are_found() {
        let resolve = |text: &str| text.parse::<UserSpec>().unwrap().resolve(PASSWD, GROUPS);
        let ids = |text| resolve(text).map(|ids| (ids.user, ids.group)).unwrap();
        assert_eq!(ids("ring"), (990, 980));
        assert_eq!(ids("990"), (990, 980));
        assert_eq!(ids("ring:log"), (990, 44));
        assert_eq!(ids("7:8"), (7, 8));
        assert_eq!(ids("7"), (7, 7));
        assert_eq!(ids("root"), (0, 0));
        let error = resolve("nosuch").unwrap_err().to_string();
        assert!(error.contains("there is no user nosuch in /etc/passwd"), "{error}");
        let error = resolve("ring:nosuch").unwrap_err().to_string();
        assert!(error.contains("there is no group nosuch in /etc/group"), "{error}");
        assert!(resolve("4294967295").is_err(), "that number asks the kernel for no change");
        for text in ["", ":1", "ring:"] {
            assert!(text.parse::<UserSpec>().is_err(), "{text}");
        }
    }
}
