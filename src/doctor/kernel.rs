//! The kernel and its io_uring: tried, and where it is refused, who did it; and so which engine a server has.

use super::finding::Finding;
use super::sysctl;
use crate::engine::{Choice, Chosen, Engine, Reason};
use crate::host::Host;
use crate::ring::{self, RingError, setup};
use crate::serve::Options;

pub fn findings(host: &Host, config: &Options, chosen: &Result<Chosen, RingError>) -> Vec<Finding> {
    let probe = ring::probe();
    let mut findings = vec![
        release(host, &probe, config),
        engine(chosen, &probe),
        switch(host, &probe, config),
        seccomp(host, &probe, config),
    ];
    // Where a ring can't be had at all, nothing can be said of its flags and ops.
    if matches!(probe, Ok(()) | Err(RingError::Old { .. })) {
        findings.push(flags(config));
        findings.push(ops(config));
    }
    findings
}

/// What it means for `serve` that io_uring can't be had here: a problem where nothing else will do.
fn unavailable(
    config: &Options,
    check: &'static str,
    found: impl Into<String>,
    means: impl Into<String>,
    mend: Vec<String>,
) -> Finding {
    match config.server.engine.choice {
        Choice::Auto => Finding::advice(check, found, means, mend),
        Choice::Uring => Finding::problem(check, found, means, mend),
        Choice::Epoll => Finding::ok(check, found, "With --engine epoll it is not needed"),
    }
}

/// What a server would run on, and why.
fn engine(chosen: &Result<Chosen, RingError>, probe: &Result<(), RingError>) -> Finding {
    const CHECK: &str = "engine";
    match chosen {
        Ok(Chosen { engine: Engine::Uring, .. }) => {
            Finding::ok(CHECK, "io_uring", "A byte went through a ring with the flags of a worker's")
        }
        Ok(Chosen { engine: Engine::Epoll, reason: Reason::Unavailable(error) }) => Finding::advice(
            CHECK,
            format!("epoll, for {}", error.cause()),
            "It keeps the same promises; io_uring takes less CPU for much of the work",
            mend(error),
        ),
        Ok(Chosen { engine: Engine::Epoll, .. }) => {
            let other = probe.as_ref().map_or_else(RingError::cause, |()| "io_uring would work here, too".to_owned());
            Finding::ok(CHECK, "epoll, as --engine asks for", capitalized(other))
        }
        Err(error) => Finding::problem(CHECK, capitalized(error.cause()), "Workers can't start", mend(error)),
    }
}

/// Whether io_uring can be had, as far as the kernel is asked. What ran out is told by the limits.
fn is_there(probe: &Result<(), RingError>) -> bool {
    !probe.as_ref().is_err_and(RingError::is_unavailable)
}

fn release(host: &Host, probe: &Result<(), RingError>, config: &Options) -> Finding {
    const CHECK: &str = "linux";
    let release = host.release();
    if is_there(probe) {
        // Distributions bring what is new to kernels of an older name.
        return Finding::ok(CHECK, release, "It knows what is needed");
    }
    match host.version() {
        Some(version) if version < (6, 0) => unavailable(
            config,
            CHECK,
            release,
            "What is needed of io_uring came with Linux 6.0, whatever else refuses it here",
            vec!["# run on Linux 6.0 or later: Debian 12, Ubuntu 24.04 and RHEL 10 bring one".to_owned()],
        ),
        _ => Finding::ok(CHECK, release, "Linux knows what is needed since 6.0"),
    }
}

