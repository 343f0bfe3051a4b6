//! A world: one server, or several in succession on one data directory, and their clients.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use super::client::{Client, Ending, Limits, Phase, Plan, Reading, Sent, Shared, Tail};
use super::journal::Ledger;
use super::options::{Options, Retention};
use crate::common::admin::Metrics;
use crate::common::kept::{journal, text};
use crate::common::random::Random;
use crate::common::{Ended, PATIENCE, Server, ringpost};

/// Everything that a seed decides.
pub struct World {
    lives: Vec<Life>,
    /// The journal is in memory: fast whatever else uses the machine's disk, and with other timing.
    in_memory: bool,
}

/// One server, from its start to its end.
struct Life {
    options: Options,
    /// Rounds in succession. All of them become calm, unless the server's end interrupts the last one.
    rounds: Vec<Round>,
    end: End,
    /// The seed of a clock that is set repeatedly.
    clock: Option<u64>,
}

/// Clients that connect at about the same time.
struct Round {
    plans: Vec<Arc<Plan>>,
    /// How long the clients follow their plans before all of them read and send at full speed.
    faults_last: Duration,
}

/// The kind of a server's life.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The server's engine; `None` leaves it to chance.
    pub engine: Option<&'static str>,
    pub journal: bool,
    /// The number of rounds before the probes is at most this one.
    rounds_max: u64,
    /// How much the server should keep; `None` leaves it to chance.
    pub retention: Option<Retention>,
    /// The ways in which the server may end.
    ends: &'static [End],
}

/// How a server's life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A drain without connections.
    Idle,
    /// A drain when every client has its acks, and some are still connected.
    Held,
    /// A drain while clients are busy.
    Loaded,
    Killed,
}

/// Counts of what happened in many worlds.
#[derive(Debug, Default)]
pub struct Tally {
    servers: u64,
    rounds: u64,
    killed: u64,
    drained_under_load: u64,
    clients: u64,
    acks: u64,
    in_flight_max: u64,
    records: u64,
    records_removed: u64,
    clients_cut: u64,
    gauges_at_zero: u64,
    jumping_clocks: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        let Tally { servers, rounds, killed, drained_under_load, clients, acks, records, .. } = *other;
        self.servers += servers;
        self.rounds += rounds;
        self.killed += killed;
        self.drained_under_load += drained_under_load;
        self.clients += clients;
        self.acks += acks;
        self.records += records;
        self.records_removed += other.records_removed;
        self.in_flight_max = self.in_flight_max.max(other.in_flight_max);
        self.clients_cut += other.clients_cut;
        self.gauges_at_zero += other.gauges_at_zero;
        self.jumping_clocks += other.jumping_clocks;
    }

    /// Returns how many servers were killed, messages were acked, and records were removed.
    pub fn kills(&self) -> (u64, u64, u64) {
        (self.killed, self.acks, self.records_removed)
    }

    /// Fails if many worlds had too little variety, so that they would prove less than they claim.
    pub fn expect_variety(&self, journal: bool) {
        let Tally { servers, clients, acks, records, .. } = *self;
        if servers < SERVERS_OF_ALL_KINDS {
            return;
        }
        assert!(clients > 5 * servers && acks > 1000 * servers, "{self:?}");
        assert!(!journal || records > 200 * servers, "{self:?}");
        let seldom = [self.killed, self.drained_under_load, self.clients_cut, self.gauges_at_zero];
        assert!(seldom.iter().all(|met| *met > 0), "{self:?}");
    }
}

impl World {
    /// The number of servers that are killed in a world [of kills](Self::of_kills).
    pub const KILLS: u64 = 4;

    /// Returns a world of one or two servers with this engine and this sink.
    pub fn new(seed: u64, engine: &'static str, journal: bool) -> World {
        let mut random = Random(seed);
        let ends = &[End::Idle, End::Idle, End::Held, End::Held, End::Loaded, End::Killed];
        let kind = Kind { engine: Some(engine), journal, rounds_max: ROUNDS_MAX, retention: None, ends };
        let lives = if journal && random.one_in(4) { 2 } else { 1 };
        let lives = (0..lives).map(|_| Life::new(&mut random, kind)).collect();
        World { lives, in_memory: random.below(4) > 0 }
    }

