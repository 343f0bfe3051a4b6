//! The admin address over HTTP/1.1: `/metrics` for Prometheus, `/healthz` and `/readyz` for operators and load
//! balancers, and a page at `/` that shows the metrics.
//!
//! Owns the listener, a thread with an ordinary tokio runtime, and the page. It must not know the server: it reads
//! metrics and health, and changes nothing. The thread answers while the server starts, while every shard is busy, and
//! during a drain. Invariant: a client of this address costs little. A connection carries one request, and the
//! request's size, its time and the number of connections are bounded.

mod page;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::event::{EventfdFlags, eventfd};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::health::Health;
use crate::log;
use crate::metrics::exposition::{self, ProcessFacts};
use crate::metrics::process::ProcessFiles;
use crate::metrics::{ShardMetrics, TlsFileFigures};
use crate::net::BindError;

/// The state of a running server that the endpoints report.
pub struct AdminState {
    /// The metrics of each shard.
    pub shards: Vec<Arc<ShardMetrics>>,
    /// The name of the shards' engine.
    pub engine: &'static str,
    /// Why the shards use this engine, as one word.
    pub engine_reason: &'static str,
    /// The server's health.
    pub health: Arc<Health>,
    /// The start time of the process.
    pub started: SystemTime,
    /// The process's files in `/proc`.
    pub process: ProcessFiles,
    /// Figures about the files of TLS.
    pub tls_files: Arc<TlsFileFigures>,
}

/// The state that the endpoints report. It is empty while the server starts.
type SharedState = Arc<OnceLock<AdminState>>;

/// The bound admin address, before it answers. Connections wait in the backlog.
pub struct AdminListener {
    listener: std::net::TcpListener,
    address: SocketAddr,
}

impl AdminListener {
    /// Listens on the address.
    ///
    /// # Errors
    /// Returns an error that says how to fix it if the address can't be bound.
    pub fn bind(address: SocketAddr) -> Result<AdminListener, BindError> {
        std::net::TcpListener::bind(address)
            .and_then(AdminListener::inherit)
            .map_err(|source| BindError::explain("--admin", address, source))
    }

    /// Uses the socket of a server that is taken over.
    ///
    /// # Errors
    /// Returns an error if the descriptor is not a TCP socket.
    pub fn inherit(listener: std::net::TcpListener) -> io::Result<AdminListener> {
        listener.set_nonblocking(true)?;
        Ok(AdminListener { address: listener.local_addr()?, listener })
    }

    /// Returns the bound address, with the actual port if port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the thread that answers until [`AdminServer::stop`] or the end of the process. Until
    /// [`AdminServer::set_state`] is called, it reports that the server is starting. The thread calls `on_thread_start`
    /// first.
    ///
    /// # Errors
    /// Returns an error if the thread, its runtime or a descriptor can't be created.
    pub fn start(self, on_thread_start: impl FnOnce() + Send + 'static) -> io::Result<AdminServer> {
        info!(address = %self.address, "admin address: /, /metrics, /healthz, /readyz");
        let listener = self.listener.try_clone()?.into();
        let server = AdminServer { listener, stop: Arc::default(), state: SharedState::default() };
        let (stop, state) = (server.stop.clone(), server.state.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = move || {
            on_thread_start();
            runtime.block_on(async {
                match TcpListener::from_std(self.listener) {
                    Ok(listener) => tokio::select! {
                        () = accept(listener, state) => {}
                        () = stop.notified() => {}
                    },
                    Err(error) => warn!(%error, "can't use the admin listener; the admin address does not answer"),
                }
                // Accepted connections still get their answers.
                sleep(TIMEOUT).await;
            });
        };
        std::thread::Builder::new().name("admin".into()).spawn(body)?;
        Ok(server)
    }
}

/// An admin address that answers.
pub struct AdminServer {
    listener: OwnedFd,
    stop: Arc<Notify>,
    state: SharedState,
}

impl AdminServer {
    /// Sets the state that the endpoints report from now on. Only the first call has an effect, since a process has one
    /// server.
    pub fn set_state(&self, state: AdminState) {
        let _ = self.state.set(state);
    }

    /// Returns a copy of the listening socket, for a server that takes over.
    ///
    /// # Errors
    /// Returns an error if there is no free descriptor.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.try_clone()
    }

    /// Stops accepting. The address is then closed, unless another process has a copy of the socket.
    pub fn stop(self) {
        self.stop.notify_one();
    }
}

/// An open connection.
struct Open {
    task: AbortHandle,
    /// Whether a request has arrived on it.
    asked: Arc<AtomicBool>,
}

