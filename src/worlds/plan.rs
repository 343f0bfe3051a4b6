//! The plan of a world: everything that happens in it, made from one seed.
//!
//! It decides nothing while the world runs. Its parts are lists, so that a failing world can be tried again without
//! some of its clients and faults ([`Without`]).

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::wire::{self, StreamEnd};
use crate::journal::WriterOptions;
use crate::journal::retention::Retention;
use crate::proto::HEADER_LEN;
use crate::server::options::READ_BUFFER_MIN;
use crate::server::{JOURNAL_MEMORY_MIN, JournalOptions, Options, SinkOptions};
use crate::server::{TlsMode, TlsOptions};
use crate::sim::disk::Faults;
use crate::sim::link::LinkOptions;
use crate::sim::random::Random;
use crate::tls::credentials::CurrentCredentials;

/// The plan of a world.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The server's options, apart from its directory and process.
    pub server: ServerPlan,
    /// The clients.
    pub clients: Vec<ClientPlan>,
    /// The faults and other events, in the order of their times.
    pub events: Vec<(Duration, Event)>,
    /// The followers.
    pub followers: Vec<FollowerPlan>,
    /// When the faults stop.
    pub calm: Duration,
    /// The disk's faults until then, and after.
    pub disk_faults: Faults,
    /// The disk after the faults have stopped. It still takes time.
    pub sound_disk: Faults,
    /// Bytes of the file system.
    pub capacity: u64,
    /// Descriptors that a server may have open.
    pub descriptors: usize,
}

/// The server's options.
#[derive(Debug, Clone)]
pub struct ServerPlan {
    /// The options, with a journal or without one.
    pub options: Options,
    /// How often retention runs.
    pub retention_interval: Duration,
}

/// A client and its one connection.
#[derive(Debug, Clone)]
pub struct ClientPlan {
    /// The client's number in the whole plan.
    pub number: u32,
    /// The seed of its decisions.
    pub seed: u64,
    /// When it connects.
    pub start: Duration,
    /// Its network.
    pub link: LinkOptions,
    /// The number of requests.
    pub requests: u32,
    /// The kind of payloads.
    pub payloads: Payloads,
    /// Once in so many requests it sends a CONN; 0 for never.
    pub conn_one_in: u64,
    /// The most requests without an ack.
    pub window: u32,
    /// The most requests that it sends at the same time.
    pub burst: u32,
    /// How it sends.
    pub sending: Sending,
    /// How it reads acks.
    pub reading: Reading,
    /// How it ends.
    pub ending: Ending,
    /// Whether its address is shared with other clients.
    pub shares_address: bool,
    /// How it ends its stream, if it speaks TLS.
    pub tls: Option<StreamEnd>,
}

/// The lengths of a client's payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payloads {
    /// Up to so many bytes.
    UpTo(u32),
    /// Mostly small ones, and now and then one of almost the limit.
    Mixed(u32),
}

/// How a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// As fast as the window allows.
    Fast,
    /// With a pause between bursts.
    Paced(Duration),
    /// A few bytes at a time, with a pause between them.
    Drip(usize, Duration),
}

/// How a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Always.
    Prompt,
    /// So many bytes at a time, with a pause between them.
    Slow(usize, Duration),
    /// Not until the faults stop.
    Late,
    /// Never.
    Never,
}

/// How a client ends, once it has sent everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Ends its stream, and reads to the end.
    HalfClose,
    /// Waits for its acks, and closes.
    Close,
    /// Stays connected until the faults stop, and then ends its stream.
    Stay,
    /// Sends a part of a frame, and stays connected as with [`Ending::Stay`].
    StayInFrame,
    /// Closes immediately, without its acks.
    Leave,
    /// Resets after this number of bytes.
    Reset(u64),
    /// Falls silent after this number of bytes.
    Vanish(u64),
    /// Sends something that is no request, and reads to the end.
    Garbage(Garbage),
}

