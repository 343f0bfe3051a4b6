//! Limits of this process that the kernel enforces.
//!
//! Owns the calls that read and raise them. It must not know why more is needed.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit of open files, before and after it was raised. `None` means no limit.
#[derive(Debug)]
pub struct OpenFiles {
    /// The limit that counted before.
    pub before: Option<u64>,
    /// The limit that counts now.
    pub now: Option<u64>,
    /// The highest limit that this process may set.
    pub max: Option<u64>,
    /// The kernel's error if it refused to raise the limit.
    pub refused: Option<io::Error>,
}

/// Raises the soft limit of open files (RLIMIT_NOFILE) to the hard one.
pub fn raise_open_files() -> OpenFiles {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let refused = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).err();
    let now = getrlimit(Resource::Nofile).current;
    OpenFiles { before: current, now, max: maximum, refused: refused.map(io::Error::from) }
}
