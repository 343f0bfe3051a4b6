//! The notifications to a service manager, received by a small one, and the systemd unit in `scripts/`.
//!
//! A message makes a shard hang. Only a build with the feature `test-hooks` reacts to it.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::requirement::SYSTEMD_ANALYZE;
use crate::common::{BINARY, PATIENCE, Server, expect_acks, expect_clean_end, round_trip, submit};

/// Returns the socket that a service manager would have, and its name for `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    name: String,
    _dir: Option<tempfile::TempDir>,
}

impl Manager {
    fn new() -> Manager {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Manager { socket, name: path.to_str().unwrap().into(), _dir: Some(dir) }
    }

    fn with_an_abstract_name() -> Manager {
        let name = format!("ringpost-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Manager { socket, name: format!("@{name}"), _dir: None }
    }

    /// Returns `ringpost serve` as systemd starts it, with its process ID in `WATCHDOG_PID`.
    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "WATCHDOG_PID=${PID_OF_ANOTHER:-$$} exec \"$0\" serve \"$@\"", BINARY]);
        command.args(["--workers", "2"]).args(options);
        command.env("NOTIFY_SOCKET", &self.name).env("RINGPOST_TEST_FAULTS", "1").env("RINGPOST_SINK", "discard");
        command
    }

    /// Starts a server whose watchdog expects a message every 2 s. Returns the messages until it was ready.
    fn start(&self, options: &[&str]) -> (Server, String) {
        let mut command = self.command(&[&["--listen", "127.0.0.1:0"], options].concat());
        command.env("WATCHDOG_USEC", "2000000");
        let server = Server::spawn(command, 1);
        (server, self.hears("READY=1"))
    }

    /// The next message within `time`.
    fn next(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut message = [0; 4096];
        match self.socket.recv(&mut message) {
            Ok(len) => Some(String::from_utf8(message[..len].to_vec()).unwrap()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for a message with this beginning, and returns it.
    fn hears(&self, beginning: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match self.next(left) {
                Some(message) if message.starts_with(beginning) => return message,
                Some(_) => {}
                None => panic!("no message begins with {beginning}"),
            }
        }
    }

    /// Counts the messages with this beginning within `time`.
    fn count(&self, beginning: &str, time: Duration) -> usize {
        let deadline = Instant::now() + time;
        let mut count = 0;
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            count += usize::from(self.next(left).is_some_and(|message| message.starts_with(beginning)));
        }
        count
    }
}

fn ask_for(fault: &str, stream: &mut TcpStream) {
    stream.write_all(&submit(1, format!("fault: {fault}").as_bytes())).unwrap();
}

#[test]
fn ready_is_sent_when_every_shard_accepts_and_stopping_when_the_drain_begins() {
    for manager in [Manager::new(), Manager::with_an_abstract_name()] {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        drop(holder);
        let options = ["--listen", &address.to_string(), "--linger-timeout", "15s", "--drain-timeout", "15s"];
        // The test does not read stdout first, because the message alone must be enough.
        let mut child = manager.command(&options).stdout(std::process::Stdio::null()).spawn().unwrap();
        let ready = manager.hears("READY=1");
        let stream = TcpStream::connect(address);
        // SAFETY: plain kill(2) on a child that has not been waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        let stopping = manager.hears("STOPPING=1");
        let is_alive = child.try_wait().unwrap().is_none();
        drop(stream.expect("a server that is ready accepts"));
        assert!(child.wait().unwrap().success());
        assert_eq!(ready, format!("READY=1\nSTATUS=Listening on {address}"));
        assert_eq!(stopping, "STOPPING=1\nSTATUS=Draining");
        assert!(is_alive, "the message is sent at the start of the drain, not at its end");
        assert_eq!(manager.count("", Duration::from_millis(100)), 0, "the final message");
    }
}

#[test]
fn a_reload_is_announced_and_concluded() {
    let manager = Manager::new();
    let (server, _) = manager.start(&[]);
    server.signal(libc::SIGHUP);
    let reloading = manager.hears("RELOADING=1");
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(manager.hears("READY=1"), "READY=1");
    server.wait_for_log("there is nothing to reload without TLS");
}

#[test]
fn the_watchdog_is_notified_while_every_event_loop_runs() {
    let manager = Manager::new();
    let (server, _) = manager.start(&["--stall-timeout", "0"]);
    let fed = manager.count("WATCHDOG=1", Duration::from_secs(5));
    assert!((3..=6).contains(&fed), "{fed} notifications in 5 s, not one each second");
    let mut slow = server.connect();
    ask_for("spin 8000", &mut slow);
    server.wait_for_log("event loop stalled; the server is unhealthy");
    // Messages from before.
    manager.count("", Duration::from_millis(1));
    assert_eq!(manager.count("WATCHDOG=1", Duration::from_secs(3)), 0, "one shard of two hangs");
    expect_acks(&mut slow, [1]);
    manager.hears("WATCHDOG=1");
    drop(slow);
    assert!(server.stop().status.success());
}

