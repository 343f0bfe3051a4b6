//! A client that vanishes without a FIN is closed and counted after the keepalive, or after the write timeout if acks
//! for it are unsent. A client's keepalive detects that its server has vanished.
//!
//! The tests need two network namespaces with a link between them, and so root and `ip`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::admin::Metrics;
use crate::common::namespace::{enter_namespace, in_namespace, ip};
use crate::common::{BINARY, Server, round_trip, submit};
use ringpost::client::{Cause, Client, Error, Options};

const SERVER_ADDRESS: &str = "10.213.77.1";
const PEER_ADDRESS: &str = "10.213.77.2";

/// A thread in its own namespace, at the other end of a link.
struct Peer {
    commands: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Peer {
    /// Creates the peer. The caller must be in the server's namespace.
    fn new() -> Result<Peer, String> {
        let (commands, receiver) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (ready_sender, ready) = mpsc::channel();
        thread::spawn(move || {
            // SAFETY: gettid(2) can't fail.
            ready_sender.send(enter_namespace().map(|()| unsafe { libc::gettid() })).unwrap();
            receiver.iter().for_each(|command| command());
        });
        let thread = ready.recv().unwrap()?;
        ip(&format!("link add server0 type veth peer name peer0 netns {thread}"))?;
        ip(&format!("address add {SERVER_ADDRESS}/24 dev server0"))?;
        ip("link set server0 up")?;
        let peer = Peer { commands };
        peer.run(|| ip(&format!("address add {PEER_ADDRESS}/24 dev peer0")))?;
        peer.run(|| ip("link set peer0 up"))?;
        Ok(peer)
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = mpsc::channel();
        self.commands.send(Box::new(move || sender.send(work()).unwrap())).unwrap();
        result.recv().expect("the work is done")
    }

    fn connect(&self, server: &Server) -> TcpStream {
        let address = server.addresses[1];
        self.run(move || crate::common::connect(address))
    }
}

fn closed(server: &Server, reason: &str) -> f64 {
    Metrics::scrape(server).get(&format!("ringpost_connections_closed_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_vanished_client_is_closed_after_the_keepalive_and_counted() {
    in_namespace(check_vanished_client);
}

fn check_vanished_client() {
    let peer = Peer::new().unwrap();
    let mut command = Command::new(BINARY);
    command.args(["serve", "--workers", "1", "--admin", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
    command.args(["--listen", &format!("{SERVER_ADDRESS}:0"), "--tcp-keepalive", "1s", "--write-timeout", "3s"]);
    let server = Server::spawn(command, 2);
    let mut bystander = server.connect();
    round_trip(&mut bystander, 1);
    // Two clients are silent, one of them inside a frame. The third one has sent a request that can no longer be
    // answered.
    let (mut silent, mut inside, mut owed) = (peer.connect(&server), peer.connect(&server), peer.connect(&server));
    for stream in [&mut silent, &mut inside, &mut owed] {
        round_trip(stream, 1);
    }
    inside.write_all(&submit(2, b"half")[..15]).unwrap();
    thread::sleep(Duration::from_millis(100));

    // The request arrives, but the ack can't be delivered, because the link is down by then: the server is stopped
    // while the link goes down, and has the request in its socket when it continues.
    server.signal(libc::SIGSTOP);
    owed.write_all(&submit(2, b"to be answered")).unwrap();
    thread::sleep(Duration::from_millis(100));
    peer.run(|| ip("link set peer0 down")).unwrap();
    server.signal(libc::SIGCONT);
    let start = Instant::now();
    let gone = || (closed(&server, "keepalive"), closed(&server, "write_timeout"));
    let mut id = 2;
    while gone() != (2.0, 1.0) {
        assert!(
            start.elapsed() < Duration::from_secs(12),
            "{:?}",
            Metrics::scrape(&server).counted("ringpost_connections_closed_total")
        );
        round_trip(&mut bystander, id);
        id += 1;
        thread::sleep(Duration::from_millis(50));
    }
    let took = start.elapsed();
    println!("all three connections were closed after {took:?}");
    assert!(took > Duration::from_secs(1), "{took:?}");
    assert_eq!(Metrics::scrape(&server).get("ringpost_connections_open{shard=\"0\"}"), 1.0);
    assert_eq!(closed(&server, "reset"), 0.0);
    server.wait_for_log("the peer no longer answers (--tcp-keepalive)");
    server.wait_for_log("--write-timeout");
}

/// The server's host has received the whole request, so the kernel has nothing to retransmit. Without keepalive, the
/// client would wait forever.
#[test]
fn a_clients_keepalive_detects_a_vanished_server() {
    in_namespace(check_vanished_server);
}

fn check_vanished_server() {
    let peer = Peer::new().unwrap();
    let listener = peer.run(|| TcpListener::bind((PEER_ADDRESS, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = Options::default().keepalive(Duration::from_secs(1));
    let (client, mut ticket) = runtime.block_on(async {
        let client = Client::connect(address, &options).await.unwrap();
        let ticket = client.send(b"never answered").await.unwrap();
        (client, ticket)
    });
    let (mut served, _) = listener.accept().unwrap();
    let mut request = [0; 13 + 14];
    runtime.block_on(async { tokio::task::yield_now().await });
    served.read_exact(&mut request).unwrap();
    // The acknowledgement of the last segment arrives before the link goes down.
    thread::sleep(Duration::from_millis(300));
    peer.run(|| ip("link set peer0 down")).unwrap();
    let waited = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), ticket.wait()).await });
    let error = waited.expect("the keepalive ends the wait").unwrap_err();
    let Error::Ended { cause: Cause::Io { error, .. }, unacked } = error else { panic!("{error}") };
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    assert_eq!(unacked.written.count(), 1);
    drop(client);
}
