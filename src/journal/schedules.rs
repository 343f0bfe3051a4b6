//! Tests the real writer on a disk that fails, with a crash at a random moment, and the real reader on the files that
//! are left, over seeded schedules.
//!
//! The law: *every acked message can be read, in order and intact; a message that was not acked may or may not be
//! there*.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::LocalSet;

use super::appender::Appender;
use super::commit::condition::Condition;
use super::id::WriterId;
use super::layout::{self, segment_path};
use super::options::WriterOptions;
use super::reader::{Reader, ReaderOptions};
use super::segment_file::SegmentFile;
use super::sim::{Crash, Disk, Faults, Random, SimStorage};
use super::writer::Writer;
use crate::proto::{AckResult, Id};

/// The messages that one client has staged, and which of them were acked.
#[derive(Debug, Default)]
struct Sent {
    payloads: Vec<Vec<u8>>,
    acked: Vec<bool>,
}

/// The counts of one schedule.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    acked: u64,
    unacked: u64,
    read: u64,
    failed_writers: u64,
    full_writers: u64,
    torn_tails: u64,
    segments: u64,
    recycled: u64,
    cut_back: u64,
    closed: u64,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        let Tally { acked, unacked, read, failed_writers, full_writers, .. } = other;
        let Tally { torn_tails, segments, recycled, cut_back, closed, .. } = other;
        self.acked += acked;
        self.unacked += unacked;
        self.read += read;
        self.failed_writers += failed_writers;
        self.full_writers += full_writers;
        self.torn_tails += torn_tails;
        self.segments += segments;
        self.recycled += recycled;
        self.cut_back += cut_back;
        self.closed += closed;
    }
}

const WRITER: WriterId = WriterId(0x0006_9d3c_5f3a_1000);

/// The special behavior of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trial {
    Nothing,
    SyncsLie,
    /// Each failed write-back is reported once, late, and to whichever sync comes first. At most `commits_in_flight`
    /// commits are in flight.
    ErrorsComeOnce {
        commits_in_flight: usize,
    },
}

/// Runs one schedule. An error means that the law was broken.
fn run(seed: u64, trial: Trial, dir: &Path) -> Result<Tally, String> {
    let mut random = Random(seed);
    let once_in =
        |random: &mut Random, share: u64, times: u64| if random.one_in(share) { 1 + random.below(times) } else { 0 };
    let mut faults = Faults {
        short_write: once_in(&mut random, 3, 10),
        write_error: once_in(&mut random, 4, 200),
        sync_error: once_in(&mut random, 4, 200),
        no_space: once_in(&mut random, 6, 4),
        write_no_space: once_in(&mut random, 3, 60),
        temporary_error: once_in(&mut random, 3, 6),
        publish_error: once_in(&mut random, 3, 6),
        dir_error: once_in(&mut random, 12, 8),
        recycle: once_in(&mut random, 2, 3),
        writes_are_durable: random.one_in(2),
        errors_come_once: 0,
        syncs_lie: trial == Trial::SyncsLie,
        delay_max_us: [0, 10, 500][random.below(3) as usize],
    };
    let mut options = WriterOptions {
        segment_len: [16, 32, 64][random.below(3) as usize] << 10,
        commit_len_max: [4, 8, 12][random.below(3) as usize] << 10,
        commits_in_flight: 1 + random.below(5) as usize,
        bytes_max: [2, 10, 40][random.below(3) as usize] << 10,
        min_free: if random.one_in(4) { 40 << 10 } else { 0 },
        space_interval: Duration::from_millis(1 + random.below(5)),
        // The age is measured by the real clock, which doesn't advance here, so a segment is too old at each check.
        roll_age: random.one_in(3).then_some(Duration::ZERO),
    };
    if let Trial::ErrorsComeOnce { commits_in_flight } = trial {
        options.commits_in_flight = commits_in_flight;
        (faults.sync_error, faults.delay_max_us) = (4, 500);
        (faults.writes_are_durable, faults.errors_come_once) = (false, commits_in_flight.min(2));
    }
    let free = if random.one_in(4) { random.below(300 << 10) } else { 100 << 20 };
    let disk = Disk::new(random.next(), faults, free);
    let crash = if random.one_in(5) { Crash::Process } else { Crash::Power };
    let clients = 1 + random.below(6);
    let sent: Vec<Rc<RefCell<Sent>>> = (0..clients).map(|_| Rc::default()).collect();
    let mut tally = Tally::default();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = LocalSet::new();
    let crashed = local.block_on(&runtime, async {
        let storage = SimStorage(disk.clone());
        let Ok(writer) = Writer::open(storage, WRITER, random.next(), options.clone(), ()).await else { return None };
        let mut tasks = Vec::new();
        for (number, sent) in sent.iter().enumerate() {
            let appender = writer.appender(number as u64, peer(number as u64));
            tasks.push(tokio::task::spawn_local(client(appender, sent.clone(), Random(random.next()))));
        }
        if free < 100 << 20 {
            let (disk, when) = (disk.clone(), random.below(20_000));
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_micros(when)).await;
                disk.borrow_mut().free += 1 << 20;
            });
        }
        tokio::time::sleep(Duration::from_micros(random.below(30_000))).await;
        assert!(tasks.iter().all(|task| !task.is_finished()), "schedule {seed}: a client has panicked");
        let stats = writer.stats();
        (tally.segments, tally.recycled) = (stats.segments.into(), stats.recycled.into());
        match writer.condition() {
            Condition::Serving => {}
            Condition::Full(_) => tally.full_writers += 1,
            Condition::Failed(_) => tally.failed_writers += 1,
        }
        if random.one_in(4) {
            for task in &tasks {
                task.abort();
            }
            tally.closed += u64::from(writer.close().await.is_ok());
            return None;
        }
        Some(writer)
    });
    let data_dir = dir.join(seed.to_string());
    let writer_dir = data_dir.join(WRITER.to_string());
    assert!(!disk.borrow().cut_under_writes, "schedule {seed}: a segment was truncated during a write");
    tally.cut_back = disk.borrow().written_since.into();
    disk.borrow_mut().crash(crash, &writer_dir);
    // Nothing that the writer does when it ends has reached the disk.
    drop((crashed, local, runtime));
    let checked = check_segments(&writer_dir).and_then(|()| check(&data_dir, &sent, &mut tally));
    std::fs::remove_dir_all(&data_dir).unwrap();
    checked.map(|()| tally)
}

