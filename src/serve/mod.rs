//! The `serve` command: a [`Server`] between signals, from its first line to its exit code.

pub mod memory;
mod startup;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use rustix::process::{Resource, getrlimit};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{error, info, warn};

use crate::admin::{Answering, View};
use crate::config::{Listen, ServerConfig, SinkKind};
use crate::confine::{self, user};
use crate::host::{Host, raise_open_files};
use crate::journal::dir::{self, ClaimError, RECLAIM_DELAY};
use crate::journal::moment::Moment;
use crate::journal::retention::{self, Enforcer, Retention};
use crate::log;
use crate::metrics::CloseReason;
use crate::metrics::process::ProcessFiles;
use crate::notify::{self, Notifier};
use crate::output::print;
use crate::proto::AckResult;
use crate::server::{CUT_GRACE, Listeners, SWEEP_INTERVAL, ServeError, Server};
use crate::signals::Signals;
use crate::takeover::{ControlSocket, DirId, Offer, Role, activation};
use startup::Started;

/// The exit code of a server that ended by its own fault.
const OWN_FAULT: u8 = 3;

/// Serves until a signal, drains, and says with which code to exit.
///
/// # Errors
/// It could not start.
pub fn run(mut config: ServerConfig) -> anyhow::Result<ExitCode> {
    let started = SystemTime::now();
    // Before anything else has a descriptor or a thread.
    let activated = activation::take()?;
    if config.takeover && !activated.is_empty() {
        bail!(
            "--takeover, and a supervisor's sockets in LISTEN_FDS: there can be but one source of sockets. Start \
             without --takeover, or not by that .socket unit"
        );
    }
    // Before there is a second thread.
    let notifier = Arc::new(Notifier::from_environment());
    user::drop_root(&config)?;
    // The thread that removes old segments is kept: if no new thread could be started later, retention would end.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().thread_keep_alive(Duration::MAX).build()?;
    let outcome = runtime.block_on(async {
        raise_descriptor_limit();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            workers = config.workers,
            sink = ?config.sink,
            "starting"
        );
        if let Some(limit) = file_len_too_small(&config) {
            let segment_len = config.segment_len;
            bail!(
                "--segment-size {segment_len}: this process may write files of at most {limit} bytes (RLIMIT_FSIZE). \
                 Raise that limit (ulimit -f unlimited), or choose smaller segments"
            );
        }
        // This comes before confinement makes files outside of the data directory unreachable.
        memory::fit(&mut config, &Host::this());
        // While there is no other thread: it holds for those that are started from here on.
        confine::apply(config.confine, &writable(&config)?)?;
        let log_user = config.user.clone();
        log::start_thread(move || user::drop_capabilities(log_user.as_ref()));
        let (drain_delay, drain_timeout) = (config.drain_delay, config.drain_timeout);
        let (sink, retention, data_dir) = (config.sink, config.retention, config.data_dir.clone());
        let user = config.user.clone();
        explain_ipv6_alone(&config.listen);
        // From here on a signal ends the start. Once the server accepts, the loop below handles signals.
        let thread_user = config.user.clone();
        let mut signals = Signals::start(move || user::drop_capabilities(thread_user.as_ref()))
            .context("can't start the thread that handles signals")?;
        let Started { mut server, admin, mut door } = if config.takeover {
            startup::in_place_of_another(config, || signals.serve()).await?
        } else {
            startup::alone(config, activated, || signals.serve())?
        };
        // Every address is bound.
        user::drop_capabilities(user.as_ref());
        let journal = (sink == SinkKind::Journal)
            .then(|| DirId::of(&data_dir))
            .transpose()
            .context("can't look at the data directory")?;
        let retaining = (sink == SinkKind::Journal).then(|| tokio::spawn(tend(retention, data_dir)));
        warn_of_open_addresses(&server);
        let answering = admin;
        if let Some(answering) = &answering {
            answering.show(View {
                shards: server.metrics().to_vec(),
                engine: server.engine(),
                health: server.health(),
                started,
                process: ProcessFiles::open(),
            });
        }
        announce(server.addresses()).await;
        tell_ready(&notifier, &server);
        let engine = server.engine().engine.name();
        let listeners = server.listeners();
        let offer = |door: &ControlSocket| offer(engine, journal, &listeners, answering.as_ref(), door);
        // The time at which the drain begins, once a signal has asked for it.
        let mut drains_at: Option<Instant> = None;
        loop {
            tokio::select! {
                stopped = server.stopped() => return Ok(finish(&server, stopped)),
                (name, _) = signals.next() => {
                    if drains_at.is_none() && !drain_delay.is_zero() {
                        info!(signal = name, delay = ?drain_delay, "not ready: draining after --drain-delay");
                        server.health().drain_is_announced();
                        notifier.stopping_within(Some(drain_delay + drain_timeout + CUT_GRACE * 2));
                        drains_at = Some(Instant::now() + drain_delay);
                        continue;
                    }
                    info!(signal = name, "draining");
                    server.drain();
                }
                () = reached(drains_at) => {
                    info!("draining");
                    server.drain();
                }
                process = handed_over(&mut door, offer) => {
                    info!(process, "taken over: draining");
                    // This comes before the drain, which a supervisor must not mistake for the end of the service.
                    notifier.hand_over(process);
                    server.hand_over();
                    // From now on these tasks belong to the other process.
                    if let Some(answering) = answering {
                        answering.stop();
                    }
                    if let Some(retaining) = retaining {
                        retaining.abort();
                    }
                }
            }
            break;
        }
        notifier.stopping();
        drop(door);
        tokio::select! {
            stopped = server.stopped() => Ok(finish(&server, stopped)),
            (name, number) = signals.next() => {
                warn!(signal = name, "ended at once by a second signal");
                log::flush(log::FLUSH_TIMEOUT);
                std::process::exit(128 + number);
            }
        }
    });
    // Work that still runs on its threads, on a disk that hangs or a pipe that nobody reads, must not delay the end.
    runtime.shutdown_background();
    outcome
}

