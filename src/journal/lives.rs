//! Tests the journal over several server lives, from a seed: the real writers on simulated disks that fail, the real
//! retention on the files of earlier lives, recycling, a wall clock that is set at any moment, kills, power cuts and
//! reboots. Then the real reader reads everything, and another one resumes at arbitrary positions.
//!
//! The law: *what was acked is read back in order, once and intact, unless it is in a prefix of its writer that
//! retention was allowed to remove; and a reader that resumes gets a note about everything that it missed*.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use super::appender::Appender;
use super::dir;
use super::error::Note;
use super::format::BLOCK_LEN;
use super::id::{Position, WriterId};
use super::layout::{self, segment_path};
use super::moment::{BootTime, Moment};
use super::options::WriterOptions;
use super::position::PositionFile;
use super::reader::{Reader, ReaderOptions, Start};
use super::record::Record;
use super::retention::{Enforcer, Retention};
use super::sim::{Crash, Disk, Faults, Hook, Random, SimStorage};
use super::writer::Writer;
use crate::proto::{AckResult, Id};

/// The clocks of the host. The true clock only advances.
struct Clock {
    truth: Cell<u64>,
    /// How far the wall clock is ahead of the true one.
    ahead: Cell<i128>,
    booted: Cell<u64>,
    boot: Cell<u128>,
}

impl Clock {
    fn moment(&self) -> Moment {
        let (truth, boot) = (self.truth.get(), self.boot.get());
        let wall = (i128::from(truth) + self.ahead.get()).max(0) as u64;
        Moment { wall, boot: Some(BootTime { id: boot, nanos: truth - self.booted.get() }) }
    }

    fn pass(&self, nanos: u64) {
        self.truth.set(self.truth.get() + nanos);
    }

    /// Sets the wall clock to any time, or to the right one.
    fn set(&self, random: &mut Random) {
        let truth = i128::from(self.truth.get());
        let by = [SECOND, HOUR, 24 * HOUR, 10 * YEAR][random.below(4) as usize];
        self.ahead.set(match random.below(6) {
            0 | 1 => 0,
            2 => i128::from(by),
            3 => -i128::from(by),
            4 => -truth,
            _ => i128::from(100 * YEAR),
        });
    }

    fn reboot(&self) {
        self.boot.set(self.boot.get() + 1);
        self.booted.set(self.truth.get());
    }
}

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;
const YEAR: u64 = 365 * 24 * HOUR;
/// In 2027.
const BEGINNING: u64 = 57 * YEAR;

/// A message that a client has staged.
#[derive(Debug)]
struct Message {
    payload: Vec<u8>,
    acked: bool,
    /// When the message was staged, by the true clock.
    at: u64,
    /// The boot on which it was staged.
    boot: u128,
}

type Sent = Rc<RefCell<Vec<Message>>>;

/// The messages that were sent to one writer, and their outcomes.
struct Written {
    id: WriterId,
    clients: Vec<Sent>,
    /// Whether the writer removed or recycled its own segments while it lived.
    expired: bool,
}

/// The result of a read: records, positions to continue from, and notes.
type Read = (Vec<Record>, Vec<Position>, Vec<Note>);

/// The counts of one schedule.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    acked: u64,
    read: u64,
    removed: u64,
    recycled: u64,
    expired: u64,
    swept: u64,
    power_cuts: u64,
    resumed: u64,
    noted: u64,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        let Tally { acked, read, removed, recycled, expired, swept, power_cuts, resumed, noted } = other;
        self.acked += acked;
        self.read += read;
        self.removed += removed;
        self.recycled += recycled;
        self.expired += expired;
        self.swept += swept;
        self.power_cuts += power_cuts;
        self.resumed += resumed;
        self.noted += noted;
    }
}

/// The state of a schedule between two lives.
struct History {
    random: Random,
    data_dir: PathBuf,
    clock: Rc<Clock>,
    jumps: bool,
    retention: Retention,
    written: Vec<Written>,
    /// When retention last ran.
    enforced: u64,
    tally: Tally,
}

