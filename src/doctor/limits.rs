//! Checks the process's limits: descriptors, locked memory, memory and the length of files.
//!
//! Owns the findings about limits, and the number of descriptors that a server needs. The sizes come from `ring` and
//! `serve`.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::finding::Finding;
use super::kernel;
use super::text::size;
use crate::host::{CAP_IPC_LOCK, Host, cgroup};
use crate::ring::{self, RingError};
use crate::serve;
use crate::serve::Options;
use crate::serve::memory::{self as plan, Plan};
use crate::server::listen::descriptors::{open_below, to_come};

/// Returns the findings about limits. Locked memory matters only with rings.
pub fn findings(host: &Host, config: &Options, has_rings: bool) -> Vec<Finding> {
    let mut findings = vec![open_files(getrlimit(Resource::Nofile).current, config, has_rings)];
    findings.extend(has_rings.then(|| locked_memory(host, config)));
    findings.push(memory(host, config));
    findings.push(file_sizes(config));
    findings
}

fn file_sizes(config: &Options) -> Finding {
    const CHECK: &str = "file sizes";
    match serve::limits::file_len_too_small(&config.server) {
        Some((segment_len, limit)) => Finding::problem(
            CHECK,
            format!("At most {limit} bytes per file (RLIMIT_FSIZE)"),
            format!("A segment of the journal has {segment_len} bytes and can't be created"),
            vec!["ulimit -f unlimited  # or LimitFSIZE=infinity in the unit".to_owned()],
        ),
        None => Finding::ok(CHECK, "No limit below a segment", "Segments can be created"),
    }
}

fn open_files(limit: Option<u64>, config: &Options, has_rings: bool) -> Finding {
    const CHECK: &str = "open files";
    let Some(limit) = limit else {
        return Finding::ok(CHECK, "No limit", "There is room for every connection");
    };
    let found = format!("At most {limit}");
    let journal = if config.server.journal().is_some() { DESCRIPTORS_OF_WRITER } else { 0 };
    let of_shard = DESCRIPTORS_OF_SHARD
        + u64::from(has_rings)
        + journal
        + DESCRIPTORS_OF_LISTENER * config.server.listen.addresses.len() as u64;
    let admin = if config.admin.is_some() { DESCRIPTORS_OF_ADMIN } else { 0 };
    let control = u64::from(config.control_path().is_some());
    // The server would also inherit what is open now: the standard streams, and any descriptor that its parent left
    // open.
    let at_start =
        open_below(limit) + DESCRIPTORS_OF_PROCESS + admin + control + config.server.shards.get() as u64 * of_shard;
    if limit < at_start {
        let means = format!("{} shards need {at_start} descriptors before the first connection", config.server.shards);
        return Finding::problem(CHECK, found, means, raise_nofile(DESCRIPTORS_WANTED));
    }
    let reserved = at_start
        + to_come(&config.server_in_process(), config.server.shards.get() * config.server.listen.addresses.len());
    let room = limit.saturating_sub(reserved).max(1);
    match config.server.connections_max {
        Some(asked) if asked as u64 > room => Finding::advice(
            CHECK,
            found,
            format!(
                "There is room for {room} connections, less than --max-connections {asked}; more are closed immediately"
            ),
            raise_nofile(asked as u64 + reserved),
        ),
        None if room < CONNECTIONS_EXPECTED => Finding::advice(
            CHECK,
            found,
            format!("There is room for {room} connections; more are closed immediately"),
            raise_nofile(DESCRIPTORS_WANTED),
        ),
        _ => Finding::ok(CHECK, found, format!("There is room for {room} connections")),
    }
}

fn raise_nofile(to: u64) -> Vec<String> {
    vec![
        format!("prlimit --pid $$ --nofile={to}:{to}  # as root, in the shell that starts the server"),
        format!("LimitNOFILE={to}  # in a systemd unit"),
        format!("docker run --ulimit nofile={to}:{to} ..."),
    ]
}

/// Creates all rings at the same time, because the kernel counts the memory of all rings of a user together.
fn locked_memory(host: &Host, config: &Options) -> Finding {
    const CHECK: &str = "locked memory";
    let (shards, entries) = (config.server.shards.get(), config.server.engine.ring_entries);
    let needed = ring::setup::memory_len(entries) * shards as u64;
    let limit = getrlimit(Resource::Memlock).current;
    let limit = match limit {
        None => "No limit".to_owned(),
        Some(_) if host.has_capability(CAP_IPC_LOCK) => "No limit for this user".to_owned(),
        Some(limit) => format!("At most {}", size(limit)),
    };
    match make_rings(entries, shards) {
        Ok(()) => {
            let means = format!("A ring of {entries} entries for each shard uses {} in total", size(needed));
            Finding::ok(CHECK, limit, means)
        }
        Err(RingError::Memlock { .. }) => Finding::problem(
            CHECK,
            limit,
            format!(
                "Shards can't start: a ring of {entries} entries for each shard needs {} in total, and this user's \
                 other rings count as well",
                size(needed)
            ),
            raise_memlock(needed * 2),
        ),
        Err(error) => Finding::problem(CHECK, error.cause(), "Shards can't start", kernel::fix(&error)),
    }
}