async fn accept(listener: TcpListener, state: SharedState) {
    let mut open: VecDeque<Open> = VecDeque::new();
    let spare = Arc::<Spare>::default();
    spare.fill();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                open.retain(|open| !open.task.is_finished());
                if open.len() >= CONNECTIONS_MAX
                    && !evict_idle(&mut open)
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.task.abort();
                }
                let (state, asked, spare) = (state.clone(), Arc::<AtomicBool>::default(), spare.clone());
                let task = tokio::spawn({
                    let asked = asked.clone();
                    async move {
                        match timeout(TIMEOUT, serve(stream, &state, &asked)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => debug!(%peer, %error, "admin connection failed"),
                            Err(_) => debug!(%peer, "admin connection took too long; closed it"),
                        }
                        // This connection may have used a spare descriptor.
                        spare.fill();
                    }
                });
                open.push_back(Open { task: task.abort_handle(), asked });
            }
            Err(error) => {
                debug!(%error, "can't accept an admin connection");
                let out = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                // The next accept uses a spare descriptor, or the one of an idle connection.
                if out && (spare.give_up() || evict_idle(&mut open)) {
                    yield_now().await;
                } else {
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
}

/// Closes the oldest connection that has not sent a request yet, and returns whether there was one. A request is
/// answered within milliseconds, so such a connection is idle.
fn evict_idle(open: &mut VecDeque<Open>) -> bool {
    let idle = |open: &Open| !open.asked.load(Ordering::Relaxed) && !open.task.is_finished();
    let oldest = open.iter().position(idle).and_then(|oldest| open.remove(oldest));
    oldest.inspect(|oldest| oldest.task.abort()).is_some()
}

/// Descriptors that are reserved for accepts, so that the address answers when all others are in use.
#[derive(Default)]
struct Spare(Mutex<Vec<OwnedFd>>);

impl Spare {
    /// Opens as many descriptors as are reserved, or as many as the process can open.
    fn fill(&self) {
        let mut kept = self.kept();
        while kept.len() < DESCRIPTORS_SPARE
            && let Ok(descriptor) = eventfd(0, EventfdFlags::CLOEXEC)
        {
            kept.push(descriptor);
        }
    }

    /// Closes a spare descriptor until the next connection has ended. Returns `false` if there is no spare one.
    fn give_up(&self) -> bool {
        self.kept().pop().is_some()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers one request.
async fn serve(stream: TcpStream, state: &OnceLock<AdminState>, asked: &AtomicBool) -> hyper::Result<()> {
    let answer = service_fn(async |request: hyper::Request<_>| {
        asked.store(true, Ordering::Relaxed);
        Ok::<_, Infallible>(answer(state.get(), request.method(), request.uri().path()))
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_LEN_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

fn answer(state: Option<&AdminState>, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let part = page::part(path);
    let is_known = part.is_some() || matches!(path, "/metrics" | "/healthz" | "/readyz");
    let (status, content_type, body): (_, _, Bytes) = match (path, part) {
        _ if is_known && !matches!(*method, Method::GET | Method::HEAD) => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, ENDPOINTS.into())
        }
        (_, Some(part)) => (StatusCode::OK, part.content_type, part.text.into()),
        ("/metrics" | "/healthz" | "/readyz", _) => match state {
            Some(state) => report(state, path),
            // A start may be slow if segments must be zero-filled. That is not a fault.
            None if path == "/healthz" => verdict(STARTING, None),
            None => verdict("ready", Some(STARTING.into())),
        },
        _ => (StatusCode::NOT_FOUND, TEXT, ENDPOINTS.into()),
    };
    let mut response = Response::new(Full::from(body));
    page::add_security_headers(&mut response);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type.parse().expect("a constant header value"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a constant header value"));
    }
    response
}

fn report(state: &AdminState, path: &str) -> (StatusCode, &'static str, Bytes) {
    match path {
        "/healthz" => verdict("healthy", state.health.fault()),
        "/readyz" => verdict("ready", state.health.not_ready()),
        _ => {
            let facts = ProcessFacts {
                engine: state.engine,
                engine_reason: state.engine_reason,
                started: state.started,
                files: &state.process,
                tls_files: &state.tls_files,
                log_lines_dropped: log::dropped(),
            };
            let text = exposition::render(&state.shards, &facts);
            (StatusCode::OK, exposition::CONTENT_TYPE, text.into())
        }
    }
}

/// Returns 200 and `good`, or 503 and the fault.
fn verdict(good: &str, wrong: Option<String>) -> (StatusCode, &'static str, Bytes) {
    match wrong {
        None => (StatusCode::OK, TEXT, format!("{good}\n").into()),
        Some(wrong) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{wrong}\n").into()),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const ENDPOINTS: &str = "endpoints for GET and HEAD: /metrics, /healthz, /readyz, and a page at /\n";

/// The answer of a server that does not accept connections yet.
const STARTING: &str = "starting";

/// The most open connections. If it is reached, a new connection replaces the oldest idle one.
pub const CONNECTIONS_MAX: usize = 64;

/// The time limit of a connection, from its accept to the end of its answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of a request, including headers.
const REQUEST_LEN_MAX: usize = 16 << 10;

/// The number of spare descriptors.
const DESCRIPTORS_SPARE: usize = 2;

/// How long accepts pause when descriptors or kernel memory are exhausted.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
