//! Tests that need the machine for themselves, because they measure time, CPU or memory, or need nearly all
//! descriptors that a process may open.
//!
//! Cargo runs one test binary at a time. Within this one, each test begins with [`common::alone`], so that the tests
//! run one after the other.

#[path = "../common/mod.rs"]
mod common;

mod bench_knee;
mod bench_many_connections;
mod bench_peer_stall;
mod bench_rate;
mod bench_server_stopped;
mod connect_and_reset_bursts;
mod connect_burst_latency;
mod five_hundred_non_readers;
mod garbage;
mod nine_thousand_connections;
mod out_of_descriptors;
mod slow_senders;
mod stalled_disk;
mod stopped_process;
mod timeouts;
