//! Random bytes and mutated vectors as connections. Each is counted by the reason that a naive model predicts, nothing
//! panics, nothing leaks, and a good load beside them is not affected.
//!
//! `RINGPOST_TEST_CONNECTIONS=100000` sends more than the usual number. The seed is printed, and `RINGPOST_TEST_SEED`
//! repeats it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, thread};

use crate::common::admin::Metrics;
use crate::common::good_load::{Load, RATE, measure};
use crate::common::random::Random;
use crate::common::{PATIENCE, Server, wait_until};

const CONNECTIONS: u64 = 20_000;
const THREADS: u64 = 2;
const FRAME_LEN_MAX: u32 = 4096;
/// One client in so many closes without waiting for an answer, with unread acks.
const RUDE_SHARE: u64 = 8;

/// Returns what the clients of all vectors send.
fn vectors() -> Vec<Vec<u8>> {
    let files = fs::read_dir("tests/vectors").unwrap();
    let sent = |text: String| {
        let lines = text.lines().filter_map(|line| line.strip_prefix('>'));
        let digits: String = lines.flat_map(str::split_whitespace).collect();
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    };
    let vectors: Vec<Vec<u8>> = files.map(|file| sent(fs::read_to_string(file.unwrap().path()).unwrap())).collect();
    assert!(vectors.len() >= 8 && vectors.iter().all(|vector| !vector.is_empty()), "the vectors are there");
    vectors
}

/// Returns noise, or a vector with some bytes changed, inserted, removed, doubled, or cut off.
fn garbage(random: &mut Random, vectors: &[Vec<u8>]) -> Vec<u8> {
    if random.below(4) == 0 {
        return (0..random.below(300)).map(|_| random.next() as u8).collect();
    }
    let mut bytes = vectors[random.below(vectors.len() as u64) as usize].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        match random.below(6) {
            0 => bytes.insert(at, random.next() as u8),
            1 => bytes.truncate(at),
            2 => bytes.extend_from_within(at..),
            3 if at < bytes.len() => drop(bytes.remove(at)),
            4 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            _ if at < bytes.len() => bytes[at] = random.next() as u8,
            _ => {}
        }
    }
    bytes
}

/// Returns why the server closes a connection that sends this and then half-closes.
fn naive_reason(mut stream: &[u8]) -> &'static str {
    while !stream.is_empty() {
        if stream.len() < 4 {
            return "truncated_frame";
        }
        let len = u32::from_be_bytes([stream[0], stream[1], stream[2], stream[3]]);
        if len < 13 {
            return "length_too_small";
        }
        match stream.get(4) {
            None => return "truncated_frame",
            Some(0x01 | 0x02) => {}
            Some(0x80..=0x82) => return "ack_from_client",
            Some(_) => return "unknown_command",
        }
        if stream.len() >= 13 && len > FRAME_LEN_MAX {
            return "frame_too_large";
        }
        let Some(rest) = stream.get(len as usize..) else { return "truncated_frame" };
        stream = rest;
    }
    "client_closed"
}

/// Connects from an address of its own, so that ports do not run out.
fn connect(server: &Server, number: u64) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from = Ipv4Addr::new(127, 1, (number / 250 % 250) as u8, 1 + (number % 250) as u8);
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&server.address().into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Sends one string. Returns the reason that the server must count, if there is exactly one.
fn attack(server: &Server, number: u64, random: &mut Random, vectors: &[Vec<u8>]) -> Option<&'static str> {
    let bytes = garbage(random, vectors);
    let mut stream = connect(server, number);
    // The server continues to read for a while after it has stopped answering, so this does not fail.
    stream.write_all(&bytes).unwrap();
    if random.below(RUDE_SHARE) == 0 {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        return None;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).expect("a clean end");
    Some(naive_reason(&bytes))
}

fn by_reason(metrics: &Metrics) -> BTreeMap<String, u64> {
    let counted = metrics.counted("ringpost_connections_closed_total");
    let split = counted.iter().map(|line| {
        let (labels, value) = line.rsplit_once(' ').unwrap();
        (labels.split('"').nth(1).unwrap().to_owned(), value.parse::<f64>().unwrap() as u64)
    });
    split.collect()
}

