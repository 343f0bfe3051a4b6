//! SIGTERM under a pipelined load. The drain ends with exit code 0, and every message whose ack the load has received
//! is in the journal as it was sent, once, in order.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::kept::{expect_sound, journal, serve, text};
use crate::common::{BINARY, submit, submit_ack};

#[test]
fn a_drain_under_load_loses_no_acked_message() {
    let mut acked = 0;
    let rounds = 6;
    for round in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        let (data, ledger) = (dir.path().join("data"), dir.path().join("ledger"));
        let server = serve(&data, "--workers 2 --segment-size 4MiB");
        let mut load = Command::new(BINARY)
            .args(["bench", "--addr", &server.address().to_string(), "--connections", "40", "--window", "16"])
            .args(["--payload", "24..500", "--warmup", "0", "--duration", "20s", "--ledger", text(&ledger)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(300 + round * 70));
        let start = Instant::now();
        let ended = server.stop();
        assert!(ended.status.success(), "round {round}: {}", ended.log);
        assert!(start.elapsed() < Duration::from_secs(8), "round {round}: {:?}", start.elapsed());
        assert!(ended.log.contains(" cut=0 "), "round {round}: {}", ended.log);
        assert!(!ended.log.contains("not closed properly"), "round {round}: {}", ended.log);
        load.wait().unwrap();
        let check = journal(&format!("check --ledger {}", text(&ledger)), &data);
        assert!(check.status.success(), "round {round}: {}{}", check.stdout, check.log);
        let words: Vec<_> = check.stdout.split([' ', ',']).collect();
        let count = words.iter().position(|word| *word == "acked").expect("a summary");
        acked += words[count - 1].parse::<u64>().unwrap();
        expect_sound(&data);
    }
    println!("{acked} messages acked in {rounds} rounds");
    assert!(acked > 500 * rounds, "only {acked} messages were acked");
}

#[test]
fn messages_sent_before_the_drain_are_acked_and_kept() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1");
    let mut stream = server.connect();
    let requests: Vec<_> = (0..2000).flat_map(|id| submit(id, &[7; 100])).collect();
    stream.write_all(&requests).unwrap();
    // The first ack shows that the connection is served. The drain finds the others at any stage.
    let mut acks = vec![0; 14];
    stream.read_exact(&mut acks).unwrap();
    server.signal(libc::SIGTERM);
    stream.read_to_end(&mut acks).expect("a clean end");
    drop(stream);
    let ended = server.ended();
    assert!(ended.status.success(), "{}", ended.log);
    let expected: Vec<_> = (0..2000).map(|id| submit_ack(id, 0)).collect();
    assert!(expected.concat().starts_with(&acks), "acks in the order of their requests");
    let kept: Vec<_> = crate::common::kept::cat(dir.path()).iter().map(|line| line.id).collect();
    assert!(kept.iter().copied().eq(0..acks.len() as u64 / 14), "{} acked, kept {}", acks.len() / 14, kept.len());
}
