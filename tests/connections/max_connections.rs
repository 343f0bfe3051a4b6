//! A connection over a limit is accepted, closed and counted. Connections within the limit continue, and a place that
//! becomes free can be used again.

use std::io::Read;
use std::net::TcpStream;

use crate::common::admin::Metrics;
use crate::common::{Server, round_trip, wait_until};

/// Returns whether a new connection is closed immediately.
fn is_turned_away(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0; 1]), Ok(1..))
}

fn closed(server: &Server, reason: &str) -> f64 {
    Metrics::scrape(server).get(&format!("ringpost_connections_closed_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_connection_over_the_limit_is_closed_and_counted() {
    let server = Server::start(&["--workers", "2", "--max-connections", "5", "--admin", "127.0.0.1:0"]);
    let mut inside: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for (stream, id) in inside.iter_mut().zip(0..) {
        round_trip(stream, id);
    }
    for _ in 0..20 {
        assert!(is_turned_away(&mut server.connect()));
    }
    assert_eq!(closed(&server, "connection_limit"), 20.0);
    server.wait_for_log("closed a connection: limit reached");
    for (stream, id) in inside.iter_mut().zip(0..) {
        round_trip(stream, id);
    }
    drop(inside.pop());
    wait_until("the place is free", || closed(&server, "client_closed") == 1.0);
    round_trip(&mut server.connect(), 7);
}

#[test]
fn one_client_address_can_not_use_every_connection() {
    let server = Server::start(&["--workers", "2", "--max-connections-per-ip", "3", "--admin", "127.0.0.1:0"]);
    let mut inside: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for (stream, id) in inside.iter_mut().zip(0..) {
        round_trip(stream, id);
    }
    assert!(is_turned_away(&mut server.connect()));
    assert_eq!(closed(&server, "connection_limit_per_ip"), 1.0);
    // Another address of the loopback network counts as another client.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 9], 0)).into()).unwrap();
    socket.connect(&server.address().into()).unwrap();
    let mut other: TcpStream = socket.into();
    round_trip(&mut other, 1);
}
