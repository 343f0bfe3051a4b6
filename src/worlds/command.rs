//! The program `simulate`: runs worlds on all cores, and reports those that break a law.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::plan::{Plan, Without};
use super::shrink::{law_of, shrink};
use super::{Report, run};
use crate::sim::random::Random;

const USAGE: &str = "\
Simulates worlds and reports those that break a law. A seed gives the same world each time.

usage: simulate --seeds A..B [--jobs N] [--until-failure] [--twice]
or: simulate --minutes N [--jobs N] [--until-failure]
or: simulate --seed S [--without PARTS]

--seeds A..B: runs the worlds of the seeds from A to below B
--minutes N: runs worlds of random seeds for so many minutes
--seed S: runs one world, and prints its plan, its log and its last events
--without PARTS: leaves out parts of that world: c0 a client, e0 an event, f0 a follower, disk its faults
--jobs N: worlds at the same time; the default is the number of CPUs
--until-failure: ends after the first world that fails
--twice: runs each world twice and compares the traces

The exit code is 1 if a world failed, and 2 if the arguments are wrong.";

struct Arguments {
    seeds: Option<Range<u64>>,
    minutes: Option<f64>,
    seed: Option<u64>,
    without: Without,
    jobs: usize,
    until_failure: bool,
    twice: bool,
}

/// The counts of all worlds so far.
#[derive(Default)]
struct Totals {
    worlds: u64,
    time: Duration,
    events: u64,
    tally: BTreeMap<&'static str, u64>,
    failures: Vec<u64>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(what) => {
            eprintln!("simulate: {what}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match arguments.seed {
        Some(seed) => replay(seed, &arguments.without),
        None => hunt(&arguments),
    }
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Arguments {
            seeds: None,
            minutes: None,
            seed: None,
            without: Without::default(),
            jobs: thread::available_parallelism().map_or(1, usize::from),
            until_failure: false,
            twice: false,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            fn number<T: std::str::FromStr>(word: &str, value: &str) -> Result<T, String> {
                value.parse().map_err(|_| format!("{word} {value}: not a number"))
            }
            match &*word {
                "--seeds" => {
                    let range = value()?;
                    let (first, end) = range.split_once("..").ok_or(format!("--seeds {range}: expected A..B"))?;
                    arguments.seeds = Some(number(&word, first)?..number(&word, end)?);
                }
                "--minutes" => arguments.minutes = Some(number(&word, &value()?)?),
                "--seed" => arguments.seed = Some(number(&word, &value()?)?),
                "--without" => arguments.without = value()?.parse()?,
                "--jobs" => arguments.jobs = number::<usize>(&word, &value()?)?.max(1),
                "--until-failure" => arguments.until_failure = true,
                "--twice" => arguments.twice = true,
                _ => return Err(format!("unknown argument {word}")),
            }
        }
        let modes = [arguments.seeds.is_some(), arguments.minutes.is_some(), arguments.seed.is_some()];
        if arguments.seeds.as_ref().is_some_and(Range::is_empty) {
            return Err("--seeds A..B: B must be greater than A".into());
        }
        if arguments.minutes.is_some_and(|minutes| !(0.0..=MINUTES_MAX).contains(&minutes)) {
            return Err(format!("--minutes must be from 0 to {MINUTES_MAX}"));
        }
        if modes.iter().filter(|mode| **mode).count() != 1 {
            return Err("give one of --seeds, --minutes and --seed".into());
        }
        Ok(arguments)
    }
}

