//! Random options of `serve`, with values from near the lowest upward, and their effects on its clients.

use std::time::Duration;

use super::world::Kind;
use crate::common::random::Random;
use crate::common::test_engine;

/// How much of a journal a server should keep.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    bytes: Option<u64>,
    age_secs: Option<u64>,
}

impl Retention {
    /// Returns a limit of bytes with a probability of one in `bytes_one_in`, and one of age accordingly.
    pub fn new(random: &mut Random, bytes_one_in: u64, age_one_in: u64) -> Retention {
        let bytes = if random.one_in(8) { 0 } else { random.log_range(1, 32 << 20) };
        let age_secs = random.pick(&[0, 1, 3600, 3600]);
        Retention {
            bytes: random.one_in(bytes_one_in).then_some(bytes),
            age_secs: random.one_in(age_one_in).then_some(age_secs),
        }
    }
}

/// The options of one server.
#[derive(Debug)]
pub struct Options {
    words: Vec<String>,
    pub workers: u64,
    pub journal: bool,
    pub max_frame: u64,
    /// Acks have the commands 0x80 and 0x81.
    pub published_codes: bool,
    /// The journal has no room: every SUBMIT is acked with 1.
    pub refuses: bool,
    pub segment_len: u64,
    pub retain_bytes: Option<u64>,
    pub retain_age: Option<Duration>,
    /// The timeouts are set here only if they are short. Each of them may then end a client that a busy machine delays.
    pub frame_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub write_timeout: Option<Duration>,
    pub drain_timeout: Duration,
    pub drain_delay: Duration,
    /// The server reads from a connection that it closes for long enough that no ack is lost.
    pub lingers: bool,
    pub backlog: u64,
    /// The most connections that the server serves at a time.
    pub connections_max: Option<u64>,
    /// The log says where /metrics is.
    pub admin: bool,
    pub addresses: Vec<&'static str>,
}

impl Options {
    pub fn new(random: &mut Random, kind: Kind) -> Options {
        let mut words = Words(Vec::new());
        let workers = 1 + random.below(3);
        words.add("workers", workers);
        let engine = random.pick(&["auto", "epoll"]);
        let engine = kind.engine.map(str::to_owned).or_else(test_engine).unwrap_or(engine.to_owned());
        words.add("engine", engine);

        let max_frame = if random.one_in(12) { 13 } else { random.log_range(13, 1 << 20) };
        words.add("max-frame", max_frame);
        let read_buffer = if random.one_in(3) { random.log_range(256, 1 << 20) } else { 72 << 10 };
        words.add("read-buffer", read_buffer);
        let memory_min = 2 * max_frame.max(read_buffer) * workers;
        match random.below(4) {
            0 => words.add("max-memory", memory_min),
            1 => words.add("max-memory", memory_min + random.log_range(1, 64 << 20)),
            2 => words.add("max-memory", 0),
            _ => {}
        }

        let journal = kind.journal;
        let mut options = Options {
            workers,
            journal,
            max_frame,
            published_codes: random.one_in(6),
            refuses: journal && kind.retention.is_none() && random.one_in(25),
            segment_len: SEGMENT_LEN_MIN,
            retain_bytes: None,
            retain_age: None,
            frame_timeout: None,
            idle_timeout: None,
            write_timeout: None,
            drain_timeout: Duration::from_secs(8),
            drain_delay: Duration::ZERO,
            lingers: true,
            backlog: 4096,
            connections_max: None,
            admin: true,
            addresses: vec!["127.0.0.1:0"],
            words: Vec::new(),
        };
        if journal {
            options.add_journal(random, kind, &mut words);
        } else {
            words.add("sink", "discard");
        }
        options.add_limits(random, &mut words);
        options.add_times(random, &mut words);

        words.maybe(random, "balance", &["true", "false"]);
        words.maybe(random, "accepts", &["1", "2", "64", "1000"]);
        words.maybe(random, "ring-entries", &["1", "2", "8", "64", "4096"]);
        words.maybe(random, "confine", &["auto", "off"]);
        if random.one_in(6) {
            words.add("log-format", "json");
            options.admin = false;
        }
        if random.one_in(4) {
            words.0.push("--pin".into());
        }
        if options.published_codes {
            words.add("ack-codes", "published");
        }
        match random.below(10) {
            0 => words.add("log-level", "debug"),
            1 => words.add("log-level", "trace"),
            2 => {
                words.add("log-level", "error");
                options.admin = false;
            }
            _ => {}
        }
        if options.admin {
            words.add("admin", "127.0.0.1:0");
        }
        options.addresses.extend(random.pick(&[&[][..], &[], &["127.0.0.2:0"], &["[::1]:0", "127.0.0.3:0"]]));
        for address in &options.addresses {
            words.add("listen", address);
        }
        options.words = words.0;
        options
    }

