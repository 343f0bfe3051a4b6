//! On any failure, `ringpost submit` reports on stderr how many lines were not acked and why, prints its summary, and
//! exits with 1. It exits with 2 if an option is invalid.

use std::io::{Read, Write};
use std::process::Output;
use std::time::{Duration, Instant};

use crate::common::peer::{Connection, Peer};
use crate::common::submit::{start, submit};

/// Checks the exit code and the summary's counts, and returns stderr.
fn complaint(output: &Output, counts: &str) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(stdout.lines().last().is_some_and(|last| last.starts_with(counts)), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_missing_server_is_reported() {
    let addr = crate::common::peer::closed_port();
    let stderr = complaint(&submit(addr, &[], b"1\n2\n"), "sent=0 acked=0 failed=0 seconds=0.");
    assert!(stderr.starts_with(&format!("error: no line was sent: could not connect to {addr}: ")), "{stderr}");
    assert!(stderr.contains("refused"), "{stderr}");
}

/// No peer accepts here, so the command must report the file's error before it connects.
#[test]
fn a_missing_file_is_reported() {
    for path in ["/does/not/exist", "/"] {
        let stderr = complaint(&submit(crate::common::peer::closed_port(), &[path], b""), "sent=0 acked=0 failed=0 ");
        assert!(stderr.contains(&format!("could not open {path}: ")), "{stderr}");
    }
}

#[test]
fn a_peer_that_closes_half_way_is_reported() {
    let peer = Peer::start(|mut peer: Connection| {
        let requests: Vec<_> = (0..8).map(|_| peer.request().unwrap()).collect();
        requests[..3].iter().for_each(|request| peer.ack(request, 0));
        peer.half_close();
        peer.drain();
    });
    let output = submit(peer.addr, &["--window", "8"], &b"line\n".repeat(8));
    let stderr = complaint(&output, "sent=8 acked=3 failed=0 ");
    assert!(stderr.starts_with("error: 5 of "), "{stderr}");
    assert!(stderr.contains("not acked: the server closed the connection"), "{stderr}");
    assert!(stderr.contains("written and not acked: 5 (IDs 0000000000000004 to 0000000000000008)"), "{stderr}");
    peer.join();
}

#[test]
fn a_peer_that_breaks_the_protocol_is_reported() {
    let peer = Peer::start(|mut peer: Connection| {
        let request = peer.request().unwrap();
        peer.ack(&crate::common::peer::Request { id: *b"nonsense", ..request }, 0);
        peer.drain();
    });
    let stderr = complaint(&submit(peer.addr, &[], b"line\n"), "sent=1 acked=0 failed=0 ");
    assert!(stderr.contains("the server violated the protocol"), "{stderr}");
    peer.join();
}

/// One peer reads and never answers. The other one does not even read.
#[test]
fn a_peer_without_progress_is_reported() {
    let answers_nothing = Peer::start(|mut peer| peer.drain());
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let reads_nothing = Peer::start_on(crate::common::peer::small_listener(), move |_peer| {
        let _ = is_done.recv();
    });
    let large = vec![b'\n'; 8_000_000];
    for (addr, input, sent) in
        [(answers_nothing.addr, &b"1\n2\n"[..], "sent=2 "), (reads_nothing.addr, &large, "sent=")]
    {
        let started = Instant::now();
        let output = submit(addr, &["--timeout", "300ms", "--window", "1000000"], input);
        assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
        let stderr = complaint(&output, sent);
        assert!(stderr.contains("no progress for 300ms (--timeout)"), "{stderr}");
    }
    answers_nothing.join();
    drop(done);
    reads_nothing.join();
}

/// Each ack arrives well within the timeout, but all of them together do not. That is progress.
#[test]
fn slow_acks_are_progress() {
    let peer = Peer::start(|mut peer: Connection| {
        while let Some(request) = peer.request() {
            std::thread::sleep(Duration::from_millis(150));
            peer.ack(&request, 0);
        }
    });
    let output = submit(peer.addr, &["--timeout", "600ms"], &b"line\n".repeat(8));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    peer.join();
}

/// Time in which there is no input and no ack is outstanding does not count.
#[test]
fn waiting_for_input_is_not_a_stall() {
    // The first ack is so late that the watch has checked by then.
    let peer = Peer::start(|mut peer: Connection| {
        let first = peer.request().unwrap();
        std::thread::sleep(Duration::from_millis(150));
        peer.ack(&first, 0);
        peer.ack_all()
    });
    let mut child = start(peer.addr, &["--timeout", "400ms"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n").unwrap();
    std::thread::sleep(Duration::from_millis(800));
    stdin.write_all(b"2\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(peer.join().len(), 1);
}

#[test]
fn a_line_that_is_too_long_is_reported() {
    let peer = Peer::start(|mut peer| peer.ack_all());
    let output = submit(peer.addr, &["--max-frame", "20"], b"1\n1234567\n12345678\n4\n");
    let stderr = complaint(&output, "sent=2 acked=2 failed=0 ");
    assert!(
        stderr.starts_with("error: 1 of the 3 lines read so far were not acked: line 3 is longer than 7"),
        "{stderr}"
    );
    assert!(stderr.contains("--max-frame"), "{stderr}");
    assert_eq!(peer.join().len(), 2);
}

/// Input is still open and an ack is outstanding, so only the signal can end the run.
#[test]
fn an_interrupted_submit_prints_its_summary() {
    let (heard, hear) = std::sync::mpsc::channel();
    let peer = Peer::start(move |mut peer: Connection| {
        let request = peer.request().unwrap();
        peer.ack(&request, 0);
        peer.request().unwrap();
        heard.send(()).unwrap();
        peer.drain();
    });
    let mut child = start(peer.addr, &[]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n2\n").unwrap();
    hear.recv_timeout(Duration::from_secs(4)).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = complaint(&output, "sent=2 acked=1 failed=0 ");
    assert_eq!(stderr, "error: 1 of the 2 lines read so far were not acked: interrupted by a signal\n");
    drop(stdin);
    peer.join();
}

/// The command neither connects nor reads stdin.
#[test]
fn invalid_options_are_refused_with_exit_code_2() {
    for arguments in [["--window", "0"], ["--window", "1048577"], ["--max-frame", "12"], ["--max-frame", "5GiB"]] {
        let mut child = start(crate::common::peer::closed_port(), &arguments);
        assert_eq!(child.wait().unwrap().code(), Some(2));
        let mut stderr = String::new();
        child.stderr.unwrap().read_to_string(&mut stderr).unwrap();
        assert!(stderr.starts_with("error: ") && stderr.contains(arguments[0]), "{stderr}");
    }
}
