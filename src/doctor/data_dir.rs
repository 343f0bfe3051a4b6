//! The data directory: whether a journal can be kept there, and what its disk is like.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::disk::Scratch;
use super::finding::Finding;
use super::mount::{self, Mount};
use super::size;
use crate::host::Host;
use crate::journal::dir::{self, ClaimError};
use crate::journal::file_storage::free_space;
use crate::journal::layout::{self, Access};
use crate::serve::Options;

/// From here on a client that waits for each ack before it sends the next message notices the disk.
const SYNC_SLOW: Duration = Duration::from_millis(10);

pub fn findings(host: &Host, config: &Options) -> Vec<Finding> {
    let Some(journal) = config.server.journal() else {
        return vec![Finding::ok("journal", "None", "With --sink discard nothing is written")];
    };
    let data_dir = &journal.data_dir;
    let place = existing_part(data_dir);
    let mount = mount::of(host, &place);
    let scratch = match Scratch::new(&place) {
        Ok(scratch) => scratch,
        Err(error) => return vec![unusable(data_dir, &place, mount.as_ref(), &error)],
    };
    let usable = if place == *data_dir {
        Finding::ok("directory", data_dir.display().to_string(), "It is there and can be written to")
    } else {
        let means = format!("It can be made in {}", place.display());
        Finding::ok("directory", format!("{} is not there", data_dir.display()), means)
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

/// The directory if there is one, or what there is above it.
fn existing_part(data_dir: &Path) -> PathBuf {
    // A link that leads nowhere is there, and nothing can be made in its place.
    let there = data_dir.ancestors().find(|path| path.symlink_metadata().is_ok());
    there.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

fn unusable(data_dir: &Path, place: &Path, mount: Option<&Mount>, error: &io::Error) -> Finding {
    let elsewhere = "ringpost serve --data-dir DIR  # another directory".to_owned();
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let mend = match (error.kind(), mount) {
        (io::ErrorKind::PermissionDenied, _) => {
            let owner = format!("{}:{}", user.as_raw(), group.as_raw());
            // To give away what others use too, such as /var/lib, would be a cure worse than the disease.
            let own = if place == data_dir {
                format!("chown -R {owner} {}  # as root", data_dir.display())
            } else {
                format!("install -d -o {} -g {} {}  # as root", user.as_raw(), group.as_raw(), data_dir.display())
            };
            vec![own, elsewhere]
        }
        (io::ErrorKind::ReadOnlyFilesystem, Some(mount)) => vec![
            format!("mount -o remount,rw {}  # as root", mount.point.display()),
            "docker run -v ringpost:/var/lib/ringpost ...  # a volume, where the container is read-only".to_owned(),
            elsewhere,
        ],
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => vec![full(place), elsewhere],
        _ => vec![elsewhere],
    };
    let found = format!("{}: {error}", place.display());
    let means = format!("No journal can be kept in {}", data_dir.display());
    Finding::problem("directory", found, means, mend)
}

fn in_use(data_dir: &Path) -> Finding {
    const CHECK: &str = "in use";
    match dir::check(data_dir) {
        Ok(0) => Finding::ok(CHECK, "No writer was here yet", "A start makes the first"),
        Ok(writers) => Finding::ok(CHECK, format!("{writers} earlier writers, none alive"), "A start makes its own"),
        Err(error @ ClaimError::Live { .. }) => Finding::problem(
            CHECK,
            error.to_string(),
            "One server at a time writes here",
            vec![
                format!("fuser -v {}/*/lock  # who has it", data_dir.display()),
                "ringpost serve --data-dir DIR  # another directory".to_owned(),
            ],
        ),
        Err(error) => Finding::problem(
            CHECK,
            error.to_string(),
            "A start would be refused the same way",
            vec![format!(
                "chown -R {}:{} {}  # as root, where another user's server wrote here",
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
                    "A start makes the journal's own directories readable for {allowed}; a data directory that is there keeps its \
                     mode"
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
        Ok(true) => {
            Finding::ok(CHECK, "A lock keeps others out", "No second server of this host starts here unnoticed")
        }
        Ok(false) => Finding::advice(
            CHECK,
            format!("{}: a second process can acquire a lock that is held", place.display()),
            "A start can detect another server only by files that change, and waits 3 s for that",
            elsewhere(),
        ),
        Err(error) => Finding::problem(
            CHECK,
            format!("{}: {error}", place.display()),
            "The journal can't be locked, so `serve` does not start",
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
        "tmpfs" | "ramfs" => "It is memory: what was acked is gone when the host restarts",
        "overlay" | "aufs" => {
            "It is a container's own layer: what was acked is gone with the container, and writes are slow"
        }
        kind if is_remote(kind) => {
            "It is another machine's, or a program's: an ack is worth what that one's sync is worth"
        }
        _ => {
            let unsafe_option = mount.options.iter().find(|option| UNSAFE_OPTIONS.contains(&option.as_str()));
            return match unsafe_option {
                None => Finding::ok(CHECK, found, "A sync reaches the disk"),
                Some(option) => Finding::advice(
                    CHECK,
                    format!("{found}, mounted with {option}"),
                    "A sync does not flush the disk: what was acked may be gone after a power loss",
                    vec![format!("mount -o remount,barrier {}  # as root, and in /etc/fstab", mount.point.display())],
                ),
            };
        }
    };
    let mend = if mount.kind == "overlay" { vec![volume] } else { vec![local, volume] };
    Finding::advice(CHECK, found, means, mend)
}

/// Mount options that keep syncs from the disk.
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
    let (workers, segment) = (config.server.shards.get() as u64, journal.segment_len);
    let first = workers * segment + journal.min_free;
    let prepared = 2 * workers * segment + journal.min_free;
    let found = format!("{} free", size(free));
    let mut mend = vec![full(place)];
    if let Some((segment_mib, min_free_mib)) = fitting(free, workers, config) {
        mend.push(format!("ringpost serve --segment-size {segment_mib}MiB --min-free {min_free_mib}MiB"));
    }
    Some(if free < first {
        let means = format!(
            "{workers} segments of --segment-size and --min-free take {}: the server starts, and acks messages with 1 until \
             there is room",
            size(first)
        );
        // It starts, and takes messages by itself once there is room.
        Finding { stops_serve: false, ..Finding::problem(CHECK, found, means, mend) }
    } else if free < prepared {
        let means = format!(
            "There is room for the first segments and not for the next ones: that takes {}, and without it messages are \
             acked with 1",
            size(prepared)
        );
        Finding::advice(CHECK, found, means, mend)
    } else {
        let means = format!("That is {} of messages before --min-free is reached", size(free - journal.min_free));
        Finding::ok(CHECK, found, means)
    })
}

fn full(place: &Path) -> String {
    format!("du -xhd 2 {} | sort -h | tail  # what takes the room", place.display())
}

/// MiB of a segment and of the free space that would fit, if any do with this `--max-frame`.
fn fitting(free: u64, workers: u64, config: &Options) -> Option<(u64, u64)> {
    let segment_mib = (free >> 20) / (workers * 2 + 2);
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
            return Finding::advice(CHECK, format!("Not measured: {error}"), "There is no room for it", Vec::new());
        }
        Err(error) => {
            return Finding::problem(
                CHECK,
                format!("A write that lasts failed: {error}"),
                "The journal writes no other way",
                vec!["ringpost serve --data-dir DIR  # on another disk".to_owned()],
            );
        }
    };
    let past = if time.page_cache.is_used() { "through the page cache" } else { "past the page cache" };
    let found = format!(
        "{} for 4 KiB {past}, median of {}; the longest took {}",
        short(time.median),
        time.writes,
        short(time.longest)
    );
    let alone = (1.0 / time.median.as_secs_f64()) as u64;
    let mut means = format!("A client that awaits each ack before its next message sends at most {alone} a second");
    if time.page_cache.is_used() {
        means += &format!("; commits are written one at a time, because the file system {}", time.page_cache);
    }
    if time.median < SYNC_SLOW {
        return Finding::ok(CHECK, found, means);
    }
    let mend = vec![
        "ringpost serve --data-dir DIR  # on a faster disk: SSDs with power-loss protection sync in 0.1 ms".into(),
    ];
    Finding::advice(CHECK, found, means, mend)
}

fn short(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..10_000 => format!("{micros} µs"),
        micros => format!("{:.1} ms", micros as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn what_a_mount_is_worth() {
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
    fn what_is_to_be_made_is_looked_for_above() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing_part(&dir.path().join("a/b")), dir.path());
        assert_eq!(existing_part(dir.path()), dir.path());
        assert_eq!(existing_part(Path::new("no-such-directory-here/b")), Path::new("."));
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        assert_eq!(existing_part(&dir.path().join("link")), dir.path().join("link"));
    }

    #[test]
    fn sizes_that_are_proposed_fit() {
        let config = Options::default();
        let (segment, min_free) = fitting(100 << 20, 2, &config).unwrap();
        assert!(2 * 2 * segment + min_free <= 100, "{segment} {min_free}");
        assert_eq!(fitting(3 << 20, 2, &config), None);
    }
}