    /// Returns a world of servers of one journal with retention. Each of them is killed, except the last one, which
    /// drains. The clock jumps in most of them.
    pub fn of_kills(seed: u64) -> World {
        let mut random = Random(seed);
        // All servers have the same limits. Otherwise one server's limit would excuse what another one removes.
        let (bytes, age) = random.pick(&[(1, 0), (1, 0), (0, 1), (1, 1)]);
        let retention = Retention::new(&mut random, bytes, age);
        let ends = &[End::Killed];
        let killed = Kind { engine: None, journal: true, rounds_max: 1, retention: Some(retention), ends };
        let mut lives: Vec<_> = (0..Self::KILLS).map(|_| Life::new(&mut random, killed)).collect();
        lives.push(Life::new(&mut random, Kind { ends: &[End::Idle], ..killed }));
        World { lives, in_memory: random.one_in(2) }
    }

    /// Runs the world. An error says what was wrong.
    pub fn run(&self) -> Result<Tally, String> {
        let memory = Path::new("/dev/shm");
        let dir = if self.in_memory && memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = dir.unwrap();
        let data_dir = dir.path().join("data");
        let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
        let (mut retained, mut removed) = (Retained::default(), 0);
        let start = Instant::now();
        for (number, life) in self.lives.iter().enumerate() {
            let in_life = |failure: String| format!("server {number}: {failure}");
            let sent = life.run(&data_dir, &mut tally).map_err(in_life)?;
            if !life.options.journal {
                continue;
            }
            ledger.add(&data_dir, sent).map_err(in_life)?;
            retained.add(&life.options);
            let verified = journal("verify", &data_dir);
            if !verified.status.success() {
                return Err(in_life(format!("journal verify: {}{}", verified.stdout, verified.log)));
            }
            let kept = ledger.check(&data_dir, retained.removes()).map_err(in_life)?;
            retained.check(&data_dir, kept.removed, start.elapsed()).map_err(in_life)?;
            tally.records += kept.records;
            tally.records_removed += kept.removed.saturating_sub(removed);
            removed = kept.removed;
            tally.jumping_clocks += u64::from(life.clock.is_some());
        }
        Ok(tally)
    }
}

/// How much the servers of a data directory had to keep.
#[derive(Default)]
struct Retained {
    /// The lowest limits of all servers so far.
    bytes: Option<u64>,
    age: Option<Duration>,
    segment_len_max: u64,
    workers_max: u64,
}

impl Retained {
    fn add(&mut self, options: &Options) {
        self.bytes = self.bytes.into_iter().chain(options.retain_bytes).min();
        self.age = self.age.into_iter().chain(options.retain_age).min();
        self.segment_len_max = self.segment_len_max.max(options.segment_len);
        self.workers_max = self.workers_max.max(options.workers);
    }

    fn removes(&self) -> bool {
        self.bytes.is_some() || self.age.is_some()
    }

    /// Checks by the true clock that only messages beyond the limits were removed.
    fn check(&self, data_dir: &Path, removed: u64, elapsed: Duration) -> Result<(), String> {
        let too_old = self.age.is_some_and(|age| elapsed > age);
        if removed == 0 || too_old {
            return Ok(());
        }
        let Some(limit) = self.bytes else {
            return Err(format!("{removed} messages were removed, none of them older than {elapsed:?}"));
        };
        let segments = fs::read_dir(data_dir).unwrap().flatten().filter_map(|dir| fs::read_dir(dir.path()).ok());
        let lens = segments.flatten().flatten().filter(|file| file.path().extension() == Some(OsStr::new("seg")));
        let kept = lens.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum::<u64>();
        // The removed segment was beyond the limit, and each shard may remove one at a time.
        let due = limit.saturating_sub((self.workers_max + 1) * self.segment_len_max);
        if kept < due {
            return Err(format!(
                "{removed} messages were removed, and only {kept} bytes are kept: the limit is {limit}"
            ));
        }
        Ok(())
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "data directory {}", if self.in_memory { "in memory" } else { "on disk" })?;
        for (number, life) in self.lives.iter().enumerate() {
            let Life { options, rounds, end, clock } = life;
            writeln!(f, "server {number}: serve {}", options.typed().join(" "))?;
            writeln!(f, "  clock {clock:?}, ends {end:?}")?;
            for (number, Round { plans, faults_last }) in rounds.iter().enumerate() {
                writeln!(f, "  round {number}: calm after {faults_last:?}, {} clients:", plans.len())?;
                for (number, plan) in plans.iter().enumerate().take(CLIENTS_SHOWN) {
                    writeln!(f, "    {number}: {plan}")?;
                }
            }
        }
        Ok(())
    }
}

