//! The engine below a shard: a runtime for its thread, its event loop, sockets and files. There are two engines, and
//! the users of this module do not know which one they have: [`crate::ring`], the one that Ringpost is made for, and
//! [`crate::epoll`] for hosts where io_uring is switched off. [`Choice`] picks one per process. Tests have a third one,
//! which simulates all of this in memory (`crate::sim`).
//!
//! Owns the operations that a shard needs. It must not know connections, requests or sinks.
//!
//! Invariants of both engines: a socket has at most one receive and one send in progress; memory is lent to an op and
//! returned with its result; and **an op is never dropped while it may be in flight**, because a ring's kernel would
//! continue with it ([`crate::ring`] says what is lost). A caller that has waited long enough cancels the op, and
//! still awaits it.

mod choice;
mod descriptor;
mod event_loop;
mod file;
mod listener;
mod options;
mod raw_socket;
mod runtime;
mod socket;
mod tcp;

pub use choice::{Choice, Chosen, Engine, Reason};
pub use event_loop::EventLoop;
pub use file::File;
pub use listener::{Acceptor, Listener};
pub use options::{Options, RING_ENTRIES};
pub use raw_socket::{HeldDescriptor, RawSocket};
pub use runtime::{EngineError, Runtime};
pub use socket::{Socket, SocketHandle};
pub use tokio::task::spawn_local as spawn;