/// Runs one schedule. An error means that the law was broken.
fn run(seed: u64, dir: &Path) -> Result<Tally, String> {
    let mut random = Random(seed);
    let clock = Clock { truth: Cell::new(BEGINNING), ahead: Cell::new(0), booted: Cell::new(0), boot: Cell::new(1) };
    clock.booted.set(BEGINNING - random.below(2 * HOUR));
    let bytes_max = (random.below(3) > 0).then(|| random.below(400 << 10));
    let age_max = random.one_in(2).then(|| Duration::from_secs([1, 600, 7200][random.below(3) as usize]));
    let mut history = History {
        data_dir: dir.join(seed.to_string()),
        clock: Rc::new(clock),
        jumps: random.below(3) > 0,
        retention: Retention { bytes_max, age_max },
        written: Vec::new(),
        enforced: 0,
        tally: Tally::default(),
        random,
    };
    fs::create_dir_all(&history.data_dir).unwrap();
    let result = history.play();
    fs::remove_dir_all(&history.data_dir).unwrap();
    result.map(|()| history.tally)
}

impl History {
    fn play(&mut self) -> Result<(), String> {
        for _ in 0..1 + self.random.below(4) {
            self.live();
            self.check()?;
            self.clock.pass(self.random.below([SECOND, HOUR, 12 * HOUR][self.random.clone().below(3) as usize]));
            if self.jumps {
                self.clock.set(&mut self.random);
            }
            if self.random.one_in(2) {
                self.enforce();
                self.check()?;
            }
        }
        self.resume()
    }

    /// Runs one server from its start to its end.
    fn live(&mut self) {
        let shards = 1 + self.random.below(2) as usize;
        let before = layout::writers(&self.data_dir).unwrap().len();
        let claimed = dir::claim(&self.data_dir, shards, false).unwrap();
        self.tally.swept += (before + shards - layout::writers(&self.data_dir).unwrap().len()) as u64;
        let crash = if self.random.one_in(3) { Crash::Process } else { Crash::Power };
        let closes = self.random.one_in(4);
        let duration = Duration::from_micros(self.random.below(30_000));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let local = LocalSet::new();
        let mut disks = Vec::new();
        for writer in &claimed {
            let disk = self.disk(&writer.path);
            disks.push(disk);
            let clients = (0..1 + self.random.below(4)).map(|_| Sent::default()).collect();
            self.written.push(Written { id: writer.id, clients, expired: false });
        }
        let options = self.options();
        let first = self.written.len() - shards;
        let crashed = local.block_on(&runtime, async {
            spawn_local(run_clock(self.clock.clone(), self.jumps, Random(self.random.next())));
            let mut writers = Vec::new();
            for (disk, written) in disks.iter().zip(&self.written[first..]) {
                let storage = SimStorage(disk.clone());
                let salt = self.random.next();
                let Ok(writer) = Writer::open(storage, written.id, salt, options.clone(), ()).await else { continue };
                for (number, sent) in written.clients.iter().enumerate() {
                    let appender = writer.appender(number as u64, peer(number as u64));
                    let random = Random(self.random.next());
                    spawn_local(client(appender, sent.clone(), self.clock.clone(), random));
                }
                writers.push(writer);
            }
            let end = Instant::now() + duration;
            while Instant::now() < end {
                sleep(Duration::from_micros(self.random.below(3000))).await;
                if self.retention.is_off() {
                    continue;
                }
                let disk = &disks[self.random.below(shards as u64) as usize];
                if disk.borrow_mut().expire_oldest() {
                    self.tally.expired += 1;
                }
                if self.random.one_in(4) {
                    self.enforce();
                }
            }
            let mut crashed = Vec::new();
            for writer in writers {
                self.tally.recycled += u64::from(writer.stats().recycled);
                if closes { drop(writer.close().await) } else { crashed.push(writer) }
            }
            crashed
        });
        for (disk, writer) in disks.iter().zip(claimed) {
            let mut disk = disk.borrow_mut();
            disk.crash(crash, &writer.path);
            let published = disk.published;
            self.tally.power_cuts += u64::from(crash == Crash::Power);
            let written = self.written.iter_mut().find(|written| written.id == writer.id).unwrap();
            written.expired = disk.has_expired;
            // The position file is not synced: after a power cut it may be arbitrarily old.
            if crash == Crash::Process || self.random.one_in(2) {
                PositionFile::create(&writer.path).unwrap().publish(published).unwrap();
            }
        }
        // Nothing that a writer does when it ends has reached the disk.
        drop((crashed, local, runtime));
        if crash == Crash::Power {
            self.clock.reboot();
        }
    }

