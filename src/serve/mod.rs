//! The `serve` command: a [`Server`] from the first log line to the exit code.
//!
//! This module composes the server with what runs beside it in the process: signals, the admin address, takeovers, the
//! service manager, confinement, retention. It knows the order of their starts and ends. It knows nothing of what
//! happens inside of a shard, nor of how options are set.
//!
//! * [`announce`]: what is reported once every shard accepts
//! * [`limits`]: the process's limits of open files and file sizes
//! * [`memory`]: defaults that fit the memory limit of a control group
//! * [`options`]: the options of the command
//! * [`retention`]: the task that removes old segments
//! * [`startup`]: a start alone, on a supervisor's sockets, or in place of a running server
//! * [`tls`]: the files of TLS, which are read again when they change

mod announce;
pub mod limits;
pub mod memory;
mod options;
mod retention;
mod startup;
pub mod tls;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use tokio::sync::Notify;
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use crate::admin::{AdminServer, AdminState};
use crate::confine::{self, user};
use crate::host::Host;
use crate::journal::dir::{self, ClaimError};
use crate::log;
use crate::metrics::process::ProcessFiles;
use crate::metrics::{CloseReason, TlsFileFigures};
use crate::notify::{self, Notifier};
use crate::proto::AckResult;
use crate::server::{CUT_GRACE, Listen, Listeners, SWEEP_INTERVAL, ServeError, Server};
use crate::signals::Signals;
use crate::takeover::{ControlSocket, DirId, Offer, Role, activation};
pub use options::{Options, Tls};
use startup::Started;

/// Serves until a signal or a takeover, drains, and returns the exit code.
///
/// # Errors
/// The server can't start.
pub fn run(mut options: Options) -> anyhow::Result<ExitCode> {
    let started = SystemTime::now();
    // This comes before any other descriptor is opened and before there is a second thread.
    let activated = activation::take()?;
    if options.takeover.takeover && !activated.is_empty() {
        bail!(
            "--takeover and a supervisor's sockets (LISTEN_FDS) exclude each other, since there can be only one source \
             of sockets. Start without --takeover, or without the .socket unit"
        );
    }
    // This changes the environment, so it comes before there is a second thread.
    let notifier = Arc::new(Notifier::from_environment());
    drop_root(&options)?;
    // The thread that removes old segments is kept. If no new thread could be started later, retention would end.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().thread_keep_alive(Duration::MAX).build()?;
    let outcome = runtime.block_on(async {
        limits::raise_open_files();
        let sink = if options.server.journal().is_some() { "journal" } else { "discard" };
        info!(version = env!("CARGO_PKG_VERSION"), shards = options.server.shards, sink, "starting");
        if let Some((segment_len, limit)) = limits::file_len_too_small(&options.server) {
            bail!(
                "--segment-size {segment_len}: this process may write files of at most {limit} bytes (RLIMIT_FSIZE). \
                 Raise that limit (ulimit -f unlimited), or choose smaller segments"
            );
        }
        // The user who reads the files here is the one who reads them again later.
        let tls = options.tls.as_ref().map(tls::load).transpose()?;
        let tls = tls.map(|(server, loaded)| {
            options.server.tls = Some(server);
            loaded
        });
        // This reads files that confinement makes unreachable.
        memory::fit(&mut options.server, &Host::this());
        // Confinement holds for threads that are started after it, so it comes before them.
        let readable = options.tls.as_ref().map(|tls| tls::directories(&tls.files)).unwrap_or_default();
        confine::apply(options.confine, &writable_directories(&options)?, &readable)?;
        let user = options.user.clone();
        log::start_thread(move || user::drop_capabilities(user.as_ref()));
        announce::explain_ipv6_only(&options.server.listen.addresses);
        // From here on a signal ends the start. Once the server accepts, the loop below handles signals.
        let user = options.user.clone();
        let reload = Arc::<Notify>::default();
        let mut signals = Signals::start(move || user::drop_capabilities(user.as_ref()), reload.clone())
            .context("can't start the thread that handles signals")?;
        let Started { mut server, admin, mut control } = if options.takeover.takeover {
            startup::in_place_of_another(&options, || signals.serve()).await?
        } else {
            startup::alone(&options, activated, || signals.serve())?
        };
        // Every address is bound.
        user::drop_capabilities(options.user.as_ref());
        let journal = options.server.journal();
        let dir_id = journal.map(|journal| DirId::of(&journal.data_dir)).transpose();
        let dir_id = dir_id.context("can't look at the data directory")?;
        let retention =
            journal.map(|journal| tokio::spawn(retention::tend(journal.retention, journal.data_dir.clone())));
        let tls_files = Arc::<TlsFileFigures>::default();
        let tls = tokio::spawn(tls::keep_current(tls, tls_files.clone(), notifier.clone(), reload));
        announce::warn_of_open_addresses(&server);
        if let Some(admin) = &admin {
            let engine = server.engine();
            admin.set_state(AdminState {
                shards: server.metrics().to_vec(),
                engine: engine.engine.name(),
                engine_reason: engine.reason.name(),
                health: server.health(),
                started,
                process: ProcessFiles::open(),
                tls_files,
            });
        }
        announce::print_addresses(server.addresses()).await;
        announce::notify_ready(&notifier, &server);
        let engine = server.engine().engine.name();
        let listeners = server.listeners();
        let offer = |control: &ControlSocket| offer(engine, dir_id, &listeners, admin.as_ref(), control);
        let (delay, drain_timeout) = (options.drain_delay, options.server.drain_timeout);
        // The time at which the drain begins, once a signal has asked for it.
        let mut drain_at: Option<Instant> = None;
        loop {
            tokio::select! {
                stopped = server.stopped() => return Ok(finish(&server, stopped)),
                (signal, _) = signals.next() => {
                    if drain_at.is_none() && !delay.is_zero() {
                        info!(signal, ?delay, "not ready; draining after --drain-delay");
                        server.health().drain_is_announced();
                        notifier.stopping_within(Some(delay + drain_timeout + CUT_GRACE * 2));
                        drain_at = Some(Instant::now() + delay);
                        continue;
                    }
                    info!(signal, "draining");
                    server.drain();
                }
                () = reached(drain_at) => {
                    info!("draining");
                    server.drain();
                }
                process = handed_over(&mut control, offer) => {
                    info!(process, "taken over; draining");
                    // This comes before the drain, which a supervisor must not mistake for the end of the service.
                    notifier.hand_over(process);
                    server.hand_over();
                    // From now on the other process answers on the admin address and removes old segments.
                    if let Some(admin) = admin {
                        admin.stop();
                    }
                    if let Some(retention) = retention {
                        retention.abort();
                    }
                }
            }
            break;
        }
        tls.abort();
        notifier.stopping();
        drop(control);
        tokio::select! {
            stopped = server.stopped() => Ok(finish(&server, stopped)),
            (signal, number) = signals.next() => {
                warn!(signal, "ended immediately by a second signal");
                log::flush(log::FLUSH_TIMEOUT);
                std::process::exit(128 + number);
            }
        }
    });
    // Work that is still running on other threads, on a disk that hangs or a pipe that nobody reads, must not delay the
    // end.
    runtime.shutdown_background();
    outcome
}