/// Bytes that are not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Garbage {
    /// A length that is too short for a header.
    ShortLength,
    /// A command that does not exist.
    Command,
    /// A length above the limit. The request gets an ack with a failure.
    LongLength,
    /// A part of a request, before the end of the stream.
    Part,
}

/// A fault, or another event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The server is killed after so many more operations.
    Kill(u64),
    /// The host loses its power.
    PowerCut,
    /// The server drains, and then another is started.
    Drain,
    /// The server drains, and ends immediately after this time.
    SecondSignal(Duration),
    /// Another server with so many shards takes over.
    TakeOver(usize),
    /// Another server with so many shards begins to take over, and is killed after so many operations.
    FailedTakeOver(usize, u64),
    /// The wall clock is set to the true time and so many nanoseconds.
    SetClock(i128),
    /// The disk does not respond for this long.
    DiskStall(Duration),
    /// The server may open only so many more descriptors during this time.
    FewDescriptors(usize, Duration),
    /// The event loop of a shard stands still for this long.
    ShardStall(usize, Duration),
}

/// A follower of the journal.
#[derive(Debug, Clone)]
pub struct FollowerPlan {
    /// The seed of its decisions.
    pub seed: u64,
    /// When it begins.
    pub start: Duration,
    /// It begins again where it was once in so many pauses; 0 for never.
    pub resumes_one_in: u64,
}

/// The parts of a plan that are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Without {
    /// Clients by number.
    pub clients: BTreeSet<usize>,
    /// Events by number.
    pub events: BTreeSet<usize>,
    /// Followers by number.
    pub followers: BTreeSet<usize>,
    /// The disk's faults.
    pub disk_faults: bool,
}

impl Event {
    /// Returns its name in the trace.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Kill(_) => "kill",
            Event::PowerCut => "power cut",
            Event::Drain => "drain",
            Event::SecondSignal(_) => "second signal",
            Event::TakeOver(_) => "takeover",
            Event::FailedTakeOver(..) => "failed takeover",
            Event::SetClock(_) => "clock set",
            Event::DiskStall(_) => "disk stall",
            Event::FewDescriptors(..) => "few descriptors",
            Event::ShardStall(..) => "shard stall",
        }
    }
}

impl ClientPlan {
    /// Returns whether the client gets all of its acks from a server that has no trouble.
    pub fn is_sound(&self, options: &Options) -> bool {
        let reads = match self.reading {
            Reading::Prompt => true,
            // Each read is progress. While others wait for memory, it may not be enough.
            Reading::Slow(..) => options.rate_min == 0,
            Reading::Late | Reading::Never => false,
        };
        let sends = matches!(self.sending, Sending::Fast | Sending::Paced(_));
        let ends = matches!(self.ending, Ending::HalfClose | Ending::Close | Ending::Garbage(_));
        let is_off_or_long = |timeout: Duration| timeout.is_zero() || timeout >= Duration::from_secs(2);
        // A round carries a window, or what fits the buffer.
        let rounds = u64::from(options.frame_len_max) / self.link.server_window.min(self.link.send_buffer) as u64 + 1;
        let frame_time = (self.link.latency_max + Duration::from_millis(5)) * 2 * (8 * rounds).min(1 << 20) as u32;
        let fast = frame_time < Duration::from_secs(1);
        let patient = is_off_or_long(options.idle_timeout)
            && is_off_or_long(options.write_timeout)
            && (options.frame_timeout.is_zero() || frame_time * 2 < options.frame_timeout);
        let secured = self.tls.is_none()
            || options.tls.as_ref().is_some_and(|tls| {
                let rounds =
                    HANDSHAKE_LEN / self.link.server_window.min(self.link.send_buffer).min(self.link.peer_window) + 4;
                let time = (self.link.latency_max + Duration::from_millis(5)) * 4 * rounds as u32;
                time < tls.handshake_timeout && tls.handshakes_max > 100
            });
        let unlimited =
            options.connections_max.is_none() && options.connections_per_ip_max == 0 && options.listen.backlog > 1000;
        // A client with TLS ends its stream with a record, also after garbage.
        let is_heard =
            self.tls.is_none() || !matches!(self.ending, Ending::Garbage(_)) || options.linger_bytes_max >= 1000;
        reads && sends && ends && patient && secured && is_heard && unlimited && (options.rate_min == 0 || fast)
    }
}

