//! The table, the JSON, the CSV and the page show the same numbers, and the numbers are consistent.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;

use crate::common::peer_load::{Outcome, bench, peer};

fn run(words: &str) -> Outcome {
    let addr = peer(|request| Some(request.ack())).to_string();
    let outcome = bench(&addr, words);
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    outcome
}

#[test]
fn the_numbers_of_a_report_are_consistent() {
    let pid = std::process::id();
    let outcome = run(&format!("--connections 4 --window 2 --duration 1500ms --warmup 100ms --pid {pid}"));
    let requests = outcome.number("/requests");
    let seconds = outcome.number("/seconds");
    assert_eq!(seconds, 1.5);
    assert!(requests > 100.0);
    assert!((outcome.number("/requests_per_second") * seconds / requests - 1.0).abs() < 1e-9);
    // Each frame has 45 bytes. The sent and the acked requests differ by the windows.
    let acked = outcome.number("/megabytes_per_second") * seconds * 1e6 / 45.0;
    assert!((acked - requests).abs() <= 16.0, "{acked} of {requests}");
    // Every acked request has a latency, and so does every request in flight at the end.
    let measured = outcome.number("/latency/count");
    assert!((requests..=requests + 8.0).contains(&measured), "{measured} of {requests}");
    let quantiles = ["p50_us", "p90_us", "p99_us", "p999_us", "p9999_us", "max_us"];
    let latencies = quantiles.map(|name| outcome.number(&format!("/latency/{name}")));
    assert!(latencies.is_sorted() && latencies[0] > 0.0, "{latencies:?}");
    assert!(outcome.number("/own_cpu/ns_per_request") > 0.0);
    assert!(outcome.number("/server/cpu/ns_per_request") > 0.0);
    assert!(outcome.number("/server/memory/resident") > 100_000.0);
}

#[test]
fn the_table_shows_what_the_json_holds() {
    let outcome = run("--connections 3 --duration 200ms --warmup 0s");
    let requests = outcome.json["requests"].as_u64().unwrap().to_string();
    let digits: String = outcome.stdout.chars().filter(|c| *c != ',').collect();
    assert!(digits.contains(&format!("requests     {requests} in 0.2 s")), "{}", outcome.stdout);
    let p50 = outcome.number("/latency/p50_us");
    let shown = if p50 < 99.95 { format!("{p50:.1} µs") } else { format!("{p50:.0} µs") };
    assert!(!(9.995..=999.0).contains(&p50) || outcome.stdout.contains(&shown), "{shown} in {}", outcome.stdout);
    for name in ["p50", "p90", "p99", "p99.9", "p99.99", "max", "mean", "own CPU", "all good"] {
        assert!(outcome.stdout.contains(name), "{name} in {}", outcome.stdout);
    }
    assert!(!outcome.stderr.contains('\r'), "there is a live line, although there is no terminal");
}

#[test]
fn the_time_series_adds_up_to_the_whole() {
    let outcome = run("--connections 2 --rate 400 --duration 2500ms --warmup 0s");
    let mut lines = outcome.csv.lines();
    assert_eq!(lines.next(), Some("second,rate,p50_us,p99_us,max_us,connections,errors"));
    let rows: Vec<Vec<f64>> = lines.map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), [1.0, 2.0, 2.5]);
    let acks: f64 = rows.iter().zip([1.0, 1.0, 0.5]).map(|(row, seconds)| row[1] * seconds).sum();
    assert!((acks - outcome.number("/requests")).abs() < 1.0, "{acks}: {}", outcome.csv);
    assert!(rows.iter().all(|row| row[5] == 2.0 && row[6] == 0.0), "{}", outcome.csv);
    assert_eq!(outcome.json["series"].as_array().unwrap().len(), 3);
}

#[test]
fn the_page_needs_no_other_file() {
    let outcome = run("--connections 2 --rate 400 --duration 1200ms --warmup 0s");
    assert_eq!(outcome.html.matches("<svg").count(), 3, "curve, rate and latency over time");
    for outside in ["http:", "https:", "<script", "<link", "@import", "src=", "url("] {
        assert!(!outcome.html.contains(outside), "{outside}");
    }
    assert!(!outcome.html.contains("NaN") && !outcome.html.contains("inf"), "a number is not valid");
    assert!(outcome.html.contains("prefers-color-scheme: dark"));
    assert!(outcome.html.contains("Latency by percentile"));
}

/// Runs bench with a terminal of `columns` columns as stdout and stderr, and returns the lines that were sent to it. A
/// carriage return also begins a line, the live line.
fn lines_in_a_terminal(columns: u16, words: &str) -> Vec<String> {
    let (mut ours, mut theirs) = (-1, -1);
    let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: openpty(3) writes two descriptors, which are owned below, and reads the size.
    let made = unsafe { libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null(), &size) };
    assert_eq!(made, 0);
    // SAFETY: nothing else owns these descriptors.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    // Otherwise commands that other tests start would inherit both ends.
    for end in [&ours, &theirs] {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).unwrap();
    }
    let addr = peer(|request| Some(request.ack())).to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
    command.args(["bench", "--addr", &addr]).args(words.split_whitespace()).env_remove("COLUMNS");
    command.stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut bytes = Vec::new();
    // At the end of a terminal, a read returns an error.
    let _ = File::from(ours).read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap().replace("\x1b[2K", "");
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {text}");
    text.split(['\r', '\n']).map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn nothing_is_wider_than_the_terminal() {
    for columns in [80, 44, 24] {
        for (words, expected) in [
            ("--connections 1000 --window 16 --duration 1s --warmup 0s", "1,000 open"),
            ("--idle 200 --duration 10ms", "opening"),
            ("--find-knee --rate 4000 --duration 200ms --warmup 0s --slo 1us", "knee"),
        ] {
            let words = format!("{words} --pid {}", std::process::id());
            let lines = lines_in_a_terminal(columns, &words);
            let wide: Vec<_> = lines.iter().filter(|line| line.chars().count() > usize::from(columns)).collect();
            assert!(wide.is_empty(), "{columns} columns: {wide:#?}");
            if columns == 80 {
                assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:#?}");
            }
        }
    }
}

#[test]
fn output_that_is_not_a_terminal_has_lines_of_80_columns() {
    let outcome = run("--connections 2 --rate 400 --duration 300ms --warmup 0s");
    let widest = outcome.stdout.lines().map(|line| line.chars().count()).max().unwrap();
    assert!((70..=80).contains(&widest), "{widest}: {}", outcome.stdout);
}
