//! The memory that a server plans to use, if a control group limits it.
//!
//! The kernel kills a process whose control group is full. So defaults are chosen to fit the group's limit, and a start
//! warns if options that the user has set do not fit. This module reads the limit from a [`Host`] and changes the
//! configuration. Nothing is measured later.

use tracing::{info, warn};

use crate::host::{Host, cgroup};
use crate::journal::options::BYTES_MAX;
use crate::server::options::MEMORY_MAX;
use crate::server::{JOURNAL_MEMORY_MIN, JournalOptions, Options};

/// The number of parts of the memory that is left for connections. By default their buffers get one part and their
/// sockets another. The rest is kept free for the bytes that the kernel receives and sends for them.
const PART: u64 = 3;
/// The journals of all shards get this part of the limit by default.
const JOURNAL_PART: u64 = 8;

/// The memory that the options allow the server to use, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The process and its shards, the journal included.
    pub fixed: u64,
    /// The buffers of all connections; `None` without a limit.
    pub buffers: Option<u64>,
}

impl Plan {
    /// Returns the memory that `config` allows.
    pub fn of(config: &Options) -> Plan {
        let shards = config.shards.get() as u64;
        let journal = config.journal().map_or(0, |journal| {
            journal.bytes_max() as u64 + 2 * journal.writer_options(config.frame_len_max).commit_len_max as u64
        });
        let of_shard = SHARD_MEMORY + config.read_buffer_max as u64 + journal;
        Plan { fixed: SERVER_MEMORY + shards * of_shard, buffers: config.memory_limit().map(|bytes| bytes as u64) }
    }

    /// The sum; `None` without a limit.
    pub fn total(&self) -> Option<u64> {
        Some(self.fixed.saturating_add(self.buffers?))
    }
}

/// Fits the defaults of `config` to the memory limit of this process's control group, and logs what does not fit.
pub fn fit(config: &mut Options, host: &Host) {
    let Some(limit) = cgroup::memory_max(host) else { return };
    if fit_to(config, limit) {
        info!(
            limit,
            max_memory = config.memory_limit().unwrap_or(0),
            journal_memory = config.journal().map_or(0, JournalOptions::bytes_max),
            max_connections = config.connections_max,
            "chose memory defaults that fit the limit of the control group"
        );
    }
    let plan = Plan::of(config);
    let sockets = config.connections_max.unwrap_or(0) as u64 * CONNECTION_MEMORY;
    match plan.total() {
        None => warn!(limit, "--max-memory 0: the server may exceed the memory limit of its control group"),
        Some(total) if total.saturating_add(sockets) > limit => warn!(
            limit,
            server_and_journal = plan.fixed,
            buffers = plan.buffers,
            connections = sockets,
            "the options allow more memory than the limit of the control group: the kernel may kill the server under \
             load; lower --max-memory, --journal-memory, --max-connections or --workers, or raise the limit"
        ),
        Some(_) => {}
    }
}

/// Fits the defaults of `config` as a start does, but logs nothing.
pub fn fit_defaults(config: &mut Options, host: &Host) {
    if let Some(limit) = cgroup::memory_max(host) {
        fit_to(config, limit);
    }
}

/// Returns the `--max-memory` that `limit` allows besides the rest of `config`, or the lowest that is permitted.
pub fn buffers_that_fit(config: &Options, limit: u64) -> u64 {
    let left = limit.saturating_sub(Plan::of(config).fixed);
    (left / PART).max(config.memory_min() as u64)
}

/// Fits the options that are not set to `limit`. Returns whether any is lower than it would be without a limit.
fn fit_to(config: &mut Options, limit: u64) -> bool {
    let shards = config.shards.get() as u64;
    let mut changed = false;
    if let Some(journal) = config.journal_mut().filter(|journal| journal.journal_memory.is_none()) {
        let fits = (limit / JOURNAL_PART / shards).clamp(JOURNAL_MEMORY_MIN as u64, BYTES_MAX as u64);
        changed |= fits < BYTES_MAX as u64;
        journal.journal_memory = Some(fits as usize);
    }
    let left = limit.saturating_sub(Plan::of(config).fixed);
    if config.memory_max.is_none() {
        let fits = buffers_that_fit(config, limit).min((MEMORY_MAX as u64).max(config.memory_min() as u64));
        changed |= fits < MEMORY_MAX as u64;
        config.memory_max = Some(fits as usize);
    }
    if config.connections_max.is_none() {
        let fits = (left / PART / CONNECTION_MEMORY).max(1);
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        if fits < files {
            changed = true;
            config.connections_max = Some(fits as usize);
        }
    }
    changed
}

/// Bytes that the process needs besides what its limits allow: code, stacks, the heap's own data.
pub const SERVER_MEMORY: u64 = 24 << 20;
/// Bytes that a shard needs besides its read buffer and its journal: ring, stack, tables.
pub const SHARD_MEMORY: u64 = 2 << 20;
/// Bytes that a connection needs besides what `--max-memory` counts: its task, and the kernel's socket. For an idle
/// connection they were measured at 3 KiB and about 6 KiB. The bytes that the kernel has received for it are not
/// included. Only net.ipv4.tcp_rmem bounds them.
pub const CONNECTION_MEMORY: u64 = 12 << 10;

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn config(shards: usize) -> Options {
        Options::default().shards(NonZeroUsize::new(shards).unwrap())
    }

    fn journal_memory(config: &Options) -> usize {
        config.journal().unwrap().bytes_max()
    }

    #[test]
    fn defaults_fit_every_limit_that_has_room_for_the_process_and_the_smallest_buffers() {
        for shards in [1, 2, 8, 64] {
            for limit in (7..40).map(|power| 1u64 << power).filter(|limit| *limit >= 1 << 20) {
                let mut config = config(shards);
                fit_to(&mut config, limit);
                config.validate().unwrap();
                let plan = Plan::of(&config);
                let total = plan.total().unwrap() + config.connections_max.unwrap_or(0) as u64 * CONNECTION_MEMORY;
                let least = plan.fixed + PART * (config.memory_min() as u64 + CONNECTION_MEMORY);
                assert!(total <= limit || limit < least, "{shards} shards in {limit}: {plan:?}");
            }
        }
    }

    #[test]
    fn a_large_limit_changes_nothing() {
        let mut config = config(2);
        fit_to(&mut config, 1 << 40);
        assert_eq!((config.memory_limit(), journal_memory(&config)), (Some(MEMORY_MAX), BYTES_MAX));
        assert_eq!(config.connections_max, None);
    }

    #[test]
    fn explicit_options_are_not_changed() {
        let mut config = config(1).memory_max(0).connections_max(0);
        config.journal_mut().unwrap().journal_memory = Some(1 << 30);
        assert!(!fit_to(&mut config, 64 << 20));
        assert_eq!((config.memory_limit(), journal_memory(&config), config.connections_max), (None, 1 << 30, Some(0)));
        assert_eq!(Plan::of(&config).total(), None);
    }

    /// The limit is that of the container in docs/deploying.md, half of the memory of a small virtual machine.
    #[test]
    fn two_hundred_mebibytes_leave_room_for_buffers_and_connections() {
        let mut config = config(2);
        assert!(fit_to(&mut config, 200 << 20));
        let buffers = config.memory_limit().unwrap();
        assert!((30 << 20..80 << 20).contains(&buffers), "{buffers}");
        assert!((1000..20_000).contains(&config.connections_max.unwrap()), "{:?}", config.connections_max);
    }
}
