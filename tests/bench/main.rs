//! Tests of `ringpost bench` and its ledger, mostly against a scripted peer ([`common::peer_load`]). Tests that need a
//! quiet machine, such as those of rates and stalls, are in `tests/timing`.

#[path = "../common/mod.rs"]
mod common;

mod churn_and_idle;
mod io_uring_refused;
mod ledger;
mod local_ports;
mod payload_size_mix;
mod report;
mod server_dies;
mod tls;
mod usage_errors;
mod wrong_acks;
