//! Types of what one server passes to the next: sockets with their roles, and the journal's directory.
//!
//! Owns no conversation. Invariant: a passed socket is an open descriptor of this process.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The purpose of a passed socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A listener for clients.
    Listen,
    /// A listener for clients that a supervisor has too. The supervisor's user is another one, so no socket can be
    /// added to its SO_REUSEPORT group.
    Activated,
    /// The listener of the admin address.
    Admin,
    /// The control socket, for the next takeover.
    Control,
}

/// A socket and its role.
pub type PassedSocket = (Role, OwnedFd);

/// A directory, by whichever path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirId {
    device: u64,
    inode: u64,
}

impl DirId {
    /// Returns the directory at `path`.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn of(path: &Path) -> io::Result<DirId> {
        let metadata = fs::metadata(path)?;
        Ok(DirId { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// Returns whether this process may pass sockets to a user's process, or accept sockets from it.
pub(super) fn is_trusted(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}
