//! A TLS server that passes the bytes of each connection to a plain server, with every half-close.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustls::{HandshakeKind, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A running server. It stops with the process.
pub struct TlsFront {
    /// The address as a client names it.
    pub addr: String,
    full_handshakes: Arc<AtomicUsize>,
}

impl TlsFront {
    /// Starts a server in front of `backend`.
    pub fn start(config: ServerConfig, backend: SocketAddr) -> TlsFront {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = format!("localhost:{}", listener.local_addr().unwrap().port());
        let full_handshakes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&full_handshakes);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(accept(listener, TlsAcceptor::from(Arc::new(config)), backend, counted));
        });
        TlsFront { addr, full_handshakes }
    }

    /// Returns how many handshakes were completed, all of them full.
    pub fn full_handshakes(&self) -> usize {
        self.full_handshakes.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: std::net::TcpListener,
    acceptor: TlsAcceptor,
    backend: SocketAddr,
    full_handshakes: Arc<AtomicUsize>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (acceptor, full_handshakes) = (acceptor.clone(), Arc::clone(&full_handshakes));
        tokio::spawn(async move {
            socket.set_nodelay(true).unwrap();
            let Ok(mut stream) = acceptor.accept(socket).await else { return };
            let kind = stream.get_ref().1.handshake_kind().unwrap();
            assert!(matches!(kind, HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest), "{kind:?}");
            full_handshakes.fetch_add(1, Ordering::Relaxed);
            let Ok(mut plain) = TcpStream::connect(backend).await else { return };
            plain.set_nodelay(true).unwrap();
            // A connection that ends otherwise than in good order ends both.
            let _ = copy_bidirectional(&mut stream, &mut plain).await;
        });
    }
}