#[test]
fn garbage_is_counted_by_its_reason_and_nothing_leaks() {
    let _alone = crate::common::alone();
    crate::common::raise_descriptor_limit();
    let number_of = |name: &str| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let connections: u64 = number_of("RINGPOST_TEST_CONNECTIONS").unwrap_or(CONNECTIONS);
    let seed =
        number_of("RINGPOST_TEST_SEED").unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    println!("RINGPOST_TEST_SEED={seed}");
    let frame_len_max = FRAME_LEN_MAX.to_string();
    let server = Server::start(&["--workers", "2", "--max-frame", &frame_len_max, "--admin", "127.0.0.1:0"]);
    let vectors = vectors();
    let without = measure(server.address(), Duration::from_secs(1));
    let files_before = server.open_files();
    let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut expected, mut memory_on_the_way) = (BTreeMap::<_, u64>::new(), 0);
    let (mut with, start) = (Vec::new(), Instant::now());
    thread::scope(|scope| {
        let (server, vectors, next, done) = (&server, &vectors, &next, &done);
        let good = scope.spawn(move || {
            let mut rounds = Vec::new();
            while !done.load(Ordering::Relaxed) {
                rounds.push(measure(server.address(), Duration::from_secs(1)));
            }
            rounds
        });
        let attackers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut random = Random(seed.wrapping_add(thread));
                    let (mut counts, mut memory) = (BTreeMap::<_, u64>::new(), 0);
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= connections {
                            return (counts, memory);
                        }
                        if number == connections / 2 {
                            memory = server.memory();
                        }
                        let reason = attack(server, number, &mut random, vectors);
                        *counts.entry(reason).or_default() += 1;
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = attackers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        with = good.join().unwrap();
        for outcome in outcomes {
            let (counts, memory) = outcome.unwrap();
            memory_on_the_way = memory_on_the_way.max(memory);
            counts.into_iter().for_each(|(reason, count)| *expected.entry(reason).or_default() += count);
        }
    });
    println!("{connections} connections in {:?}; expected {expected:?}", start.elapsed());

    wait_until("all connections are closed", || {
        let metrics = Metrics::scrape(&server);
        [0, 1].iter().all(|shard| metrics.get(&format!("ringpost_connections_open{{shard=\"{shard}\"}}")) == 0.0)
    });
    let metrics = Metrics::scrape(&server);
    let counted = by_reason(&metrics);
    println!("counted {counted:?}");
    let accepted: f64 =
        [0, 1].iter().map(|shard| metrics.get(&format!("ringpost_connections_total{{shard=\"{shard}\"}}"))).sum();
    assert_eq!(counted.values().sum::<u64>(), accepted as u64, "each connection has one reason");
    let rude = expected.remove(&None).unwrap_or(0);
    assert!(expected.len() == 6, "every kind of garbage was sent: {expected:?}");
    // The rest are the clients that did not wait, which may be counted by any reason, and the good load.
    let mut rest = counted.clone();
    for (reason, count) in expected {
        let reason = reason.unwrap();
        let left = counted.get(reason).copied().unwrap_or(0).checked_sub(count);
        rest.insert(reason.to_owned(), left.unwrap_or_else(|| panic!("{count} times {reason}, but {counted:?}")));
    }
    let good = accepted as u64 - connections;
    assert_eq!(rest.values().sum::<u64>(), rude + good, "{rest:?}");
    for reason in ["panicked", "frame_timeout", "idle_timeout", "write_timeout", "keepalive"] {
        assert!(!counted.contains_key(reason), "{counted:?}");
    }

    // Fewer, if a scrape was still open before.
    wait_until("every descriptor is released", || server.open_files() <= files_before);
    let grown = server.memory().saturating_sub(memory_on_the_way);
    println!("resident memory grew by {grown} in the second half");
    assert!(grown < 2 << 20, "resident memory grew by {grown} in the second half");
    for shard in [0, 1] {
        assert_eq!(metrics.get(&format!("ringpost_buffer_bytes{{shard=\"{shard}\"}}")), 0.0);
    }
    let (rate, p99_us) = median(&with);
    println!(
        "good load: {:.0}/s, p99 {:.0} us without; {rate:.0}/s, p99 {p99_us:.0} us with",
        without.rate, without.p99_us
    );
    // The clients use every CPU. If a shard stopped for one of them, the good load would still show it.
    assert!(rate >= 0.95 * RATE, "{with:?}");
    assert!(p99_us < 50_000.0, "{with:?}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert!(server.stop().status.success());
}

fn median(rounds: &[Load]) -> (f64, f64) {
    let middle = |value: fn(&Load) -> f64| {
        let mut values: Vec<_> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    (middle(|load| load.rate), middle(|load| load.p99_us))
}
