//! Limits of this process's control groups, of version 1 or 2.
//!
//! Owns the layout of both versions. Invariant: the limit of a group also applies to all groups below it.

use std::path::Path;

use crate::host::Host;

/// Returns the limit of CPU time, in CPUs: the lowest of the process's group and the groups above it.
pub fn cpu_quota(host: &Host) -> Option<f64> {
    let of_v2 = values(host, "", "cpu.max").into_iter().filter_map(|text| {
        let (quota, period) = text.split_once(' ')?;
        ratio(quota, period)
    });
    let quotas = values(host, "cpu", "cpu.cfs_quota_us");
    let periods = values(host, "cpu", "cpu.cfs_period_us");
    let of_v1 = quotas.iter().zip(&periods).filter_map(|(quota, period)| ratio(quota, period));
    of_v2.chain(of_v1).min_by(f64::total_cmp)
}

/// Returns the limit of memory, in bytes: the lowest of the process's group and the groups above it. A limit that
/// throttles counts like one that kills.
pub fn memory_max(host: &Host) -> Option<u64> {
    let mut of_v2 = values(host, "", "memory.max");
    of_v2.extend(values(host, "", "memory.high"));
    let of_v1 = values(host, "memory", "memory.limit_in_bytes");
    let limits = of_v2.iter().chain(&of_v1).filter_map(|text| text.parse().ok());
    // Version 1 reports "no limit" as the largest number of whole pages.
    limits.filter(|bytes| *bytes < (i64::MAX as u64) & !0xffff).min()
}

/// Returns quota divided by period. Without a limit the quota is `max` or -1, and the result `None`.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| quota as f64 / period as f64)
}

/// Returns the contents of `file` in each group from this process's up to the root, in the hierarchy of this
/// controller, or in that of version 2 if `controller` is empty. In a container the path may be the host's, although
/// only the container's own group is visible there, as the root.
fn values(host: &Host, controller: &str, file: &str) -> Vec<String> {
    let groups = host.read("/proc/self/cgroup").unwrap_or_default();
    let mut values = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if !controllers.split(',').any(|name| name == controller) {
            continue;
        }
        let mount = Path::new("/sys/fs/cgroup");
        let mounts = match controller {
            "" => [mount.to_owned(), mount.join("unified")],
            _ => [mount.join(controller), mount.join(controllers)],
        };
        for group in Path::new(path).ancestors() {
            let group = group.strip_prefix("/").unwrap_or(group);
            values.extend(mounts.iter().find_map(|mount| host.read(mount.join(group).join(file))));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::host;

    #[test]
    fn the_lowest_limit_up_to_the_root_counts() {
        let (_root, v2) = host(&[
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "1000000\n"),
            ("/sys/fs/cgroup/a/memory.max", "max\n"),
        ]);
        assert_eq!((cpu_quota(&v2), memory_max(&v2)), (Some(1.5), Some(1_000_000)));
        // A container that sees the host's path, and its own group as the root.
        let (_root, v1) = host(&[
            ("/proc/self/cgroup", "9:memory:/x\n4:cpu,cpuacct:/docker/0123\n1:name=systemd:/\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "4096\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!((cpu_quota(&v1), memory_max(&v1)), (Some(0.5), Some(4096)));
        let (_root, none) = host(&[
            ("/proc/self/cgroup", "4:cpu:/\n0::/\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/unified/cpu.max", "max 100000\n"),
        ]);
        assert_eq!((cpu_quota(&none), memory_max(&none)), (None, None));
    }
}
