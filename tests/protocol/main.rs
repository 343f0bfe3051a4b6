//! The wire protocol: what a client may send, however it is cut, and what the server answers or how it refuses.
//! A test belongs here if it could be run against any server of this protocol.

#[path = "../common/mod.rs"]
mod common;

mod half_close;
mod large_reads;
mod payload_sizes;
mod pipelining;
mod protocol_violations;
mod random_conversations;
mod vectors;
mod vectors_with_journal;
