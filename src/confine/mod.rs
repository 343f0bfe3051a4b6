//! Takes from this process what `serve` has no use for, so that a fault in it, or in a package that it uses, can
//! reach little: root ([`user`]), and by landlock every file but its own.
//!
//! Landlock holds for the calling thread and for those that are started from it, and so do the kernel's own
//! threads of a ring. So all of this comes before the first thread. It is never taken back.

pub mod user;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use tracing::{info, warn};

/// Whether landlock is asked for.
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
    #[error("--confine on: {why}. {}", why.remedy())]
    Unavailable { why: Unavailable },
    #[error("--confine: can't open {path} to allow it: {source}. Mend that, or take --confine off", path = .path.display())]
    Path { path: PathBuf, source: landlock::PathFdError },
    #[error("--confine: the kernel refused a rule: {0}. Take --confine off, and report it")]
    Rule(#[from] RulesetError),
    #[error("can't give up new privileges (PR_SET_NO_NEW_PRIVS): {0}")]
    NoNewPrivs(io::Error),
}

/// Why there is no landlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// Built into the kernel, and not switched on.
    SwitchedOff,
    /// Not in the kernel, or a seccomp filter hides it.
    Missing,
}

impl Unavailable {
    /// What to do about it.
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

/// What is read outside of the data directory: by metrics, by a ring's start, by the words for what the kernel
/// refuses, and by glibc (the CPUs, for its heaps). What is not there is left out.
///
/// The first [`HELD`] are read for as long as the server lives. A rule is about an inode, and procfs makes a new one
/// when memory has run short and nobody holds the old: so these are held open.
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

const HELD: usize = 2;

/// What may be done below a directory that is written to. Not: to run a file, or to make a device.
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

/// Confines this thread, and those that it will start, to what is below `writable`, which exist, and the little
/// that is read elsewhere. Says in the log what is in force.
///
/// # Errors
/// Landlock was asked for and is not to be had, or a path can't be opened.
pub fn apply(confine: Confine, writable: &[&Path]) -> Result<(), ConfineError> {
    rustix::thread::set_no_new_privs(true).map_err(|error| ConfineError::NoNewPrivs(error.into()))?;
    if confine == Confine::Off {
        info!("not confined, as --confine off asks for; no new privileges");
        return Ok(());
    }
    let (status, held) = restrict(writable)?;
    match (abi(&status), confine) {
        (Ok(abi), _) => {
            // For as long as the process lives.
            std::mem::forget(held);
            let written: Vec<_> = writable.iter().map(|path| path.display().to_string()).collect();
            let partly = if status.ruleset == RulesetStatus::PartiallyEnforced { ", in part" } else { "" };
            info!(
                write = written.join(" "),
                read = READ.join(" "),
                "confined by landlock {abi}{partly}: no other file, no TCP connect, no signal to others; no new \
                 privileges"
            );
            Ok(())
        }
        (Err(why), Confine::On) => Err(ConfineError::Unavailable { why }),
        (Err(why), _) => {
            warn!("not confined: {why}. {}. No new privileges", why.remedy());
            Ok(())
        }
    }
}

/// What landlock this kernel has, tried on a thread that ends at once; its ABI's number.
///
/// # Errors
/// It has none.
pub fn try_out() -> Result<i32, Unavailable> {
    let tried = std::thread::spawn(|| restrict(&[])).join();
    match tried {
        Ok(Ok((status, _))) => abi(&status),
        _ => Err(Unavailable::Missing),
    }
}

/// Restricts this thread, and returns what is to be held open.
fn restrict(writable: &[&Path]) -> Result<(RestrictionStatus, Vec<PathFd>), ConfineError> {
    // The newest ABI whose rights are known here; of an older kernel, those that it has.
    const NEWEST: ABI = ABI::V7;
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?;
    // Listeners are bound by a confined process; it connects to nobody.
    ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    ruleset = ruleset.scope(Scope::Signal)?;
    // The service manager's socket is connected already, even if it is an abstract one.
    ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
    let mut created = ruleset.create()?;
    for path in writable {
        let open = PathFd::new(path).map_err(|source| ConfineError::Path { path: path.into(), source })?;
        created = created.add_rule(PathBeneath::new(open, owned()))?;
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
