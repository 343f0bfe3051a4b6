//! TLS of a server: its connections, its files, and their reload while it runs.

#[path = "../common/mod.rs"]
mod common;

mod certificates;
mod connections;
mod files;
mod interop;
mod manual_client;
mod reload;