/// Runs one world and prints everything about it.
fn replay(seed: u64, without: &Without) -> ExitCode {
    let dir = directory().expect("a directory for the world");
    tracing_subscriber::fmt().without_time().with_target(false).with_writer(std::io::stdout).init();
    println!("{:#?}", Plan::new(seed, without));
    let report = run(seed, without, &dir);
    let _ = std::fs::remove_dir(&dir);
    println!("{}", report.last_events);
    println!("{:?}", report.tally);
    println!(
        "seed {seed}: {:.1} s, trace {:08x} of {} events",
        report.time.as_secs_f64(),
        report.trace.0,
        report.trace.1
    );
    match report.violation {
        Some(violation) => {
            println!("seed {seed} fails: {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// Runs many worlds on several threads.
fn hunt(arguments: &Arguments) -> ExitCode {
    let began = Instant::now();
    let deadline = arguments.minutes.map(|minutes| began + Duration::from_secs_f64(minutes * 60.0));
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let seeds = arguments.seeds.clone().unwrap_or(0..u64::MAX);
    let next = AtomicU64::new(seeds.start);
    let (over, totals) = (AtomicBool::new(false), Mutex::new(Totals::default()));
    // A panic is reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let work = || {
        let dir = directory().expect("a directory for worlds");
        while !over.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds.end {
                break;
            }
            let seed = if arguments.minutes.is_some() { Random(clock ^ number).next() >> 20 } else { number };
            let mut report = run(seed, &Without::default(), &dir);
            if arguments.twice && run(seed, &Without::default(), &dir).trace != report.trace {
                report.violation.get_or_insert("the world is different the second time".into());
            }
            let failed = report.violation.is_some();
            totals.lock().expect("no thread panics").add(seed, &report);
            if failed {
                over.fetch_or(arguments.until_failure, Ordering::Relaxed);
                explain(seed, &report, &dir, arguments.until_failure);
            }
        }
        let _ = std::fs::remove_dir(&dir);
    };
    thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(work);
        }
    });
    let totals = totals.into_inner().expect("no thread panics");
    let (hours, seconds) = (totals.time.as_secs_f64() / 3600.0, began.elapsed().as_secs_f64());
    println!(
        "{} worlds, {hours:.1} virtual hours, {} events in {seconds:.1} s; {} failed {:?}",
        totals.worlds,
        totals.events,
        totals.failures.len(),
        totals.failures
    );
    println!("{:?}", totals.tally);
    if totals.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Totals {
    fn add(&mut self, seed: u64, report: &Report) {
        self.worlds += 1;
        self.time += report.time;
        self.events += report.trace.1;
        for (what, number) in &report.tally {
            *self.tally.entry(what).or_default() += number;
        }
        if report.violation.is_some() {
            self.failures.push(seed);
        }
    }
}

/// Prints how a world failed, and the smallest world that fails in the same way.
fn explain(seed: u64, report: &Report, dir: &Path, briefly: bool) {
    let violation = report.violation.as_deref().unwrap_or_default();
    println!("seed {seed} fails: {violation}");
    if briefly {
        return;
    }
    let without = shrink(seed, law_of(violation), dir);
    let small = run(seed, &without, dir);
    let events: Vec<_> = small.last_events.lines().rev().take(EVENTS_SHOWN).collect();
    let events: Vec<_> = events.into_iter().rev().collect();
    println!("simulate --seed {seed} --without '{without}'\n{}", events.join("\n"));
}

/// Creates an empty directory for worlds, in memory.
///
/// # Errors
/// The directory can't be created.
fn directory() -> std::io::Result<PathBuf> {
    let shm = PathBuf::from("/dev/shm");
    let parent = if shm.is_dir() { shm } else { std::env::temp_dir() };
    let thread = format!("{:?}", std::thread::current().id());
    let number: String = thread.chars().filter(char::is_ascii_digit).collect();
    let path = parent.join(format!("ringpost-world-{}-{number}", std::process::id()));
    if path.exists() {
        std::fs::remove_dir_all(&path)?;
    }
    std::fs::create_dir(&path)?;
    Ok(path)
}

/// The longest hunt: a year.
const MINUTES_MAX: f64 = 365.0 * 24.0 * 60.0;
/// The events that are printed of a failing world.
const EVENTS_SHOWN: usize = 15;