    fn disk(&mut self, writer: &Path) -> Rc<RefCell<Disk>> {
        let random = &mut self.random;
        let mut once_in = |share: u64, times: u64| if random.one_in(share) { 1 + random.below(times) } else { 0 };
        let faults = Faults {
            short_write: once_in(3, 10),
            write_error: once_in(8, 200),
            sync_error: once_in(8, 200),
            errors_come_once: 0,
            no_space: once_in(8, 4),
            write_no_space: once_in(6, 60),
            temporary_error: once_in(6, 6),
            publish_error: once_in(6, 6),
            dir_error: once_in(12, 8),
            recycle: once_in(2, 3),
            writes_are_durable: once_in(2, 1) > 0,
            syncs_lie: false,
            delay_max_us: [0, 10, 500][random.below(3) as usize],
        };
        let disk = Disk::new(random.next(), faults, 100 << 20);
        let (retention, writer, clock) = (self.retention, writer.to_owned(), self.clock.clone());
        let moment = self.clock.clone();
        disk.borrow_mut().clock = Some(Hook(Rc::new(move || moment.moment())));
        if !retention.is_off() {
            // Recycles segments of earlier lives by the rules of the real retention.
            let recycle = move |name: &str, len: u64| {
                let to = writer.join(name);
                let data_dir = writer.parent().unwrap();
                let taken = retention.recycle(data_dir, len, &to, clock.moment()).unwrap();
                taken.then(|| {
                    let content = fs::read(&to).unwrap();
                    fs::remove_file(&to).unwrap();
                    content
                })
            };
            disk.borrow_mut().earlier = Some(Hook(Rc::new(recycle)));
        }
        disk
    }

    fn options(&mut self) -> WriterOptions {
        let random = &mut self.random;
        WriterOptions {
            segment_len: [16, 32][random.below(2) as usize] << 10,
            commit_len_max: [4, 8, 12][random.below(3) as usize] << 10,
            commits_in_flight: 1 + random.below(5) as usize,
            bytes_max: [2, 10, 40][random.below(3) as usize] << 10,
            min_free: 0,
            space_interval: Duration::from_millis(1 + random.below(5)),
            roll_age: random.one_in(3).then_some(Duration::ZERO),
        }
    }

    fn enforce(&mut self) {
        self.enforced = self.clock.truth.get();
        let removed = Enforcer::new(self.retention, self.data_dir.clone()).enforce(self.clock.moment()).unwrap();
        assert_eq!(removed.failed, 0);
    }

    /// Reads at most `count` records from `start`.
    fn read(&self, start: Start, count: usize) -> Result<Read, String> {
        let options = ReaderOptions::default().start(start);
        let mut reader = Reader::open(&self.data_dir, options).map_err(|error| error.to_string())?;
        let records = reader.by_ref().take(count).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        let positions = reader.positions();
        Ok((records, positions, reader.take_notes()))
    }

    /// Compares what can be read with what was acked.
    fn check(&mut self) -> Result<(), String> {
        let (records, ..) = self.read(Start::Beginning, usize::MAX)?;
        self.tally.read += records.len() as u64;
        let mut by_writer: BTreeMap<WriterId, Vec<Record>> = BTreeMap::new();
        for record in records {
            by_writer.entry(record.position.writer).or_default().push(record);
        }
        (self.tally.acked, self.tally.removed) = (0, 0);
        for written in &self.written {
            let records = by_writer.remove(&written.id).unwrap_or_default();
            let (acked, removed) =
                self.check_writer(written, &records).map_err(|what| format!("writer {}: {what}", written.id))?;
            self.tally.acked += acked;
            self.tally.removed += removed;
        }
        if let Some(writer) = by_writer.keys().next() {
            return Err(format!("records of writer {writer}, which never existed"));
        }
        Ok(())
    }

