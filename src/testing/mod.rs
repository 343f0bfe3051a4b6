//! Hooks for tests that need a fault inside a server: a sink that panics, a write that fails, a process that dies
//! during a takeover, attempts to reach files that confinement forbids.
//!
//! Owns: every reaction to a `RINGPOST_TEST_*` variable, except the journal's clock (`clock/test_clock.rs`). It must
//! not be needed by anything else. Invariant: this module exists only with the cargo feature `test-hooks`, which
//! `cargo test` enables and a normal build does not, and each hook does nothing until its variable asks for it.

pub mod faults;
pub mod reach;
mod ring_ops;
pub mod takeover;
pub mod tls_files;
