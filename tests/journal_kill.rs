//! `kill -9` at random moments under load: every acked message is in the journal, as sent, once, in
//! order, and the next start accepts at once.
//!
//! `RINGPOST_TEST_KILLS=200` kills more often.

mod common;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use common::{BINARY, Server, ringpost, round_trip, run};

#[test]
fn what_was_acked_is_there_after_a_kill() {
    let kills = env::var("RINGPOST_TEST_KILLS").map_or(8, |count| count.parse().unwrap());
    let mut acked = 0;
    let mut slowest = Duration::ZERO;
    for kill in 0..kills {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let ledger = dir.path().join("ledger");
        let (data, ledger) = (data.to_str().unwrap(), ledger.to_str().unwrap());
        let start = || Server::start(&["--workers", "2", "--data-dir", data, "--segment-size", "4MiB"]);
        let mut server = start();
        let address = server.address().to_string();
        let mut load = Command::new(BINARY)
            .args(["bench", "--addr", &address, "--connections", "100", "--window", "8", "--payload", "24..2000"])
            .args(["--warmup", "0", "--duration", "20s", "--ledger", ledger])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(100 + random() % 500));
        server.signal(libc::SIGKILL);
        server.reap();
        assert!(!load.wait().unwrap().success(), "the load saw the server die");

        let before = Instant::now();
        let server = start();
        round_trip(&mut server.connect(), 1);
        slowest = slowest.max(before.elapsed());
        assert!(before.elapsed() < Duration::from_secs(1), "kill {kill}: serving after {:?}", before.elapsed());
        let check = run(ringpost(&["journal", "check", "--ledger", ledger, "--data-dir", data]));
        assert!(check.status.success(), "kill {kill}: {}{}", check.stdout, check.log);
        let words: Vec<_> = check.stdout.split([' ', ',']).collect();
        let count = words.iter().position(|word| *word == "acked").expect("a summary");
        acked += words[count - 1].parse::<u64>().unwrap();
        assert!(server.stop().status.success());
        let verify = run(ringpost(&["journal", "verify", "--data-dir", data]));
        assert!(verify.status.success(), "kill {kill}: {}{}", verify.stdout, verify.log);
    }
    eprintln!("{kills} kills, {acked} messages acked before them, slowest start {slowest:?}");
    assert!(acked > 1000 * kills, "only {acked} messages were acked in {kills} runs");
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
