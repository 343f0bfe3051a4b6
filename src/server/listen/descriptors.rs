//! Descriptors: how many the server needs itself, and how many are left for connections.
//!
//! Connections never get the descriptors that the server needs. So whatever clients do, a shard can open its next
//! segment, the admin address answers, and another server can take over.

use rustix::process::{Resource, getrlimit};

use crate::admin;
use crate::config::{ServerConfig, SinkKind};

/// The limit of open files, and the part of it that the server needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// RLIMIT_NOFILE; `None` without one.
    pub limit: Option<u64>,
    /// Descriptors that are open, and those that the server may still open for itself.
    pub reserved: u64,
}

impl Room {
    /// Returns the room of a server with this configuration that has opened everything it needs before it accepts from
    /// this number of `listeners`.
    pub fn beside_what_is_open(config: &ServerConfig, listeners: usize) -> Room {
        let limit = getrlimit(Resource::Nofile).current;
        Room { limit, reserved: open_below(limit.unwrap_or(u64::MAX)) + to_come(config, listeners) }
    }

    /// The number of connections that there is room for; at least one.
    pub fn connections(&self) -> usize {
        let room = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.reserved));
        usize::try_from(room).unwrap_or(usize::MAX).max(1)
    }
}

/// The number of open descriptors below the limit.
pub fn open_below(limit: u64) -> u64 {
    let Ok(files) = std::fs::read_dir("/proc/self/fd") else { return OPEN_WITHOUT_PROC };
    let numbers = files.flatten().filter_map(|file| file.file_name().to_str()?.parse::<u64>().ok());
    // One of them belongs to the listing itself.
    numbers.filter(|number| *number < limit).count().saturating_sub(1) as u64
}

/// The most descriptors that a server opens after it begins to accept, without connections.
pub fn to_come(config: &ServerConfig, listeners: usize) -> u64 {
    let of_shard = PER_SHARD + if config.sink == SinkKind::Journal { PER_WRITER } else { 0 };
    let admin = if config.admin.is_some() { PER_ADMIN + admin::CONNECTIONS_MAX as u64 } else { 0 };
    // The connection that asks for the sockets, and a copy of each socket.
    let control = if config.control_path().is_some() { PER_CONTROL + listeners as u64 } else { 0 };
    PER_PROCESS + config.workers.get() as u64 * of_shard + admin + control
}

/// The reserve, files of /proc and /sys that are read from time to time, and retention's listings and locks.
const PER_PROCESS: u64 = 16;
/// A connection that was accepted beyond the limit, and one whose permit is returned before its descriptor is closed.
const PER_SHARD: u64 = 2;
/// The next segment, one that commits in flight still write to, and one that is being made. Finding a segment to
/// recycle needs a listing, a lock, a position and a directory.
const PER_WRITER: u64 = 8;
/// The thread's runtime, and the files that a scrape reads.
const PER_ADMIN: u64 = 8;
/// The connection of a server that takes over, and copies of the admin and control sockets.
const PER_CONTROL: u64 = 4;
/// The number assumed to be open if /proc can't be read.
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
        assert!(admin > discard + admin::CONNECTIONS_MAX as u64);
    }
}
