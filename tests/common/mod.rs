//! Helpers of all integration tests. They run a real `ringpost serve` in its own process, and encode the wire by hand.
//! Nothing here uses the crate's codec, so a test can't agree with a bug in it.
#![allow(dead_code)]

pub mod admin;
pub mod authority;
pub mod disk;
pub mod good_load;
pub mod journal;
pub mod kept;
pub mod namespace;
pub mod peer;
pub mod peer_load;
pub mod random;
pub mod refuse;
pub mod requirement;
pub mod restless;
pub mod shapes;
pub mod submit;
pub mod tls_front;
pub mod unreadable;
pub mod vectors;
pub mod volatile_disk;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_ringpost");

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running server. It is killed on drop.
pub struct Server {
    child: Child,
    pub addresses: Vec<SocketAddr>,
    stdout: BufReader<ChildStdout>,
    log: Arc<Mutex<String>>,
    log_reader: Option<JoinHandle<()>>,
}

/// Makes a server discard messages, unless the test or the environment asks for a journal, and makes it use the engine
/// in `RINGPOST_TEST_ENGINE`, unless the test names one.
pub fn set_defaults(command: &mut Command) {
    let names = |options: &[&str]| command.get_args().any(|arg| options.iter().any(|option| arg == *option));
    let discard = !names(&["--sink", "--data-dir"]) && std::env::var_os("RINGPOST_SINK").is_none();
    let engine = test_engine().filter(|_| !names(&["--engine"]));
    if discard {
        command.env("RINGPOST_SINK", "discard");
    }
    if let Some(engine) = engine {
        command.env("RINGPOST_ENGINE", engine);
    }
}

/// Returns the engine that every test must use, if `RINGPOST_TEST_ENGINE` is set.
pub fn test_engine() -> Option<String> {
    std::env::var("RINGPOST_TEST_ENGINE").ok()
}

/// Returns whether servers use rings here if the test names no engine.
pub fn has_rings() -> bool {
    test_engine().is_none_or(|engine| engine != "epoll")
}

/// The exit status and the output of a process.
pub struct Ended {
    pub status: ExitStatus,
    /// The text on stdout after the `listening on` lines.
    pub stdout: String,
    pub log: String,
}

impl Server {
    /// Starts `ringpost serve` on a free port of 127.0.0.1, and waits until it accepts.
    pub fn start(options: &[&str]) -> Server {
        let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(options);
        Server::spawn(command, 1)
    }

    /// Starts `command`, and waits until it has printed that it listens on `addresses` addresses.
    pub fn spawn(command: Command, addresses: usize) -> Server {
        Server::spawn_logging_to(Stdio::piped(), command, addresses)
    }

    /// Starts a server with another stderr. Its log can be read only if that is `Stdio::piped()`.
    pub fn spawn_logging_to(stderr: Stdio, mut command: Command, addresses: usize) -> Server {
        set_defaults(&mut command);
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("the server starts");
        // The command still holds copies of the descriptors that it has passed on.
        drop(command);
        let (log, log_reader) = match child.stderr.take() {
            Some(stderr) => collect(stderr),
            None => collect(std::io::empty()),
        };
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut server = Server { child, addresses: Vec::new(), stdout, log, log_reader: Some(log_reader) };
        for _ in 0..addresses {
            let mut line = String::new();
            server.stdout.read_line(&mut line).unwrap();
            let Some(address) = line.strip_prefix("listening on ") else {
                panic!("not a `listening on` line: {line:?}; the log: {}", server.log());
            };
            server.addresses.push(address.trim_end().parse().expect("an address"));
        }
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects with a read timeout, so that a missing answer fails the test.
    pub fn connect(&self) -> TcpStream {
        connect(self.address())
    }

    /// Sends a signal. For SIGSTOP, waits until every thread of the server has stopped.
    pub fn signal(&self, signal: i32) {
        // SAFETY: plain kill(2) on a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.pid() as i32, signal) }, 0);
        if signal == libc::SIGSTOP {
            wait_until("every thread is stopped", || {
                let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
                let is_stopped = |stat: String| stat.rsplit(") ").next().unwrap().starts_with('T');
                threads.flatten().all(|thread| fs::read_to_string(thread.path().join("stat")).is_ok_and(is_stopped))
            });
        }
    }

    /// Waits for the end of a server that was killed.
    pub fn reap(&mut self) {
        self.child.wait().unwrap();
    }

    /// Returns the log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log contains `text`.
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("the log contains {text:?}"), || self.log().contains(text));
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(self) -> Ended {
        self.signal(libc::SIGTERM);
        self.ended()
    }

