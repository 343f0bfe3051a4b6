//! Ringpost (crate docs to come).
#![deny(unsafe_code)]
pub mod cli;
pub mod config;
pub mod metrics;
pub mod proto;
pub mod ring;
pub mod serve;
pub mod server;
pub mod sink;
