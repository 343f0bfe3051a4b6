//! What the service manager is told (sd_notify(3)): that the server accepts, that it lives, how it fares, that
//! it ends.
//!
//! systemd names a datagram socket in `NOTIFY_SOCKET`, and with `WatchdogSec=` in `WATCHDOG_USEC` how often it wants
//! to hear; each message is a few lines of `NAME=value`. That is all of the protocol, so it is spoken here and not by a
//! package. Without these variables nothing here does anything. A manager that can't be reached costs a line in the
//! log, never the server.
//!
//! There is no `RELOADING=1`: options are read at the start alone. A successor that takes the sockets over is told
//! of by [`Notifier::hand_over`].
//!
//! * [`report`]: what is told while the server runs

mod report;

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, fs, io, process};

use tracing::warn;

pub use report::report;

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear that every shard turns.
    watchdog: Option<Duration>,
    /// Whether its last word has been said.
    is_over: AtomicBool,
    is_stopping: AtomicBool,
}

impl Notifier {
    /// The one that the environment names. Takes the variables out of it, so that no process that is started
    /// from this one speaks in its name; for that, call this before there is a second thread. Connects at once:
    /// what the process may no longer reach later, it needs not.
    pub fn from_environment() -> Notifier {
        let [socket, interval, pid] = NAMES.map(env::var_os);
        take_away(&NAMES);
        Notifier::new(socket.as_deref(), interval, pid)
    }

    fn new(socket: Option<&OsStr>, interval: Option<OsString>, pid: Option<OsString>) -> Notifier {
        let socket = socket.and_then(|name| {
            let failed = |error| warn!("can't tell the service manager at NOTIFY_SOCKET={}: {error}", name.display());
            connect(name).map_err(failed).ok()
        });
        let number = |value: OsString| value.to_str()?.parse::<u64>().ok();
        let is_for_another = pid.is_some_and(|pid| number(pid) != Some(process::id().into()));
        let interval = interval.filter(|_| socket.is_some() && !is_for_another);
        let watchdog = interval.and_then(number).filter(|micros| *micros > 0).map(Duration::from_micros);
        if let Some(watchdog) = watchdog.filter(|watchdog| *watchdog < WATCHDOG_MIN) {
            warn!(
                "the service manager's watchdog waits {watchdog:?}, which a busy host may take to run a shard: give \
                 WatchdogSec= {WATCHDOG_MIN:?} or more"
            );
        }
        Notifier { socket, watchdog, ..Notifier::default() }
    }

    /// Whether there is anybody to tell.
    pub fn is_heard(&self) -> bool {
        self.socket.is_some()
    }

    /// The server accepts; `status` is for people.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// How the server fares, for people.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}", one_line(status)));
    }

    /// The server lives: its watchdog may wait for as long again.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// The server drains. Told once.
    pub fn stopping(&self) {
        self.stopping_within(None);
    }

    /// Like [`Self::stopping`], for a server that needs at most `time` to end. The server does not know the manager's
    /// own limit, and this keeps the manager from cutting the end short.
    pub fn stopping_within(&self, time: Option<Duration>) {
        if !self.is_stopping.swap(true, Ordering::Relaxed) {
            let extend = time.map(|time| format!("\nEXTEND_TIMEOUT_USEC={}", time.as_micros())).unwrap_or_default();
            self.tell(&format!("STOPPING=1\nSTATUS=Draining{extend}"));
        }
    }

    /// Another process of this service serves from now on, with this ID. It is this one's last word: a `STOPPING=1`
    /// behind it would stop the successor.
    pub fn hand_over(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}"));
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Sends one message. Blocks at most [`SEND_TIMEOUT`].
    fn tell(&self, message: &str) {
        let Some(socket) = self.socket.as_ref().filter(|_| !self.is_over.load(Ordering::Relaxed)) else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            let first = message.lines().next().unwrap_or_default();
            warn!("can't tell the service manager {first}: {error}");
        }
    }
}

/// A path, or an abstract name with `@` for its leading zero byte.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}

/// A line's end would begin another field.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Removes variables, if no other thread can be reading the environment.
#[allow(unsafe_code)]
fn take_away(names: &[&str]) {
    if !fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1) {
        return;
    }
    for name in names {
        // SAFETY: this is the process's only thread, as was just counted, and another one can only come from it.
        unsafe { env::remove_var(name) };
    }
}

const NAMES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The shortest time that the service manager's watchdog should wait. A busy host may run a shard late.
pub const WATCHDOG_MIN: Duration = Duration::from_secs(1);
/// How long a message may wait for room in the service manager's queue.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut message = [0; 512];
        let len = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..len].to_vec()).unwrap()
    }

    fn at(name: &OsStr) -> Notifier {
        Notifier::new(Some(name), None, None)
    }

    #[test]
    fn each_message_is_as_systemd_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = at(path.as_os_str());
        notifier.ready("Listening\non 1");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=Listening on 1");
        notifier.alive();
        assert_eq!(heard(&manager), "WATCHDOG=1");
        notifier.stopping();
        notifier.stopping();
        notifier.status("x");
        assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=Draining");
        assert_eq!(heard(&manager), "STATUS=x");
        let delayed = at(path.as_os_str());
        delayed.stopping_within(Some(Duration::from_millis(14_001)));
        assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=Draining\nEXTEND_TIMEOUT_USEC=14001000");
    }

    #[test]
    fn after_the_hand_over_nothing_is_said() {
        let name = format!("ringpost-test-{}", process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notifier = at(OsStr::new(&format!("@{name}")));
        notifier.hand_over(7);
        notifier.stopping();
        assert_eq!(heard(&manager), "MAINPID=7");
        assert_eq!(manager.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_watchdog_is_this_process_s_or_nobody_s() {
        let name = format!("ringpost-watchdog-{}", process::id());
        let _manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let name = OsString::from(format!("@{name}"));
        let watchdog = |interval: &str, pid: Option<String>| {
            Notifier::new(Some(&name), Some(interval.into()), pid.map(OsString::from)).watchdog
        };
        assert_eq!(watchdog("20000000", None), Some(Duration::from_secs(20)));
        assert_eq!(watchdog("20000000", Some(process::id().to_string())), Some(Duration::from_secs(20)));
        assert_eq!(watchdog("20000000", Some("1".into())), None);
        assert_eq!([watchdog("0", None), watchdog("soon", None)], [None, None]);
        assert_eq!(Notifier::new(None, Some("20000000".into()), None).watchdog, None);
    }

    #[test]
    fn a_manager_that_is_not_there_is_not_spoken_to() {
        for name in ["", "relative", "vsock:2:1", "/nowhere/notify", "@ringpost-nobody"] {
            let notifier = at(OsStr::new(name));
            assert!(!notifier.is_heard(), "{name}");
            notifier.ready("nobody hears");
        }
    }
}