    /// Returns how many of the writer's messages were acked, and how many of these are gone.
    fn check_writer(&self, written: &Written, records: &[Record]) -> Result<(u64, u64), String> {
        let first = records.first().map(|record| record.position.sequence);
        let goes = !self.retention.is_off();
        if first.is_some_and(|first| first != 1) && !goes {
            return Err(format!("its records begin with record {first:?}"));
        }
        // The first record of the first remaining segment, decoded by hand.
        let dir = self.data_dir.join(written.id.to_string());
        let segments = if dir.is_dir() { layout::segments(&dir).unwrap() } else { Vec::new() };
        if let (Some(first), Some(segment)) = (first, segments.first()) {
            let due = first_sequence(&segment_path(&dir, *segment), written.id, *segment);
            if due.is_some_and(|due| due != first) || (*segment == 0 && first != 1) {
                return Err(format!(
                    "its records begin with {first}, but its first segment {segment} begins with {due:?}"
                ));
            }
        }
        let mut next: HashMap<u64, usize> = HashMap::new();
        for (at, record) in records.iter().enumerate() {
            if record.position.sequence != first.unwrap() + at as u64 {
                return Err(format!("{} is out of order", record.position));
            }
            let sent = written.clients.get(record.connection as usize).ok_or("an unknown connection")?.borrow();
            let number = u64::from_be_bytes(*record.id.0.first_chunk().unwrap()) as usize;
            if sent.get(number).is_none_or(|message| message.payload[..] != record.payload[..])
                || record.peer != peer(record.connection)
            {
                return Err(format!("{record:?} is not what was sent"));
            }
            let from = next.entry(record.connection).or_insert(usize::MAX);
            if *from != usize::MAX {
                if number < *from {
                    return Err(format!("message {number} of connection {} is repeated, or late", record.connection));
                }
                if let Some(missing) = (*from..number).find(|number| sent[*number].acked) {
                    return Err(format!("acked message {missing} of connection {} is missing", record.connection));
                }
            } else if let Some(missing) = (0..number).find(|number| sent[*number].acked) {
                self.may_be_gone(written, &sent[missing], first)?;
            }
            *from = number + 1;
        }
        let (mut acked, mut gone) = (0, 0);
        for (connection, sent) in written.clients.iter().enumerate() {
            let sent = sent.borrow();
            let is_acked = |number: &usize| sent[*number].acked;
            let numbers: BTreeSet<usize> = records
                .iter()
                .filter(|record| record.connection == connection as u64)
                .map(|record| u64::from_be_bytes(*record.id.0.first_chunk().unwrap()) as usize)
                .collect();
            let missing: Vec<usize> =
                (0..sent.len()).filter(is_acked).filter(|number| !numbers.contains(number)).collect();
            acked += (0..sent.len()).filter(is_acked).count() as u64;
            gone += missing.len() as u64;
            for number in &missing {
                if numbers.last().is_some_and(|last| last < number) {
                    return Err(format!("acked message {number} of connection {connection} is missing from the end"));
                }
                self.may_be_gone(written, &sent[*number], first)?;
            }
        }
        // Each missing message had a sequence number.
        if let Some(first) = first
            && gone > first - 1
        {
            return Err(format!("{gone} acked messages are missing, before record {first}"));
        }
        Ok((acked, gone))
    }

    /// Checks whether retention was allowed to remove this acked message.
    fn may_be_gone(&self, written: &Written, message: &Message, first: Option<u64>) -> Result<(), String> {
        if self.retention.is_off() || first == Some(1) {
            return Err(format!("acked message {:?} is missing", &message.payload[..8]));
        }
        // Only the age limit decides when a message may go. On an earlier boot, a wrong clock may have shown any age.
        let by_age_alone = self.retention.bytes_max.is_none_or(|bytes| bytes == 0) && !written.expired;
        let age = u128::from(self.clock.truth.get() - message.at);
        let is_certain = !self.jumps || message.boot == self.clock.boot.get();
        if by_age_alone && is_certain && self.retention.age_max.is_some_and(|age_max| age < age_max.as_nanos()) {
            return Err(format!("an acked message that is {age} ns old is missing"));
        }
        Ok(())
    }