/// Waits until this time, or for ever if there is none.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Where a server writes: the journal's directory, made if there is none, and that of its control socket.
fn writable(config: &ServerConfig) -> Result<Vec<&Path>, ClaimError> {
    let of_control = config.control.as_deref().and_then(Path::parent);
    let of_control = of_control.map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    // One that is not there is told of when the socket is made.
    let mut writable: Vec<_> = of_control.into_iter().filter(|path| path.is_dir()).collect();
    if config.sink != SinkKind::Journal {
        return Ok(writable);
    }
    let path = &config.data_dir;
    let refused = |source| ClaimError::Refused { path: path.clone(), what: "making it", source };
    dir::make_for(path, config.journal_access).map_err(refused)?;
    writable.push(path);
    Ok(writable)
}

/// Waits for the end of a takeover; for ever where there can be none.
async fn handed_over(
    door: &mut Option<ControlSocket>,
    offer: impl Fn(&ControlSocket) -> std::io::Result<Offer>,
) -> u32 {
    match door {
        Some(door) => door.handed_over(offer).await,
        None => std::future::pending().await,
    }
}

/// What a server that takes over is given.
fn offer(
    engine: &'static str,
    journal: Option<DirId>,
    listeners: &Listeners,
    admin: Option<&Answering>,
    door: &ControlSocket,
) -> std::io::Result<Offer> {
    let role = |activated| if activated { Role::Activated } else { Role::Listen };
    let mut sockets: Vec<_> =
        listeners.copies()?.into_iter().map(|(activated, socket)| (role(activated), socket)).collect();
    if sockets.is_empty() {
        return Err(std::io::Error::other("it drains already, by a worker's fault"));
    }
    if let Some(admin) = admin {
        sockets.push((Role::Admin, admin.socket()?));
    }
    sockets.push((Role::Control, door.socket()?));
    Ok(Offer { engine, journal, sockets })
}

/// Writes the lines that say that every shard accepts. The server writes nothing else to stdout. If it can't write
/// them, it serves all the same, since a full disk under its logs is no reason to turn clients away.
async fn announce(addresses: &[SocketAddr]) {
    let lines: String = addresses.iter().map(|address| format!("listening on {address}\n")).collect();
    // This uses a separate thread, since a full pipe would hold up the signals and the watchdog.
    let written = match timeout(ANNOUNCE_TIMEOUT, spawn_blocking(|| print(lines))).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(panic)) => panic.to_string(),
        Err(_) => format!("can't write to stdout: nobody has read it for {ANNOUNCE_TIMEOUT:?}"),
    };
    warn!(?addresses, "serving without the `listening on` lines: {written}");
}

/// Tells the service manager that every shard accepts, and from then on how they fare.
fn tell_ready(notifier: &Arc<Notifier>, server: &Server) {
    if notifier.is_heard() {
        let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
        notifier.ready(&format!("Listening on {}", addresses.join(", ")));
        tokio::spawn(notify::report(notifier.clone(), server.metrics().to_vec(), server.health()));
    }
}

