//! What the process may have: descriptors, locked memory, memory.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::finding::Finding;
use super::{kernel, size};
use crate::host::{CAP_IPC_LOCK, Host, cgroup};
use crate::ring::{self, RingError};
use crate::serve;
use crate::serve::Options;
use crate::serve::memory::{self as plan, Plan};
use crate::server::listen::descriptors::{open_below, to_come};

/// Descriptors that a server has open once it accepts, as counted on running ones: of the process beside those
/// that it was given, of a worker beside its ring and its listeners, of its journal, and of the admin address.
const DESCRIPTORS_OF_PROCESS: u64 = 13;
const DESCRIPTORS_OF_WORKER: u64 = 4;
const DESCRIPTORS_OF_WRITER: u64 = 7;
const DESCRIPTORS_OF_ADMIN: u64 = 10;
/// Each listener, and the copy of it that is there to be handed over.
const DESCRIPTORS_OF_LISTENER: u64 = 2;
/// Fewer connections than that surprise whoever runs a server.
const CONNECTIONS_EXPECTED: u64 = 1000;
/// Many times what the kernel was seen to take.
const TEARDOWN: Duration = Duration::from_millis(250);
/// What is asked for where more is needed, and nobody has said how much.
const DESCRIPTORS_WANTED: u64 = 65_536;

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
    let of_worker = DESCRIPTORS_OF_WORKER
        + u64::from(has_rings)
        + journal
        + DESCRIPTORS_OF_LISTENER * config.server.listen.addresses.len() as u64;
    let admin = if config.admin.is_some() { DESCRIPTORS_OF_ADMIN } else { 0 };
    let control = u64::from(config.control_path().is_some());
    // The server would also inherit what is open now: the standard streams, and any descriptor that its parent left
    // open.
    let at_start =
        open_below(limit) + DESCRIPTORS_OF_PROCESS + admin + control + config.server.shards.get() as u64 * of_worker;
    if limit < at_start {
        let means = format!("{} workers need {at_start} before the first connection comes", config.server.shards);
        return Finding::problem(CHECK, found, means, raise_nofile(DESCRIPTORS_WANTED));
    }
    let reserved = at_start
        + to_come(&config.server_in_process(), config.server.shards.get() * config.server.listen.addresses.len());
    let room = limit.saturating_sub(reserved).max(1);
    match config.server.connections_max {
        Some(asked) if asked as u64 > room => Finding::advice(
            CHECK,
            found,
            format!("--max-connections {asked} is more than the {room} that find room; others are closed at once"),
            raise_nofile(asked as u64 + reserved),
        ),
        None if room < CONNECTIONS_EXPECTED => Finding::advice(
            CHECK,
            found,
            format!("There is room for {room} connections; others are closed at once"),
            raise_nofile(DESCRIPTORS_WANTED),
        ),
        _ => Finding::ok(CHECK, found, format!("There is room for {room} connections")),
    }
}

fn raise_nofile(to: u64) -> Vec<String> {
    vec![
        format!("prlimit --pid $$ --nofile={to}:{to}  # as root, in the shell that starts the server"),
        format!("LimitNOFILE={to}  # in a unit of systemd"),
        format!("docker run --ulimit nofile={to}:{to} ..."),
    ]
}

/// Makes every ring, for the kernel counts what all rings of a user take.
fn locked_memory(host: &Host, config: &Options) -> Finding {
    const CHECK: &str = "locked memory";
    let (workers, entries) = (config.server.shards.get(), config.server.engine.ring_entries);
    let taken = ring::setup::memory_len(entries) * workers as u64;
    let limit = getrlimit(Resource::Memlock).current;
    let limit = match limit {
        None => "No limit".to_owned(),
        Some(_) if host.has_capability(CAP_IPC_LOCK) => "No limit for this user".to_owned(),
        Some(limit) => format!("At most {}", size(limit)),
    };
    match make_rings(entries, workers) {
        Ok(()) => {
            let means = format!("{workers} rings of {entries} entries were made, and take {}", size(taken));
            Finding::ok(CHECK, limit, means)
        }
        Err(RingError::Memlock { .. }) => Finding::problem(
            CHECK,
            limit,
            format!(
                "{workers} rings of {entries} entries take {}, and all other rings of this user count too",
                size(taken)
            ),
            raise_memlock(taken * 2),
        ),
        Err(error) => Finding::problem(CHECK, error.cause(), "Workers can't start", kernel::mend(&error)),
    }
}

/// Asks again for a short while: the kernel counts the rings of a process for some milliseconds after its end.
fn make_rings(entries: u32, workers: usize) -> Result<(), RingError> {
    let start = Instant::now();
    loop {
        match ring::make_at_once(entries, workers) {
            Err(RingError::Memlock { .. }) if start.elapsed() < TEARDOWN => thread::sleep(Duration::from_millis(5)),
            done => return done,
        }
    }
}

fn raise_memlock(to: u64) -> Vec<String> {
    vec![
        format!("prlimit --pid $$ --memlock={to}:{to}  # as root, in the shell that starts the server"),
        format!("LimitMEMLOCK={to}  # in a unit of systemd"),
        format!("docker run --ulimit memlock={to}:{to} ..."),
        "ringpost serve --ring-entries 256  # rings of a quarter of the size".to_owned(),
    ]
}

/// What the server may take for itself, against what there is for it.
fn memory(host: &Host, config: &Options) -> Finding {
    const CHECK: &str = "memory";
    let there = [cgroup::memory_max(host), total_memory(host)].into_iter().flatten().min();
    let Some(there) = there else {
        return Finding::ok(CHECK, "Not known", "/proc/meminfo can't be read");
    };
    let found = format!("{} for this process", size(there));
    // The server does the same when it starts.
    let mut config = config.server.clone();
    plan::fit_defaults(&mut config, host);
    let Some(allowed) = Plan::of(&config).total() else {
        return Finding::ok(CHECK, found, "With --max-memory 0 nothing keeps the server's buffers below that");
    };
    if allowed <= there {
        return Finding::ok(CHECK, found, format!("The process, journal and buffers use at most {}", size(allowed)));
    }
    let less = plan::buffers_that_fit(&config, there);
    Finding::advice(
        CHECK,
        found,
        format!(
            "The process, journal and buffers may use {}: the kernel would kill the server under load",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use crate::host::tests::host;

    #[test]
    fn a_ring_takes_what_was_measured() {
        // By the least RLIMIT_MEMLOCK with which an ordinary user's server starts on Linux 6.18.
        let measured = [(256, 36), (1024, 136), (4096, 532)];
        assert_eq!(measured.map(|(entries, _)| ring::setup::memory_len(entries) / 1024), measured.map(|(_, kib)| kib));
    }

    #[test]
    fn memory_that_is_not_there_is_told() {
        let config = Options::default();
        let meminfo = ("/proc/meminfo", "MemTotal:        262144 kB\nMemFree: 1 kB\n");
        let (_root, small) = host(&[meminfo]);
        let finding = memory(&small, &config);
        assert_eq!(finding.level, Level::Advice, "{finding:?}");
        assert!(finding.mend[0].starts_with("ringpost serve --max-memory "), "{finding:?}");
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
