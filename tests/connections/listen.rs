//! The addresses that a server listens on. Each address is printed once on stdout, and nothing else. Port 0 works.
//! Without an address, the server listens on both IP versions; with an address, on exactly one.

use std::net::{SocketAddr, TcpStream};

use crate::common::namespace::in_namespace;
use crate::common::refuse::refuse;
use crate::common::{Server, connect, has_rings, ringpost, round_trip, run};
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

#[test]
fn every_address_is_served_and_printed_in_order() {
    let server = Server::spawn(
        ringpost(&["serve", "--workers", "2", "--listen", "127.0.0.1:0,[::1]:0", "--listen", "127.0.0.2:0"]),
        3,
    );
    let ips: Vec<_> = server.addresses.iter().map(|address| address.ip().to_string()).collect();
    assert_eq!(ips, ["127.0.0.1", "::1", "127.0.0.2"]);
    for address in server.addresses.clone() {
        round_trip(&mut connect(address), 1);
    }
    let ended = server.stop();
    assert!(ended.status.success());
    assert_eq!(ended.stdout, "", "stdout holds more than the listening lines");
}

#[test]
fn an_address_that_other_hosts_can_reach_causes_a_warning() {
    let warned = |address: &str| {
        let server = Server::spawn(ringpost(&["serve", "--listen", address]), 1);
        let log = server.stop().log;
        log.lines()
            .any(|line| line.contains("WARN") && line.contains("every client that reaches this address may submit"))
    };
    assert!(warned("0.0.0.0:0") && warned("[::]:0"));
    assert!(!warned("127.0.0.1:0") && !warned("[::1]:0"));
}

#[test]
fn an_explicit_ipv6_address_accepts_no_ipv4() {
    let server = Server::spawn(ringpost(&["serve", "--listen", "[::]:0"]), 1);
    let port = server.address().port();
    round_trip(&mut connect(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))), 1);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

/// Binds port 8888, the default, in a separate network namespace, since another server may use the port on this host.
#[test]
fn the_default_address_accepts_both_ip_versions_or_ipv4_without_ipv6() {
    in_namespace(check_defaults);
}

fn check_defaults() {
    let server = Server::spawn(ringpost(&["serve"]), 1);
    assert_eq!(server.address().to_string(), "[::]:8888");
    round_trip(&mut connect("[::1]:8888".parse().unwrap()), 1);
    round_trip(&mut connect("127.0.0.1:8888".parse().unwrap()), 1);
    assert!(server.stop().status.success());

    // A kernel without IPv6 returns this error.
    let ipv6 = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::AF_INET6 as u64).unwrap();
    let mut command = ringpost(&["serve"]);
    refuse(&mut command, libc::SYS_socket, vec![SeccompRule::new(vec![ipv6]).unwrap()], libc::EAFNOSUPPORT);
    let server = Server::spawn(command, 1);
    assert_eq!(server.address().to_string(), "0.0.0.0:8888");
    round_trip(&mut connect("127.0.0.1:8888".parse().unwrap()), 1);
}

#[test]
fn addresses_are_read_from_the_environment_too() {
    let mut command = ringpost(&["serve"]);
    command.env("RINGPOST_LISTEN", "127.0.0.1:0,127.0.0.1:0").env("RINGPOST_WORKERS", "1");
    let server = Server::spawn(command, 2);
    assert_eq!(server.rings(), usize::from(has_rings()));
    for address in server.addresses.clone() {
        round_trip(&mut connect(address), 1);
    }
}

#[test]
fn invalid_options_exit_with_2_and_say_what_is_valid() {
    for (options, hint) in [
        (&["--max-frame", "12"][..], "--max-frame 12"),
        (&["--workers", "0"], "--workers"),
        (&["--listen", "nowhere"], "--listen"),
        (&["--drain-timeout", "8"], "500ms"),
        (&["--ring-entries", "1000"], "power of two"),
        (&["--sink", "elsewhere"], "discard"),
        (&["--tcp-keepalive", "500ms"], "from 1s to 32767 s"),
        (&["--write-timeout", "60days"], "at most 24 days"),
        (&["--no-such-option"], "--no-such-option"),
    ] {
        let ended = run({
            let mut command = ringpost(&["serve"]);
            command.args(options);
            command
        });
        assert_eq!(ended.status.code(), Some(2), "{options:?}: {}", ended.log);
        assert!(ended.log.contains(hint), "{options:?}: {}", ended.log);
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn an_address_that_no_interface_has_is_refused() {
    let ended = run(ringpost(&["serve", "--listen", "192.0.2.1:0"]));
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.log.contains("No interface of this host has that address"), "{}", ended.log);
}

#[test]
fn json_logs_are_json_on_stderr() {
    let server = Server::start(&["--log-format", "json"]);
    round_trip(&mut server.connect(), 1);
    let log = server.stop().log;
    assert!(log.lines().count() >= 3);
    for line in log.lines() {
        assert!(line.starts_with("{\"timestamp\"") && line.ends_with('}'), "{line}");
    }
}