    /// Reads some records, runs retention, and reads on. Also begins at arbitrary positions.
    fn resume(&mut self) -> Result<(), String> {
        let (all, ..) = self.read(Start::Beginning, usize::MAX)?;
        let count = self.random.below(all.len() as u64 + 1) as usize;
        let (read, mut positions, _) = self.read(Start::Beginning, count)?;
        if self.random.one_in(2) {
            positions.clear();
            // Any position that a reader may have returned: up to the end of each writer.
            let last: BTreeMap<_, _> = all.iter().map(|at| (at.position.writer, at.position.sequence)).collect();
            for (writer, last) in last {
                if self.random.below(3) > 0 {
                    positions.push(Position { writer, sequence: 1 + self.random.below(last + 1) });
                }
            }
        } else if read.len() != count {
            return Err(format!("{} of {count} records", read.len()));
        }
        if self.random.below(3) > 0 {
            self.clock.pass(self.random.below(3 * HOUR));
            self.retention.bytes_max = self.retention.bytes_max.map(|bytes| 1 + bytes / 2);
            self.enforce();
            self.check()?;
        }
        let (left, ..) = self.read(Start::Beginning, usize::MAX)?;
        let (resumed, _, notes) = self.read(Start::Positions(positions.clone()), usize::MAX)?;
        let from: HashMap<WriterId, u64> = positions.iter().map(|at| (at.writer, at.sequence)).collect();
        let is_due = |record: &&Record| {
            let Position { writer, sequence } = record.position;
            sequence >= from.get(&writer).copied().unwrap_or(0)
        };
        let in_writers = |records: Vec<Position>| {
            let mut records = records;
            // Each writer's records come in its order; the merge of writers may have any order.
            records.sort_by_key(|at| at.writer);
            records
        };
        let due = in_writers(left.iter().filter(is_due).map(|record| record.position).collect());
        let got = in_writers(resumed.iter().map(|record| record.position).collect());
        if due != got {
            let wrong = got.iter().filter(|at| !due.contains(at)).chain(due.iter().filter(|at| !got.contains(at)));
            let wrong: Vec<_> = wrong.take(5).map(Position::to_string).collect();
            return Err(format!(
                "from {:?}: {} records were due, and {} were read; {wrong:?} are wrong; {notes:?}",
                positions.iter().map(Position::to_string).collect::<Vec<_>>(),
                due.len(),
                got.len()
            ));
        }
        self.tally.resumed += got.len() as u64;
        // Records that were removed meanwhile must have been noted.
        let left: BTreeSet<Position> = left.iter().map(|record| record.position).collect();
        let mut missed: BTreeMap<WriterId, (u64, u64)> = BTreeMap::new();
        for record in all.iter().filter(is_due) {
            let Position { writer, sequence } = record.position;
            if !left.contains(&record.position) && from.contains_key(&writer) {
                missed.entry(writer).or_insert((sequence, sequence)).1 = sequence;
            }
        }
        let reports = |notes: &[Note], writer: WriterId, (first, last): (u64, u64)| {
            notes.iter().any(|note| match note {
                Note::Removed { writer: of, first: from, last: to } => {
                    *of == writer && from.is_none_or(|from| from <= first) && to.is_none_or(|to| to >= last)
                }
                Note::NoWriter { position } => position.writer == writer && position.sequence <= first,
                _ => false,
            })
        };
        self.tally.noted += missed.len() as u64;
        missed.retain(|writer, range| !reports(&notes, *writer, *range));
        // If nothing of a writer can be read, nothing shows how far it had written.
        missed.retain(|writer, _| left.iter().any(|at| at.writer == *writer) || !self.has_writer(*writer));
        match missed.first_key_value() {
            Some((writer, range)) => {
                Err(format!("records {range:?} of {writer} were missed without a note: {notes:?}"))
            }
            None => Ok(()),
        }
    }

    fn has_writer(&self, writer: WriterId) -> bool {
        self.data_dir.join(writer.to_string()).is_dir()
    }
}

