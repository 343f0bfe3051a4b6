//! Checks the kernel and io_uring: whether a ring works, what refuses it, and which engine a server would use.
//!
//! Owns the findings about the kernel and the commands that fix a refused ring. The causes come from `ring`. It must
//! not know other subjects.

use super::finding::Finding;
use super::text::sysctl;
use crate::engine::{Choice, Chosen, Engine, Reason};
use crate::host::Host;
use crate::ring::{self, RingError, setup};
use crate::serve::Options;

/// Returns the findings about the kernel, io_uring and the chosen engine.
pub fn findings(host: &Host, config: &Options, chosen: &Result<Chosen, RingError>) -> Vec<Finding> {
    let probe = ring::probe();
    let mut findings = vec![
        release(host, &probe, config),
        engine(chosen, &probe),
        switch(host, &probe, config),
        seccomp(host, &probe, config),
    ];
    // If no ring can be created at all, its flags and ops can't be checked.
    if matches!(probe, Ok(()) | Err(RingError::Old { .. })) {
        findings.push(flags(config));
        findings.push(ops(config));
    }
    findings
}

/// Creates a finding about a missing part of io_uring. It is a problem only if --engine requires io_uring.
fn unavailable(
    config: &Options,
    check: &'static str,
    found: impl Into<String>,
    means: impl Into<String>,
    fix: Vec<String>,
) -> Finding {
    match config.server.engine.choice {
        Choice::Auto => Finding::advice(check, found, means, fix),
        Choice::Uring => Finding::problem(check, found, means, fix),
        Choice::Epoll => Finding::ok(check, found, "With --engine epoll it is not needed"),
    }
}

/// Reports the engine that a server would use, and the reason.
fn engine(chosen: &Result<Chosen, RingError>, probe: &Result<(), RingError>) -> Finding {
    const CHECK: &str = "engine";
    match chosen {
        Ok(Chosen { engine: Engine::Uring, .. }) => {
            Finding::ok(CHECK, "io_uring", "A test byte passed through a ring with a shard's flags")
        }
        Ok(Chosen { engine: Engine::Epoll, reason: Reason::Unavailable(error) }) => Finding::advice(
            CHECK,
            format!("epoll, because {}", error.cause()),
            "Epoll gives the same guarantees, but io_uring needs less CPU time for most workloads",
            fix(error),
        ),
        Ok(Chosen { engine, .. }) => {
            let other = probe.as_ref().map_or_else(RingError::cause, |()| "io_uring would work here too".to_owned());
            Finding::ok(CHECK, format!("{}, as chosen with --engine", engine.name()), capitalized(other))
        }
        Err(error) => Finding::problem(CHECK, capitalized(error.cause()), "Shards can't start", fix(error)),
    }
}

/// Returns whether the kernel allows io_uring. Exhausted limits have findings of their own.
fn is_there(probe: &Result<(), RingError>) -> bool {
    !probe.as_ref().is_err_and(RingError::is_unavailable)
}

fn release(host: &Host, probe: &Result<(), RingError>, config: &Options) -> Finding {
    const CHECK: &str = "linux";
    let release = host.release();
    if is_there(probe) {
        // Distributions backport features, so an old version number proves nothing.
        return Finding::ok(CHECK, release, "This kernel supports everything that is needed");
    }
    match host.version() {
        Some(version) if version < (6, 0) => unavailable(
            config,
            CHECK,
            release,
            "The required features of io_uring need Linux 6.0, whatever else refuses io_uring here",
            vec!["# run on Linux 6.0 or later, such as Debian 12, Ubuntu 24.04 or RHEL 10".to_owned()],
        ),
        _ => Finding::ok(CHECK, release, "Linux supports everything that is needed since version 6.0"),
    }
}

