//! The client library and `ringpost submit`, most of them against a scripted peer ([`common::peer`]).

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod connect;
mod finish;
mod library;
mod many_tasks;
mod peer_dies;
mod protocol_errors;
mod read_deadline;
mod submit_failures;
mod submit_summary;
mod submit_to_server;
mod tls;
mod write_deadline;
