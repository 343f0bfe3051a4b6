//! Log lines and outputs that can't be written, because of a closed pipe, a pipe that is not read, or a full disk. A
//! server's clients are not affected, no command panics, and a command fails if it can't write its output.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read, Write, pipe};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Server, expect_acks, expect_clean_end, ringpost, round_trip, submit, wait_until};

fn serve(options: &[&str]) -> Command {
    ringpost(&[&["serve", "--listen", "127.0.0.1:0", "--workers", "1"], options].concat())
}

/// Breaks the protocol, which causes a line in the log, and waits for the end of the connection.
fn violate(server: &Server) {
    let mut stream = server.connect();
    stream.write_all(&[0, 0, 0, 1, 1]).unwrap();
    let _ = stream.read(&mut [0; 1]);
}

/// Checks that a server serves and drains although its log can't be written.
fn check_serves(server: Server) {
    let mut held = server.connect();
    round_trip(&mut held, 1);
    (0..50).for_each(|_| violate(&server));
    round_trip(&mut held, 2);
    round_trip(&mut server.connect(), 3);
    held.write_all(&submit(4, b"payload")).unwrap();
    server.signal(libc::SIGINT);
    expect_acks(&mut held, [4]);
    expect_clean_end(&mut held);
    assert_eq!(server.ended().status.code(), Some(0));
}

#[test]
fn a_server_whose_log_has_lost_its_reader_serves_and_drains() {
    for format in ["text", "json"] {
        let (read, write) = pipe().unwrap();
        let command = serve(&["--log-format", format, "--log-level", "debug"]);
        let server = Server::spawn_logging_to(write.into(), command, 1);
        drop(read);
        check_serves(server);
    }
}

#[test]
fn a_server_whose_log_is_on_a_full_disk_starts_serves_and_counts_the_lines() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = holder.local_addr().unwrap().to_string();
    drop(holder);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let server = Server::spawn_logging_to(full.into(), serve(&["--admin", &admin]), 1);
    let dropped = || {
        let mut page = String::new();
        let mut stream = crate::common::connect(admin.parse().unwrap());
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.read_to_string(&mut page).unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix("ringpost_log_lines_dropped_total "));
        line.expect("the metric exists").parse::<u64>().unwrap()
    };
    let at_start = dropped();
    assert!(at_start > 0);
    violate(&server);
    wait_until("the line is counted", || dropped() > at_start);
    check_serves(server);
}

/// A pipe of one page.
fn small_pipe() -> (PipeReader, Stdio) {
    let (read, write) = pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&write, 4096).unwrap();
    (read, write.into())
}

#[test]
fn a_server_whose_log_is_not_read_serves_past_the_stall_timeout_and_drains() {
    let (mut read, write) = small_pipe();
    let command = serve(&["--log-level", "debug", "--stall-timeout", "1s"]);
    let server = Server::spawn_logging_to(write, command, 1);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        violate(&server);
        thread::sleep(Duration::from_millis(10));
    }
    let mut held = server.connect();
    round_trip(&mut held, 1);
    drop(held);
    // The written lines are in order, and end at the point where the pipe was full.
    server.signal(libc::SIGTERM);
    assert_eq!(server.ended().status.code(), Some(0));
    let mut log = Vec::new();
    read.read_to_end(&mut log).unwrap();
    let log = String::from_utf8_lossy(&log);
    assert!(log.len() < 16384 && log.contains("starting"), "{} bytes: {log}", log.len());
}

#[test]
fn a_non_blocking_stderr_loses_no_line() {
    let (mut read, write) = pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&write, 4096).unwrap();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    let server = Server::spawn_logging_to(write.into(), serve(&["--log-level", "debug"]), 1);
    const CONNECTIONS: usize = 200;
    (0..CONNECTIONS).for_each(|_| violate(&server));
    let reader = thread::spawn(move || {
        let mut log = String::new();
        read.read_to_string(&mut log).unwrap();
        log
    });
    assert_eq!(server.stop().status.code(), Some(0));
    let log = reader.join().unwrap();
    assert_eq!(log.matches("connection closed").count(), CONNECTIONS, "{log}");
    assert!(log.ends_with('\n') && log.lines().last().unwrap().contains("stopped"), "{log}");
}

/// A full pipe.
fn full_pipe() -> (PipeReader, Stdio) {
    let (read, mut write) = pipe().unwrap();
    let len = rustix::pipe::fcntl_setpipe_size(&write, 4096).unwrap();
    write.write_all(&vec![b'x'; len]).unwrap();
    (read, write.into())
}

fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_server_that_cannot_print_its_addresses_serves() {
    let (_nobody_reads, full_pipe) = full_pipe();
    for stdout in [full_disk(), full_pipe] {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        drop(holder);
        let mut command = ringpost(&["serve", "--sink", "discard", "--workers", "1", "--listen", &address.to_string()]);
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        drop(command);
        wait_until("the server accepts", || TcpStream::connect(address).is_ok());
        round_trip(&mut crate::common::connect(address), 1);
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("without the `listening on` lines") {
            assert!(log.read_line(&mut said).unwrap() > 0, "{said}");
        }
        assert!(said.contains(&address.to_string()), "{said}");
        // SAFETY: plain kill(2) on a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

/// Every command that ends by itself and writes to stdout, except those of `journal`, with its exit code on success.
fn commands(server: &Server, admin: &str) -> Vec<(Command, i32)> {
    let addr = server.address().to_string();
    let bench = ["bench", "--addr", &addr, "--connections", "1", "--warmup", "0s", "--duration", "50ms"];
    let commands: &[(&[&str], i32)] = &[
        (&bench, 0),
        (&["submit", "--addr", &addr, concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")], 0),
        (&["doctor", "--workers", "1", "--data-dir", "/proc/none"], 1),
        (&["doctor", "--json", "--workers", "1", "--data-dir", "/proc/none"], 1),
        (&["health", "--admin", admin], 0),
        (&["completions", "bash"], 0),
        (&["man"], 0),
        (&["--help"], 0),
        (&["serve", "--help"], 0),
        (&["--version"], 0),
    ];
    commands.iter().map(|(arguments, code)| (ringpost(arguments), *code)).collect()
}

/// Runs every command with this stdout, and passes to `check` its name, its exit code on success, its actual exit code,
/// and its stderr.
fn with_stdout(stdout: impl Fn() -> Stdio, check: impl Fn(&str, i32, i32, &str)) {
    let server = Server::start(&["--workers", "1", "--admin", "127.0.0.1:0"]);
    let admin = crate::common::admin::address(&server).to_string();
    round_trip(&mut server.connect(), 1);
    for (mut command, code) in commands(&server, &admin) {
        let name = format!("{command:?}");
        let mut child = command.stdout(stdout()).stderr(Stdio::piped()).spawn().unwrap();
        drop(command);
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let had = child.wait().unwrap().code().unwrap_or_else(|| panic!("{name} was killed by a signal: {stderr}"));
        assert!(!stderr.contains("panicked"), "{name}: {stderr}");
        check(&name, code, had, &stderr);
    }
}

#[test]
fn an_unwritable_output_is_a_failure() {
    with_stdout(full_disk, |name, _, had, stderr| {
        assert_eq!(had, 1, "{name}: {stderr}");
        assert!(stderr.contains("No space left on device"), "{name}: {stderr}");
    });
}

#[test]
fn an_output_whose_reader_has_closed_is_not_a_failure() {
    let without_reader = || pipe().unwrap().1.into();
    with_stdout(without_reader, |name, code, had, stderr| {
        assert_eq!(had, code, "{name}: {stderr}");
        assert!(!stderr.contains("Broken pipe"), "{name}: {stderr}");
    });
}

#[test]
fn an_error_that_cannot_be_written_keeps_its_exit_code() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let commands: &[(&[&str], i32)] = &[
        (&["submit", "--addr", "127.0.0.1:1"], 1),
        (&["bench", "--addr", "127.0.0.1:1"], 1),
        (&["health", "--admin", "127.0.0.1:1"], 1),
        (&["journal", "verify", "--data-dir", "/nonexistent"], 1),
        (&["serve", "--sink", "discard", "--bind-retry", "0", "--listen", &address], 1),
        (&["serve", "--backlog", "0"], 2),
        (&["serve", "--no-such-option"], 2),
    ];
    for (arguments, code) in commands {
        let status = |stderr: Stdio| {
            let mut command = ringpost(arguments);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).status().unwrap().code()
        };
        let without_reader = pipe().unwrap().1;
        assert_eq!([status(full_disk()), status(without_reader.into())], [Some(*code); 2], "{arguments:?}");
        // A server does not wait even then. A command waits for its reader, as all programs do.
        if arguments.contains(&"--bind-retry") || arguments.contains(&"--backlog") {
            let (_nobody_reads, full_pipe) = full_pipe();
            assert_eq!(status(full_pipe), Some(*code), "{arguments:?}");
        }
    }
}

#[test]
fn a_table_that_cannot_be_written_does_not_prevent_the_files() {
    let server = Server::start(&["--workers", "1"]);
    let files = tempfile::tempdir().unwrap();
    let [csv, html] = ["r.csv", "r.html"].map(|name| files.path().join(name));
    let mut command = ringpost(&["bench", "--connections", "1", "--warmup", "0s", "--duration", "100ms"]);
    command.args(["--addr", &server.address().to_string(), "--json", "/dev/full", "--csv"]).arg(&csv);
    let ended = command.arg("--html").arg(&html).stdout(full_disk()).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let has_text = |path| std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
    assert!(has_text(&csv) && has_text(&html), "{ended:?}");
}