/// Returns what fixes a refused ring: commands if there are any, otherwise the error's remedy.
pub fn fix(error: &RingError) -> Vec<String> {
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
            "docker run --security-opt seccomp=scripts/seccomp-ringpost.json ...  # the default profile plus \
             io_uring's three calls"
                .to_owned(),
            "docker run --security-opt seccomp=unconfined ...  # no filter at all".to_owned(),
        ],
        RingError::Filtered { seccomp: false, .. } => {
            vec!["ausearch -m avc -ts recent; dmesg | grep -i -e denied -e io_uring  # shows the refusal".to_owned()]
        }
        // The findings about limits name commands for exhausted limits.
        _ => vec![format!("# {}", error.remedy())],
    }
}

fn switch(host: &Host, probe: &Result<(), RingError>, config: &Options) -> Finding {
    const CHECK: &str = "io_uring switch";
    let value = host.sysctl("kernel.io_uring_disabled");
    let found = format!("kernel.io_uring_disabled is {}", value.as_deref().unwrap_or("missing"));
    match (probe, value.as_deref()) {
        (Err(error @ RingError::Sysctl { .. }), _) => {
            unavailable(config, CHECK, found, "This setting refuses io_uring", fix(error))
        }
        (_, None) => Finding::ok(CHECK, found, "This kernel can't switch io_uring off"),
        (_, Some("0")) => Finding::ok(CHECK, found, "io_uring is on for all processes"),
        (_, Some("1")) => {
            Finding::ok(CHECK, found, "io_uring is on for this user, but off for other unprivileged processes")
        }
        (_, Some(_)) => Finding::ok(CHECK, found, "This setting is not the obstacle"),
    }
}

fn seccomp(host: &Host, probe: &Result<(), RingError>, config: &Options) -> Finding {
    const CHECK: &str = "seccomp";
    match probe {
        Err(error @ RingError::Filtered { seccomp: true, call, .. }) => unavailable(
            config,
            CHECK,
            format!("A filter refuses {call}"),
            "io_uring can't be used; Docker since 25.0 and containerd since 2.0 set such a filter by default",
            fix(error),
        ),
        _ if host.is_seccomp_filtered() => Finding::ok(CHECK, "There is a filter", "The filter is not the obstacle"),
        _ => Finding::ok(CHECK, "There is no filter", "Every call reaches the kernel"),
    }
}

fn flags(config: &Options) -> Finding {
    const CHECK: &str = "ring flags";
    let (known, unknown): (Vec<_>, Vec<_>) = setup::FLAGS.iter().partition(|flag| flag.check().is_ok());
    if unknown.is_empty() {
        let names: Vec<_> = known.iter().map(|flag| flag.name).collect();
        return Finding::ok(CHECK, names.join(", "), "The kernel supports all of these flags");
    }
    let names: Vec<_> = unknown.iter().map(|flag| format!("{} (Linux {})", flag.name, flag.since)).collect();
    let found = format!("The kernel does not support {}", names.join(", "));
    unavailable(config, CHECK, found, "Shards can't run on io_uring", vec!["# run on Linux 6.0 or later".to_owned()])
}

fn ops(config: &Options) -> Finding {
    const CHECK: &str = "ring ops";
    match ring::unknown_ops() {
        Ok(unknown) if unknown.is_empty() => {
            let names: Vec<_> = setup::OPS.iter().map(|op| op.name).collect();
            Finding::ok(CHECK, names.join(", "), "The kernel supports all of these ops")
        }
        Ok(unknown) => {
            let names: Vec<_> = unknown.iter().map(|op| format!("{} (Linux {})", op.name, op.since)).collect();
            let found = format!("The kernel does not support {}", names.join(", "));
            let fix = vec!["# run on Linux 6.0 or later".to_owned()];
            unavailable(config, CHECK, found, "Shards can't run on io_uring", fix)
        }
        Err(error) => Finding::ok(
            CHECK,
            format!("Cannot list the supported ops ({error})"),
            "SEND and RECV were tested, and the server does not need io_uring_register",
        ),
    }
}

/// Returns the text with an upper-case first letter, unless it begins with "io_uring".
fn capitalized(text: String) -> String {
    if text.starts_with("io_uring") {
        return text;
    }
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
