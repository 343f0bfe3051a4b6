//! The simulated engine: a kernel, a network and a disk that exist in the memory of one thread, on the paused clock of
//! tokio.
//!
//! It exists only with the cargo feature `sim`, for tests. It owns what the server would get from Linux: sockets,
//! listeners, descriptors, files and what is left of them after a crash. It must not know connections, requests or
//! laws. Invariant: everything that happens follows from the seeds alone, so the same seeds give the same run.
//!
//! * [`kernel`]: processes, their descriptors, and the moment of a crash
//! * [`trace`]: what happened, and the first violation of a law
//! * [`backlog`]: a listening socket, and what it has queued
//! * [`link`]: a TCP connection between a peer and a server
//! * [`socket`]: a server's descriptor of a connection or a listener, as the engine uses it
//! * [`disk`]: the journal's files, and what survives a power cut
//! * [`mount`]: which disk this thread has
//! * [`random`]: pseudorandom numbers

pub mod backlog;
pub mod disk;
#[cfg(test)]
mod disk_tests;
pub mod kernel;
pub mod link;
pub mod mount;
pub mod random;
pub mod socket;
#[cfg(test)]
pub mod test_disk;
pub mod trace;
