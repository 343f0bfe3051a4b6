//! The io_uring engine: the only code that names `tokio_uring`, and, except for the load generator's own ring
//! (`load/uring.rs`), the only code that builds SQEs.
//!
//! Owns the runtime of a shard's thread, its event loop and the ops on its ring. It must not know epoll's engine. The
//! sockets and files that use it are [`crate::engine`]'s.
//!
//! Invariant: **an op that may be in flight is never dropped**. Dropping an op's future cancels nothing: the kernel
//! continues, and a dropped receive eats bytes. So a caller pins the future, selects on `&mut` of it, and when it has
//! waited long enough it cancels the op ([`RingSocket::cancel`]) and still awaits the future.
//!
//! A caller's mistake may cost data, but never memory safety: the ring keeps the memory of a dropped op until the
//! kernel has finished with it, and a [`Runtime`] whose ops are still in flight is leaked instead of dropped.

mod error;
mod event_loop;
mod flush;
mod ops;
mod probe;
mod runtime;
pub mod setup;
mod socket;
mod submit;

pub use error::RingError;
pub use event_loop::EventLoop;
pub use ops::{round_trip, write_durably};
pub use probe::{make_at_once, probe, unknown_ops};
pub use runtime::Runtime;
pub use socket::RingSocket;
#[cfg(feature = "test-hooks")]
pub(crate) use submit::submit;