/// Switches from root to the user of the options, if they name one.
fn drop_root(options: &Options) -> Result<(), user::UserError> {
    let Some(user) = &options.user else { return Ok(()) };
    let listen = options.server.listen.addresses.iter().copied().flat_map(Listen::candidates);
    let ports = listen.map(|(address, _)| address).chain(options.admin).map(|address| address.port());
    let data_dir = options.server.journal().map(|journal| &*journal.data_dir);
    user::drop_root(user, data_dir, ports)
}

/// Returns the directories that the server writes to: the journal's, which is created if it does not exist, and that of
/// the control socket.
fn writable_directories(options: &Options) -> Result<Vec<&Path>, ClaimError> {
    let of_control = options.takeover.control.as_deref().and_then(Path::parent);
    let of_control = of_control.map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    // Creating the socket reports a directory that does not exist.
    let mut writable: Vec<_> = of_control.into_iter().filter(|path| path.is_dir()).collect();
    if let Some(journal) = options.server.journal() {
        let path = &journal.data_dir;
        let refused = |source| ClaimError::Refused { path: path.clone(), what: "making it", source };
        dir::create_for(path, journal.access).map_err(refused)?;
        writable.push(path);
    }
    Ok(writable)
}

/// Waits until this time, or for ever if there is none.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of a takeover, or for ever if no server can take over from this one.
async fn handed_over(
    control: &mut Option<ControlSocket>,
    offer: impl Fn(&ControlSocket) -> std::io::Result<Offer>,
) -> u32 {
    match control {
        Some(control) => control.handed_over(offer).await,
        None => std::future::pending().await,
    }
}

/// Returns what a server that takes over is given.
fn offer(
    engine: &'static str,
    journal: Option<DirId>,
    listeners: &Listeners,
    admin: Option<&AdminServer>,
    control: &ControlSocket,
) -> std::io::Result<Offer> {
    let role = |activated| if activated { Role::Activated } else { Role::Listen };
    let mut sockets: Vec<_> =
        listeners.copies()?.into_iter().map(|(activated, socket)| (role(activated), socket)).collect();
    if sockets.is_empty() {
        return Err(std::io::Error::other("the running server is already draining because a shard failed"));
    }
    if let Some(admin) = admin {
        sockets.push((Role::Admin, admin.socket()?));
    }
    sockets.push((Role::Control, control.socket()?));
    Ok(Offer { engine, journal, sockets })
}

/// Logs the totals, and returns the exit code.
fn finish(server: &Server, stopped: Result<(), ServeError>) -> ExitCode {
    if stopped.is_err() {
        end_within(LAST_LINES_TIMEOUT);
    }
    let totals = server.totals();
    let closed = |reason| totals.connections_closed.of(reason).get();
    let cut = closed(CloseReason::Cut);
    if cut > 0 {
        warn!(connections = cut, "cut connections that were still open at the drain deadline");
    }
    info!(
        connections = totals.connections_accepted.get(),
        reset = closed(CloseReason::Reset),
        cut,
        requests = totals.requests.sum(),
        failures = totals.acks.of(AckResult::Failure).get(),
        bytes_received = totals.bytes_received.get(),
        bytes_sent = totals.bytes_sent.get(),
        violations = totals.frames_rejected.by_name(),
        "stopped"
    );
    match stopped {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            error!("{fault}");
            ExitCode::from(OWN_FAULT)
        }
    }
}

/// Ends the process after `timeout` in any case. Whatever blocks a shard, such as a disk, may also block the orderly
/// end.
fn end_within(timeout: Duration) {
    let end = move || {
        std::thread::sleep(timeout);
        log::flush(log::FLUSH_TIMEOUT);
        std::process::exit(OWN_FAULT.into());
    };
    // If no thread can be started, the process ends once the last lines are logged.
    let _ = std::thread::Builder::new().name("end-within".into()).spawn(end);
}

/// The exit code of a server that ended by its own fault.
const OWN_FAULT: u8 = 3;
/// How long a server at fault may take to end after it has logged why.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

// A shard gives several signs of life within the shortest watchdog of the service manager.
const _: () = assert!(notify::WATCHDOG_MIN.as_millis() >= 4 * SWEEP_INTERVAL.as_millis());