/// What mends a refusal, by command where one can be named.
pub fn mend(error: &RingError) -> Vec<String> {
    match error {
        RingError::Sysctl { group, .. } => {
            let mut commands = vec![sysctl("kernel.io_uring_disabled", 0)];
            if group.is_some() {
                let group = rustix::process::getegid();
                commands.push(sysctl("kernel.io_uring_group", group));
            }
            commands
        }
        RingError::Filtered { seccomp: true, .. } => vec![
            "docker run --security-opt seccomp=scripts/seccomp-ringpost.json ...  # the default profile and the three \
             calls of io_uring"
                .to_owned(),
            "docker run --security-opt seccomp=unconfined ...  # the blunt way".to_owned(),
        ],
        RingError::Filtered { seccomp: false, .. } => {
            vec!["ausearch -m avc -ts recent; dmesg | grep -i -e denied -e io_uring  # who refused".to_owned()]
        }
        // The limits name commands for what ran out.
        _ => vec![format!("# {}", error.remedy())],
    }
}

fn switch(host: &Host, probe: &Result<(), RingError>, config: &Options) -> Finding {
    const CHECK: &str = "io_uring switch";
    let value = host.sysctl("kernel.io_uring_disabled");
    let found = format!("kernel.io_uring_disabled is {}", value.as_deref().unwrap_or("not there"));
    match (probe, value.as_deref()) {
        (Err(error @ RingError::Sysctl { .. }), _) => {
            unavailable(config, CHECK, found, "This is what refuses io_uring", mend(error))
        }
        (_, None) => Finding::ok(CHECK, found, "This kernel has no such switch; io_uring is on"),
        (_, Some("0")) => Finding::ok(CHECK, found, "io_uring is on for everybody"),
        (_, Some("1")) => Finding::ok(CHECK, found, "io_uring is off for others, but on for this user"),
        (_, Some(_)) => Finding::ok(CHECK, found, "It is not what stands in the way"),
    }
}

fn seccomp(host: &Host, probe: &Result<(), RingError>, config: &Options) -> Finding {
    const CHECK: &str = "seccomp";
    match probe {
        Err(error @ RingError::Filtered { seccomp: true, call, .. }) => unavailable(
            config,
            CHECK,
            format!("A filter refuses {call}"),
            "Docker since 25.0 and containerd since 2.0 set such a filter by default",
            mend(error),
        ),
        _ if host.is_seccomp_filtered() => {
            Finding::ok(CHECK, "There is a filter", "It is not what stands in the way of io_uring")
        }
        _ => Finding::ok(CHECK, "There is no filter", "Every call reaches the kernel"),
    }
}

fn flags(config: &Options) -> Finding {
    const CHECK: &str = "ring flags";
    let (known, unknown): (Vec<_>, Vec<_>) = setup::FLAGS.iter().partition(|flag| flag.check().is_ok());
    if unknown.is_empty() {
        let names: Vec<_> = known.iter().map(|flag| flag.name).collect();
        return Finding::ok(CHECK, names.join(", "), "The kernel knows each of them");
    }
    let names: Vec<_> = unknown.iter().map(|flag| format!("{} (Linux {})", flag.name, flag.since)).collect();
    let found = format!("The kernel does not know {}", names.join(", "));
    unavailable(config, CHECK, found, "Workers can't run on io_uring", vec!["# run on Linux 6.0 or later".to_owned()])
}

fn ops(config: &Options) -> Finding {
    const CHECK: &str = "ring ops";
    match ring::unknown_ops() {
        Ok(unknown) if unknown.is_empty() => {
            let names: Vec<_> = setup::OPS.iter().map(|op| op.name).collect();
            Finding::ok(CHECK, names.join(", "), "The kernel knows each of them")
        }
        Ok(unknown) => {
            let names: Vec<_> = unknown.iter().map(|op| format!("{} (Linux {})", op.name, op.since)).collect();
            let found = format!("The kernel does not know {}", names.join(", "));
            let mend = vec!["# run on Linux 6.0 or later".to_owned()];
            unavailable(config, CHECK, found, "Workers can't run on io_uring", mend)
        }
        Err(error) => Finding::ok(
            CHECK,
            format!("The kernel can't be asked which it knows ({error})"),
            "SEND and RECV were tried, and the server needs no io_uring_register",
        ),
    }
}

/// As a sentence begins, unless it begins with a name.
fn capitalized(text: String) -> String {
    if text.starts_with("io_uring") {
        return text;
    }
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