impl Plan {
    /// Makes the plan of a world.
    pub fn new(seed: u64, without: &Without) -> Plan {
        let mut random = Random(seed);
        let calm = Duration::from_millis([300, 1500, 6000][random.below(3) as usize]);
        let has_journal = !random.one_in(5);
        let mut server = server(&mut random, has_journal);
        let frame_len_max = server.options.frame_len_max;
        let size = Size::of(&mut random);
        let mut clients: Vec<_> =
            (0..size.clients).map(|number| client(&mut random, number, size, frame_len_max, calm)).collect();
        let mut events = events(&mut random, calm, server.options.shards.get());
        let mut followers: Vec<_> = (0..if has_journal { random.below(3) } else { 0 })
            .map(|_| FollowerPlan {
                seed: random.next(),
                start: Duration::from_millis(random.below(calm.as_millis() as u64)),
                resumes_one_in: [0, 2, 10][random.below(3) as usize],
            })
            .collect();
        let durable = !random.one_in(3);
        let sound_disk = Faults {
            delay_max_us: [0, 1000, 5000][random.below(3) as usize],
            writes_are_durable: durable,
            recycle: [0, 1, 3][random.below(3) as usize],
            ..Faults::default()
        };
        let mut disk_faults = if random.one_in(2) { sound_disk.clone() } else { faults(&mut random, &sound_disk) };
        let journal = server.options.journal();
        let segments = journal.map_or(0, |journal| journal.segment_len) * server.options.shards.get() as u64;
        let capacity = if random.one_in(6) { segments + random.below(4 * segments + 1) } else { 1 << 40 };
        let descriptors = if random.one_in(8) { 30 + random.below(20) as usize } else { 10_000 };
        let options = &mut server.options;
        if options.frame_timeout.is_zero() || options.write_timeout.is_zero() {
            // Otherwise a peer that has vanished might hold memory for ever, as these options ask.
            options.rate_min = options.rate_min.max(4096);
        }
        add_tls(&mut Random(!seed), &mut server.options, &mut clients);
        // Other numbers than those of TLS, so that some of these worlds have it.
        let mut random = Random(seed.rotate_left(32));
        if random.one_in(BUSY_DRAINS_ONE_IN) {
            events = busy_drains(&mut random, calm, &mut server.options, &mut clients);
        }
        keep(&mut clients, &without.clients);
        keep(&mut events, &without.events);
        keep(&mut followers, &without.followers);
        if without.disk_faults {
            disk_faults = sound_disk.clone();
        }
        events.sort_by_key(|(at, _)| *at);
        Plan { seed, server, clients, events, followers, calm, disk_faults, sound_disk, capacity, descriptors }
    }

    /// Returns whether no drain has a reason to cut or reset a client that reads: nothing is killed or stalls, and
    /// there is time.
    pub fn is_gentle(&self) -> bool {
        let options = &self.server.options;
        let is_gentle = |event: &Event| matches!(event, Event::Drain | Event::TakeOver(_) | Event::SetClock(_));
        let is_responsive = |client: &ClientPlan| {
            client.reading == Reading::Prompt
                && !matches!(client.ending, Ending::Vanish(_))
                && client.link.latency_max <= Duration::from_millis(10)
                && client.link.peer_window >= 300
                // A drain answers what the socket holds, and that must not take long.
                && client.window <= 200
        };
        self.events.iter().all(|(_, event)| is_gentle(event))
            && self.clients.iter().all(is_responsive)
            && options.drain_timeout >= Duration::from_secs(2)
            && options.linger_timeout >= Duration::from_secs(2)
            && options.linger_bytes_max >= 4 << 20
            && self.descriptors >= 1000
    }

