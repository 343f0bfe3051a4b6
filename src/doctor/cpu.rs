//! Checks the CPUs: how many there are for the shards.
//!
//! Owns the findings about CPUs and CPU quotas. It must not know other subjects.

use rustix::thread::sched_getaffinity;

use super::finding::Finding;
use crate::host::Host;
use crate::host::cgroup;
use crate::serve::Options;

/// Returns the findings about CPUs.
pub fn findings(host: &Host, config: &Options) -> Vec<Finding> {
    // If the kernel does not report the affinity, the standard library's number is good enough.
    let allowed = sched_getaffinity(None)
        .map_or_else(|_| crate::server::options::usable_cpus().get(), |set| set.count() as usize);
    vec![affinity(allowed, config), quota(cgroup::cpu_quota(host), config)]
}

fn affinity(allowed: usize, config: &Options) -> Finding {
    const CHECK: &str = "allowed";
    let shards = config.server.shards.get();
    let found = format!("CPUs: {allowed}, shards: {shards}");
    if shards <= allowed {
        return Finding::ok(CHECK, found, "Each shard can have a CPU of its own");
    }
    Finding::advice(
        CHECK,
        found,
        "Shards share CPUs and wait for each other, so the extra ones add no throughput",
        vec![format!("ringpost serve --workers {allowed}")],
    )
}

fn quota(quota: Option<f64>, config: &Options) -> Finding {
    const CHECK: &str = "quota";
    let shards = config.server.shards.get();
    let Some(quota) = quota else {
        return Finding::ok(CHECK, "None", "No control group pauses the server");
    };
    let found = format!("A control group allows {quota:.2} CPUs; shards: {shards}");
    if shards as f64 <= quota {
        return Finding::ok(CHECK, found, "The shards can't exceed the quota");
    }
    let fitting = (quota as usize).max(1);
    let mut fix = vec![format!("docker update --cpus {shards} CONTAINER  # or cpu.max of its control group")];
    if fitting < shards {
        fix.insert(0, format!("ringpost serve --workers {fitting}"));
    }
    Finding::advice(
        CHECK,
        found,
        "When the shards exceed the quota, the kernel stops them for the rest of each 100 ms period, and acks wait",
        fix,
    )
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::doctor::finding::Level;
    use crate::server;

    #[test]
    fn a_quota_below_the_number_of_shards_is_reported() {
        let config = |shards| Options {
            server: server::Options::default().shards(NonZeroUsize::new(shards).unwrap()),
            ..Options::default()
        };
        assert_eq!(quota(None, &config(8)).level, Level::Ok);
        assert_eq!(quota(Some(2.5), &config(2)).level, Level::Ok);
        let half = quota(Some(0.5), &config(1));
        assert_eq!((half.level, half.fix.len()), (Level::Advice, 1), "{half:?}");
        let few = quota(Some(2.5), &config(8));
        assert_eq!(few.fix[0], "ringpost serve --workers 2");
        assert_eq!(affinity(2, &config(2)).level, Level::Ok);
        assert_eq!(affinity(2, &config(3)).level, Level::Advice);
    }
}
