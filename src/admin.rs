//! The admin address: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever runs the
//! server, and at `/` a page that draws them, over HTTP/1.1.
//!
//! It has a thread of its own with an ordinary runtime, so that it answers while every shard is
//! busy, and during a drain. It reads what the shards have counted and changes nothing. Whoever
//! reaches it costs the server little: each connection carries one request, and its size, its time
//! and the number of such connections are bounded.

mod page;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::config::{ACCEPT_BACKOFF, ADMIN_CONNECTIONS_MAX, ADMIN_REQUEST_LEN_MAX, ADMIN_TIMEOUT};
use crate::engine::Chosen;
use crate::health::Health;
use crate::metrics::{ShardMetrics, exposition};
use crate::server::BindError;

/// What the endpoints show.
pub struct View {
    pub shards: Vec<Arc<ShardMetrics>>,
    pub engine: Arc<Chosen>,
    pub health: Arc<Health>,
    /// When the process started.
    pub started: SystemTime,
}

/// A bound admin address that nobody answers on yet; connections queue.
pub struct Admin {
    listener: std::net::TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Takes the address.
    ///
    /// # Errors
    /// It can't be listened on; the error says what to do.
    pub fn bind(address: SocketAddr) -> Result<Admin, BindError> {
        std::net::TcpListener::bind(address)
            .and_then(Admin::inherit)
            .map_err(|source| BindError::explain("--admin", address, source))
    }

    /// Takes the socket of a server that is taken over.
    ///
    /// # Errors
    /// It is not a TCP socket.
    pub fn inherit(listener: std::net::TcpListener) -> io::Result<Admin> {
        listener.set_nonblocking(true)?;
        Ok(Admin { address: listener.local_addr()?, listener })
    }

    /// Where it listens, with the port that was found for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the thread that answers, until it is told to stop or the process ends.
    ///
    /// # Errors
    /// There is no thread, no runtime or no descriptor to be had.
    pub fn start(self, view: View) -> io::Result<Answering> {
        let answering = Answering { listener: self.listener.try_clone()?.into(), stop: Arc::default() };
        let stop = answering.stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = move || {
            runtime.block_on(async {
                match TcpListener::from_std(self.listener) {
                    Ok(listener) => tokio::select! {
                        () = accept(listener, Arc::new(view)) => {}
                        () = stop.notified() => {}
                    },
                    Err(error) => warn!("nobody answers on the admin address: {error}"),
                }
                // Who has been accepted is answered.
                sleep(ADMIN_TIMEOUT).await;
            });
        };
        std::thread::Builder::new().name("admin".into()).spawn(body)?;
        Ok(answering)
    }
}

/// An admin address on which somebody answers.
pub struct Answering {
    listener: OwnedFd,
    stop: Arc<Notify>,
}

impl Answering {
    /// Its listening socket, for a server that takes over.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.try_clone()
    }

    /// Accepts no more. Without a copy in another process the address is closed then.
    pub fn stop(self) {
        self.stop.notify_one();
    }
}

async fn accept(listener: TcpListener, view: Arc<View>) {
    let room = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        // Without room the others wait in the kernel's queue, at most as long as a connection may last.
        let place = room.clone().acquire_owned().await.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, peer)) => {
                let view = view.clone();
                tokio::spawn(async move {
                    match timeout(ADMIN_TIMEOUT, serve(stream, &view)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%peer, "an admin connection failed: {error}"),
                        Err(_) => debug!(%peer, "closed an admin connection that took too long"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                debug!("can't accept an admin connection: {error}");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Answers one request.
async fn serve(stream: TcpStream, view: &View) -> hyper::Result<()> {
    let answer = service_fn(async |request: hyper::Request<_>| {
        Ok::<_, Infallible>(answer(view, request.method(), request.uri().path()))
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(ADMIN_REQUEST_LEN_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

const TEXT: &str = "text/plain; charset=utf-8";
const MAP: &str = "there are /metrics, /healthz and /readyz, and / to look at, for GET and HEAD\n";

fn answer(view: &View, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let part = page::part(path);
    let is_known = part.is_some() || matches!(path, "/metrics" | "/healthz" | "/readyz");
    let (status, content_type, body): (_, _, Bytes) = match (path, part) {
        _ if is_known && !matches!(*method, Method::GET | Method::HEAD) => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, MAP.into())
        }
        (_, Some(part)) => (StatusCode::OK, part.content_type, part.text.into()),
        ("/metrics", _) => {
            let text = exposition::render(&view.shards, &view.engine, view.started);
            (StatusCode::OK, exposition::CONTENT_TYPE, text.into())
        }
        ("/healthz", _) => verdict("healthy", view.health.fault()),
        ("/readyz", _) => verdict("ready", view.health.not_ready()),
        _ => (StatusCode::NOT_FOUND, TEXT, MAP.into()),
    };
    let mut response = Response::new(Full::from(body));
    page::guard(&mut response);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type.parse().expect("a constant header value"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a constant header value"));
    }
    response
}

/// 200 and `good`, or 503 and what is wrong.
fn verdict(good: &str, wrong: Option<String>) -> (StatusCode, &'static str, Bytes) {
    match wrong {
        None => (StatusCode::OK, TEXT, format!("{good}\n").into()),
        Some(wrong) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{wrong}\n").into()),
    }
}