    /// Returns the options of a server with so many shards, which is this process and has this directory.
    pub fn options(&self, shards: usize, data_dir: &Path) -> Options {
        let mut options = self.server.options.clone();
        options.shards = NonZeroUsize::new(shards).expect("a server has shards");
        let min = options.memory_min();
        options.memory_max = options.memory_max.map(|bytes| if bytes == 0 { 0 } else { bytes.max(min) });
        if let Some(journal) = options.journal_mut() {
            journal.data_dir = data_dir.to_owned();
        }
        options
    }
}

fn keep<T>(parts: &mut Vec<T>, without: &BTreeSet<usize>) {
    let mut number = 0;
    parts.retain(|_| {
        number += 1;
        !without.contains(&(number - 1))
    });
}

/// How much happens in a world.
#[derive(Debug, Clone, Copy)]
struct Size {
    clients: u32,
    requests_max: u64,
    /// Bytes of all requests of a client.
    bytes_max: u64,
    window_max: u64,
    /// Whether windows are filled.
    is_deep: bool,
}

impl Size {
    fn of(random: &mut Random) -> Size {
        match random.below(40) {
            // One window beyond what anybody would configure.
            0 => Size { clients: 1, requests_max: 100_000, bytes_max: 2 << 20, window_max: 100_000, is_deep: true },
            1..=4 => {
                let clients = 1 + random.below(4) as u32;
                Size { clients, requests_max: 6000, bytes_max: 300 << 10, window_max: 5000, is_deep: true }
            }
            5..=7 => Size { clients: 60, requests_max: 10, bytes_max: 30 << 10, window_max: 10, is_deep: false },
            8..=16 => {
                let clients = 1 + random.below(4) as u32;
                Size { clients, requests_max: 400, bytes_max: 600 << 10, window_max: 400, is_deep: false }
            }
            _ => {
                let clients = 1 + random.below(12) as u32;
                Size { clients, requests_max: 60, bytes_max: 150 << 10, window_max: 80, is_deep: false }
            }
        }
    }
}

fn pick<T: Copy>(random: &mut Random, values: &[T]) -> T {
    values[random.below(values.len() as u64) as usize]
}

fn millis(random: &mut Random, below: u64) -> Duration {
    Duration::from_millis(random.below(below))
}

fn server(random: &mut Random, has_journal: bool) -> ServerPlan {
    let mut options = Options::default();
    options.shards = NonZeroUsize::new(1 + random.below(3) as usize).expect("not 0");
    options.balance = !random.one_in(4);
    options.frame_len_max = pick(random, &[13, 14, 100, 1000, 5000, 20_000, 70_000, 300_000]);
    options.read_buffer_max = pick(random, &[READ_BUFFER_MIN, 300, 4096, 20_000, 72 << 10]);
    options.memory_max = match random.below(3) {
        0 => Some(0),
        1 => Some(1),
        _ => Some(options.memory_min() * (1 + random.below(4) as usize)),
    };
    options.connections_max = random.one_in(12).then(|| 1 + random.below(8) as usize);
    options.connections_per_ip_max = if random.one_in(12) { 1 + random.below(4) as usize } else { 0 };
    let timeout = |random: &mut Random, values: &[u64]| Duration::from_millis(pick(random, values));
    options.frame_timeout = timeout(random, &[0, 0, 300, 2000, 30_000]);
    options.idle_timeout = timeout(random, &[0, 0, 0, 500, 3000]);
    options.write_timeout = timeout(random, &[0, 0, 400, 2000, 30_000]);
    options.rate_min = pick(random, &[0, 4096]);
    options.linger_timeout = timeout(random, &[100, 2000]);
    options.linger_bytes_max = pick(random, &[1, 10_000, 4 << 20]);
    options.stall_timeout = timeout(random, &[0, 1000, 5000]);
    options.drain_timeout = timeout(random, &[0, 200, 2000, 8000]);
    options.listen.accepts_in_a_row = pick(random, &[1, 2, 64]);
    options.listen.backlog = pick(random, &[1, 5, 4096, 4096, 4096]);
    options.listen.tcp_keepalive = timeout(random, &[0, 1000, 3000]);
    options.sink =
        if has_journal { SinkOptions::Journal(journal(random, options.frame_len_max)) } else { SinkOptions::Discard };
    let retention_interval = timeout(random, &[300, 3000]);
    ServerPlan { options, retention_interval }
}

