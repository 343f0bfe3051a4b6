//! `ringpost submit` sends each line once, in order. The last line of stdout and the exit code say what became of them.

use std::io::Write;
use std::process::Output;

use crate::common::peer::{Peer, SUBMIT, ack};
use crate::common::submit::{start, submit};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Checks the summary's form and returns its counts: sent, acked, failed.
fn counts(output: &Output) -> [u64; 3] {
    let stdout = text(&output.stdout);
    let last = stdout.strip_suffix('\n').unwrap().lines().last().unwrap().to_owned();
    let fields: Vec<_> = last.split(' ').map(|field| field.split_once('=').unwrap()).collect();
    let names: Vec<_> = fields.iter().map(|field| field.0).collect();
    assert_eq!(names, ["sent", "acked", "failed", "seconds", "per_second"], "{last}");
    let (whole, decimals) = fields[3].1.split_once('.').unwrap();
    assert!(whole.parse::<u64>().is_ok() && decimals.len() == 3 && decimals.parse::<u64>().is_ok(), "{last}");
    fields[4].1.parse::<u64>().unwrap();
    [0, 1, 2].map(|index: usize| fields[index].1.parse().unwrap())
}

fn payloads(requests: Vec<crate::common::peer::Request>) -> Vec<Vec<u8>> {
    assert!(requests.iter().all(|request| request.command == SUBMIT));
    requests.into_iter().map(|request| request.payload).collect()
}

#[test]
fn the_lines_of_a_file_are_sent() {
    let peer = Peer::start(|mut peer| peer.ack_all());
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"one\ntwo\nthree\n").unwrap();
    let output = submit(peer.addr, &[file.path().to_str().unwrap()], b"not this");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(counts(&output), [3, 3, 0]);
    assert_eq!(text(&output.stderr), "", "there is a progress bar, although stderr is not a terminal");
    assert_eq!(payloads(peer.join()), [&b"one"[..], b"two", b"three"]);
}

#[test]
fn line_ends_are_not_sent() {
    let peer = Peer::start(|mut peer| peer.ack_all());
    let output = submit(peer.addr, &[], b"crlf\r\n\n\xff\0\nlast");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(counts(&output), [4, 4, 0]);
    assert_eq!(payloads(peer.join()), [&b"crlf\r"[..], b"", b"\xff\0", b"last"]);
}

#[test]
fn empty_input_sends_nothing() {
    let peer = Peer::start(|mut peer| peer.ack_all());
    let output = submit(peer.addr, &[], b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(counts(&output), [0, 0, 0]);
    assert!(peer.join().is_empty());
}

/// More input than any buffer between stdin and the socket, with a window that is full all the time and one that never
/// is.
#[test]
fn many_lines_are_sent_once_and_in_order() {
    let input: String = (0..50_000).map(|number| format!("line number {number}\n")).collect();
    for window in ["1000", "1048576"] {
        let peer = Peer::start(|mut peer| peer.ack_all());
        let output = submit(peer.addr, &["--window", window], input.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(counts(&output), [50_000, 50_000, 0]);
        assert!(payloads(peer.join()).iter().map(Vec::as_slice).eq(input.lines().map(str::as_bytes)));
    }
}

/// The peer answers nothing before it has received a whole window, and then checks that no more arrives.
#[test]
fn submit_does_not_exceed_its_window() {
    let peer = Peer::start(|mut peer| {
        let requests: Vec<_> = (0..5).map(|_| peer.request().unwrap()).collect();
        peer.stream.set_nonblocking(true).unwrap();
        assert!(peer.stream.peek(&mut [0]).is_err(), "a sixth request is in flight");
        peer.stream.set_nonblocking(false).unwrap();
        requests.iter().for_each(|request| peer.ack(request, 0));
        peer.ack_all();
    });
    let output = submit(peer.addr, &["--window", "5"], &b"line\n".repeat(12));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(counts(&output), [12, 12, 0]);
    peer.join();
}

#[test]
fn failures_are_counted_and_change_the_exit_code() {
    let peer = Peer::start(|mut peer| {
        let mut result = 0;
        while let Some(request) = peer.request() {
            peer.ack(&request, result);
            result = 1 - result;
        }
    });
    let output = submit(peer.addr, &[], b"good\nbad\ngood\nbad\ngood\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(counts(&output), [5, 3, 2]);
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("error: 2 of 5 lines were not acked: "), "{stderr}");
    peer.join();
}

#[test]
fn submit_accepts_the_published_ack_codes() {
    let peer = Peer::start(|mut peer| {
        while let Some(request) = peer.request() {
            peer.send(&ack(request.command + 0x7f, request.id, 0));
        }
    });
    let output = submit(peer.addr, &["--ack-codes", "published"], b"1\n2\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(counts(&output), [2, 2, 0]);
    peer.join();
}

/// Lines that arrive slowly are sent as they arrive. Each line follows only after the peer has acked the one before.
#[test]
fn a_line_does_not_wait_for_the_next() {
    let (heard, hear) = std::sync::mpsc::channel();
    let peer = Peer::start(move |mut peer| {
        while let Some(request) = peer.request() {
            peer.ack(&request, 0);
            heard.send(request.payload).unwrap();
        }
    });
    let mut child = start(peer.addr, &[]);
    let mut stdin = child.stdin.take().unwrap();
    for line in ["one\n", "two\n", "three\n"] {
        stdin.write_all(line.as_bytes()).unwrap();
        let heard = hear.recv_timeout(std::time::Duration::from_secs(4)).expect("the line is sent");
        assert_eq!(heard, line.trim_end().as_bytes());
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), counts(&output)), (Some(0), [3, 3, 0]));
    peer.join();
}