/// Says of each address beyond this host what that means.
fn warn_of_open_addresses(server: &Server) {
    for address in server.addresses() {
        if !address.ip().to_canonical().is_loopback() {
            warn!(%address, "listening beyond this host: whoever reaches this address may submit messages");
        }
    }
}

/// Frees space that dead writers have not used, and then removes old segments of the journal from time to time.
async fn tend(retention: Retention, data_dir: PathBuf) {
    sleep(RECLAIM_DELAY).await;
    let dir = data_dir.clone();
    match spawn_blocking(move || dir::reclaim(&dir)).await {
        Ok(Ok(bytes)) if bytes > 0 => info!(bytes, "freed space that earlier writers had preallocated and not used"),
        Ok(Ok(_)) => {}
        Ok(Err(error)) => warn!("can't free space that earlier writers have not used: {error}"),
        Err(panic) => warn!("a panic while freeing space that earlier writers have not used: {panic}"),
    }
    if !retention.is_off() {
        retain(retention, data_dir).await;
    }
}

/// Logs that an explicit `[::]` accepts only IPv6, while the default address also accepts IPv4.
fn explain_ipv6_alone(listen: &[Listen]) {
    for address in listen {
        let Listen::Address(address) = address else { continue };
        let every_ipv4 = Listen::Address((Ipv4Addr::UNSPECIFIED, address.port()).into());
        if address.ip() == Ipv6Addr::UNSPECIFIED && !listen.contains(&every_ipv4) {
            let port = address.port();
            info!("{address} accepts only IPv6: write --listen :{port} for both, or add --listen 0.0.0.0:{port}");
        }
    }
}

/// Removes old segments of the journal, every while.
async fn retain(retention: Retention, data_dir: PathBuf) {
    let mut enforcer = Enforcer::new(retention, data_dir);
    let mut said = None;
    loop {
        let enforced = spawn_blocking(move || (enforcer.enforce(Moment::now()), enforcer)).await;
        let (removed, returned) = match enforced {
            Ok(enforced) => enforced,
            // It would panic again, so nothing is removed from here on.
            Err(panic) => return error!("can't remove old segments of the journal until a restart: {panic}"),
        };
        enforcer = returned;
        match removed {
            Ok(removed) if removed.segments > 0 => {
                info!(segments = removed.segments, bytes = removed.bytes, "removed old segments of the journal");
            }
            Ok(_) => {}
            Err(error) => {
                let error = error.to_string();
                if said.as_ref() != Some(&error) {
                    warn!("can't look for old segments of the journal, and will try again: {error}");
                }
                said = Some(error);
                sleep(retention::INTERVAL).await;
                continue;
            }
        }
        said = None;
        sleep(retention::INTERVAL).await;
    }
}

fn finish(server: &Server, stopped: Result<(), ServeError>) -> ExitCode {
    if stopped.is_err() {
        end_within(LAST_WORDS_TIMEOUT);
    }
    let totals = server.totals();
    let closed = |reason| totals.connections_closed.of(reason).get();
    let cut = closed(CloseReason::Cut);
    if cut > 0 {
        warn!(connections = cut, "cut connections that still held on at the drain deadline");
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

/// Ends the process after `timeout` in any case. Whatever a shard hangs on, such as a disk, may also block the orderly
/// end.
fn end_within(timeout: Duration) {
    let end = move || {
        std::thread::sleep(timeout);
        log::flush(log::FLUSH_TIMEOUT);
        std::process::exit(OWN_FAULT.into());
    };
    // Without a thread to be had, the last lines are all there is to wait for.
    let _ = std::thread::Builder::new().name("last-words".into()).spawn(end);
}

/// The limit of file sizes in bytes, if it is too small for a segment of the journal.
pub fn file_len_too_small(config: &ServerConfig) -> Option<u64> {
    let limit = getrlimit(Resource::Fsize).current;
    limit.filter(|limit| config.sink == SinkKind::Journal && *limit < config.segment_len)
}

/// Raises the soft limit of open files to the hard one: each connection takes a descriptor.
fn raise_descriptor_limit() {
    let limit = raise_open_files();
    if let Some(error) = limit.refused {
        warn!(%error, before = ?limit.before, max = ?limit.max, "can't raise the limit of open files");
    }
    info!(limit = limit.now.map_or("none".into(), |limit| limit.to_string()), "room for open files");
}

/// How long the server tries to write the `listening on` lines before it continues without them.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a server at fault may take to end after it has logged why. What a shard is blocked on, such as a disk, may
/// also block the end.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

// A shard gives several signs of life within the shortest watchdog of the service manager.
const _: () = assert!(notify::WATCHDOG_MIN.as_millis() >= 4 * SWEEP_INTERVAL.as_millis());
