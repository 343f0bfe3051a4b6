//! Descriptors: how many the server needs itself, and how many are left for connections.
//!
//! Connections never get the descriptors that the server needs. So whatever clients do, a shard can open its next
//! segment, the admin address answers, and another server can take over.

use rustix::process::{Resource, getrlimit};

use crate::server::options::Options;

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
    pub fn beside_what_is_open(config: &Options, listeners: usize) -> Room {
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
pub fn to_come(config: &Options, listeners: usize) -> u64 {
    let of_shard = PER_SHARD + if config.journal().is_some() { PER_WRITER } else { 0 };
    let reserved = config.reserved_descriptors.count + config.reserved_descriptors.per_listener * listeners as u64;
    PER_PROCESS + config.shards.get() as u64 * of_shard + reserved
}

/// The spare descriptor, files of /proc and /sys that are read from time to time, and retention's listings and locks.
const PER_PROCESS: u64 = 16;
/// A connection that was accepted beyond the limit, and one whose permit is returned before its descriptor is closed.
const PER_SHARD: u64 = 2;
/// The next segment, one that commits in flight still write to, and one that is being created. Finding a segment to
/// recycle needs a listing, a lock, a position and a directory.
const PER_WRITER: u64 = 8;
/// The number assumed to be open if /proc can't be read.
const OPEN_WITHOUT_PROC: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::options::{ReservedDescriptors, SinkOptions};

    #[test]
    fn there_is_room_for_what_the_limit_leaves_and_for_one_at_least() {
        let room = |limit, reserved| Room { limit, reserved }.connections();
        assert_eq!(room(None, 100), usize::MAX);
        assert_eq!([room(Some(1024), 100), room(Some(101), 100)], [924, 1]);
        assert_eq!([room(Some(100), 100), room(Some(3), 100)], [1, 1]);
    }

    #[test]
    fn each_part_of_a_server_has_its_descriptors() {
        let config = Options::default();
        let journal = to_come(&config, 4);
        let discard = to_come(&config.clone().sink(SinkOptions::Discard), 4);
        assert_eq!(journal, discard + PER_WRITER * config.shards.get() as u64);
        let reserved_descriptors = ReservedDescriptors { count: 5, per_listener: 2 };
        assert_eq!(to_come(&Options { reserved_descriptors, ..config }, 4), journal + 5 + 2 * 4);
    }
}
