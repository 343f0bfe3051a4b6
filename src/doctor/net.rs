//! Checks the network: whether the addresses can be bound, and which kernel settings affect them.
//!
//! Owns the findings about the network. It must not know other subjects. Invariant: an address is bound for a moment
//! but never listened on, so no client can connect.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::finding::Finding;
use super::text::sysctl;
use crate::host::Host;
use crate::net::{BindError, is_family_off};
use crate::serve::Options;
use crate::server::Listen;

/// Returns the findings about addresses and network settings.
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
        let error = match bind(address, dual_stack, config.server.listen.bind_retry) {
            Ok(()) => {
                let means = match address.port() {
                    0 => "The server will use a free port",
                    _ => "The address is free",
                };
                return Finding::ok(check, address.to_string(), means);
            }
            // The server continues with IPv4 as well if IPv6 is off.
            Err(error) if candidates.peek().is_some() && is_family_off(&error) => continue,
            Err(error) => BindError::explain(option, address, error),
        };
        let port = address.port();
        let fix = match &error {
            BindError::InUse { .. } => vec![
                format!("ss -ltnp 'sport = :{port}'  # shows which process listens there"),
                format!("ringpost serve {option} {}  # any free port", SocketAddr::new(address.ip(), 0)),
            ],
            BindError::Privileged { .. } => vec![sysctl("net.ipv4.ip_unprivileged_port_start", port)],
            BindError::NotHere { .. } => vec!["ip -brief address  # lists this host's addresses".to_owned()],
            BindError::Other { .. } => Vec::new(),
        };
        return Finding::problem(check, address.to_string(), error.to_string(), fix);
    }
}

/// Binds an address without listening, so that no client can connect. While the address is in use, retries for as long
/// as the server would.
fn bind(address: SocketAddr, dual_stack: bool, retry: Duration) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // As in the server: only a listening socket is in the way, not a connection of an earlier run.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!dual_stack)?;
        }
        match socket.bind(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < retry => {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
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
            "In a burst of connections, those that do not fit into the backlog wait a second or more",
            vec![sysctl(SETTING, asked), format!("docker run --sysctl {SETTING}={asked} ...")],
        ),
        Some(limit) => {
            Finding::ok(CHECK, format!("{SETTING} is {limit}"), format!("The limit allows --backlog {asked}"))
        }
        None => Finding::ok(CHECK, format!("{SETTING} can't be read"), "The kernel may reduce --backlog"),
    }
}

fn migration(host: &Host, config: &Options) -> Finding {
    const CHECK: &str = "migration";
    const SETTING: &str = "net.ipv4.tcp_migrate_req";
    let value = host.sysctl(SETTING);
    let found = format!("{SETTING} is {}", value.as_deref().unwrap_or("missing"));
    match value.as_deref() {
        Some("0") if config.server.shards.get() > 1 => Finding::advice(
            CHECK,
            found,
            "A client that is connecting while a shard closes its listener during a drain may be reset",
            vec![sysctl(SETTING, 1), format!("docker run --sysctl {SETTING}=1 ...")],
        ),
        Some("0") => Finding::ok(CHECK, found, "With one shard there is no other listener to move connections to"),
        Some(_) => {
            Finding::ok(CHECK, found, "When a shard closes its listener, its waiting connections move to another shard")
        }
        None => Finding::ok(CHECK, found, "Linux has this setting since 5.14"),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::doctor::finding::Level;
    use crate::host::tests::host;

    #[test]
    fn settings_are_compared_with_the_options() {
        let (_root, host) =
            host(&[("/proc/sys/net/core/somaxconn", "128\n"), ("/proc/sys/net/ipv4/tcp_migrate_req", "0\n")]);
        let mut config = Options::default();
        config.server.shards = NonZeroUsize::new(2).unwrap();
        assert_eq!((backlog(&host, &config).level, migration(&host, &config).level), (Level::Advice, Level::Advice));
        assert!(backlog(&host, &config).fix[0].starts_with("sysctl -w net.core.somaxconn=4096"));
        config.server.listen.backlog = 128;
        config.server.shards = NonZeroUsize::MIN;
        assert_eq!((backlog(&host, &config).level, migration(&host, &config).level), (Level::Ok, Level::Ok));
    }
}
