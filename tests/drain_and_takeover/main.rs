//! How a server ends or is replaced: signals, the drain, and the takeover by a new process.

#[path = "../common/mod.rs"]
mod common;

mod drain;
mod drain_with_journal;
mod signals;
mod takeover;
mod takeover_refused;
