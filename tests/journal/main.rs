//! The journal of a healthy disk: the data directory, the order of messages, retention, backups, and the commands that
//! read a journal, with or without a server beside them. Tests that break the disk or kill the server are in
//! `tests/durability`.

#[path = "../common/mod.rs"]
mod common;

mod backup;
mod commands;
mod data_directory;
mod data_directory_refused;
mod follow_server;
mod follow_writer;
mod order;
mod retention;
mod unreadable_blocks;