fn journal(random: &mut Random, frame_len_max: u32) -> JournalOptions {
    let mut journal = JournalOptions::default();
    let frame = WriterOptions::commit_len_for(frame_len_max as usize - HEADER_LEN);
    journal.commit_len_max = frame.max(pick(random, &[4096, 8192, 64 << 10]));
    let min = journal.writer_options(frame_len_max).segment_len_min();
    journal.segment_len = min * (1 + random.below(3));
    journal.commits_in_flight = 1 + random.below(5) as usize;
    journal.journal_memory = Some(JOURNAL_MEMORY_MIN * (1 + random.below(3) as usize));
    journal.min_free = if random.one_in(6) { random.below(2 * min) } else { 0 };
    let bytes_max = random.one_in(3).then(|| random.below(6 * journal.segment_len));
    let age_max = random.one_in(6).then(|| Duration::from_millis(pick(random, &[1, 1000, 60_000])));
    journal.retention = Retention::default().bytes_max(bytes_max).age_max(age_max);
    journal
}

fn client(random: &mut Random, number: u32, size: Size, frame_len_max: u32, calm: Duration) -> ClientPlan {
    let payload_max = frame_len_max - HEADER_LEN as u32;
    let fills_window = size.is_deep && !random.one_in(3);
    let payloads = match random.below(4) {
        _ if fills_window => Payloads::UpTo(payload_max.min(random.below(30) as u32)),
        0 => Payloads::UpTo(0),
        1 | 2 => Payloads::UpTo(payload_max.min(pick(random, &[20, 200, 2000]))),
        _ => Payloads::Mixed(payload_max),
    };
    let mean = match payloads {
        Payloads::UpTo(most) => most / 2,
        Payloads::Mixed(most) => most / MIXED_LARGE_ONE_IN as u32 + 40,
    };
    let affordable = size.bytes_max / u64::from(mean + HEADER_LEN as u32);
    let window_max = if fills_window { size.window_max } else { pick(random, &[1, 10, size.window_max]) };
    let window = 1 + random.below(window_max) as u32;
    // A small window only makes a long conversation last.
    let requests = size.requests_max.min(affordable + 1).min(u64::from(window) * 200);
    let requests = if fills_window { requests as u32 } else { random.below(requests + 1) as u32 };
    let total = u64::from(requests) * u64::from(mean + HEADER_LEN as u32) + 1;
    let sending = match random.below(6) {
        _ if fills_window => Sending::Fast,
        0 | 1 => Sending::Paced(millis(random, 60)),
        2 => Sending::Drip(1 + random.below(40) as usize, Duration::from_millis(1 + random.below(100))),
        _ => Sending::Fast,
    };
    let reading = match random.below(12) {
        0 => Reading::Slow(1 + random.below(60) as usize, Duration::from_millis(1 + random.below(100))),
        1 => Reading::Late,
        2 => Reading::Never,
        _ => Reading::Prompt,
    };
    let ending = match random.below(13) {
        0 | 1 => Ending::Close,
        2 => Ending::Stay,
        12 => Ending::StayInFrame,
        3 => Ending::Leave,
        4 => Ending::Reset(random.below(total)),
        5 => Ending::Vanish(random.below(total)),
        6 => {
            Ending::Garbage(pick(random, &[Garbage::ShortLength, Garbage::Command, Garbage::LongLength, Garbage::Part]))
        }
        _ => Ending::HalfClose,
    };
    ClientPlan {
        number,
        seed: random.next(),
        // Many clients come at the same time.
        start: if random.one_in(2) { Duration::from_millis(10) } else { millis(random, calm.as_millis() as u64) },
        link: link(random, requests, total, window),
        requests,
        payloads,
        conn_one_in: pick(random, &[0, 1, 10]),
        window,
        burst: if fills_window { window } else { 1 + random.below(u64::from(window)) as u32 },
        sending,
        reading,
        ending,
        shares_address: random.one_in(3),
        tls: None,
    }
}