impl Life {
    fn new(random: &mut Random, kind: Kind) -> Life {
        let mut options = Options::new(random, kind);
        let end = random.pick(kind.ends);
        let clock = (options.journal && random.below(5) < if kind.retention.is_some() { 4 } else { 2 })
            .then(|| random.below(1000));
        let faults = random.one_in(2);
        if end == End::Loaded && faults {
            // A client that does not read delays the drain until its deadline.
            options.shorten_drain();
        }
        let count = random.log_range(1, kind.rounds_max);
        let mut rounds: Vec<_> =
            (1..=count).map(|round| Round::new(random, &options, faults, round == count && end != End::Idle)).collect();
        if matches!(end, End::Idle | End::Held) {
            rounds.push(Round::of_probes(random, &options));
        }
        Life { options, rounds, end, clock }
    }

    /// Starts the server, loads it and ends it.
    fn run(&self, data_dir: &Path, tally: &mut Tally) -> Result<Vec<Sent>, String> {
        let mut command = ringpost(&["serve", "--data-dir", text(data_dir)]);
        command.args(self.options.typed());
        if let Some(seed) = self.clock {
            command.env("RINGPOST_TEST_CLOCK", seed.to_string());
        }
        let server = Server::spawn(command, self.options.addresses.len());
        let shared = Rc::new(Shared { addresses: server.addresses.clone(), peers: RefCell::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (sent, ended) = LocalSet::new().block_on(&runtime, self.load(server, shared, tally))?;
        tally.servers += 1;
        tally.killed += u64::from(self.end == End::Killed);
        tally.drained_under_load += u64::from(self.end == End::Loaded);
        for (number, sent) in sent.iter().enumerate() {
            self.check(sent, tally).map_err(|failure| {
                let Sent { plan, begun, acked, ending, .. } = sent;
                let log = log_end(&ended.log);
                format!("client {number}: {failure}; begun {begun}, acked {acked}, {ending:?}; {plan}\nthe log:\n{log}")
            })?;
        }
        Ok(sent)
    }

    async fn load(&self, server: Server, shared: Rc<Shared>, tally: &mut Tally) -> Result<(Vec<Sent>, Ended), String> {
        let (phase, seen) = watch::channel(Phase::Faults);
        let start = |plan: &Arc<Plan>| {
            let client = Rc::new(Client::new(plan.clone()));
            let (running, shared, seen) = (client.clone(), shared.clone(), seen.clone());
            spawn_local(async move { running.run(&shared, seen).await });
            client
        };
        let files = server.open_files();
        let mut clients = Vec::new();
        for (number, round) in self.rounds.iter().enumerate() {
            let failed = |failure: String| format!("round {number}: {failure}\nthe log:\n{}", log_end(&server.log()));
            tally.rounds += 1;
            phase.send_replace(Phase::Faults);
            let first = clients.len();
            clients.extend(round.plans.iter().map(start));
            sleep(round.faults_last).await;
            if self.options.admin {
                limits_hold(&server, clients.len()).map_err(failed)?;
            }
            if number + 1 == self.rounds.len() && matches!(self.end, End::Loaded | End::Killed) {
                break;
            }
            phase.send_replace(Phase::Calm);
            all_end(&clients[first..]).await.map_err(failed)?;
            if self.options.admin && clients.iter().all(|client| client.has_ended()) {
                gauges_are_zero(&server).await.map_err(failed)?;
                self.counters_agree(&server, &clients).map_err(failed)?;
                self.files_are_closed(&server, files).map_err(failed)?;
                tally.gauges_at_zero += 1;
            }
        }
        let server = Stopping::begin(server, if self.end == End::Killed { libc::SIGKILL } else { libc::SIGTERM });
        let (ended, took) = server.done().await?;
        phase.send_replace(Phase::Over);
        if self.end != End::Killed {
            self.check_end(&ended, took)?;
        }
        // No client can still wait for a server that has ended.
        let all: Vec<_> = clients.iter().map(|client| (client, true)).collect();
        wait_for(&all).await.map_err(|failure| format!("the server has ended: {failure}"))?;
        Ok((clients.iter().map(|client| client.sent()).collect(), ended))
    }

    /// Checks how the process ended.
    fn check_end(&self, ended: &Ended, took: Duration) -> Result<(), String> {
        let log = || format!("the log:\n{}", log_end(&ended.log));
        if ended.status.code() != Some(0) {
            return Err(format!("the server ended with {}; {}", ended.status, log()));
        }
        let idle = self.end == End::Idle;
        let due = if idle { Duration::ZERO } else { self.options.drain_timeout + CUT_GRACE };
        if took > self.options.drain_delay + due + SLACK {
            return Err(format!("the drain took {took:.1?}; {}", log()));
        }
        let is_bad = |line: &&str| {
            let error = line.contains("ERROR") && !self.options.refuses;
            error
                || line.contains("panicked")
                || line.contains("still open after the drain")
                || line.contains("still running after")
        };
        match ended.log.lines().find(is_bad) {
            Some(line) => Err(format!("it logged: {line}; {}", log())),
            None if !ended.stdout.is_empty() => Err(format!("it printed: {}", ended.stdout)),
            None => Ok(()),
        }
    }

    /// Checks the outcome of a client.
    fn check(&self, sent: &Sent, tally: &mut Tally) -> Result<(), String> {
        let Sent { plan, acked, ending, wrong, .. } = sent;
        if let Some(wrong) = wrong {
            return Err(wrong.clone());
        }
        let ending = ending.as_ref().expect("it has ended");
        tally.clients += 1;
        tally.acks += *acked as u64;
        tally.in_flight_max = tally.in_flight_max.max(sent.in_flight_max as u64);
        let broken_off = matches!(self.end, End::Loaded | End::Killed);
        let may_be_cut = broken_off || self.options.may_end_any(self.most_connections());
        let is_cut = *acked < plan.acks() || matches!(ending, Ending::Reset(_) | Ending::NotConnected(_));
        if may_be_cut {
            tally.clients_cut += u64::from(is_cut);
            // A drain resets no client that reads and has been answered.
            let patient = self.end == End::Loaded
                && !self.options.may_end_any(u64::MAX)
                && self.options.drain_timeout >= Duration::from_secs(8)
                && self.options.lingers;
            let small = plan.requests.iter().map(|request| u64::from(request.len) + 13).sum::<u64>() < 1 << 20;
            let is_served = plan.is_polite() && plan.reading == Reading::Eager && small && *acked > 0;
            if patient && is_served && matches!(ending, Ending::Reset(_)) {
                return Err("a drain has reset it".into());
            }
            return Ok(());
        }
        let complete = *acked == plan.acks();
        // If its queues are full, the kernel may revoke a connection that it has reported as established.
        if *acked == 0 && matches!(ending, Ending::Reset(_)) && self.options.backlog < self.most_connections() {
            tally.clients_cut += 1;
            return Ok(());
        }
        let good = match &plan.tail {
            Tail::HalfClose | Tail::Truncated(_) => complete && *ending == Ending::Eof,
            Tail::Close => complete && *ending == Ending::Closed,
            Tail::Hold => complete && (*ending == Ending::Eof || self.options.drain_timeout < SHORT_DRAIN),
            Tail::Abandon { .. } => !matches!(ending, Ending::NotConnected(_)),
            // Unread bytes make the kernel reset the connection.
            Tail::Violation { .. } => !self.options.lingers || (complete && *ending == Ending::Eof),
            Tail::Stuck(_) => complete && *ending == Ending::Closed,
        };
        if good { Ok(()) } else { Err(format!("expected {} acks", plan.acks())) }
    }
}

impl Life {
    /// Returns the most connections at a time. The server may still count those of a round while the next one begins.
    fn most_connections(&self) -> u64 {
        let counts: Vec<_> = self.rounds.iter().map(|round| round.plans.len()).collect();
        let most = counts.windows(2).map(|pair| pair[0] + pair[1]).max();
        most.unwrap_or(counts[0]) as u64
    }

    /// Compares the server's counters with what its clients have seen, after all clients have ended.
    fn counters_agree(&self, server: &Server, clients: &[Rc<Client>]) -> Result<(), String> {
        let metrics = Metrics::scrape(server);
        let sum = |family: &str| series(&metrics, family).map(|(_, value)| value as usize).sum::<usize>();
        let acked = clients.iter().map(|client| client.acked.get()).sum::<usize>();
        let sent = clients.iter().map(|client| client.begun.get() + 1).sum::<usize>();
        let (requests, acks) = (sum("ringpost_requests_total"), sum("ringpost_acks_total"));
        let (connections, closed) = (sum("ringpost_connections_total"), sum("ringpost_connections_closed_total"));
        if connections != closed {
            return Err(format!("{connections} connections were counted, and the ends of {closed}"));
        }
        let cut = |client: &Rc<Client>| {
            client.acked.get() < client.plan.acks() || matches!(*client.ending.borrow(), Some(Ending::Reset(_)))
        };
        let exact = !clients.iter().any(cut);
        let agree = if exact {
            requests == acked && acks == acked
        } else {
            (acked..=sent).contains(&acks) && (acks..=sent).contains(&requests)
        };
        if !agree {
            let of_sent = if exact { String::new() } else { format!(", of {sent} at most") };
            return Err(format!("{acked} acks came, and {acks} of {requests} requests were counted{of_sent}"));
        }
        Ok(())
    }

    /// Checks that a server without connections holds no more descriptors than at its start, apart from those of
    /// segments and of scrapes.
    fn files_are_closed(&self, server: &Server, before: usize) -> Result<(), String> {
        let (open, more) = (server.open_files(), 4 * self.options.workers as usize + 4);
        if open > before + more {
            return Err(format!("every client has ended, and {open} descriptors are open; at the start {before} were"));
        }
        Ok(())
    }
}

/// Checks that the buffers of each shard are within its limit. Small buffers come on top of it.
fn limits_hold(server: &Server, connections: usize) -> Result<(), String> {
    let metrics = Metrics::scrape(server);
    for (labels, held) in series(&metrics, "ringpost_buffer_bytes") {
        let limit = metrics.get(&format!("ringpost_buffer_limit_bytes{labels}"));
        if limit > 0.0 && held > limit + (connections * SMALL_BUFFERS) as f64 {
            return Err(format!("the buffers of {labels} have {held} bytes; the limit is {limit}, without small ones"));
        }
    }
    Ok(())
}

/// Returns the labels and values of a family's series that are not 0.
fn series(metrics: &Metrics, family: &str) -> impl Iterator<Item = (String, f64)> {
    metrics.counted(family).into_iter().map(|series| {
        let (labels, value) = series.rsplit_once(' ').unwrap();
        (labels.to_owned(), value.parse().unwrap())
    })
}

impl Round {
    /// Returns a round of any shape.
    fn new(random: &mut Random, options: &Options, faults: bool, holds: bool) -> Round {
        let (clients, requests, window_min) = match random.below(8) {
            0 => (1 + random.below(2), 5 * REQUESTS, LARGE_WINDOW),
            1 => (1 + random.below(4), REQUESTS, 1),
            2 => (random.log_range(100, 1000), REQUESTS, 1),
            3 => (random.log_range(1, 150), REQUESTS / 10, 1),
            _ => (random.log_range(1, 150), REQUESTS, 1),
        };
        // The kernel drops a connection that finds the backlog full, and its client waits twice as long before each
        // new attempt. With more clients than this, some would wait for as long as a client that hangs.
        let clients = clients.min(CLIENTS_PER_BACKLOG * options.backlog);
        let spread = random.pick(&[0, 5, 100]).max(if options.backlog < clients { 300 } else { 0 });
        let bytes =
            (BYTES.max(24 * requests) / clients).max(if random.one_in(8) { options.max_frame + 100 } else { 0 });
        let limits = Limits {
            requests: requests / clients,
            bytes,
            window_min,
            max_frame: options.max_frame,
            published_codes: options.published_codes,
            refuses: options.refuses,
            addresses: options.addresses.len(),
            ids_differ: options.journal,
            faults,
            holds,
            spread: Duration::from_millis(spread),
        };
        let plans = (0..clients).map(|_| Arc::new(Plan::new(random, &limits))).collect();
        Round { plans, faults_last: Duration::from_millis(50 + random.below(400)) }
    }

    /// Returns a round of a few clients that are calm from the beginning.
    fn of_probes(random: &mut Random, options: &Options) -> Round {
        let limits = Limits {
            requests: 4,
            bytes: 10_000,
            window_min: 1,
            max_frame: options.max_frame,
            published_codes: options.published_codes,
            refuses: options.refuses,
            addresses: options.addresses.len(),
            ids_differ: options.journal,
            faults: false,
            holds: false,
            spread: Duration::ZERO,
        };
        let plans = (0..4).map(|_| Arc::new(Plan::new(random, &limits))).collect();
        Round { plans, faults_last: Duration::ZERO }
    }
}

/// Waits for the end of all connections that do not stay open, and for the last acks of those that do.
async fn all_end(clients: &[Rc<Client>]) -> Result<(), String> {
    let clients: Vec<_> = clients.iter().map(|client| (client, client.plan.tail != Tail::Hold)).collect();
    wait_for(&clients).await
}

/// Waits for the ends, or for the last acks, of these clients. Fails if one of them makes no progress for too long, or
/// has received a wrong answer.
async fn wait_for(clients: &[(&Rc<Client>, bool)]) -> Result<(), String> {
    let waits = |(client, ends): &&(&Rc<Client>, bool)| {
        let acked = !ends && client.acked.get() == client.plan.acks();
        !client.has_ended() && !acked
    };
    let start = Instant::now();
    loop {
        let wrong = clients.iter().find_map(|(client, _)| Some((client, client.wrong()?)));
        if let Some((client, wrong)) = wrong {
            return Err(format!("{wrong}; {}", client.plan));
        }
        let left: Vec<_> = clients.iter().filter(waits).collect();
        if left.is_empty() {
            return Ok(());
        }
        let hangs = |client: &Client| start.max(client.progressed.get()).elapsed() > HANG;
        if left.iter().any(|(client, _)| hangs(client)) {
            let hang = left.iter().filter(|(client, _)| hangs(client));
            let mut text = format!("{} clients hang, {} are left:", hang.clone().count(), left.len());
            for (client, _) in hang.take(CLIENTS_SHOWN) {
                let Sent { plan, begun, acked, .. } = client.sent();
                text += &format!("\n  begun {begun}, acked {acked} of {}; {plan}", plan.acks());
            }
            return Err(text);
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the server's gauges say that it holds nothing for any client.
async fn gauges_are_zero(server: &Server) -> Result<(), String> {
    const GAUGES: [&str; 5] = [
        "ringpost_connections_open",
        "ringpost_buffer_bytes",
        "ringpost_journal_gathered_bytes",
        "ringpost_journal_in_flight_bytes",
        "ringpost_journal_oldest_unsynced_seconds",
    ];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = Metrics::scrape(server);
        let left: Vec<_> = GAUGES.iter().map(|gauge| (gauge, metrics.counted(gauge))).collect();
        if left.iter().all(|(_, series)| series.is_empty()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("every client has ended, and gauges are not 0: {left:?}"));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// A server that is ending, and a thread that waits for it.
struct Stopping(JoinHandle<(Ended, Duration)>);

impl Stopping {
    fn begin(server: Server, signal: i32) -> Stopping {
        server.signal(signal);
        let start = Instant::now();
        Stopping(thread::spawn(move || {
            let ended = server.ended();
            (ended, start.elapsed())
        }))
    }

    async fn done(self) -> Result<(Ended, Duration), String> {
        while !self.0.is_finished() {
            sleep(Duration::from_millis(1)).await;
        }
        self.0.join().map_err(|panic| match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(_) => "waiting for the server's end has panicked".into(),
        })
    }
}

/// The end of a log.
fn log_end(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// The most rounds of a server, without the probes.
const ROUNDS_MAX: u64 = 8;
/// The number of servers among which every kind of end is.
const SERVERS_OF_ALL_KINDS: u64 = 60;
/// The approximate number of requests and bytes of all clients of a round. A round may have a tenth of these requests,
/// or five times as many to fill large windows.
const REQUESTS: u64 = 40_000;
const LARGE_WINDOW: u64 = 10_000;
const BYTES: u64 = 8 << 20;
const CLIENTS_SHOWN: usize = 12;
const CLIENTS_PER_BACKLOG: u64 = 20;
/// The most bytes of a connection's small buffers, as docs/operating.md states.
const SMALL_BUFFERS: usize = 3 << 10;
/// The time that the server gives connections which it has cut.
const CUT_GRACE: Duration = Duration::from_secs(2);
/// A client that makes no progress for this time hangs, although it reads. The disk of a busy machine may stall for a
/// while.
const HANG: Duration = Duration::from_secs(20);
/// The time by which a busy machine may delay anything.
const SLACK: Duration = Duration::from_secs(10);
/// A drain shorter than this may cut clients that were not scheduled in time.
const SHORT_DRAIN: Duration = Duration::from_secs(5);
