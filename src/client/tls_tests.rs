//! The client against TLS servers on real sockets: what a connection does, and each reason why one fails.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, date_time_ymd};
use rustls::{ServerConfig, version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Cause, Client, ConnectError, Error, Options, ProtocolError, TlsError, TlsOptions, TlsOptionsError};
use crate::authority::Authority;
use crate::proto::{AckCodes, AckResult, Acks, Id, Kind};

/// Returns the options of a client that trusts this CA.
fn trust(ca: &Authority) -> TlsOptions {
    TlsOptions::default().ca(ca.path("ca.pem"))
}

/// Accepts one connection and gives it to `script`. Returns the address as a client names it.
async fn serve_plain<F: Future<Output = ()> + Send + 'static>(
    script: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> String {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let addr = format!("localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move { script(listener.accept().await.unwrap().0).await });
    addr
}

/// Accepts one connection and gives it to `script`, if the handshake succeeds.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    config: ServerConfig,
    script: impl FnOnce(TlsStream<TcpStream>) -> F + Send + 'static,
) -> String {
    serve_plain(async move |socket| {
        if let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(socket).await {
            script(stream).await;
        }
    })
    .await
}

fn acks(ids: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut acks = Acks::new(AckCodes::Spec);
    ids.into_iter().for_each(|id| acks.push(Kind::Submit, Id::from_number(id), AckResult::Success));
    acks.take()
}

async fn connect(addr: &str, tls: &TlsOptions) -> Result<Client, ConnectError> {
    Client::connect(addr, &Options::default().window(100_000).tls(tls.load().unwrap())).await
}