    /// The options as typed on the command line, without directories.
    pub fn typed(&self) -> Vec<String> {
        let mut words = self.words.clone();
        words.extend(["--drain-timeout".into(), format!("{}ms", self.drain_timeout.as_millis())]);
        words
    }

    fn add_journal(&mut self, random: &mut Random, kind: Kind, words: &mut Words) {
        self.segment_len = SEGMENT_LEN_MIN + BLOCK_LEN * if random.one_in(3) { 0 } else { random.below(512) };
        words.add("segment-size", self.segment_len);
        words.add("min-free", if self.refuses { 1u64 << 62 } else { 0 });
        words.maybe(random, "commits-in-flight", &["1", "2", "64"]);
        if random.one_in(2) {
            words.add("journal-memory", JOURNAL_MEMORY_MIN + random.log_range(1, 8 << 20));
        }
        let retention = kind.retention.unwrap_or_else(|| Retention::new(random, 4, 6));
        if let Some(bytes) = retention.bytes {
            self.retain_bytes = Some(bytes).filter(|bytes| *bytes > 0);
            words.add("retain-bytes", bytes);
        }
        if let Some(age) = retention.age_secs {
            self.retain_age = Some(Duration::from_secs(age)).filter(|age| !age.is_zero());
            words.add("retain-age", format!("{age}s"));
        }
    }

    fn add_limits(&mut self, random: &mut Random, words: &mut Words) {
        self.backlog = if random.one_in(4) { random.log_range(1, 4096) } else { 4096 };
        words.add("backlog", self.backlog);
        match random.below(12) {
            0 => {
                self.connections_max = Some(random.log_range(1, 64));
                words.add("max-connections", self.connections_max.unwrap());
            }
            1 => {
                self.connections_max = Some(random.log_range(1, 64));
                words.add("max-connections-per-ip", self.connections_max.unwrap());
            }
            2 => words.add("max-connections", 0),
            _ => {}
        }
    }

    fn add_times(&mut self, random: &mut Random, words: &mut Words) {
        let mut timeout = |random: &mut Random, name: &str, off: bool| match random.below(10) {
            0 | 1 => {
                let millis = 200 + random.below(500);
                words.add(name, format!("{millis}ms"));
                Some(Duration::from_millis(millis))
            }
            2 if off => {
                words.add(name, "0");
                None
            }
            _ => None,
        };
        // Usually none of them is short, so that every ack must arrive.
        if random.one_in(4) {
            self.frame_timeout = timeout(random, "frame-timeout", true);
            self.idle_timeout = timeout(random, "idle-timeout", true);
            self.write_timeout = timeout(random, "write-timeout", true);
        }
        self.drain_timeout = random.pick(&[0, 100, 1000, 8000, 8000, 8000].map(Duration::from_millis));
        if random.one_in(6) {
            let millis = random.pick(&[0, 50, 300]);
            self.drain_delay = Duration::from_millis(millis);
            words.add("drain-delay", format!("{millis}ms"));
        }
        words.maybe(random, "min-rate", &["0", "1", "1MiB"]);
        if random.one_in(5) {
            let (millis, bytes) = (random.pick(&[0, 1, 50, 2000]), random.pick(&[0, 1, 1 << 10, 4 << 20]));
            words.add("linger-timeout", format!("{millis}ms"));
            words.add("linger-bytes", bytes);
            self.lingers = millis >= 2000 && bytes >= 4 << 20;
        }
        words.maybe(random, "tcp-keepalive", &["0", "1s", "32767s"]);
        // This is not near its lowest value, since a busy machine may delay a thread.
        words.maybe(random, "stall-timeout", &["0", "20s", "60s"]);
    }

    /// Makes the drain short.
    pub fn shorten_drain(&mut self) {
        self.drain_timeout = self.drain_timeout.min(Duration::from_secs(1));
    }

    /// Whether a timeout or a limit may end a connection although its client does nothing wrong.
    pub fn may_end_any(&self, connections: u64) -> bool {
        let short = [self.frame_timeout, self.idle_timeout, self.write_timeout].iter().any(Option::is_some);
        short || self.connections_max.is_some_and(|max| max < connections)
    }
}

/// The size of a block for the header and of the largest commit.
const SEGMENT_LEN_MIN: u64 = BLOCK_LEN + (1 << 20) + BLOCK_LEN;
const BLOCK_LEN: u64 = 4096;
const JOURNAL_MEMORY_MIN: u64 = 72 << 10;

struct Words(Vec<String>);

impl Words {
    fn add(&mut self, name: &str, value: impl ToString) {
        self.0.extend([format!("--{name}"), value.to_string()]);
    }

    /// Adds the option with one of these values, or leaves the default.
    fn maybe(&mut self, random: &mut Random, name: &str, values: &[&str]) {
        if random.one_in(3) {
            self.add(name, random.pick(values));
        }
    }
}
