//! Descriptors: what the server needs for itself, and how many connections that leaves.
//!
//! Whatever clients do, a shard can open its next segment, the admin address answers, and another server can
//! take over: connections never get the descriptors that are needed for that.

use rustix::process::{Resource, getrlimit};

use crate::config::{ADMIN_CONNECTIONS_MAX, ServerConfig, SinkKind};

/// What the limit of open files leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// RLIMIT_NOFILE; `None` without one.
    pub limit: Option<u64>,
    /// What is open, and what the server may yet open for itself.
    pub reserved: u64,
}

impl Room {
    /// For a server of this configuration that has opened all that it needs to accept from so many `listeners`.
    pub fn beside_what_is_open(config: &ServerConfig, listeners: usize) -> Room {
        let limit = getrlimit(Resource::Nofile).current;
        Room { limit, reserved: open_below(limit.unwrap_or(u64::MAX)) + to_come(config, listeners) }
    }

    /// Connections that find room; at least one.
    pub fn connections(&self) -> usize {
        let room = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.reserved));
        usize::try_from(room).unwrap_or(usize::MAX).max(1)
    }
}

/// How many of the numbers below the limit are taken.
pub fn open_below(limit: u64) -> u64 {
    let Ok(files) = std::fs::read_dir("/proc/self/fd") else { return OPEN_WITHOUT_PROC };
    let numbers = files.flatten().filter_map(|file| file.file_name().to_str()?.parse::<u64>().ok());
    // One of them is that of the listing itself.
    numbers.filter(|number| *number < limit).count().saturating_sub(1) as u64
}

/// The most descriptors that a server opens beside those that it has when it begins to accept, connections not
/// counted.
pub fn to_come(config: &ServerConfig, listeners: usize) -> u64 {
    let of_shard = PER_SHARD + if config.sink == SinkKind::Journal { PER_WRITER } else { 0 };
    let admin = if config.admin.is_some() { PER_ADMIN + ADMIN_CONNECTIONS_MAX as u64 } else { 0 };
    // What asks for the sockets, and a copy of each.
    let control = if config.control_path().is_some() { PER_CONTROL + listeners as u64 } else { 0 };
    PER_PROCESS + config.workers.get() as u64 * of_shard + admin + control
}

/// The reserve, files of /proc and /sys that are read now and then, retention's listings and locks.
const PER_PROCESS: u64 = 16;
/// A connection that was accepted and has no place, and one whose permit is given back before its descriptor.
const PER_SHARD: u64 = 2;
/// The next segment, one that commits in flight still write to, one that is being made; and to find a segment to
/// recycle, a listing, a lock, a position and a directory.
const PER_WRITER: u64 = 8;
/// The thread's runtime, and what a scrape reads.
const PER_ADMIN: u64 = 8;
/// The connection of a server that takes over, and the admin and control sockets' copies.
const PER_CONTROL: u64 = 4;
/// Assumed to be open where /proc can't be read.
const OPEN_WITHOUT_PROC: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_what_the_limit_leaves_and_for_one_at_least() {
        let room = |limit, reserved| Room { limit, reserved }.connections();
        assert_eq!(room(None, 100), usize::MAX);
        assert_eq!([room(Some(1024), 100), room(Some(101), 100)], [924, 1]);
        assert_eq!([room(Some(100), 100), room(Some(3), 100)], [1, 1]);
    }

    #[test]
    fn each_part_of_a_server_has_its_descriptors() {
        let config = ServerConfig { admin: None, sink: SinkKind::Discard, ..ServerConfig::default() };
        let discard = to_come(&config, 4);
        let journal = to_come(&ServerConfig { sink: SinkKind::Journal, ..config.clone() }, 4);
        let admin = to_come(&ServerConfig { admin: Some(([127, 0, 0, 1], 0).into()), ..config.clone() }, 4);
        assert!(journal >= discard + PER_WRITER * config.workers.get() as u64);
        assert!(admin > discard + ADMIN_CONNECTIONS_MAX as u64);
    }
}
