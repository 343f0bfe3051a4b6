//! Finds the mount that a directory is on.
//!
//! Owns the reading of `/proc/self/mountinfo`. It must not judge a file system.

use std::path::{Path, PathBuf};

use crate::host::Host;

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The directory where the file system is mounted.
    pub point: PathBuf,
    /// The file system's type, as `mount` calls it.
    pub kind: String,
    /// The options of the mount and of the file system.
    pub options: Vec<String>,
}

/// Returns the mount of `path`, which must exist.
pub fn of(host: &Host, path: &Path) -> Option<Mount> {
    let path = path.canonicalize().ok()?;
    let text = host.read("/proc/self/mountinfo")?;
    let mounts = text.lines().filter_map(parse).filter(|mount| path.starts_with(&mount.point));
    // If there are several mounts at one point, the last one is on top.
    mounts.max_by_key(|mount| mount.point.components().count())
}

fn parse(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(4);
    let (point, options) = (mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ');
    let (kind, _source, more) = (file_system.next()?, file_system.next()?, file_system.next().unwrap_or_default());
    let options = options.split(',').chain(more.split(',')).map(str::to_owned).collect();
    // The kernel escapes white space and backslashes.
    let point = point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    Some(Mount { point: point.into(), kind: kind.to_owned(), options })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::host;

    #[test]
    fn the_deepest_and_topmost_mount_counts() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let below = dir.join("with space");
        std::fs::create_dir(&below).unwrap();
        let point = below.to_str().unwrap().replace(' ', "\\040");
        let text = format!(
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
             23 22 0:5 / {point} rw shared:2 master:1 - xfs /dev/sdb rw\n\
             24 23 0:6 / {point} rw,nosuid - nfs4 server:/export rw,hard\n"
        );
        let (_root, host) = host(&[("/proc/self/mountinfo", &text)]);
        let mount = of(&host, &below).unwrap();
        assert_eq!((mount.kind.as_str(), mount.point), ("nfs4", below));
        assert!(mount.options.contains(&"hard".to_owned()) && mount.options.contains(&"nosuid".to_owned()));
        assert_eq!(of(&host, &dir).unwrap().kind, "ext4");
    }
}
