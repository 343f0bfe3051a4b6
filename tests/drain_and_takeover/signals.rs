//! The effects of signals. No signal ends a server without a drain, and each signal that should end a command does so,
//! even if the command is process 1 of a container. A write beyond the limit of file sizes fails with an error and not
//! with a signal.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::common::requirement::{PROCESS_NAMESPACE, tried};
use crate::common::{PATIENCE, Server, expect_acks, expect_clean_end, ringpost, round_trip, submit, wait_until};

fn kill(process: u32, signal: i32) {
    // SAFETY: plain kill(2) on a process that was not waited for.
    assert_eq!(unsafe { libc::kill(process as i32, signal) }, 0);
}

/// Returns the exit code of a process that ends in time, and kills one that does not.
fn code_of(mut child: Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    panic!("the process does not end");
}

#[test]
fn signals_without_a_meaning_do_not_affect_a_server() {
    let server = Server::start(&["--workers", "1"]);
    let mut stream = server.connect();
    let signals = ["HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO"];
    let numbers =
        [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF, libc::SIGIO];
    for (name, number) in signals.into_iter().zip(numbers) {
        server.signal(number);
        server.wait_for_log(&format!("signal=\"SIG{name}\""));
        round_trip(&mut stream, number as u64);
    }
    assert!(server.log().contains("nothing to reload"), "{}", server.log());
    drop(stream);
    assert_eq!(server.stop().status.code(), Some(0));
}

#[test]
fn each_signal_that_ends_a_server_drains_it() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGXCPU, libc::SIGPWR] {
        let server = Server::start(&["--workers", "1"]);
        let mut stream = server.connect();
        round_trip(&mut stream, 0);
        server.signal(libc::SIGSTOP);
        stream.write_all(&(1..=100).flat_map(|id| submit(id, b"payload")).collect::<Vec<_>>()).unwrap();
        server.signal(signal);
        server.signal(libc::SIGCONT);
        expect_acks(&mut stream, 1..=100);
        expect_clean_end(&mut stream);
        assert_eq!(server.ended().status.code(), Some(0), "signal {signal}");
    }
}

#[test]
fn a_hangup_ignored_by_nohup_stays_ignored() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" serve --listen 127.0.0.1:0 --workers 1", crate::common::BINARY]);
    let server = Server::spawn(command, 1);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let mask = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let hangup = 1 << (libc::SIGHUP - 1);
    assert_eq!((mask("SigIgn:") & hangup, mask("SigCgt:") & hangup), (hangup, 0));
    server.signal(libc::SIGHUP);
    round_trip(&mut server.connect(), 1);
    assert_eq!(server.stop().status.code(), Some(0));
}

/// Ends a start that waits, after its log has shown that it waits.
fn check_start_ends(mut command: Command, waits: impl Fn() -> bool) {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("the server handles signals", || {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
            u64::from_str_radix(caught, 16).unwrap() & 1 << (libc::SIGUSR2 - 1) != 0 && waits()
        });
        let began = Instant::now();
        kill(child.id(), signal);
        assert_eq!(code_of(child), Some(0));
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    }
}

#[test]
fn a_signal_ends_a_start_that_waits_for_its_address_and_the_journal_is_sound() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let data = tempfile::tempdir().unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let options = ["serve", "--workers", "1", "--bind-retry", "60s", "--segment-size", "4MiB", "--listen", &address];
    let mut command = ringpost(&options);
    command.arg("--data-dir").arg(data.path());
    let has_segment = || {
        let writers = fs::read_dir(data.path()).unwrap().flatten();
        writers
            .flat_map(|writer| fs::read_dir(writer.path()))
            .flatten()
            .flatten()
            .any(|file| file.path().extension().is_some_and(|extension| extension == "seg"))
    };
    check_start_ends(command, has_segment);
    let verified = ringpost(&["journal", "verify", "--data-dir"]).arg(data.path()).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}