/// Returns the network of a client that sends so many requests with so many bytes.
fn link(random: &mut Random, requests: u32, bytes: u64, window: u32) -> LinkOptions {
    const WINDOWS: [usize; 5] = [20, 300, 4096, 64 << 10, 4 << 20];
    let large = if requests > 3000 { 2 } else { 0 };
    let (peer_window, server_window) = (pick(random, &WINDOWS[large..]), pick(random, &WINDOWS[1.max(large)..]));
    let send_buffer = pick(random, &WINDOWS[1.max(large)..]);
    // A long transfer would only take time.
    let rounds = u64::from(requests / window)
        + bytes / server_window.min(send_buffer) as u64
        + u64::from(requests) * 14 / peer_window as u64;
    let latencies: &[u64] = if rounds > 100 { &[0, 1] } else { &[0, 1, 10, 80] };
    LinkOptions {
        latency_max: Duration::from_millis(pick(random, latencies)),
        send_buffer,
        peer_window,
        server_window,
        cut_one_in: pick(random, &[0, 1, 3, 20]),
        late_one_in: pick(random, &[0, 0, 2, 10]),
    }
}

/// Makes a world in which nothing happens but drains, while clients that read have much to do.
fn busy_drains(
    random: &mut Random,
    calm: Duration,
    options: &mut Options,
    clients: &mut [ClientPlan],
) -> Vec<(Duration, Event)> {
    options.drain_timeout = Duration::from_millis(pick(random, &[2000, 8000]));
    options.linger_timeout = Duration::from_secs(2);
    options.linger_bytes_max = 4 << 20;
    options.connections_max = None;
    options.connections_per_ip_max = 0;
    options.idle_timeout = Duration::ZERO;
    for client in &mut *clients {
        client.reading = Reading::Prompt;
        client.sending = Sending::Fast;
        client.window = client.window.clamp(20, 200);
        client.burst = client.burst.clamp(1, client.window);
        client.requests = client.requests.max(client.window * 50);
        client.payloads = Payloads::UpTo((options.frame_len_max - HEADER_LEN as u32).min(20));
        client.ending = if random.one_in(2) { Ending::HalfClose } else { Ending::Close };
        client.link.latency_max = client.link.latency_max.min(Duration::from_millis(10));
        client.link.peer_window = client.link.peer_window.max(300);
        client.link.server_window = client.link.server_window.max(4096);
        client.link.send_buffer = client.link.send_buffer.max(4096);
    }
    let drains: Vec<_> = (0..3).map(|_| (millis(random, calm.as_millis() as u64), Event::Drain)).collect();
    for client in clients.iter_mut().filter(|client| client.number % 2 == 0) {
        // Some are in the backlog, or on their way to another shard, when a drain begins.
        client.start = pick(random, &drains).0.saturating_sub(millis(random, 30));
    }
    drains
}