fn peer(number: u64) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number as u8], 1000 + number as u16))
}

/// Sends batches forever, like a connection.
async fn client(mut appender: Appender<SimStorage>, sent: Rc<RefCell<Sent>>, mut random: Random) {
    loop {
        let mut batch = appender.ready().await.received_at(1 + random.below(1 << 40));
        let mut staged = Vec::new();
        for _ in 0..1 + random.below(12) {
            let mut sent = sent.borrow_mut();
            let number = sent.payloads.len();
            let len = 8 + if random.one_in(10) { random.below(13_000) } else { random.below(100) };
            let mut payload = (number as u64).to_be_bytes().to_vec();
            payload.extend((8..len).map(|at| (at as u8) ^ (number as u8)));
            if batch.stage(Id::from_number(number as u64), &payload) == AckResult::Success {
                staged.push(number);
            }
            sent.payloads.push(payload);
            sent.acked.push(false);
        }
        // A batch may be in more than one commit, and have an outcome for each.
        let mut staged = staged.into_iter();
        while !appender.is_settled() {
            let settled = appender.settle().await;
            for number in staged.by_ref().take(settled.durable as usize) {
                sent.borrow_mut().acked[number] = true;
            }
            assert_eq!(staged.by_ref().take(settled.failed as usize).count() as u64, settled.failed);
        }
        assert_eq!(staged.next(), None, "a staged message has no outcome");
        tokio::time::sleep(Duration::from_micros(random.below(200))).await;
    }
}

/// Checks that every file with the name of a segment has a header: a crash while a segment is made leaves no other file
/// of that name.
fn check_segments(writer_dir: &Path) -> Result<(), String> {
    for number in layout::segments(writer_dir).unwrap() {
        let path = segment_path(writer_dir, number);
        let segment = SegmentFile::open(path, number, WRITER).unwrap();
        if segment.is_none_or(|segment| segment.header.is_none()) {
            return Err(format!("segment {number} has no header"));
        }
    }
    Ok(())
}

