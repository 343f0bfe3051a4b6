//! Errors of `bench` say what is wrong, with exit code 2 for usage and 1 for everything else.

use std::net::TcpListener;

use crate::common::peer_load::{bench, peer};

#[test]
fn invalid_options_are_refused_with_the_valid_ones() {
    for (words, expected) in [
        ("--window 0", "--window"),
        ("--window 2000000", "1048576"),
        ("--connections 0", "--connections"),
        ("--threads 0", "--threads"),
        ("--rate 0", "--rate"),
        ("--idle 0", "--idle"),
        ("--payload 2..1", "smaller size first"),
        ("--payload many", "16..16384"),
        ("--duration 1ms", "--duration"),
        ("--duration 5", "500ms"),
        ("--idle 5 --ack-timeout 0", "--ack-timeout"),
        ("--ack-timeout 1y", "1000h"),
        ("--churn --rate 5", "--rate"),
        ("--idle 5 --find-knee", "--find-knee"),
        ("--io sockets", "epoll"),
    ] {
        let outcome = bench("localhost:1", words);
        assert_eq!(outcome.code, 2, "{words}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{words}: {}", outcome.stderr);
        assert!(outcome.stdout.is_empty(), "{words}");
    }
}

#[test]
fn a_missing_server_is_named() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for words in ["", "--churn", "--idle 3", "--rate 100"] {
        let outcome = bench(&addr, words);
        assert_eq!(outcome.code, 1, "{words}");
        assert!(outcome.stderr.contains(&format!("could not connect to {addr}")), "{}", outcome.stderr);
    }
}

#[test]
fn more_connections_than_descriptors_are_refused_before_the_server_is_loaded() {
    let outcome = bench("localhost:1", "--idle 4000000000");
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("ulimit -Hn"), "{}", outcome.stderr);
}

#[test]
fn a_missing_process_is_named() {
    let addr = peer(|request| Some(request.ack())).to_string();
    let outcome = bench(&addr, "--pid 4000000000");
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("no process 4000000000"), "{}", outcome.stderr);
}

#[test]
fn a_file_that_cannot_be_written_is_named_and_the_table_is_still_printed() {
    let addr = peer(|request| Some(request.ack())).to_string();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ringpost"))
        .args(["bench", "--addr", &addr, "--duration", "50ms", "--warmup", "0s", "--json", "/nowhere/report.json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nowhere/report.json"));
    assert!(String::from_utf8(output.stdout).unwrap().contains("requests"));
}
