//! Checks the data directory: whether a journal can be written there, and whether its disk is suitable.
//!
//! Owns the findings about the data directory. `journal` knows directories, locks and file systems. Invariant: a check
//! changes nothing in the directory.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::disk::Scratch;
use super::finding::Finding;
use super::mount::{self, Mount};
use super::text::size;
use crate::host::Host;
use crate::journal::dir::{self, ClaimError};
use crate::journal::file_storage::free_space;
use crate::journal::layout::{self, Access};
use crate::serve::Options;

/// Returns the findings about the data directory, or one finding if there is no journal.
pub fn findings(host: &Host, config: &Options) -> Vec<Finding> {
    let Some(journal) = config.server.journal() else {
        return vec![Finding::ok("journal", "None", "The server does not write messages with --sink discard")];
    };
    let data_dir = &journal.data_dir;
    let place = existing_part(data_dir);
    let mount = mount::of(host, &place);
    let scratch = match Scratch::new(&place) {
        Ok(scratch) => scratch,
        Err(error) => return vec![unusable(data_dir, &place, mount.as_ref(), &error)],
    };
    let usable = if place == *data_dir {
        Finding::ok("directory", data_dir.display().to_string(), "The directory exists and is writable")
    } else {
        let means = format!("The server can create it in {}", place.display());
        Finding::ok("directory", format!("{} does not exist", data_dir.display()), means)
    };
    let mut findings = vec![usable];
    if place == *data_dir {
        findings.push(in_use(data_dir));
        findings.push(access(data_dir, journal.access));
    }
    findings.push(locks(&place));
    findings.extend(mount.map(|mount| file_system(&mount)));
    findings.extend(space(&place, config));
    findings.push(sync_time(&scratch));
    findings
}

