//! CPUs: how many there are for how many workers.

use rustix::thread::sched_getaffinity;

use super::finding::Finding;
use crate::host::Host;
use crate::host::cgroup;
use crate::serve::Options;

pub fn findings(host: &Host, config: &Options) -> Vec<Finding> {
    // Where the kernel does not say, the standard library's answer will do.
    let allowed = sched_getaffinity(None)
        .map_or_else(|_| crate::server::options::usable_cpus().get(), |set| set.count() as usize);
    vec![affinity(allowed, config), quota(cgroup::cpu_quota(host), config)]
}

fn affinity(allowed: usize, config: &Options) -> Finding {
    const CHECK: &str = "allowed";
    let workers = config.server.shards.get();
    let found = format!("{allowed} CPUs for {workers} workers");
    if workers <= allowed {
        return Finding::ok(CHECK, found, "Each worker can have one");
    }
    Finding::advice(
        CHECK,
        found,
        "Workers share CPUs, and wait for each other: more of them serve no more",
        vec![format!("ringpost serve --workers {allowed}")],
    )
}

fn quota(quota: Option<f64>, config: &Options) -> Finding {
    const CHECK: &str = "quota";
    let workers = config.server.shards.get();
    let Some(quota) = quota else {
        return Finding::ok(CHECK, "None", "No control group stops the server for a while");
    };
    let found = format!("A control group allows {quota:.2} CPUs' time for {workers} workers");
    if workers as f64 <= quota {
        return Finding::ok(CHECK, found, "They can't use it up");
    }
    let fitting = (quota as usize).max(1);
    let mut mend = vec![format!("docker update --cpus {workers} CONTAINER  # or cpu.max of its control group")];
    if fitting < workers {
        mend.insert(0, format!("ringpost serve --workers {fitting}"));
    }
    Finding::advice(
        CHECK,
        found,
        "Once they have used it up, the kernel stops them all for the rest of each period of 100 ms, and acks wait",
        mend,
    )
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::doctor::finding::Level;
    use crate::server;

    #[test]
    fn a_quota_is_held_against_the_workers() {
        let config = |workers| Options {
            server: server::Options::default().shards(NonZeroUsize::new(workers).unwrap()),
            ..Options::default()
        };
        assert_eq!(quota(None, &config(8)).level, Level::Ok);
        assert_eq!(quota(Some(2.5), &config(2)).level, Level::Ok);
        let half = quota(Some(0.5), &config(1));
        assert_eq!((half.level, half.mend.len()), (Level::Advice, 1), "{half:?}");
        let few = quota(Some(2.5), &config(8));
        assert_eq!(few.mend[0], "ringpost serve --workers 2");
        assert_eq!(affinity(2, &config(2)).level, Level::Ok);
        assert_eq!(affinity(2, &config(3)).level, Level::Advice);
    }
}
