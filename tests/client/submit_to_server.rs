//! `ringpost submit` against the real server. Every line of a real file is acked. If the server is killed half-way, the
//! command reports how many lines were not acked, and exits with 1.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

use crate::common::{Server, ringpost, run};

/// Returns the value of `key` in the summary, the last line of stdout.
fn figure(stdout: &str, key: &str) -> u64 {
    let summary = stdout.lines().last().expect("a summary");
    let (_, value) = summary.split(' ').filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == key).unwrap();
    value.parse().unwrap()
}

#[test]
fn every_line_of_a_real_file_is_acked() {
    let server = Server::start(&["--workers", "2"]);
    let address = server.address().to_string();
    // Lines of all lengths, including empty ones.
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");
    let lines = fs::read_to_string(file).unwrap().lines().count() as u64;
    let ended = run(ringpost(&["submit", "--addr", &address, file]));
    assert!(ended.status.success(), "{}", ended.log);
    for (key, expected) in [("sent", lines), ("acked", lines), ("failed", 0)] {
        assert_eq!(figure(&ended.stdout, key), expected, "{key}");
    }
    let log = server.stop().log;
    assert!(log.contains(&format!("requests={lines} failures=0")), "{log}");
}

#[test]
fn a_server_killed_half_way_is_reported_with_the_unacked_lines() {
    let server = Server::start(&["--workers", "1"]);
    let address = server.address().to_string();
    let mut command = ringpost(&["submit", "--addr", &address]);
    let mut submit =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("submit starts");
    let mut input = submit.stdin.take().unwrap();
    for line in 0..50_000 {
        writeln!(input, "line {line}").unwrap();
    }
    server.signal(libc::SIGKILL);
    server.ended();
    // The command may end before it has read all of this.
    for line in 50_000..60_000 {
        if writeln!(input, "line {line}").is_err() {
            break;
        }
    }
    drop(input);
    let status = submit.wait().unwrap();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    submit.stdout.unwrap().read_to_string(&mut stdout).unwrap();
    submit.stderr.unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let acked = figure(&stdout, "acked");
    assert!((1..60_000).contains(&acked), "{stdout}");
    assert!(figure(&stdout, "sent") >= acked);
    assert!(stderr.contains("were not acked"), "{stderr}");
}