/// Returns the directory if it exists, or its closest ancestor that exists.
fn existing_part(data_dir: &Path) -> PathBuf {
    // A dangling link exists, and no directory can be created in its place.
    let there = data_dir.ancestors().find(|path| path.symlink_metadata().is_ok());
    there.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

fn unusable(data_dir: &Path, place: &Path, mount: Option<&Mount>, error: &io::Error) -> Finding {
    let elsewhere = "ringpost serve --data-dir DIR  # another directory".to_owned();
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let fix = match (error.kind(), mount) {
        (io::ErrorKind::PermissionDenied, _) => {
            let owner = format!("{}:{}", user.as_raw(), group.as_raw());
            // Never propose to change the owner of a directory that others use too, such as /var/lib.
            let own = if place == data_dir {
                format!("chown -R {owner} {}  # as root", data_dir.display())
            } else {
                format!("install -d -o {} -g {} {}  # as root", user.as_raw(), group.as_raw(), data_dir.display())
            };
            vec![own, elsewhere]
        }
        (io::ErrorKind::ReadOnlyFilesystem, Some(mount)) => vec![
            format!("mount -o remount,rw {}  # as root", mount.point.display()),
            "docker run -v ringpost:/var/lib/ringpost ...  # a volume, if the container is read-only".to_owned(),
            elsewhere,
        ],
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => vec![full(place), elsewhere],
        _ => vec![elsewhere],
    };
    let found = format!("{}: {error}", place.display());
    let means = format!("The server can't write a journal in {}", data_dir.display());
    Finding::problem("directory", found, means, fix)
}

fn in_use(data_dir: &Path) -> Finding {
    const CHECK: &str = "in use";
    match dir::check(data_dir) {
        Ok(0) => Finding::ok(CHECK, "There is no earlier writer", "The server's shards will be the first writers"),
        Ok(writers) => {
            Finding::ok(CHECK, format!("Earlier writers: {writers}, all closed"), "The server's shards get new writers")
        }
        Err(error @ ClaimError::Live { .. }) => Finding::problem(
            CHECK,
            error.to_string(),
            "Only one server at a time can use a data directory",
            vec![
                format!("fuser -v {}/*/lock  # shows which process has it", data_dir.display()),
                "ringpost serve --data-dir DIR  # another directory".to_owned(),
            ],
        ),
        Err(error) => Finding::problem(
            CHECK,
            error.to_string(),
            "The server would stop with the same error",
            vec![format!(
                "chown -R {}:{} {}  # as root, if another user's server wrote here",
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
                data_dir.display()
            )],
        ),
    }
}

/// Checks whether other users can read the journal although they should not.
fn access(data_dir: &Path, access: Access) -> Finding {
    const CHECK: &str = "readers";
    let allowed = match access {
        Access::Owner => "its user only",
        Access::Group => "its user and group",
    };
    match layout::open_to_others(data_dir, access) {
        Ok(open) if open.is_empty() => {
            Finding::ok(CHECK, "No directory is open to others", format!("The journal is readable for {allowed}"))
        }
        Ok(open) => {
            let mode = access.dir_mode();
            let paths: Vec<_> = open.iter().map(|path| path.display().to_string()).collect();
            Finding::advice(
                CHECK,
                format!("Open to others: {}", paths.join(" ")),
                format!(
                    "The server makes the journal's own directories readable for {allowed}, but never changes the mode \
                     of an existing data directory"
                ),
                vec![format!("chmod {mode:o} {}", paths.join(" "))],
            )
        }
        Err(error) => Finding::advice(CHECK, error.to_string(), "Cannot check who can read the journal", Vec::new()),
    }
}

/// Checks whether locks keep a second server out, with the same calls that a start makes.
fn locks(place: &Path) -> Finding {
    const CHECK: &str = "locks";
    let elsewhere = || vec!["ringpost serve --data-dir DIR  # on a disk of this host".to_owned()];
    match dir::try_locks(place) {
        Ok(true) => Finding::ok(CHECK, "Locks work", "The server always detects another server of this host"),
        Ok(false) => Finding::advice(
            CHECK,
            format!("{}: a second process can acquire a lock that is held", place.display()),
            "The server can detect another server only by watching files for changes, which delays each start by 3 s",
            elsewhere(),
        ),
        Err(error) => Finding::problem(
            CHECK,
            format!("{}: {error}", place.display()),
            "The server can't lock the journal, so it does not start",
            elsewhere(),
        ),
    }
}

fn file_system(mount: &Mount) -> Finding {
    const CHECK: &str = "file system";
    let found = format!("{} on {}", mount.kind, mount.point.display());
    let volume = "docker run -v ringpost:/var/lib/ringpost ...  # a volume of the host's disk".to_owned();
    let local = "ringpost serve --data-dir DIR  # on a disk of this host".to_owned();
    let means = match mount.kind.as_str() {
        "tmpfs" | "ramfs" => "This file system is in memory: acked messages are gone when the host restarts",
        "overlay" | "aufs" => {
            "This is a container's own layer: acked messages are gone with the container, and writes are slow"
        }
        kind if is_remote(kind) => {
            "Another machine or a program provides this file system: acked messages are only as durable as its sync"
        }
        _ => {
            let unsafe_option = mount.options.iter().find(|option| UNSAFE_OPTIONS.contains(&option.as_str()));
            return match unsafe_option {
                None => Finding::ok(CHECK, found, "A sync makes data durable"),
                Some(option) => Finding::advice(
                    CHECK,
                    format!("{found}, mounted with {option}"),
                    "A sync does not flush the disk's cache: acked messages may be gone after a power loss",
                    vec![format!("mount -o remount,barrier {}  # as root, and in /etc/fstab", mount.point.display())],
                ),
            };
        }
    };
    let fix = if mount.kind == "overlay" { vec![volume] } else { vec![local, volume] };
    Finding::advice(CHECK, found, means, fix)
}

/// Mount options with which a sync does not flush the disk's cache.
const UNSAFE_OPTIONS: [&str; 3] = ["nobarrier", "barrier=0", "volatile"];

fn is_remote(kind: &str) -> bool {
    const REMOTE: [&str; 12] =
        ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "glusterfs", "lustre", "afs", "fuse", "gpfs"];
    REMOTE.contains(&kind) || kind.starts_with("fuse.")
}

fn space(place: &Path, config: &Options) -> Option<Finding> {
    const CHECK: &str = "free space";
    let journal = config.server.journal()?;
    let free = free_space(place).ok()?;
    let (shards, segment) = (config.server.shards.get() as u64, journal.segment_len);
    let first = shards * segment + journal.min_free;
    let prepared = 2 * shards * segment + journal.min_free;
    let found = format!("{} free", size(free));
    let mut fix = vec![full(place)];
    if let Some((segment_mib, min_free_mib)) = fitting(free, shards, config) {
        fix.push(format!("ringpost serve --segment-size {segment_mib}MiB --min-free {min_free_mib}MiB"));
    }
    Some(if free < first {
        let means = format!(
            "A segment of --segment-size for each shard (shards: {shards}) and --min-free need {}: the server starts, \
             but acks messages with 1 until there is space",
            size(first)
        );
        // The server starts, and accepts messages by itself once there is space.
        Finding { stops_serve: false, ..Finding::problem(CHECK, found, means, fix) }
    } else if free < prepared {
        let means = format!(
            "There is space for the first segments but not for the next ones, which need {}: the server will ack \
             messages with 1",
            size(prepared)
        );
        Finding::advice(CHECK, found, means, fix)
    } else {
        let means =
            format!("There is space for {} of messages before --min-free is reached", size(free - journal.min_free));
        Finding::ok(CHECK, found, means)
    })
}

