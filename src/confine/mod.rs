//! Gives up what the `serve` command does not need, so that a fault in it, or in a package that it uses, can do little
//! harm: root ([`user`]), and by landlock every file but its own. This module knows no server. It gets the paths that
//! stay writable.
//!
//! Landlock restricts the calling thread and the threads that are started from it, including the kernel's own threads
//! of a ring. So the process is confined before it starts its first thread. It cannot be undone.

pub mod user;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use tracing::{info, warn};

/// Whether to confine the process by landlock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Confine {
    /// Confined if the kernel has landlock.
    #[default]
    Auto,
    /// Confined, or not started.
    On,
    /// Not confined.
    Off,
}

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The kernel has no landlock, and the options require it.
    #[error("--confine on: {why}. {}", why.remedy())]
    Unavailable { why: Unavailable },
    /// A path that stays writable can't be opened.
    #[error(
        "--confine: can't open {path} to allow access to it: {source}. Fix that, or use --confine off",
        path = .path.display()
    )]
    Path { path: PathBuf, source: landlock::PathFdError },
    /// The kernel refused the rules.
    #[error("--confine: the kernel refused a rule: {0}. Use --confine off, and report this")]
    Rule(#[from] RulesetError),
    /// The kernel refused PR_SET_NO_NEW_PRIVS.
    #[error("can't renounce new privileges (PR_SET_NO_NEW_PRIVS): {0}")]
    NoNewPrivs(io::Error),
}

/// The reason why there is no landlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The kernel has landlock, but it is off.
    SwitchedOff,
    /// The kernel has no landlock, or a seccomp filter hides it.
    Missing,
}

impl Unavailable {
    /// Returns how to get landlock.
    pub fn remedy(self) -> &'static str {
        match self {
            Unavailable::SwitchedOff => "Add landlock to the kernel's command line (lsm=landlock,...)",
            Unavailable::Missing => {
                "Run on Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, or let the container's seccomp profile \
                 allow landlock_create_ruleset, landlock_add_rule and landlock_restrict_self"
            }
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Unavailable::SwitchedOff => "the kernel has landlock, but it is switched off",
            Unavailable::Missing => "the kernel has no landlock, or a seccomp filter refuses it",
        })
    }
}

/// The paths that are read outside of the data directory: by metrics, at the start of a ring (which looks for its
/// descriptor in /proc/self/fd), to explain errors of the kernel, and by glibc (the CPUs, whose number limits its
/// heaps). Paths that do not exist are omitted.
///
/// The first [`HELD`] are read for as long as the server runs. A rule applies to an inode, and procfs may make a new
/// one when memory runs short, unless the old one is open. So these paths are kept open.
const READ: [&str; 9] = [
    "/proc/self/fd",
    "/proc/self/status",
    "/proc/self/uid_map",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/kernel/io_uring_disabled",
    "/proc/sys/kernel/io_uring_group",
    "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    "/sys/devices/system/cpu/online",
];

/// The number of paths in [`READ`] that are kept open.
const HELD: usize = 2;

/// Returns the rights below a writable directory. Running a file and creating a device are not among them.
fn owned() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

/// Returns the rights below a directory whose files are read, or of a file that is read.
fn readable_below(path: &Path) -> BitFlags<AccessFs> {
    if path.is_dir() { AccessFs::ReadFile | AccessFs::ReadDir } else { AccessFs::ReadFile.into() }
}

/// Confines this thread, and the threads that it will start, to the directories `writable`, which must exist, to the
/// directories and files `readable`, and to a few files that every server reads. Logs what is in force.
///
/// # Errors
/// The kernel has no landlock and `confine` requires it, or a path can't be opened.
pub fn apply(confine: Confine, writable: &[&Path], readable: &[PathBuf]) -> Result<(), ConfineError> {
    rustix::thread::set_no_new_privs(true).map_err(|error| ConfineError::NoNewPrivs(error.into()))?;
    if confine == Confine::Off {
        info!("not confined, because of --confine off; new privileges are renounced");
        return Ok(());
    }
    let (status, held) = restrict(writable, readable)?;
    match (abi(&status), confine) {
        (Ok(abi), _) => {
            // The paths stay open until the process ends.
            std::mem::forget(held);
            let written: Vec<_> = writable.iter().map(|path| path.display().to_string()).collect();
            let read = readable.iter().map(|path| path.display().to_string()).chain(READ.map(String::from));
            info!(
                abi,
                is_partial = status.ruleset == RulesetStatus::PartiallyEnforced,
                write = written.join(" "),
                read = read.collect::<Vec<_>>().join(" "),
                "confined by landlock: no other files, no TCP connections to others, no signals to others; new \
                 privileges are renounced"
            );
            Ok(())
        }
        (Err(why), Confine::On) => Err(ConfineError::Unavailable { why }),
        (Err(why), _) => {
            warn!("not confined: {why}; new privileges are renounced. {}", why.remedy());
            Ok(())
        }
    }
}

/// Tries landlock out on a thread that then ends. Returns the number of the ABI that this kernel has.
///
/// # Errors
/// The kernel has no landlock.
pub fn try_out() -> Result<i32, Unavailable> {
    let tried = std::thread::spawn(|| restrict(&[], &[])).join();
    match tried {
        Ok(Ok((status, _))) => abi(&status),
        _ => Err(Unavailable::Missing),
    }
}

/// Restricts this thread. Returns the paths that must be kept open.
fn restrict(writable: &[&Path], readable: &[PathBuf]) -> Result<(RestrictionStatus, Vec<PathFd>), ConfineError> {
    // The newest ABI whose rights are known here. On an older kernel, the rights that it knows are restricted.
    const NEWEST: ABI = ABI::V7;
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?;
    // A confined process binds listeners, but connects to nothing.
    ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    ruleset = ruleset.scope(Scope::Signal)?;
    // The service manager's socket is already connected, so it keeps working even if it is an abstract one.
    ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
    let mut created = ruleset.create()?;
    for path in writable {
        let open = PathFd::new(path).map_err(|source| ConfineError::Path { path: path.into(), source })?;
        created = created.add_rule(PathBeneath::new(open, owned()))?;
    }
    for path in readable {
        let open = PathFd::new(path).map_err(|source| ConfineError::Path { path: path.into(), source })?;
        created = created.add_rule(PathBeneath::new(open, readable_below(path)))?;
    }
    let mut held = Vec::new();
    for (index, path) in READ.iter().enumerate() {
        let Ok(open) = PathFd::new(path) else { continue };
        let access = if Path::new(path).is_dir() { AccessFs::ReadDir } else { AccessFs::ReadFile };
        created = created.add_rule(PathBeneath::new(&open, access))?;
        if index < HELD {
            held.push(open);
        }
    }
    Ok((created.restrict_self()?, held))
}

fn abi(status: &RestrictionStatus) -> Result<i32, Unavailable> {
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if status.ruleset != RulesetStatus::NotEnforced => {
            Ok(effective_abi as i32)
        }
        LandlockStatus::NotEnabled => Err(Unavailable::SwitchedOff),
        _ => Err(Unavailable::Missing),
    }
}
