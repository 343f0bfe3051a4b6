//! `kill -9` at random moments under load. Every acked message is in the journal as it was sent, once, in order, and
//! the next start accepts connections immediately.
//!
//! `RINGPOST_TEST_KILLS=200` kills more often. The test with a jumping clock then runs the seeds from 1 on, and
//! `RINGPOST_TEST_SEED=7` repeats one of them.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::common::shapes::{Seeds, World, number, run_all};
use crate::common::{BINARY, Server, ringpost, round_trip, run};

#[test]
fn acked_messages_survive_a_kill() {
    let (mut acked, mut slowest) = (0, Duration::ZERO);
    for kill in 0..kills() {
        let dir = tempfile::tempdir().unwrap();
        let killed = kill_under_load(dir.path(), &["--segment-size", "4MiB"], &[], &format!("kill {kill}"));
        acked += killed.acked;
        slowest = slowest.max(killed.start);
    }
    eprintln!("{} kills, {acked} messages acked before them, slowest start {slowest:?}", kills());
    assert!(acked > 1000 * kills(), "only {acked} messages were acked");
}

#[test]
fn acked_messages_survive_a_kill_if_segments_are_recycled() {
    let dir = tempfile::tempdir().unwrap();
    // More than a load sends in the longest life, so that it reuses the segments of earlier lives.
    let (rate, options) = (["--rate", "50000"], ["--segment-size", "2MiB", "--retain-bytes", "64MiB"]);
    let (mut acked, mut recycled) = (0, 0);
    // On a busy machine the loads send less, and it takes more lives to reach the limit.
    for kill in 0..4 * kills() {
        if kill >= kills() && recycled > 0 {
            break;
        }
        let before: Vec<_> = recycled_segments(dir.path());
        acked += kill_under_load(dir.path(), &options, &rate, &format!("kill {kill}")).acked;
        recycled += recycled_segments(dir.path()).iter().filter(|path| !before.contains(path)).count() as u64;
    }
    eprintln!("{} kills, {acked} messages acked before them, {recycled} segments recycled", kills());
    assert!(acked > 1000 * kills() && recycled > 0, "{acked} acked, {recycled} recycled");
}

/// The clients and the check are those of [`crate::common::shapes`], because a removed segment holds messages that were
/// acked.
#[test]
fn acked_messages_survive_kills_if_segments_are_removed_and_the_clock_jumps() {
    let worlds = number("RINGPOST_TEST_KILLS").map(|kills| kills.div_ceil(World::KILLS));
    let (killed, acked, removed) = run_all(Seeds::new(4, worlds), World::of_kills).kills();
    eprintln!("{killed} kills, {acked} messages acked, {removed} removed by retention");
    // In some worlds nothing may be removed.
    assert!(acked > 100 * killed && (removed > 0 || killed < 80), "{acked} acked, {removed} removed");
}

fn kills() -> u64 {
    env::var("RINGPOST_TEST_KILLS").map_or(8, |count| count.parse().unwrap())
}

struct Killed {
    acked: u64,
    /// The time that the next start took.
    start: Duration,
}

/// Starts a server and a load, kills the server, starts it again, and compares the ledger with the journal.
fn kill_under_load(dir: &Path, options: &[&str], load: &[&str], what: &str) -> Killed {
    let (data, ledger) = (dir.join("data"), dir.join("ledger"));
    let (data, ledger) = (data.to_str().unwrap(), ledger.to_str().unwrap());
    let start = || Server::start(&[&["--workers", "2", "--data-dir", data], options].concat());
    let mut server = start();
    let address = server.address().to_string();
    let mut load = Command::new(BINARY)
        .args(["bench", "--addr", &address, "--connections", "100", "--window", "8", "--payload", "24..2000"])
        .args(["--warmup", "0", "--duration", "20s", "--ledger", ledger])
        .args(load)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(100 + random() % 500));
    server.signal(libc::SIGKILL);
    server.reap();
    assert!(!load.wait().unwrap().success(), "the load ended successfully although the server was killed");

    let before = Instant::now();
    let server = start();
    round_trip(&mut server.connect(), 1);
    let start = before.elapsed();
    assert!(start < Duration::from_secs(5), "{what}: serving after {start:?}");
    let check = run(ringpost(&["journal", "check", "--ledger", ledger, "--data-dir", data]));
    assert!(check.status.success(), "{what}: {}{}", check.stdout, check.log);
    let words: Vec<_> = check.stdout.split([' ', ',']).collect();
    let count = words.iter().position(|word| *word == "acked").expect("a summary");
    let acked = words[count - 1].parse().unwrap();
    assert!(server.stop().status.success());
    let verify = run(ringpost(&["journal", "verify", "--data-dir", data]));
    assert!(verify.status.success(), "{what}: {}{}", verify.stdout, verify.log);
    Killed { acked, start }
}

/// Counts the segments whose headers say that they were recycled.
fn recycled_segments(dir: &Path) -> Vec<PathBuf> {
    let Ok(writers) = fs::read_dir(dir.join("data")) else { return Vec::new() };
    let files = writers.flatten().filter_map(|writer| fs::read_dir(writer.path()).ok()).flatten().flatten();
    let mut header = [0; 12];
    let mut is_recycled = |path: &PathBuf| {
        let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut header));
        read.is_ok() && header == *b"RINGPOST\0\0\0\x02"
    };
    files
        .map(|file| file.path())
        .filter(|path| path.extension() == Some(OsStr::new("seg")))
        .filter_map(|path| is_recycled(&path).then_some(path))
        .collect()
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
