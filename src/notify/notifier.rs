//! The connection to the service manager, and its messages.
//!
//! Owns the socket and the environment variables that name it. It must not know when a message is due. Invariants:
//! after a handover nothing is sent, because a `STOPPING=1` would stop the successor. `STOPPING=1` is sent once.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, fs, io, process};

use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

/// The connection to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// The interval in which the manager's watchdog expects a sign of life.
    watchdog: Option<Duration>,
    /// Whether the final message was sent.
    is_over: AtomicBool,
    is_stopping: AtomicBool,
}

impl Notifier {
    /// Connects to the manager that the environment names. Removes the variables, so that no child process sends
    /// messages for this one. This works only before there is a second thread. Connects now: after confinement the
    /// socket may be unreachable.
    pub fn from_environment() -> Notifier {
        let [socket, interval, pid] = NAMES.map(env::var_os);
        remove_from_environment(&NAMES);
        Notifier::new(socket.as_deref(), interval, pid)
    }

    fn new(socket: Option<&OsStr>, interval: Option<OsString>, pid: Option<OsString>) -> Notifier {
        let socket = socket.and_then(|name| {
            let failed =
                |error| warn!(socket = %name.display(), %error, "can't reach the service manager at NOTIFY_SOCKET");
            connect(name).map_err(failed).ok()
        });
        let number = |value: OsString| value.to_str()?.parse::<u64>().ok();
        let is_for_another = pid.is_some_and(|pid| number(pid) != Some(process::id().into()));
        let interval = interval.filter(|_| socket.is_some() && !is_for_another);
        let watchdog = interval.and_then(number).filter(|micros| *micros > 0).map(Duration::from_micros);
        if let Some(watchdog) = watchdog.filter(|watchdog| *watchdog < WATCHDOG_MIN) {
            warn!(
                ?watchdog,
                "WatchdogSec= is so short that a busy host may run a shard too late; set it to {WATCHDOG_MIN:?} or more"
            );
        }
        Notifier { socket, watchdog, ..Notifier::default() }
    }

    /// Returns whether there is a service manager.
    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// Reports that the server accepts connections. `status` is for people.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// Reports that the server reads its files again. [`Notifier::reloaded`] must follow.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Reports that the server has read its files again, whether or not it uses them.
    pub fn reloaded(&self) {
        self.send("READY=1");
    }

    /// Reports the server's status, for people.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// Reports that the server is alive, which restarts the manager's watchdog.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// Reports that the server drains. Only the first call sends a message.
    pub fn stopping(&self) {
        self.stopping_within(None);
    }

    /// Reports that the server drains and needs at most `time` to end. The manager extends its own limit accordingly,
    /// which the server does not know.
    pub fn stopping_within(&self, time: Option<Duration>) {
        if !self.is_stopping.swap(true, Ordering::Relaxed) {
            let extend = time.map(|time| format!("\nEXTEND_TIMEOUT_USEC={}", time.as_micros())).unwrap_or_default();
            self.send(&format!("STOPPING=1\nSTATUS=Draining{extend}"));
        }
    }

    /// Reports that the process with this ID has taken over the service. This is the final message: a later
    /// `STOPPING=1` would stop the successor.
    pub fn hand_over(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Returns the interval in which the manager's watchdog expects a sign of life, if it does.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends one message. Blocks for at most [`SEND_TIMEOUT`].
    fn send(&self, message: &str) {
        let Some(socket) = self.socket.as_ref().filter(|_| !self.is_over.load(Ordering::Relaxed)) else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            let first = message.lines().next().unwrap_or_default();
            warn!(notification = first, %error, "can't notify the service manager");
        }
    }
}

/// Connects to a path, or to an abstract name that has `@` for its leading zero byte.
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

/// Replaces the ends of lines, which would begin another field.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Removes variables, unless another thread may be reading the environment.
#[allow(unsafe_code)]
fn remove_from_environment(names: &[&str]) {
    if !fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1) {
        return;
    }
    for name in names {
        // SAFETY: this thread was just counted as the process's only one, and only it can start another.
        unsafe { env::remove_var(name) };
    }
}

/// The variables: the socket, the watchdog's interval in microseconds, and the process that the watchdog watches.
const NAMES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The shortest reasonable interval of the service manager's watchdog. A busy host may run a shard late.
pub const WATCHDOG_MIN: Duration = Duration::from_secs(1);

/// How long a message may wait for space in the service manager's queue.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut message = [0; 512];
        let len = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..len].to_vec()).unwrap()
    }

    fn notifier_at(name: &OsStr) -> Notifier {
        Notifier::new(Some(name), None, None)
    }

    #[test]
    fn each_message_has_the_format_of_systemd() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = notifier_at(path.as_os_str());
        notifier.ready("Listening\non 1");
        assert_eq!(receive(&manager), "READY=1\nSTATUS=Listening on 1");
        notifier.alive();
        assert_eq!(receive(&manager), "WATCHDOG=1");
        notifier.reloading();
        let reloading = receive(&manager);
        let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse::<u64>().unwrap();
        let since = clock_gettime(ClockId::Monotonic).tv_sec as u64 - micros / 1_000_000;
        assert!(since < 60, "{reloading}");
        notifier.reloaded();
        assert_eq!(receive(&manager), "READY=1");
        notifier.stopping();
        notifier.stopping();
        notifier.status("x");
        assert_eq!(receive(&manager), "STOPPING=1\nSTATUS=Draining");
        assert_eq!(receive(&manager), "STATUS=x");
        let delayed = notifier_at(path.as_os_str());
        delayed.stopping_within(Some(Duration::from_millis(14_001)));
        assert_eq!(receive(&manager), "STOPPING=1\nSTATUS=Draining\nEXTEND_TIMEOUT_USEC=14001000");
    }

    #[test]
    fn nothing_is_sent_after_a_handover() {
        let name = format!("ringpost-test-{}", process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notifier = notifier_at(OsStr::new(&format!("@{name}")));
        notifier.hand_over(7);
        notifier.stopping();
        assert_eq!(receive(&manager), "MAINPID=7");
        assert_eq!(manager.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_watchdog_of_another_process_is_ignored() {
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
    fn a_missing_manager_is_ignored() {
        for name in ["", "relative", "vsock:2:1", "/nowhere/notify", "@ringpost-nobody"] {
            let notifier = notifier_at(OsStr::new(name));
            assert!(!notifier.is_connected(), "{name}");
            notifier.ready("not received");
        }
    }
}