/// Creates the rings. Retries for a short time, because the kernel counts a process's rings for some milliseconds after
/// its end.
fn make_rings(entries: u32, shards: usize) -> Result<(), RingError> {
    let start = Instant::now();
    loop {
        match ring::make_at_once(entries, shards) {
            Err(RingError::Memlock { .. }) if start.elapsed() < TEARDOWN => thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

fn raise_memlock(to: u64) -> Vec<String> {
    vec![
        format!("prlimit --pid $$ --memlock={to}:{to}  # as root, in the shell that starts the server"),
        format!("LimitMEMLOCK={to}  # in a systemd unit"),
        format!("docker run --ulimit memlock={to}:{to} ..."),
        "ringpost serve --ring-entries 256  # smaller rings need less memory".to_owned(),
    ]
}

/// Compares the memory that the server may use with the memory that there is.
fn memory(host: &Host, config: &Options) -> Finding {
    const CHECK: &str = "memory";
    let available = [cgroup::memory_max(host), total_memory(host)].into_iter().flatten().min();
    let Some(available) = available else {
        return Finding::ok(CHECK, "Not known", "/proc/meminfo can't be read");
    };
    let found = format!("{} for this process", size(available));
    // The server does the same when it starts.
    let mut config = config.server.clone();
    plan::fit_defaults(&mut config, host);
    let Some(allowed) = Plan::of(&config).total() else {
        return Finding::ok(CHECK, found, "With --max-memory 0 the server's buffers have no limit");
    };
    if allowed <= available {
        return Finding::ok(CHECK, found, format!("The process, journal and buffers use at most {}", size(allowed)));
    }
    let less = plan::buffers_that_fit(&config, available);
    Finding::advice(
        CHECK,
        found,
        format!(
            "The process, journal and buffers may use {}, so the kernel would kill the server under load",
            size(allowed)
        ),
        vec![format!("ringpost serve --max-memory {}MiB", less >> 20)],
    )
}

fn total_memory(host: &Host) -> Option<u64> {
    let text = host.read("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Descriptors of the process, except those that it inherits. This number and the next three were counted in running
/// servers that accept connections.
const DESCRIPTORS_OF_PROCESS: u64 = 13;

/// Descriptors of a shard, except its ring and its listeners.
const DESCRIPTORS_OF_SHARD: u64 = 4;

/// Descriptors of a shard's journal writer.
const DESCRIPTORS_OF_WRITER: u64 = 7;

/// Descriptors of the admin address.
const DESCRIPTORS_OF_ADMIN: u64 = 10;

/// Descriptors of a listener: its own, and the copy that is handed over to a successor.
const DESCRIPTORS_OF_LISTENER: u64 = 2;

/// An operator who did not set --max-connections expects room for at least this many.
const CONNECTIONS_EXPECTED: u64 = 1000;

/// How long the kernel may take to release the memory of closed rings. It was seen to need a small part of this.
const TEARDOWN: Duration = Duration::from_millis(250);

/// The proposed limit of descriptors if --max-connections does not imply one.
const DESCRIPTORS_WANTED: u64 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use crate::host::tests::host;

    #[test]
    fn the_memory_of_a_ring_is_as_measured() {
        // The smallest RLIMIT_MEMLOCK with which an ordinary user's server starts on Linux 6.18.
        let measured = [(256, 36), (1024, 136), (4096, 532)];
        assert_eq!(measured.map(|(entries, _)| ring::setup::memory_len(entries) / 1024), measured.map(|(_, kib)| kib));
    }

    #[test]
    fn too_little_memory_is_reported() {
        let config = Options::default();
        let meminfo = ("/proc/meminfo", "MemTotal:        262144 kB\nMemFree: 1 kB\n");
        let (_root, small) = host(&[meminfo]);
        let finding = memory(&small, &config);
        assert_eq!(finding.level, Level::Advice, "{finding:?}");
        assert!(finding.fix[0].starts_with("ringpost serve --max-memory "), "{finding:?}");
        let (_root, container) = host(&[
            ("/proc/meminfo", "MemTotal: 16777216 kB"),
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/memory.max", "134217728\n"),
        ]);
        assert!(memory(&container, &config).found.starts_with("128.0 MiB"));
        let (_root, large) = host(&[("/proc/meminfo", "MemTotal: 16777216 kB")]);
        assert_eq!(memory(&large, &config).level, Level::Ok);
    }
}