/// Compares what can be read with what was acked.
fn check(data_dir: &Path, sent: &[Rc<RefCell<Sent>>], tally: &mut Tally) -> Result<(), String> {
    let mut reader = Reader::open(data_dir, ReaderOptions::default()).map_err(|error| error.to_string())?;
    let mut next: HashMap<u64, usize> = HashMap::new();
    let mut sequence = 0;
    for record in reader.by_ref() {
        let record = record.map_err(|error| error.to_string())?;
        tally.read += 1;
        sequence += 1;
        if record.position.sequence != sequence {
            return Err(format!("{} instead of sequence number {sequence}", record.position));
        }
        let sent = sent.get(record.connection as usize).ok_or("an unknown connection")?.borrow();
        let number = u64::from_be_bytes(*record.id.0.first_chunk().unwrap()) as usize;
        if sent.payloads.get(number).is_none_or(|payload| payload[..] != record.payload[..])
            || record.peer != peer(record.connection)
        {
            return Err(format!("{record:?} is not what was sent"));
        }
        let from = next.entry(record.connection).or_default();
        if number < *from {
            return Err(format!(
                "{}: message {number} of connection {} is repeated or late",
                record.position, record.connection
            ));
        }
        if let Some(missing) = (*from..number).find(|number| sent.acked[*number]) {
            return Err(format!("acked message {missing} of connection {} is missing", record.connection));
        }
        *from = number + 1;
    }
    for (connection, sent) in sent.iter().enumerate() {
        let (sent, from) = (sent.borrow(), next.get(&(connection as u64)).copied().unwrap_or(0));
        let acked = sent.acked.iter().filter(|acked| **acked).count() as u64;
        tally.acked += acked;
        tally.unacked += sent.acked.len() as u64 - acked;
        if let Some(missing) = (from..sent.acked.len()).find(|number| sent.acked[*number]) {
            return Err(format!("acked message {missing} of connection {connection} is missing from the end"));
        }
    }
    tally.torn_tails += reader.take_notes().len() as u64;
    Ok(())
}

/// Runs these seeds on every CPU, and returns the counts and the broken schedules.
fn run_all(seeds: std::ops::Range<u64>, trial: Trial) -> (Tally, Vec<String>) {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    // Files in memory, if possible: each schedule writes a few small ones.
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let (mut tally, mut broken) = (Tally::default(), Vec::new());
    let part = |thread: u64| {
        let (mut tally, mut broken) = (Tally::default(), Vec::new());
        for seed in seeds.clone().filter(|seed| seed % threads == thread) {
            match run(seed, trial, dir.path()) {
                Ok(one) => tally.add(&one),
                Err(what) => broken.push(format!("seed {seed}: {what}")),
            }
        }
        (tally, broken)
    };
    std::thread::scope(|scope| {
        let part = &part;
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || part(thread))).collect();
        for handle in handles {
            let (one, what) = handle.join().unwrap();
            tally.add(&one);
            broken.extend(what);
        }
    });
    (tally, broken)
}

/// Returns how many schedules are run: [`SCHEDULES`], or N with `RINGPOST_SCHEDULES=N`.
fn schedules() -> u64 {
    std::env::var("RINGPOST_SCHEDULES").map_or(SCHEDULES, |count| count.parse().expect("a number"))
}

const SCHEDULES: u64 = 2_000;

#[test]
fn every_acked_message_is_read_back_whatever_the_disk_does() {
    let (tally, broken) = run_all(0..schedules(), Trial::Nothing);
    println!("{tally:?}");
    assert!(broken.is_empty(), "{} schedules broke the law: {:#?}", broken.len(), &broken[..broken.len().min(5)]);
    // Each kind of fault must occur, or the schedules prove less than they claim.
    let Tally {
        acked, unacked, failed_writers, full_writers, torn_tails, segments, recycled, cut_back, closed, ..
    } = tally;
    for seen in [acked, unacked, failed_writers, full_writers, torn_tails, segments, recycled, cut_back, closed] {
        assert!(seen >= schedules() / 100, "{tally:?}");
    }
}

#[test]
fn a_disk_whose_syncs_lie_is_caught() {
    let (_, broken) = run_all(0..200, Trial::SyncsLie);
    assert!(broken.len() >= 50, "only {} of 200: {broken:#?}", broken.len());
    assert!(broken.iter().any(|what| what.contains("missing")), "{broken:#?}");
}

#[test]
fn one_commit_at_a_time_keeps_acked_messages_on_a_disk_that_reports_each_error_once() {
    let (_, broken) = run_all(0..1500, Trial::ErrorsComeOnce { commits_in_flight: 4 });
    println!("{} of 1500 broke the law with several commits in flight", broken.len());
    assert!(!broken.is_empty(), "several commits in flight are not safe there");
    let (tally, broken) = run_all(0..1500, Trial::ErrorsComeOnce { commits_in_flight: 1 });
    assert!(broken.is_empty(), "{} schedules broke the law: {:#?}", broken.len(), &broken[..broken.len().min(5)]);
    assert!(tally.acked > 1000 && tally.failed_writers > 100, "{tally:?}");
}