fn full(place: &Path) -> String {
    format!("du -xhd 2 {} | sort -h | tail  # shows the largest directories", place.display())
}

/// Returns a segment size and a minimum of free space that fit, both in MiB. Returns `None` if no segment that fits can
/// hold a frame of `--max-frame`.
fn fitting(free: u64, shards: u64, config: &Options) -> Option<(u64, u64)> {
    let segment_mib = (free >> 20) / (shards * 2 + 2);
    let mut less = config.server.clone();
    let journal = less.journal_mut()?;
    journal.segment_len = segment_mib << 20;
    journal.min_free = journal.segment_len;
    (segment_mib > 0 && less.validate().is_ok()).then_some((segment_mib, segment_mib))
}

fn sync_time(scratch: &Scratch) -> Finding {
    const CHECK: &str = "sync time";
    let time = match scratch.sync_time() {
        Ok(time) => time,
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            return Finding::advice(
                CHECK,
                format!("Not measured: {error}"),
                "There is no space for a test file",
                Vec::new(),
            );
        }
        Err(error) => {
            return Finding::problem(
                CHECK,
                format!("A durable write failed: {error}"),
                "The journal's writes would fail in the same way",
                vec!["ringpost serve --data-dir DIR  # on another disk".to_owned()],
            );
        }
    };
    let way = if time.page_cache.is_used() { "through the page cache" } else { "bypassing the page cache" };
    let found =
        format!("{} for 4 KiB {way}, median of {}; longest {}", short(time.median), time.writes, short(time.longest));
    let alone = (1.0 / time.median.as_secs_f64()) as u64;
    let mut means = format!("A client that waits for each ack can send at most {alone} messages per second");
    if time.page_cache.is_used() {
        means += &format!("; the journal writes one commit at a time, because the file system {}", time.page_cache);
    }
    if time.median < SYNC_SLOW {
        return Finding::ok(CHECK, found, means);
    }
    let fix = vec![
        "ringpost serve --data-dir DIR  # on a faster disk: SSDs with power-loss protection sync in 0.1 ms".into(),
    ];
    Finding::advice(CHECK, found, means, fix)
}

fn short(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..10_000 => format!("{micros} µs"),
        micros => format!("{:.1} ms", micros as f64 / 1000.0),
    }
}

/// From this sync time on, a client that waits for each ack before it sends the next message notices the disk.
const SYNC_SLOW: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn a_file_system_that_may_lose_messages_is_reported() {
        let level = |kind: &str, options: &[&str]| {
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            file_system(&Mount { point: "/data".into(), kind: kind.to_owned(), options }).level
        };
        for kind in ["ext4", "xfs", "btrfs", "zfs"] {
            assert_eq!(level(kind, &["rw", "relatime"]), Level::Ok, "{kind}");
            assert_eq!(level(kind, &["rw", "nobarrier"]), Level::Advice, "{kind}");
        }
        for kind in ["tmpfs", "overlay", "nfs4", "cifs", "fuse.sshfs", "9p"] {
            assert_eq!(level(kind, &[]), Level::Advice, "{kind}");
        }
    }

    #[test]
    fn a_missing_directory_is_checked_in_its_closest_ancestor() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing_part(&dir.path().join("a/b")), dir.path());
        assert_eq!(existing_part(dir.path()), dir.path());
        assert_eq!(existing_part(Path::new("no-such-directory-here/b")), Path::new("."));
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        assert_eq!(existing_part(&dir.path().join("link")), dir.path().join("link"));
    }

    #[test]
    fn proposed_sizes_fit() {
        let config = Options::default();
        let (segment, min_free) = fitting(100 << 20, 2, &config).unwrap();
        assert!(2 * 2 * segment + min_free <= 100, "{segment} {min_free}");
        assert_eq!(fitting(3 << 20, 2, &config), None);
    }
}
