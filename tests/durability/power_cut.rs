//! The power of the disk is cut under load, below a real file system: every acked message is in the journal, as
//! sent, once, in order.
//!
//! Needs to mount FUSE, loop devices and ext4, and says so where it may not. `RINGPOST_TEST_CUTS=100` cuts more
//! often than three times.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use crate::common::admin::Metrics;
use crate::common::disk::{in_mount, make_ext4};
use crate::common::kept::text;
use crate::common::random::Random;
use crate::common::requirement::FUSE;
use crate::common::volatile_disk::VolatileDisk;
use crate::common::{BINARY, Ended, Server, run, wait_until};
use tempfile::{NamedTempFile, TempDir};

/// What stays of a machine whose power is cut again and again, and where its parts are.
struct Machine {
    dir: TempDir,
    /// What the disk's medium holds.
    image: NamedTempFile,
    random: Random,
}

impl Machine {
    /// None where this machine may not have such a one.
    fn new() -> Option<Self> {
        let image = make_ext4(DISK_LEN)?;
        let dir = tempfile::tempdir().unwrap();
        for name in ["disk", "ledger"] {
            fs::write(dir.path().join(name), []).unwrap();
        }
        fs::create_dir(dir.path().join("mount")).unwrap();
        let fresh = || RandomState::new().build_hasher().finish();
        let seed = env::var("RINGPOST_TEST_SEED").map_or_else(|_| fresh(), |seed| seed.parse().unwrap());
        eprintln!("seed {seed}");
        Some(Machine { dir, image, random: Random(seed) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn disk(&self) -> Option<VolatileDisk> {
        FUSE.check(VolatileDisk::new(self.image.path(), &self.path("disk")))
    }

    /// A command that sees the file system of a disk as `mount`.
    fn on(&self, disk: &Path) -> Option<Command> {
        let mount = format!("mount -o loop {} \"$0\"", text(disk));
        in_mount(&self.path("mount"), "-m", &mount)
    }

    /// Serves and loads, cuts the power, and ends both. Returns how many segments were recycled in that life;
    /// `None` where it may not be tried here.
    fn cut_under_load(&mut self, life: &Life) -> Option<u64> {
        let disk = self.disk()?;
        let mut command = self.on(&self.path("disk"))?;
        command.args([BINARY, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--min-free", "0"]);
        command.arg("--data-dir").arg(self.path("mount/data")).args(life.options.split(' '));
        if life.clock_jumps {
            command.env("RINGPOST_TEST_CLOCK", self.random.below(1000).to_string());
        }
        let mut server = Server::spawn(command, 1);
        if let Some(earlier) = life.earlier_load {
            assert!(bench(&server, earlier).status().unwrap().success());
        }
        if life.flushes_lie {
            disk.lie();
        }
        let mut load = bench(&server, life.load).arg("--ledger").arg(self.path("ledger")).spawn().unwrap();
        thread::sleep(Duration::from_millis(300 + self.random.below(700)));
        let unflushed = 1 + self.random.below(8) as usize;
        let unflushed = disk.cut_power(unflushed, life.percent, &mut self.random);
        // What it answers now was not durable when the power went.
        thread::sleep(Duration::from_millis(100));
        let recycled = Metrics::scrape(&server).get("ringpost_journal_segments_recycled_total{shard=\"0\"}") as u64;
        server.signal(libc::SIGKILL);
        server.reap();
        load.wait().unwrap();
        eprintln!("{unflushed} writes were not flushed, of which {} % last", life.percent);
        wait_until("nothing has the disk any more", || {
            let users = Command::new("losetup").arg("-j").arg(self.path("disk")).output().unwrap();
            users.stdout.is_empty()
        });
        Some(recycled)
    }

    fn journal(&self, words: &str) -> Ended {
        let mut command = self.on(self.image.path()).expect("it could be mounted before");
        command.arg(BINARY).arg("journal").args(words.split(' ')).arg("--data-dir").arg(self.path("mount/data"));
        run(command)
    }

    /// Holds the ledger against the journal.
    fn check(&self) -> Ended {
        self.journal(&format!("check --ledger {}", text(&self.path("ledger"))))
    }
}

/// One life of the machine.
#[derive(Default)]
struct Life<'a> {
    options: &'a str,
    /// A load that ends before the one whose ledger is kept.
    earlier_load: Option<&'a str>,
    load: &'a str,
    /// How many sectors of a hundred last that were not flushed.
    percent: u64,
    flushes_lie: bool,
    /// The wall clock is set repeatedly, to any time.
    clock_jumps: bool,
}

fn bench(server: &Server, load: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["bench", "--addr", &server.address().to_string(), "--connections", "50", "--warmup", "0"]);
    command.args(load.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Cuts the power again and again. `None` where that may not be tried here.
fn expect_all_that_was_acked(life: &Life) -> Option<(Machine, u64)> {
    let cuts = env::var("RINGPOST_TEST_CUTS").map_or(3, |count| count.parse().unwrap()).max(3);
    let (mut acked, mut recycled) = (0, 0);
    let mut machine = Machine::new()?;
    for cut in 0..cuts {
        // As many lives as its disk has room for.
        if cut > 0 && cut % 3 == 0 {
            machine = Machine::new()?;
        }
        let ended = machine.cut_under_load(&Life { percent: [0, 50, 100][cut % 3], ..*life });
        assert!(ended.is_some() || cut == 0, "what could be mounted before can't be");
        recycled += ended?;
        let check = machine.check();
        assert!(check.status.success(), "cut {cut}: {}{}", check.stdout, check.log);
        let words: Vec<_> = check.stdout.split([' ', ',']).collect();
        let count = words.iter().position(|word| *word == "acked").expect("a summary");
        acked += words[count - 1].parse::<usize>().unwrap();
        let verify = machine.journal("verify");
        assert!(verify.status.success(), "cut {cut}: {}{}", verify.stdout, verify.log);
    }
    eprintln!("{cuts} cuts, {acked} messages acked before them, {recycled} segments recycled");
    assert!(acked > 50 * cuts, "only {acked} messages were acked");
    Some((machine, recycled))
}

const DISK_LEN: u64 = 256 << 20;

#[test]
fn what_was_acked_is_there_after_a_power_cut() {
    let options = "--workers 2 --segment-size 2MiB";
    let load = "--rate 20000 --window 8 --payload 24..2000 --duration 20s";
    expect_all_that_was_acked(&Life { options, load, ..Life::default() });
}

#[test]
fn what_was_acked_is_there_after_a_power_cut_where_segments_are_recycled_and_the_clock_jumps() {
    // Room for all that the load sends until the power goes, each message in a block of its own; and not for those of
    // earlier lives beside it.
    let options = "--workers 1 --segment-size 2MiB --retain-bytes 64MiB";
    // More than is kept, also on a busy machine.
    let earlier_load = Some("--window 8 --payload 32768 --duration 2s");
    let load = "--rate 8000 --window 8 --payload 24..2000 --duration 20s";
    let life = Life { options, earlier_load, load, clock_jumps: true, ..Life::default() };
    let Some((_, recycled)) = expect_all_that_was_acked(&life) else { return };
    assert!(recycled > 0);
}

/// Of segments whose blocks are set aside only, the file system must not forget which of them are in use.
#[test]
fn what_was_acked_is_there_after_a_power_cut_where_commits_are_large() {
    let options = "--workers 1 --segment-size 4MiB";
    let load = "--rate 300 --window 1 --payload 150000..250000 --duration 20s";
    let Some((machine, _)) = expect_all_that_was_acked(&Life { options, load, ..Life::default() }) else { return };
    let mut command = machine.on(machine.image.path()).expect("it could be mounted before");
    command.args(["sh", "-c", "filefrag -v \"$0\"/*/*.seg"]).arg(machine.path("mount/data"));
    let extents = run(command);
    assert!(extents.stdout.contains("unwritten"), "{}{}", extents.stdout, extents.log);
}

#[test]
fn a_disk_whose_flushes_lie_is_caught() {
    let Some(mut machine) = Machine::new() else { return };
    let load = "--rate 20000 --window 8 --payload 24..2000 --duration 20s";
    let life = Life { options: "--workers 1", load, flushes_lie: true, ..Life::default() };
    if machine.cut_under_load(&life).is_none() {
        return;
    }
    let check = machine.check();
    assert!(!check.status.success(), "{}", check.stdout);
    assert!(check.stdout.contains("missing") || check.log.contains("missing"), "{}{}", check.stdout, check.log);
}
