//! The admin address: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever runs the
//! server, and at `/` a page that draws them, over HTTP/1.1.
//!
//! It has a thread of its own with an ordinary runtime, so that it answers while the server starts, while
//! every shard is busy, and during a drain. It reads what the shards have counted and changes nothing. A client
//! that reaches it costs the server little: each connection carries one request, and its size, its time
//! and the number of such connections are bounded.

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

use crate::confine::user::{self, UserSpec};
use crate::engine::Chosen;
use crate::health::Health;
use crate::metrics::process::ProcessFiles;
use crate::metrics::{ShardMetrics, exposition};
use crate::net::BindError;

/// What the endpoints show.
pub struct View {
    pub shards: Vec<Arc<ShardMetrics>>,
    pub engine: Arc<Chosen>,
    pub health: Arc<Health>,
    /// When the process started.
    pub started: SystemTime,
    /// The process's files in `/proc`.
    pub process: ProcessFiles,
}

/// The view that the endpoints show. Empty while the server starts.
type Shown = Arc<OnceLock<View>>;

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

    /// Starts the thread that answers, until it is asked to stop or the process ends. Before a call of
    /// [`Answering::show`] it reports that the server is starting. The thread gives up the capabilities that `user`
    /// is not to have.
    ///
    /// # Errors
    /// There is no thread, no runtime or no descriptor to be had.
    pub fn start(self, user: Option<UserSpec>) -> io::Result<Answering> {
        info!(address = %self.address, "admin address: /, /metrics, /healthz, /readyz");
        let listener = self.listener.try_clone()?.into();
        let answering = Answering { listener, stop: Arc::default(), shown: Shown::default() };
        let (stop, shown) = (answering.stop.clone(), answering.shown.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = move || {
            user::drop_capabilities(user.as_ref());
            runtime.block_on(async {
                match TcpListener::from_std(self.listener) {
                    Ok(listener) => tokio::select! {
                        () = accept(listener, shown) => {}
                        () = stop.notified() => {}
                    },
                    Err(error) => warn!("nobody answers on the admin address: {error}"),
                }
                // Who has been accepted is answered.
                sleep(TIMEOUT).await;
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
    shown: Shown,
}

impl Answering {
    /// Begins to answer from `view`, once the server has started.
    pub fn show(&self, view: View) {
        // A process has one server.
        let _ = self.shown.set(view);
    }

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

/// An open connection.
struct Open {
    task: AbortHandle,
    /// Whether a request has arrived on it.
    asked: Arc<AtomicBool>,
}

async fn accept(listener: TcpListener, shown: Shown) {
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
                let (shown, asked, spare) = (shown.clone(), Arc::<AtomicBool>::default(), spare.clone());
                let task = tokio::spawn({
                    let asked = asked.clone();
                    async move {
                        match timeout(TIMEOUT, serve(stream, &shown, &asked)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => debug!(%peer, "an admin connection failed: {error}"),
                            Err(_) => debug!(%peer, "closed an admin connection that took too long"),
                        }
                        // This connection may have used a spare descriptor.
                        spare.fill();
                    }
                });
                open.push_back(Open { task: task.abort_handle(), asked });
            }
            Err(error) => {
                debug!("can't accept an admin connection: {error}");
                let out = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                // The next accept uses a descriptor of the spare ones, or of an idle connection.
                if out && (spare.give_up() || evict_idle(&mut open)) {
                    yield_now().await;
                } else {
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
}

/// Closes the oldest connection that has not sent a request yet, if there is one. A request is answered within
/// milliseconds, so such a connection is idle.
fn evict_idle(open: &mut VecDeque<Open>) -> bool {
    let idle = |open: &Open| !open.asked.load(Ordering::Relaxed) && !open.task.is_finished();
    let oldest = open.iter().position(idle).and_then(|oldest| open.remove(oldest));
    oldest.inspect(|oldest| oldest.task.abort()).is_some()
}

/// Descriptors kept back for accepts, so that the server can be asked what is wrong when all others are in use.
#[derive(Default)]
struct Spare(Mutex<Vec<OwnedFd>>);

impl Spare {
    /// Opens as many as should be kept, or as many as the process can open.
    fn fill(&self) {
        let mut kept = self.kept();
        while kept.len() < DESCRIPTORS_SPARE
            && let Ok(descriptor) = eventfd(0, EventfdFlags::CLOEXEC)
        {
            kept.push(descriptor);
        }
    }

    /// Closes one, until a connection has closed; `false` if there is none.
    fn give_up(&self) -> bool {
        self.kept().pop().is_some()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers one request.
async fn serve(stream: TcpStream, shown: &OnceLock<View>, asked: &AtomicBool) -> hyper::Result<()> {
    let answer = service_fn(async |request: hyper::Request<_>| {
        asked.store(true, Ordering::Relaxed);
        Ok::<_, Infallible>(answer(shown.get(), request.method(), request.uri().path()))
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_LEN_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

const TEXT: &str = "text/plain; charset=utf-8";
const MAP: &str = "there are /metrics, /healthz and /readyz, and / to look at, for GET and HEAD\n";

fn answer(view: Option<&View>, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let part = page::part(path);
    let is_known = part.is_some() || matches!(path, "/metrics" | "/healthz" | "/readyz");
    let (status, content_type, body): (_, _, Bytes) = match (path, part) {
        _ if is_known && !matches!(*method, Method::GET | Method::HEAD) => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, MAP.into())
        }
        (_, Some(part)) => (StatusCode::OK, part.content_type, part.text.into()),
        ("/metrics" | "/healthz" | "/readyz", _) => match view {
            Some(view) => show(view, path),
            // A start may take long if segments have to be filled. That is not a fault.
            None if path == "/healthz" => verdict(STARTING, None),
            None => verdict("ready", Some(STARTING.into())),
        },
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

fn show(view: &View, path: &str) -> (StatusCode, &'static str, Bytes) {
    match path {
        "/healthz" => verdict("healthy", view.health.fault()),
        "/readyz" => verdict("ready", view.health.not_ready()),
        _ => {
            let text = exposition::render(&view.shards, &view.engine, view.started, &view.process);
            (StatusCode::OK, exposition::CONTENT_TYPE, text.into())
        }
    }
}

/// The answer of a server that does not accept connections yet.
const STARTING: &str = "starting";

/// 200 and `good`, or 503 and what is wrong.
fn verdict(good: &str, wrong: Option<String>) -> (StatusCode, &'static str, Bytes) {
    match wrong {
        None => (StatusCode::OK, TEXT, format!("{good}\n").into()),
        Some(wrong) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{wrong}\n").into()),
    }
}

/// The most open connections. For one more, the oldest idle one is closed.
pub const CONNECTIONS_MAX: usize = 64;
/// The time limit of a connection, from its accept to the end of its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of a request, headers included.
const REQUEST_LEN_MAX: usize = 16 << 10;
/// Descriptors that are kept open, so that the address can answer when all others are in use.
const DESCRIPTORS_SPARE: usize = 2;
/// How long accepts pause when descriptors or kernel memory have run out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
