//! Ringpost (crate docs to come).
#![deny(unsafe_code)]
pub mod cli;
pub mod config;
pub mod load;
pub mod proto;
