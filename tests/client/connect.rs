//! Each reason why a client can't connect has an error of its own, which says what to do.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::common::peer::Peer;
use ringpost::client::{Client, ConnectError, Options};
use socket2::{Domain, Socket, Type};

fn options(connect_timeout: Duration) -> Options {
    Options::default().connect_timeout(connect_timeout)
}

#[tokio::test]
async fn a_refused_connect_is_reported() {
    let addr = crate::common::peer::closed_port();
    let error = Client::connect(addr, &Options::default()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains(&addr.to_string()) && text.contains("refused") && text.contains("start the server"),
        "{text}"
    );
}

/// A listener that never accepts. Once its backlog is full, the kernel drops further SYNs, and a connect gets no
/// answer.
#[tokio::test]
async fn a_connect_that_times_out_is_reported() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(100)) {
        queued.push(stream);
        assert!(queued.len() < 100, "the backlog is never full");
    }
    let started = Instant::now();
    let error = Client::connect(addr, &options(Duration::from_millis(200))).await.unwrap_err();
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    assert!(error.to_string().contains("200ms"), "{error}");
}

#[tokio::test]
async fn a_name_that_is_not_resolved_is_reported() {
    for addr in ["no-port", "host.invalid:8888", "localhost:99999"] {
        let error = Client::connect(addr, &options(Duration::from_secs(4))).await.unwrap_err();
        assert!(matches!(error, ConnectError::Resolve { .. }), "{addr}: {error:?}");
        assert!(error.to_string().contains("HOST:PORT"), "{error}");
    }
}

/// `localhost` is `::1` and `127.0.0.1` on most hosts. A server listens only on the second address.
#[tokio::test]
async fn every_address_of_a_name_is_tried() {
    let peer = Peer::start(|mut peer| peer.ack_all());
    let client = Client::connect(format!("localhost:{}", peer.addr.port()), &Options::default()).await.unwrap();
    client.submit(b"").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(peer.join().len(), 1);
}

#[tokio::test]
async fn invalid_options_are_refused() {
    let bad = Options::default().window(0);
    let error = Client::connect(crate::common::peer::closed_port(), &bad).await.unwrap_err();
    assert!(matches!(error, ConnectError::Options(_)), "{error:?}");
}
