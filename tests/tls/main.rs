//! TLS of a server: its files, and their reload while it runs.

#[path = "../common/mod.rs"]
mod common;

mod certificates;
mod files;
mod reload;
