//! Ringpost (crate docs to come).
#![deny(unsafe_code)]
pub mod cli;
pub mod client;
pub mod config;
pub mod proto;
pub mod submit;