#[test]
fn the_watchdog_of_another_process_is_not_notified_and_the_status_is_sent() {
    let manager = Manager::new();
    let mut command = manager.command(&["--listen", "127.0.0.1:0"]);
    command.env("WATCHDOG_USEC", "2000000").env("PID_OF_ANOTHER", "1");
    let server = Server::spawn(command, 1);
    manager.hears("READY=1");
    let mut streams: Vec<_> = (0..3).map(|_| server.connect()).collect();
    streams.iter_mut().for_each(|stream| round_trip(stream, 1));
    let status = loop {
        let message = manager.next(PATIENCE).expect("a status");
        assert!(!message.starts_with("WATCHDOG"), "{message}");
        if message.starts_with("STATUS=") {
            break message;
        }
    };
    assert!(
        status.starts_with("STATUS=Serving 3 connections, ") && status.ends_with(" requests per second"),
        "{status}"
    );
}

#[test]
fn a_drain_after_a_fault_is_sent_too() {
    let manager = Manager::new();
    let (server, _) = manager.start(&["--linger-timeout", "2s"]);
    let mut stream = server.connect();
    ask_for("panic task", &mut stream);
    manager.hears("STOPPING=1");
    expect_acks(&mut stream, [1]);
    expect_clean_end(&mut stream);
    drop(stream);
    assert_eq!(server.ended().status.code(), Some(3));
}

#[test]
fn a_service_manager_that_is_gone_causes_one_log_line() {
    let mut manager = Manager::new();
    manager.name.push_str("-nobody");
    let command = manager.command(&["--listen", "127.0.0.1:0"]);
    let server = Server::spawn(command, 1);
    round_trip(&mut server.connect(), 1);
    server.wait_for_log("can't reach the service manager at NOTIFY_SOCKET");
    assert!(server.stop().status.success());
}

/// The unit with this build's binary instead of the installed one, because `systemd-analyze` looks for it.
#[test]
fn the_systemd_unit_is_valid() {
    let unit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/ringpost.service")).unwrap();
    const INSTALLED: &str = "ExecStart=/usr/local/bin/ringpost ";
    assert!(unit.contains(INSTALLED));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ringpost.service");
    fs::write(&path, unit.replace(INSTALLED, &format!("ExecStart={BINARY} "))).unwrap();
    let analyze = |arguments: &[&str]| Command::new("systemd-analyze").args(arguments).arg(&path).output();
    let Some(verified) = SYSTEMD_ANALYZE.check(analyze(&["verify"])) else { return };
    let words = String::from_utf8_lossy(&verified.stderr).into_owned();
    // The output also contains messages about units of this host, which are loaded as well.
    let ours: Vec<_> = words.lines().filter(|line| line.contains("ringpost")).collect();
    assert!(verified.status.success() && ours.is_empty(), "{words}");
    let rated = analyze(&["security", "--offline=true", "--threshold=20"]).unwrap();
    if String::from_utf8_lossy(&rated.stderr).contains("unrecognized option") {
        return SYSTEMD_ANALYZE.missing("this systemd-analyze can't rate a file");
    }
    let words = String::from_utf8_lossy(&rated.stdout);
    println!("{}", words.lines().last().unwrap_or_default());
    assert!(rated.status.success(), "exposed more than 2.0: {words}");
}

#[test]
fn the_times_and_exit_codes_of_the_systemd_unit_fit_the_server() {
    let unit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/ringpost.service")).unwrap();
    let value = |name: &str| {
        let mut lines = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        lines.next_back().unwrap_or_else(|| panic!("no {name}"))
    };
    let seconds = |name| Duration::from_secs(value(name).parse().unwrap());
    let config = ringpost::internal::DRAIN_TIMEOUT + 2 * ringpost::internal::CUT_GRACE;
    assert!(seconds("TimeoutStopSec") > config);
    assert!(seconds("WatchdogSec") > ringpost::internal::STALL_TIMEOUT, "the server can still report why it ends");
    assert!(seconds("WatchdogSec") >= ringpost::internal::WATCHDOG_MIN);
    let wrong = Command::new(BINARY).args(["serve", "--workers", "none"]).output().unwrap();
    assert_eq!(wrong.status.code().unwrap().to_string(), value("RestartPreventExitStatus"));
}