#[test]
fn a_signal_ends_a_takeover_that_waits_for_the_old_server() {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("control.sock");
    let _never_answers = UnixListener::bind(&control).unwrap();
    let mut command = ringpost(&["serve", "--sink", "discard", "--takeover", "--takeover-timeout", "60s", "--control"]);
    command.arg(&control);
    check_start_ends(command, || true);
}

/// Starts a bench of one minute, and ends it by a signal once the server has received some requests.
fn cut_short(server: &Server, options: &[&str], signal: i32) -> Output {
    let mut command = ringpost(&["bench", "--duration", "60s", "--warmup", "0s", "--addr"]);
    command.arg(server.address().to_string()).args(options).stdout(Stdio::piped()).stderr(Stdio::piped());
    let before = crate::common::admin::Metrics::scrape(server).get("ringpost_acks_total{result=\"success\"}");
    let bench = command.spawn().unwrap();
    wait_until("the load runs", || {
        crate::common::admin::Metrics::scrape(server).get("ringpost_acks_total{result=\"success\"}") >= before + 3.0
    });
    thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    kill(bench.id(), signal);
    let output = bench.wait_with_output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "{options:?}: {:?}", began.elapsed());
    output
}

#[test]
fn an_interrupted_bench_reports_what_it_measured() {
    let data = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let journal = data.path().to_str().unwrap();
    let server = Server::start(&["--workers", "1", "--admin", "127.0.0.1:0", "--data-dir", journal]);
    for (signal, mode) in [
        (libc::SIGINT, &["--connections", "4"][..]),
        (libc::SIGTERM, &["--connections", "4", "--rate", "500"]),
        (libc::SIGHUP, &["--connections", "4", "--churn"]),
    ] {
        let [json, csv, html, ledger] = ["r.json", "r.csv", "r.html", "ledger"].map(path);
        let outputs = ["--json", &json, "--csv", &csv, "--html", &html, "--ledger", &ledger];
        let output = cut_short(&server, &[mode, &outputs].concat(), signal);
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(128 + signal), "{table}");
        assert!(table.contains("latency") && table.contains("cut short"), "{table}");
        let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
        let seconds = report["seconds"].as_f64().unwrap();
        assert!((0.4..30.0).contains(&seconds), "{seconds}");
        let rate = report["requests"].as_f64().unwrap() / seconds;
        assert!((rate / report["requests_per_second"].as_f64().unwrap() - 1.0).abs() < 0.01, "{report}");
        assert!(fs::metadata(&csv).unwrap().len() > 50 && fs::metadata(&html).unwrap().len() > 1000);
        let check = ringpost(&["journal", "check", "--ledger", &ledger, "--data-dir", journal]).output().unwrap();
        let verdict = String::from_utf8(check.stdout).unwrap();
        assert_eq!(check.status.code(), Some(0), "{verdict}");
        assert!(!verdict.contains("cut short") && !verdict.starts_with("0 sent"), "{verdict}");
    }
    for mode in [&["--idle", "20"][..], &["--find-knee", "--connections", "4", "--rate", "500"]] {
        let output = cut_short(&server, mode, libc::SIGTERM);
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(128 + libc::SIGTERM), "{table}");
        assert!(table.contains("latency") && table.contains("cut short"), "{table}");
    }
}

/// A command with a file size limit of 64 KiB.
fn limited(arguments: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -f 64; exec \"$0\" \"$@\"", crate::common::BINARY]).args(arguments);
    command
}

#[test]
fn a_limit_of_file_sizes_refuses_a_start_with_the_reason() {
    let data = tempfile::tempdir().unwrap();
    for command in ["serve", "doctor"] {
        let options = [command, "--workers", "1", "--segment-size", "4MiB", "--listen", "127.0.0.1:0", "--data-dir"];
        let output = limited(&options).arg(data.path()).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}: {text}");
        assert!(text.contains("RLIMIT_FSIZE") && text.contains("65536") && text.contains("ulimit -f"), "{text}");
    }
}

