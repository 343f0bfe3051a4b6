//! The power of the disk is cut under load, below a real file system. Every acked message is in the journal as it was
//! sent, once, in order.
//!
//! The tests need permission to mount FUSE, loop devices and ext4. `RINGPOST_TEST_CUTS=100` cuts more often than three
//! times.

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

/// The durable parts of a machine whose power is cut repeatedly, and where they are.
struct Machine {
    dir: TempDir,
    /// The contents of the disk's medium.
    image: NamedTempFile,
    random: Random,
}

impl Machine {
    /// Returns `None` if this host does not have what the machine needs.
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

    /// Returns a command that sees the file system of a disk as `mount`.
    fn on(&self, disk: &Path) -> Option<Command> {
        let mount = format!("mount -o loop {} \"$0\"", text(disk));
        in_mount(&self.path("mount"), "-m", &mount)
    }

    /// Starts a server and a load, cuts the power, and ends both. Returns how many segments were recycled in that life,
    /// or `None` if this host does not permit it.
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
        // An ack that the server sends now was not durable when the power was cut.
        thread::sleep(Duration::from_millis(100));
        let recycled = Metrics::scrape(&server).get("ringpost_journal_segments_recycled_total{shard=\"0\"}") as u64;
        server.signal(libc::SIGKILL);
        server.reap();
        load.wait().unwrap();
        eprintln!("{unflushed} writes were not flushed, of which {} % survive", life.percent);
        wait_until("no loop device uses the disk any longer", || {
            let users = Command::new("losetup").arg("-j").arg(self.path("disk")).output().unwrap();
            users.stdout.is_empty()
        });
        Some(recycled)
    }

    fn journal(&self, words: &str) -> Ended {
        let mut command = self.on(self.image.path()).expect("the image could be mounted before");
        command.arg(BINARY).arg("journal").args(words.split(' ')).arg("--data-dir").arg(self.path("mount/data"));
        run(command)
    }

    /// Compares the ledger with the journal.
    fn check(&self) -> Ended {
        self.journal(&format!("check --ledger {}", text(&self.path("ledger"))))
    }
}

/// One life of the machine, from a start to a power cut.
#[derive(Default)]
struct Life<'a> {
    options: &'a str,
    /// A load that ends before the one whose ledger is kept.
    earlier_load: Option<&'a str>,
    load: &'a str,
    /// How many of 100 unflushed sectors survive.
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

/// Cuts the power repeatedly, and checks the journal each time. Returns `None` if this host does not permit it.
fn expect_every_acked_message(life: &Life) -> Option<(Machine, u64)> {
    let cuts = env::var("RINGPOST_TEST_CUTS").map_or(3, |count| count.parse().unwrap()).max(3);
    let (mut acked, mut recycled) = (0, 0);
    let mut machine = Machine::new()?;
    for cut in 0..cuts {
        // A disk has room for only a few lives.
        if cut > 0 && cut % 3 == 0 {
            machine = Machine::new()?;
        }
        let ended = machine.cut_under_load(&Life { percent: [0, 50, 100][cut % 3], ..*life });
        assert!(ended.is_some() || cut == 0, "a disk that could be mounted before can't be mounted now");
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
fn acked_messages_survive_a_power_cut() {
    let options = "--workers 2 --segment-size 2MiB";
    let load = "--rate 20000 --window 8 --payload 24..2000 --duration 20s";
    expect_every_acked_message(&Life { options, load, ..Life::default() });
}

#[test]
fn acked_messages_survive_a_power_cut_if_segments_are_recycled_and_the_clock_jumps() {
    // Room for everything that the load sends until the cut, each message in its own block, but not for what earlier
    // lives sent as well.
    let options = "--workers 1 --segment-size 2MiB --retain-bytes 64MiB";
    // More than is retained, even on a busy machine.
    let earlier_load = Some("--window 8 --payload 32768 --duration 2s");
    let load = "--rate 8000 --window 8 --payload 24..2000 --duration 20s";
    let life = Life { options, earlier_load, load, clock_jumps: true, ..Life::default() };
    let Some((_, recycled)) = expect_every_acked_message(&life) else { return };
    assert!(recycled > 0);
}

/// The blocks of a segment are only preallocated at first. The file system must not forget which of them are in use.
#[test]
fn acked_messages_survive_a_power_cut_if_commits_are_large() {
    let options = "--workers 1 --segment-size 4MiB";
    let load = "--rate 300 --window 1 --payload 150000..250000 --duration 20s";
    let Some((machine, _)) = expect_every_acked_message(&Life { options, load, ..Life::default() }) else { return };
    let mut command = machine.on(machine.image.path()).expect("the image could be mounted before");
    command.args(["sh", "-c", "filefrag -v \"$0\"/*/*.seg"]).arg(machine.path("mount/data"));
    let extents = run(command);
    assert!(extents.stdout.contains("unwritten"), "{}{}", extents.stdout, extents.log);
}

#[test]
fn a_disk_that_ignores_flushes_is_detected() {
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
