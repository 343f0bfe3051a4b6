//! Takeover: a server's successor asks it for its listening sockets, opens what it needs beside it, says
//! that it is ready, and only then the old one drains and ends. The sockets are never closed, so no
//! handshake and no queued connection is lost; a group of SO_REUSEPORT sockets resets what one of them has
//! queued when that one is closed (while `net.ipv4.tcp_migrate_req` is 0, its default).
//!
//! They talk over a Unix socket, `--control`. This module moves descriptors with their roles; it knows
//! nothing of shards, sinks or configurations. [`Door`] is the old one's side, [`Old`] the new one's, and
//! [`activation`] is how a supervisor hands over sockets instead.
//!
//! # The protocol
//!
//! Version 1. Each message is a head of 8 bytes (`RPTK`, the version and the body's length, both u16,
//! big-endian) and a body in JSON ([`Message`]). Each socket comes with a message of its own, as
//! SCM_RIGHTS of its first byte.
//!
//! | new one       | old one                    | from then on                                           |
//! |---------------|----------------------------|--------------------------------------------------------|
//! | `take_over`   | `offer`, `socket` for each | the new one may open writers in the old one's journal  |
//! | `ready`       | `go`                       | the new one accepts; so does the old one               |
//! | `accepting`   | `draining`                 | the old one accepts no more, drains, and ends          |
//!
//! Instead of an answer there may be `refused`, with the reason. Each side waits `--takeover-timeout` for
//! each message; the new one twice as long, so that the old one's decision is the one that holds.
//! Until it has sent `draining` the old one accepts, and if the other one hangs up, is late, or says
//! anything else it goes on as if nobody had asked. It accepts the takeovers of one process at a time.
//!
//! Nobody but the server's own user and root may ask: the file's mode says so, and each side looks who
//! the other is.

pub mod activation;
mod channel;
mod door;
mod successor;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use door::{Door, Offer};
pub use successor::Old;

/// What a socket that is handed over is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes connections of clients.
    Listen,
    /// The same, and a supervisor has it too: none may be added to its group, for the supervisor's user is
    /// another one.
    Activated,
    /// Answers HTTP.
    Admin,
    /// Where the next takeover is asked for.
    Control,
}

/// A socket and its role.
pub type Given = (Role, OwnedFd);

/// A directory, whatever the path that leads there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirId {
    device: u64,
    inode: u64,
}

impl DirId {
    /// # Errors
    /// There is no such directory.
    pub fn of(path: &Path) -> io::Result<DirId> {
        let metadata = fs::metadata(path)?;
        Ok(DirId { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// The control socket's name in the data directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// How long each side waits for the next message of the other, where no other time is set. The new server opens its
/// journal in that time.
pub const TIMEOUT: Duration = Duration::from_secs(30);
