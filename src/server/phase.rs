//! The phases of a server's life, which its shards follow.

use std::time::Instant;

/// The phase that a server is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The server accepts and serves connections.
    Accepting,
    /// The server accepts no new connections. Connections that remain at `deadline` are cut.
    Draining {
        deadline: Instant,
        /// Whether connections that the listeners have queued are left to another process, which accepts from the same
        /// sockets.
        leaves_queue: bool,
    },
}