    /// Waits for the end.
    pub fn ended(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the server does not end; its log: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        };
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.log_reader.take().unwrap().join().unwrap();
        Ended { status, stdout, log: self.log() }
    }

    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Counts the open files that are rings.
    pub fn rings(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten();
        files
            .filter(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().contains("io_uring")))
            .count()
    }

    /// Returns the resident memory, in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that must end by itself.
pub fn run(mut command: Command) -> Ended {
    set_defaults(&mut command);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let (log, log_reader) = collect(child.stderr.take().unwrap());
    let (out, out_reader) = collect(child.stdout.take().unwrap());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the command does not end; stderr: {}", log.lock().unwrap());
        }
        thread::sleep(Duration::from_millis(5));
    };
    log_reader.join().unwrap();
    out_reader.join().unwrap();
    let (stdout, log) = (out.lock().unwrap().clone(), log.lock().unwrap().clone());
    Ended { status, stdout, log }
}

/// Returns `ringpost` with these arguments. Its working directory is not the repository, so that a test without a data
/// directory of its own leaves no files there, and does not find those of a server that runs there.
pub fn ringpost(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR"));
    // `nohup` and shells without job control start the tests with some of these signals ignored, and a server keeps
    // that.
    let reset = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: signal(2) may be called between fork and exec.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure calls nothing but signal(2), and allocates nothing.
    unsafe { command.pre_exec(reset) };
    command
}

fn collect(source: impl Read + Send + 'static) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let into = text.clone();
    let reader = thread::spawn(move || {
        for line in BufReader::new(source).lines() {
            let Ok(line) = line else { return };
            let mut text = into.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    (text, reader)
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "this did not happen in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Returns a whole SUBMIT.
pub fn submit(id: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = (13 + payload.len() as u32).to_be_bytes().to_vec();
    frame.push(0x02);
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Returns the ack of a SUBMIT.
pub fn submit_ack(id: u64, result: u8) -> [u8; 14] {
    let mut ack = [0; 14];
    ack[3] = 14;
    ack[4] = 0x82;
    ack[5..13].copy_from_slice(&id.to_be_bytes());
    ack[13] = result;
    ack
}

/// Reads the acks of these SUBMITs, each of which must be a success.
pub fn expect_acks(stream: &mut TcpStream, ids: impl IntoIterator<Item = u64>) {
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    for id in ids {
        let mut ack = [0; 14];
        reader.read_exact(&mut ack).unwrap_or_else(|error| panic!("no ack of {id}: {error}"));
        assert_eq!(ack, submit_ack(id, 0), "the ack of {id}");
    }
    assert!(reader.buffer().is_empty(), "bytes after the last ack");
}

/// Sends one SUBMIT and expects its ack.
pub fn round_trip(stream: &mut TcpStream, id: u64) {
    stream.write_all(&submit(id, b"payload")).unwrap();
    expect_acks(stream, [id]);
}

/// Reads to the end, which must be a FIN and not a reset.
pub fn expect_clean_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("a clean end");
    assert!(rest.is_empty(), "bytes after the last ack: {rest:?}");
}

/// Counts the log lines about closed connections, by shard.
pub fn closed_by_shard(log: &str, shards: usize) -> Vec<usize> {
    let lines: Vec<_> = log.lines().filter(|line| line.contains("connection closed")).collect();
    (0..shards).map(|shard| lines.iter().filter(|line| line.contains(&format!("shard={shard} "))).count()).collect()
}

/// Waits until no other test of this process holds the guard that this returns. A failed test releases it too.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets this process and its future children open as many files as the hard limit permits.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}
