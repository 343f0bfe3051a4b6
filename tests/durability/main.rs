//! Durability: no acked message is lost if the server is killed, the power is cut, the disk is full or a write fails.
//! `tests/soak/` checks the same for servers with random options under random loads.

#[path = "../common/mod.rs"]
mod common;

mod failing_disk;
mod full_disk;
mod kill;
mod power_cut;