/// Makes one in four worlds speak TLS.
fn add_tls(random: &mut Random, options: &mut Options, clients: &mut [ClientPlan]) {
    if !random.one_in(4) {
        return;
    }
    let mut tls = TlsOptions::new(Arc::new(CurrentCredentials::new(wire::credentials())));
    tls.mode = if random.one_in(2) { TlsMode::Allow } else { TlsMode::Require };
    tls.handshake_timeout = Duration::from_millis(pick(random, &[300, 2000, 2000, 10_000]));
    tls.handshakes_max = pick(random, &[1, 2, 256]);
    for client in clients {
        if tls.mode == TlsMode::Require || random.one_in(2) {
            client.tls = Some(pick(random, &[StreamEnd::Both, StreamEnd::Notify, StreamEnd::Fin]));
        }
    }
    options.tls = Some(tls);
}

fn events(random: &mut Random, calm: Duration, shards: usize) -> Vec<(Duration, Event)> {
    let count = pick(random, &[0, 0, 1, 1, 2, 3, 6]);
    let mut events = Vec::new();
    for _ in 0..count {
        let at = millis(random, calm.as_millis() as u64);
        let event = match random.below(15) {
            0..=2 => {
                let most = pick(random, &[10, 100, 1000]);
                Event::Kill(random.below(most))
            }
            3 | 4 => Event::PowerCut,
            5 | 6 => Event::Drain,
            7 => Event::SecondSignal(millis(random, 500)),
            8 | 9 => Event::TakeOver(1 + random.below(4) as usize),
            14 => {
                let most = pick(random, &[20, 200]);
                Event::FailedTakeOver(1 + random.below(4) as usize, random.below(most))
            }
            10 => Event::SetClock(clock_error(random)),
            11 => Event::DiskStall(millis(random, 3000)),
            12 => Event::FewDescriptors(random.below(6) as usize, millis(random, 2000)),
            _ => Event::ShardStall(random.below(shards as u64) as usize, millis(random, 4000)),
        };
        events.push((at, event));
    }
    events
}

fn clock_error(random: &mut Random) -> i128 {
    const SECOND: i128 = 1_000_000_000;
    const YEAR: i128 = 365 * 86_400 * SECOND;
    pick(random, &[0, SECOND, -SECOND, 3600 * SECOND, -3600 * SECOND, 10 * YEAR, -10 * YEAR, -57 * YEAR, 100 * YEAR])
}

fn faults(random: &mut Random, sound: &Faults) -> Faults {
    let mut once_in = |share: u64, times: u64| if random.one_in(share) { 1 + random.below(times) } else { 0 };
    Faults {
        short_write: once_in(3, 10),
        write_error: once_in(8, 100),
        sync_error: once_in(8, 100),
        no_space: once_in(6, 4),
        write_no_space: once_in(4, 40),
        temporary_error: once_in(3, 6),
        publish_error: once_in(4, 6),
        dir_error: once_in(12, 8),
        ..sound.clone()
    }
}

impl fmt::Display for Without {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = self.clients.iter().map(|number| format!("c{number}"));
        let events = self.events.iter().map(|number| format!("e{number}"));
        let followers = self.followers.iter().map(|number| format!("f{number}"));
        let disk = self.disk_faults.then(|| "disk".to_owned());
        let parts: Vec<_> = clients.chain(events).chain(followers).chain(disk).collect();
        out.write_str(&parts.join(","))
    }
}

impl FromStr for Without {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut without = Without::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            if part == "disk" {
                without.disk_faults = true;
                continue;
            }
            let (kind, number) = part.split_at(1);
            let number = number.parse().map_err(|_| format!("{part}: expected c, e or f and a number, or disk"))?;
            match kind {
                "c" => without.clients.insert(number),
                "e" => without.events.insert(number),
                "f" => without.followers.insert(number),
                _ => return Err(format!("{part}: expected c, e or f and a number, or disk")),
            };
        }
        Ok(without)
    }
}

/// One of so many worlds has nothing but busy drains.
const BUSY_DRAINS_ONE_IN: u64 = 12;
/// Bytes that each end sends in a handshake, at most.
const HANDSHAKE_LEN: usize = 1500;
/// One of so many mixed payloads is large.
pub const MIXED_LARGE_ONE_IN: u64 = 12;