#[test]
fn a_later_limit_of_file_sizes_fails_messages_and_not_the_server() {
    let data = tempfile::tempdir().unwrap();
    let server =
        Server::start(&["--workers", "1", "--segment-size", "4MiB", "--data-dir", data.path().to_str().unwrap()]);
    let mut stream = server.connect();
    round_trip(&mut stream, 1);
    let limit = Rlimit { current: Some(1 << 16), maximum: None };
    prlimit(Pid::from_raw(server.pid() as i32), Resource::Fsize, limit).unwrap();
    for id in 2..102 {
        stream.write_all(&submit(id, &[7; 4096])).unwrap();
        let mut ack = [0; 14];
        stream.read_exact(&mut ack).unwrap();
        if ack[13] == 1 {
            assert_eq!(server.stop().status.code(), Some(0));
            return;
        }
    }
    panic!("100 messages of 4 KiB were acked below a limit of 64 KiB");
}

#[test]
fn a_ledger_over_the_limit_of_file_sizes_does_not_prevent_the_table() {
    let server = Server::start(&["--workers", "1"]);
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    let addr = server.address().to_string();
    let bench = ["bench", "--addr", &addr, "--window", "64", "--warmup", "0s", "--duration", "1s", "--ledger"];
    let output = limited(&bench).arg(&ledger).output().unwrap();
    let (table, why) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1), "{table}{why}");
    assert!(table.contains("latency") && why.contains("ledger (--ledger): File too large"), "{table}{why}");
}

/// Runs a command as process 1, and ends it with a signal.
fn check_ends_as_process_1(arguments: &[&str], signal: i32, expected: i32) {
    let mut command = Command::new("unshare");
    command.args(["-Urpf", "--kill-child", crate::common::BINARY]).args(arguments).env("RINGPOST_SINK", "discard");
    let outer = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let child = || {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", outer.id())).unwrap();
        let child: u32 = children.split_whitespace().next()?.parse().unwrap();
        let command = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        let caught = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        let caught = caught.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim().to_owned();
        let is_ready = u64::from_str_radix(&caught, 16).unwrap() & 1 << (signal - 1) != 0;
        (command.starts_with(crate::common::BINARY.as_bytes()) && is_ready).then_some(child)
    };
    wait_until("the command runs", || child().is_some());
    thread::sleep(Duration::from_millis(300));
    kill(child().unwrap(), signal);
    assert_eq!(code_of(outer), Some(expected), "{arguments:?}");
}

#[test]
fn every_command_ends_as_process_1() {
    if PROCESS_NAMESPACE.check(tried(Command::new("unshare").args(["-Urpf", "true"]))).is_none() {
        return;
    }
    let server = Server::start(&["--workers", "1"]);
    let addr = server.address().to_string();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_addr = silent.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&ledger).status().unwrap().success());
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let ended = 128 + signal;
        check_ends_as_process_1(&["bench", "--addr", &addr, "--duration", "60s"], signal, ended);
        check_ends_as_process_1(&["submit", "--addr", &addr], signal, 1);
        let cat = ["journal", "cat", "--follow", "--data-dir", dir.path().to_str().unwrap()];
        check_ends_as_process_1(&cat, signal, ended);
        check_ends_as_process_1(&["serve", "--listen", "127.0.0.1:0", "--workers", "1"], signal, 0);
        let health = ["health", "--admin", &silent_addr, "--timeout", "60s"];
        check_ends_as_process_1(&health, signal, ended);
        // These commands wait for a file that has no writer.
        check_ends_as_process_1(&["submit", "--addr", &addr, ledger.to_str().unwrap()], signal, ended);
        let check = ["journal", "check", "--ledger", ledger.to_str().unwrap(), "--data-dir", "/nonexistent"];
        check_ends_as_process_1(&check, signal, ended);
    }
}