async fn handshake_error(addr: &str, tls: &TlsOptions) -> TlsError {
    match connect(addr, tls).await.map(drop) {
        Err(ConnectError::Tls { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

/// The server reads to the end of the client's direction before it acks anything, so every ack leaves after the
/// close_notify.
#[tokio::test]
async fn finish_sends_everything_and_a_close_notify_and_waits_for_acks() {
    for version in [&version::TLS13, &version::TLS12] {
        let ca = Authority::new("trusted");
        let (count, payload) = (2_000, vec![7; 1_000]);
        let received_max = count as usize * (13 + payload.len());
        let addr = serve(ca.server_with(|_| {}, version, None), async move |mut stream| {
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.expect("a close_notify");
            assert_eq!(received.len(), received_max);
            stream.write_all(&acks(1..=count)).await.unwrap();
            stream.shutdown().await.unwrap();
        })
        .await;
        let client = connect(&addr, &trust(&ca)).await.unwrap();
        let mut tickets = Vec::new();
        for _ in 0..count {
            tickets.push(client.send(&payload).await.unwrap());
        }
        timeout(PATIENCE, client.finish()).await.expect("it ends").unwrap();
        for mut ticket in tickets {
            assert_eq!(ticket.wait().await.unwrap(), AckResult::Success);
        }
    }
}

#[tokio::test]
async fn requests_are_acked_one_by_one() {
    let ca = Authority::new("trusted");
    let addr = serve(ca.server(), async |mut stream| {
        for id in 1..=3 {
            let mut request = [0; 14];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(&acks([id])).await.unwrap();
        }
        // The end of the stream is a FIN without a close_notify.
        drop(stream);
    })
    .await;
    let client = connect(&addr, &trust(&ca)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(timeout(PATIENCE, client.submit(b"1")).await.unwrap().unwrap(), AckResult::Success);
    }
    let error = timeout(PATIENCE, client.handle.shared.ended()).await.unwrap();
    assert!(matches!(&error, Error::Ended { cause: Cause::PeerClosed, .. }), "{error:?}");
}

/// Connects a client to `config` over a pipe for 1,000 bytes, and returns both ends.
async fn over_pipe(ca: &Authority, config: ServerConfig) -> (ClientStream, io::Result<ServerStream>) {
    let (near, far) = tokio::io::duplex(1_000);
    let tls = trust(ca).load().unwrap();
    let connecting = TlsConnector::from(tls.config()).connect(tls.server_name("localhost:1").unwrap(), near);
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(far);
    let (client, server) = tokio::join!(connecting, accepting);
    (client.unwrap(), server)
}

type ClientStream = tokio_rustls::client::TlsStream<DuplexStream>;
type ServerStream = TlsStream<DuplexStream>;

/// TLS accepts all requests immediately, and the pipe has no room for most of their records.
#[tokio::test]
async fn records_that_wait_for_room_are_sent_without_another_request() {
    let ca = Authority::new("trusted");
    let (near, far) = over_pipe(&ca, ca.server()).await;
    let client = Client::drive(near, &Options::default());
    let mut tickets = Vec::new();
    for _ in 0..20 {
        tickets.push(client.send(&[7; 987]).await.unwrap());
    }
    let mut far = far.unwrap();
    let mut received = vec![0; 20 * 1_000];
    timeout(PATIENCE, far.read_exact(&mut received)).await.expect("all requests arrive").unwrap();
    far.write_all(&acks(1..=20)).await.unwrap();
    for mut ticket in tickets {
        assert_eq!(timeout(PATIENCE, ticket.wait()).await.unwrap().unwrap(), AckResult::Success);
    }
}

/// A stream whose write fails before what the peer has sent can be read.
struct FailsToWrite(ClientStream, bool);

impl AsyncRead for FailsToWrite {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.1 { Pin::new(&mut self.0).poll_read(cx, buffer) } else { Poll::Pending }
    }
}

impl AsyncWrite for FailsToWrite {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        self.1 = true;
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_alert_is_the_cause_if_a_write_fails_first() {
    let (ca, clients) = (Authority::new("trusted"), Authority::new("clients"));
    let (near, far) = over_pipe(&ca, ca.server_with(|_| {}, &version::TLS13, Some(&clients))).await;
    assert!(far.is_err(), "the client has no certificate");
    let client = Client::drive(FailsToWrite(near, false), &Options::default());
    let error = timeout(PATIENCE, client.submit(b"")).await.unwrap().unwrap_err();
    assert!(
        matches!(error, Error::Ended { cause: Cause::Tls(TlsError::CertificateRequired), .. }),
        "{error:?}: {error}"
    );
}

/// Both the records that TLS holds and the queue are full. After the deadline, each request is reported once.
#[tokio::test]
async fn write_deadline_ends_the_wait_for_a_server_that_does_not_read() {
    let ca = Authority::new("trusted");
    let addr = serve(ca.server(), async |stream| {
        tokio::time::sleep(PATIENCE).await;
        drop(stream);
    })
    .await;
    let client = connect(&addr, &trust(&ca)).await.unwrap();
    client.set_write_deadline(Some(Instant::now() + Duration::from_millis(300)));
    let (payload, mut sent) = (vec![0; 100_000], 0);
    let error = loop {
        match timeout(PATIENCE, client.send(&payload)).await.expect("the deadline ends the wait") {
            Ok(_ticket) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(sent > 10, "{sent}");
    assert!(matches!(error, Error::WriteDeadline { .. } | Error::Ended { cause: Cause::WriteDeadline, .. }), "{error}");
    let unacked = *error.unacked().unwrap();
    let reported = unacked.written.count() + usize::from(unacked.partly_written.is_some()) + unacked.unwritten.count();
    assert!(reported <= sent && unacked.bytes_written > 0, "{unacked}");
    let busy = Instant::now();
    timeout(PATIENCE, client.close()).await.expect("the task still answers");
    assert!(busy.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn each_fault_of_a_certificate_has_an_error_of_its_own() {
    let ca = Authority::new("trusted");
    let ok = async |_| {};
    let error = async |config| handshake_error(&serve(config, ok).await, &trust(&ca)).await;

    assert_eq!(error(Authority::new("another").server()).await, TlsError::UnknownIssuer);
    let same_name = Authority::new("trusted");
    assert_eq!(error(same_name.server()).await, TlsError::UnknownIssuer);

    let other_name = |params: &mut CertificateParams| {
        *params = CertificateParams::new(["example.com".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    };
    let wrong = error(ca.server_with(other_name, &version::TLS13, None)).await;
    let expected = "is not valid for \"localhost\", only for example.com, 127.0.0.1:";
    assert!(wrong.to_string().contains(expected), "{wrong}");
    let named = trust(&ca).server_name("example.com");
    connect(&serve(ca.server_with(other_name, &version::TLS13, None), ok).await, &named).await.unwrap();

    let old = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let expired = error(ca.server_with(old, &version::TLS13, None)).await;
    assert!(matches!(expired, TlsError::Expired { days_ago: 2_000.. }), "{expired:?}");
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(2100, 1, 1);
    assert_eq!(error(ca.server_with(early, &version::TLS13, None)).await, TlsError::NotValidYet);

    let of_ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(error(ca.server_with(of_ca, &version::TLS13, None)).await, TlsError::CertificateOfCa);

    let for_clients =
        |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let purpose = error(ca.server_with(for_clients, &version::TLS13, None)).await;
    assert!(matches!(purpose, TlsError::Certificate(_)), "{purpose:?}");
}

#[tokio::test]
async fn insecure_accepts_any_certificate() {
    let config =
        Authority::new("trusted").server_with(|params| params.subject_alt_names.clear(), &version::TLS13, None);
    let addr = serve(config, async |mut stream| {
        let mut request = [0; 13];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(&acks([1])).await.unwrap();
    })
    .await;
    let client = connect(&addr, &TlsOptions::default().insecure(true)).await.unwrap();
    assert_eq!(client.submit(b"").await.unwrap(), AckResult::Success);
}

/// In TLS 1.3 the client's handshake is done before the server looks at its certificate, or misses one.
#[tokio::test]
async fn a_server_that_demands_a_client_certificate_is_reported() {
    let (ca, clients, others) = (Authority::new("trusted"), Authority::new("clients"), Authority::new("others"));
    for version in [&version::TLS13, &version::TLS12] {
        let outcome = async |tls: &TlsOptions| {
            let addr = serve(ca.server_with(|_| {}, version, Some(&clients)), async |mut stream| {
                let mut request = [0; 13];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(&acks([1])).await.unwrap();
            })
            .await;
            let client = match connect(&addr, tls).await {
                Ok(client) => client,
                Err(ConnectError::Tls { error, .. }) => return Err(error),
                Err(error) => panic!("{error}"),
            };
            match timeout(PATIENCE, client.submit(b"")).await.unwrap() {
                Ok(result) => Ok(result),
                Err(Error::Ended { cause: Cause::Tls(error), .. }) => Err(error),
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(outcome(&trust(&ca)).await, Err(TlsError::CertificateRequired));
        for from in [&clients, &others] {
            from.sign(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
            let presents = trust(&ca).certificate(from.path("certificate.pem"), from.path("key.pem"));
            let expected = match std::ptr::eq(from, &clients) {
                true => Ok(AckResult::Success),
                false => Err(TlsError::CertificateRejected("UnknownCA".to_owned())),
            };
            assert_eq!(outcome(&presents).await, expected);
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_offer_the_protocol_is_reported() {
    let ca = Authority::new("trusted");
    let mut config = ca.server();
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert_eq!(handshake_error(&serve(config, async |_| {}).await, &trust(&ca)).await, TlsError::WrongProtocol);
}

#[tokio::test]
async fn a_server_without_tls_is_reported() {
    let ca = Authority::new("trusted");
    let closes = serve_plain(async |mut socket| {
        let mut hello = [0; 1000];
        let _ = socket.read(&mut hello).await;
    })
    .await;
    assert_eq!(handshake_error(&closes, &trust(&ca)).await, TlsError::Closed);
    let answers = serve_plain(async |mut socket| {
        let mut hello = [0; 1000];
        let _ = socket.read(&mut hello).await;
        let _ = socket.write_all(&acks([1])).await;
        let _ = socket.read(&mut hello).await;
    })
    .await;
    assert_eq!(handshake_error(&answers, &trust(&ca)).await, TlsError::NotTls);

    let silent = serve_plain(async |socket| {
        tokio::time::sleep(PATIENCE).await;
        drop(socket);
    })
    .await;
    let options = Options::default().connect_timeout(Duration::from_millis(200)).tls(trust(&ca).load().unwrap());
    let started = Instant::now();
    let error = Client::connect(silent, &options).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    assert!(error.to_string().contains("no answer to the TLS handshake"), "{error}");
    assert!((200..5_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_plain_client_of_a_tls_server_is_reported() {
    let addr = serve(Authority::new("trusted").server(), async |_| {}).await;
    let client = Client::connect(addr, &Options::default()).await.unwrap();
    let error = timeout(PATIENCE, client.submit(b"a payload")).await.unwrap().unwrap_err();
    assert!(
        matches!(error, Error::Ended { cause: Cause::Protocol(ProtocolError::TlsAlert), .. }),
        "{error:?}: {error}"
    );
}

#[test]
fn options_that_can_not_be_used_are_reported() {
    let (ca, other) = (Authority::new("trusted"), Authority::new("another"));
    ca.sign(|_| {});
    other.sign(|_| {});
    let load = |options: TlsOptions| options.load().map(drop).unwrap_err();

    let missing = load(TlsOptions::default().ca("/does/not/exist"));
    assert!(matches!(missing, TlsOptionsError::File(_)) && missing.to_string().contains("--tls-ca"), "{missing}");
    let wrong_key = load(trust(&ca).certificate(ca.path("certificate.pem"), other.path("key.pem")));
    assert!(matches!(wrong_key, TlsOptionsError::WrongKey { .. }), "{wrong_key:?}");
    let no_key = load(trust(&ca).certificate(ca.path("certificate.pem"), ca.path("ca.pem")));
    assert!(no_key.to_string().contains("--tls-key"), "{no_key}");
    let damaged = ca.write("damaged.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let damaged = load(TlsOptions::default().ca(damaged));
    assert!(damaged.to_string().contains("damaged.pem"), "{damaged}");
    let name = load(trust(&ca).server_name("no name"));
    assert!(matches!(name, TlsOptionsError::InvalidName { .. }), "{name:?}");
}

#[tokio::test]
async fn a_connected_stream_can_not_begin_tls() {
    let ca = Authority::new("trusted");
    let addr = serve(ca.server(), async |_| {}).await;
    let stream = TcpStream::connect(addr).await.unwrap();
    let options = Options::default().tls(trust(&ca).load().unwrap());
    assert_eq!(Client::from_stream(stream, &options).map(drop).unwrap_err().field, "tls");
}

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);
