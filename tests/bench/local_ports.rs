//! A client's host has a limited number of local ports. Bench uses few of them, and an error reports if all are in use.
//!
//! The tests need a network namespace with a small range of ports, and so root and `ip`.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::namespace::{in_namespace, ip};
use crate::common::peer_load::{Request, bench, peer_at};
use crate::common::requirement::NETWORK_NAMESPACE;
use ringpost::client::{Client, ConnectError, Options};

const PORTS: usize = 100;

/// Runs a test in a namespace that has [`PORTS`] ephemeral ports, with a peer at this address.
fn with_few_ports(address: &str, test: impl FnOnce(SocketAddr) + Send) {
    let address: IpAddr = address.parse().unwrap();
    in_namespace(|| {
        let range = format!("40000 {}", 40000 + PORTS - 1);
        let limited = fs::write("/proc/sys/net/ipv4/ip_local_port_range", range)
            .map_err(|error| format!("can't set net.ipv4.ip_local_port_range: {error}"));
        let add = || if address.is_loopback() { Ok(()) } else { ip(&format!("address add {address} dev lo")) };
        if NETWORK_NAMESPACE.check(limited.and_then(|()| add())).is_some() {
            wait_for_address(address);
            test(peer_at(address, |request: &Request| Some(request.ack())));
        }
    });
}

/// Waits until a new IPv6 address can be used. For a moment it can't be bound, and for another moment it has no route.
fn wait_for_address(address: IpAddr) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let works = || UdpSocket::bind((address, 0)).and_then(|socket| socket.connect((address, 1)));
    while let Err(error) = works() {
        assert!(Instant::now() < deadline, "{address}: {error}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn bench_holds_more_connections_over_ipv6_loopback_than_there_are_ephemeral_ports() {
    with_few_ports("::1", |peer| {
        let outcome = bench(&peer.to_string(), "--idle 250 --duration 100ms");
        assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    });
}

#[test]
fn churn_over_ipv6_loopback_does_not_wait_for_ports() {
    with_few_ports("::1", |peer| {
        let outcome = bench(&peer.to_string(), "--churn --connections 10 --duration 1s --warmup 0s");
        assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
        assert_eq!(outcome.number("/port_waits"), 0.0, "{}", outcome.stdout);
        // If the kernel chooses the port, a port can be used again a second after its connection was closed.
        assert!(outcome.number("/requests") > 2.5 * PORTS as f64, "{}", outcome.stdout);
    });
}

#[test]
fn an_ipv4_address_written_as_ipv6_uses_the_sources_of_ipv4() {
    with_few_ports("127.0.0.1", |peer| {
        let outcome = bench(&format!("[::ffff:127.0.0.1]:{}", peer.port()), "--idle 250 --duration 100ms");
        assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    });
}

#[test]
fn bench_reports_that_no_port_is_free() {
    for address in ["10.213.78.1", "fd00::78:1"] {
        with_few_ports(address, |peer| {
            let outcome = bench(&peer.to_string(), "--idle 250 --duration 100ms");
            assert_eq!(outcome.code, 1, "{}", outcome.stdout);
            for word in [
                "no local port is free",
                "net.ipv4.ip_local_port_range (40000 to 40099)",
                "could not open connection",
                "fewer",
            ] {
                assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
            }
        });
    }
}

#[test]
fn churn_waits_for_a_free_port_and_reports_it() {
    with_few_ports("10.213.78.1", |peer| {
        let outcome = bench(&peer.to_string(), "--churn --connections 10 --duration 500ms --warmup 0s");
        assert!(outcome.number("/port_waits") > 0.0, "{}", outcome.stdout);
        assert_eq!(outcome.code, 0, "waiting for a port is not a fault: {}", outcome.stdout);
    });
}

#[test]
fn the_client_reports_that_no_port_is_free() {
    with_few_ports("10.213.78.1", |peer| {
        let mut clients = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = loop {
            match runtime.block_on(Client::connect(peer, &Options::default())) {
                Ok(client) => clients.push(client),
                Err(error) => break error,
            }
            assert!(clients.len() <= PORTS, "ports never run out");
        };
        assert!(matches!(error, ConnectError::NoLocalPort { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("no local port is free") && text.contains("40000 to 40099"), "{text}");
    });
}
