//! The network: the addresses, which are taken for a moment, and what the kernel's settings do to them.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::finding::Finding;
use super::sysctl;
use crate::host::Host;
use crate::net::{BindError, is_family_off};
use crate::serve::Options;
use crate::server::Listen;

pub fn findings(host: &Host, config: &Options) -> Vec<Finding> {
    let mut findings: Vec<_> =
        config.server.listen.addresses.iter().map(|listen| address("listen", "--listen", *listen, config)).collect();
    findings.extend(config.admin.map(|admin| address("admin", "--admin", Listen::Address(admin), config)));
    findings.push(backlog(host, config));
    findings.push(migration(host, config));
    findings
}

fn address(check: &'static str, option: &'static str, listen: Listen, config: &Options) -> Finding {
    let mut candidates = listen.candidates().into_iter().peekable();
    loop {
        let (address, dual_stack) = candidates.next().expect("there is a candidate");
        let error = match take(address, dual_stack, config.server.listen.bind_retry) {
            Ok(()) => {
                let means = match address.port() {
                    0 => "A free port will be taken",
                    _ => "It can be taken",
                };
                return Finding::ok(check, address.to_string(), means);
            }
            // As the server does where IPv6 is off.
            Err(error) if candidates.peek().is_some() && is_family_off(&error) => continue,
            Err(error) => BindError::explain(option, address, error),
        };
        let port = address.port();
        let mend = match &error {
            BindError::InUse { .. } => vec![
                format!("ss -ltnp 'sport = :{port}'  # who has it"),
                format!("ringpost serve {option} {}  # any free port", SocketAddr::new(address.ip(), 0)),
            ],
            BindError::Privileged { .. } => vec![sysctl("net.ipv4.ip_unprivileged_port_start", port)],
            BindError::NotHere { .. } => vec!["ip -brief address  # which there are".to_owned()],
            BindError::Other { .. } => Vec::new(),
        };
        return Finding::problem(check, address.to_string(), error.to_string(), mend);
    }
}

/// Takes an address without listening, so that no client finds a door there; asks as patiently as the server
/// where it is taken.
fn take(address: SocketAddr, dual_stack: bool, patience: Duration) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // As the server does: only who listens is in the way, not connections of an earlier run.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!dual_stack)?;
        }
        match socket.bind(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < patience => {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

fn backlog(host: &Host, config: &Options) -> Finding {
    const CHECK: &str = "backlog";
    const SETTING: &str = "net.core.somaxconn";
    let asked = config.server.listen.backlog;
    match host.sysctl(SETTING).and_then(|value| value.parse::<u32>().ok()) {
        Some(limit) if limit < asked => Finding::advice(
            CHECK,
            format!("{SETTING} is {limit}, below --backlog {asked}"),
            "In a burst of connections, those that find no place in the queue wait a second or more",
            vec![sysctl(SETTING, asked), format!("docker run --sysctl {SETTING}={asked} ...")],
        ),
        Some(limit) => Finding::ok(CHECK, format!("{SETTING} is {limit}"), format!("--backlog {asked} counts in full")),
        None => Finding::ok(CHECK, format!("{SETTING} can't be read"), "The kernel may make --backlog less"),
    }
}

fn migration(host: &Host, config: &Options) -> Finding {
    const CHECK: &str = "migration";
    const SETTING: &str = "net.ipv4.tcp_migrate_req";
    let value = host.sysctl(SETTING);
    let found = format!("{SETTING} is {}", value.as_deref().unwrap_or("not there"));
    match value.as_deref() {
        Some("0") if config.server.shards.get() > 1 => Finding::advice(
            CHECK,
            found,
            "A client that is just connecting while a worker closes its listener, in a drain, may be reset",
            vec![sysctl(SETTING, 1), format!("docker run --sysctl {SETTING}=1 ...")],
        ),
        Some("0") => Finding::ok(CHECK, found, "With one worker there is nobody to take over its queue"),
        Some(_) => Finding::ok(CHECK, found, "Workers take over each other's queue when they close their listeners"),
        None => Finding::ok(CHECK, found, "Linux has it since 5.14"),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::doctor::finding::Level;
    use crate::host::tests::host;

    #[test]
    fn settings_are_held_against_the_options() {
        let (_root, host) =
            host(&[("/proc/sys/net/core/somaxconn", "128\n"), ("/proc/sys/net/ipv4/tcp_migrate_req", "0\n")]);
        let mut config = Options::default();
        config.server.shards = NonZeroUsize::new(2).unwrap();
        assert_eq!((backlog(&host, &config).level, migration(&host, &config).level), (Level::Advice, Level::Advice));
        assert!(backlog(&host, &config).mend[0].starts_with("sysctl -w net.core.somaxconn=4096"));
        config.server.listen.backlog = 128;
        config.server.shards = NonZeroUsize::MIN;
        assert_eq!((backlog(&host, &config).level, migration(&host, &config).level), (Level::Ok, Level::Ok));
    }
}