/// Lets time pass a thousand times as fast as on the disk, and sets the wall clock.
async fn run_clock(clock: Rc<Clock>, jumps: bool, mut random: Random) {
    loop {
        let micros = random.below(1000);
        sleep(Duration::from_micros(micros)).await;
        clock.pass(micros * 1_000_000);
        if jumps && random.one_in(4) {
            clock.set(&mut random);
        }
    }
}

fn peer(number: u64) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number as u8], 1000 + number as u16))
}

/// Sends batches forever, like a connection.
async fn client(mut appender: Appender<SimStorage>, sent: Sent, clock: Rc<Clock>, mut random: Random) {
    loop {
        let mut batch = appender.ready().await;
        let mut staged = Vec::new();
        for _ in 0..1 + random.below(6) {
            let mut sent = sent.borrow_mut();
            let number = sent.len();
            let len = 8 + if random.one_in(6) { random.below(4000) } else { random.below(100) };
            let mut payload = (number as u64).to_be_bytes().to_vec();
            payload.extend((8..len).map(|at| (at as u8) ^ (number as u8)));
            if batch.stage(Id::from_number(number as u64), &payload) == AckResult::Success {
                staged.push(number);
            }
            sent.push(Message { payload, acked: false, at: clock.truth.get(), boot: clock.boot.get() });
        }
        let mut staged = staged.into_iter();
        while !appender.is_settled() {
            let settled = appender.settle().await;
            for number in staged.by_ref().take(settled.durable as usize) {
                sent.borrow_mut()[number].acked = true;
            }
            staged.by_ref().take(settled.failed as usize).for_each(drop);
        }
        sleep(Duration::from_micros(random.below(200))).await;
    }
}

/// Returns the sequence number of a segment's first record, if its first commit can be read. This follows the tables
/// in `mod.rs`, and does not use the reader's code.
fn first_sequence(path: &Path, writer: WriterId, segment: u32) -> Option<u64> {
    let content = fs::read(path).ok()?;
    let header = content.get(BLOCK_LEN..BLOCK_LEN + 72)?;
    let u64_at = |at: usize| u64::from_be_bytes(*header[at..].first_chunk().unwrap());
    let u32_at = |at: usize| u32::from_be_bytes(*header[at..].first_chunk().unwrap());
    let is_its_own = &header[..4] == b"RPCM" && u64_at(24) == writer.0 && u32_at(56) == segment;
    (is_its_own && u32_at(4) == crc32c::crc32c(&header[8..])).then(|| u64_at(48))
}

/// Runs these seeds on all CPUs, and returns the counts and the broken laws.
fn run_all(seeds: std::ops::Range<u64>) -> (Tally, Vec<String>) {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let (mut tally, mut broken) = (Tally::default(), Vec::new());
    let part = |thread: u64| {
        let (mut tally, mut broken) = (Tally::default(), Vec::new());
        for seed in seeds.clone().filter(|seed| seed % threads == thread) {
            match run(seed, dir.path()) {
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

/// How many schedules a run does by default. `RINGPOST_SCHEDULES=N` runs another number, and `RINGPOST_TEST_SEED` sets
/// the first seed.
const SCHEDULES: u64 = 600;

#[test]
fn acked_messages_survive_crashes_reboots_retention_and_clock_changes() {
    let number = |name: &str| std::env::var(name).ok().map(|count| count.parse::<u64>().expect("a number"));
    let first = number("RINGPOST_TEST_SEED");
    let count = number("RINGPOST_SCHEDULES").unwrap_or(if first.is_some() { 1 } else { SCHEDULES });
    let first = first.unwrap_or(0);
    let (tally, broken) = run_all(first..first + count);
    println!("{tally:?}");
    assert!(broken.is_empty(), "{} schedules broke the law: {:#?}", broken.len(), &broken[..broken.len().min(5)]);
    if count >= SCHEDULES {
        // Each kind of event must occur, or the schedules prove less than they claim.
        let Tally { acked, read, removed, recycled, expired, swept, power_cuts, resumed, noted } = tally;
        for seen in [acked, read, removed, recycled, expired, swept, power_cuts, resumed, noted] {
            assert!(seen >= count / 20, "{tally:?}");
        }
    }
}
