//! Takeover: the successor of a running server asks it for its listening sockets, opens everything else that it needs,
//! and reports that it is ready. Only then does the old server drain and end. The sockets are never closed, so no
//! handshake and no queued connection is lost. (If one socket of an SO_REUSEPORT group were closed, the kernel would
//! reset what that socket has queued, while `net.ipv4.tcp_migrate_req` is 0, its default.)
//!
//! Owns the conversation over a Unix socket, `--control`, and moves descriptors with their roles. It must not know
//! shards, sinks, engines or configurations. [`ControlSocket`] is the old server's side and [`Predecessor`] the new
//! server's. [`activation`] is how a supervisor hands over sockets instead. Invariant: until `draining` was sent, the
//! old server serves.
//!
//! # The protocol
//!
//! Version 1. Each message has a head of 8 bytes (`RPTK`, the version and the body's length, both u16, big-endian) and
//! a body in JSON ([`channel::Message`]). Each socket is sent with a message of its own, as SCM_RIGHTS of the first
//! byte.
//!
//! | new server    | old server                 | from then on                                               |
//! |---------------|----------------------------|------------------------------------------------------------|
//! | `take_over`   | `offer`, `socket` for each | the new server may open writers in the old one's journal   |
//! | `ready`       | `go`                       | both servers accept                                        |
//! | `accepting`   | `draining`                 | the old server no longer accepts, drains, and ends         |
//!
//! Instead of an answer there may be `refused`, with the reason. Each side waits `--takeover-timeout` for each message;
//! the new server waits twice as long, so that the old server's decision is the one that counts. If the new server
//! closes the connection, is late or sends anything else before `draining` was sent, the old server continues as if it
//! had not been asked. It accepts one takeover at a time.
//!
//! Only the server's own user and root may ask: the mode of the socket's file ensures that, and each side also checks
//! the other side's user.

pub mod activation;
mod channel;
mod control_socket;
mod options;
mod passed;
mod predecessor;

pub use channel::Channel;
pub use control_socket::{ControlSocket, Offer};
pub use options::{CONTROL_SOCKET, Options};
pub use passed::{DirId, PassedSocket, Role};
pub use predecessor::Predecessor;
