//! Connections: the addresses that the server listens on, how connections are spread over the shards, how many there
//! may be, how much memory they may use, and how they end if the client vanishes or resets.

#[path = "../common/mod.rs"]
mod common;

mod address_in_use;
mod balance;
mod client_that_never_reads;
mod listen;
mod max_connections;
mod max_memory;
mod peer_reset;
mod socket_activation;
mod thousand_connections;
mod vanished_peer;
