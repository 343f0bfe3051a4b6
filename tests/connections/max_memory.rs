//! At `--max-memory`, connections wait for each other and none is closed. Every frame is acked in the end, and the
//! buffers never use more than the limit.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::admin::Metrics;
use crate::common::requirement::CONTROL_GROUPS;
use crate::common::{Server, expect_acks, expect_clean_end, round_trip, run, submit, wait_until};

const MIB: u64 = 1 << 20;
const HELD: &str = "ringpost_buffer_bytes{shard=\"0\"}";
const WAITS: &str = "ringpost_memory_waits_total{shard=\"0\"}";

fn start(options: &[&str]) -> Server {
    Server::start(&[&["--workers", "1", "--admin", "127.0.0.1:0"], options].concat())
}

/// Watches the buffers while `work` runs, and returns the most memory that they used.
fn most_held_during(server: &Server, work: impl FnOnce()) -> f64 {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most: f64 = 0.0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(Metrics::scrape(server).get(HELD));
                thread::sleep(Duration::from_millis(2));
            }
            most
        });
        // A failure must end the watch too, because the scope waits for it.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let most = watch.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        most
    })
}

#[test]
fn two_hundred_large_frames_share_little_memory() {
    const CONNECTIONS: u64 = 200;
    let server = start(&["--max-memory", "8MiB", "--frame-timeout", "2s"]);
    assert_eq!(Metrics::scrape(&server).get("ringpost_buffer_limit_bytes{shard=\"0\"}"), (8 * MIB) as f64);
    let resident_before = server.memory();
    let frame = submit(7, &vec![1; MIB as usize - 13]);
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    let mut bystander = server.connect();
    let most = most_held_during(&server, || {
        // All clients begin. Together they have sent 13 MiB before any frame can be complete.
        let (begin, rest) = frame.split_at(64 << 10);
        for stream in &mut streams {
            stream.write_all(begin).unwrap();
        }
        wait_until("many connections wait", || Metrics::scrape(&server).get(WAITS) > 20.0);
        // Small frames need only the small buffer, and don't wait.
        round_trip(&mut bystander, 1);
        thread::scope(|scope| {
            for (stream, index) in streams.iter_mut().zip(0..) {
                scope.spawn(move || {
                    for piece in rest.chunks(32 << 10) {
                        stream.write_all(piece).unwrap_or_else(|error| panic!("connection {index}: {error}"));
                        thread::sleep(Duration::from_millis(15));
                    }
                    expect_acks(stream, [7]);
                });
            }
        });
    });
    let metrics = Metrics::scrape(&server);
    let resident = server.memory().saturating_sub(resident_before);
    println!(
        "at most {:.2} MiB held, {} waits, resident +{:.2} MiB",
        most / MIB as f64,
        metrics.get(WAITS),
        resident as f64 / MIB as f64
    );
    assert!(most <= (8 * MIB) as f64, "{most} bytes held");
    // The buffers are observed only from time to time.
    assert!(most >= (2 * MIB) as f64, "the limit is used: {most}");
    assert_eq!(metrics.counted("ringpost_connections_closed_total"), [""; 0], "{}", server.log());
    assert_eq!(metrics.get("ringpost_acks_total{result=\"success\"}"), CONNECTIONS as f64 + 1.0);
    server.wait_for_log("a connection waits");
    drop(streams);
    drop(bystander);
    wait_until("all memory is released", || Metrics::scrape(&server).get(HELD) == 0.0);
    assert!(server.stop().status.success());
}

/// A connection whose buffers have grown and that is silent now.
fn busy_once(server: &Server) -> TcpStream {
    let mut stream = server.connect();
    let frames: Vec<u8> = (0..4000).flat_map(|id| submit(id, b"a burst of small frames")).collect();
    let mut reader = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || reader.read_exact(&mut vec![0; 4000 * 14]).unwrap());
        stream.write_all(&frames).unwrap();
    });
    stream
}

#[test]
fn idle_connections_release_memory_that_others_wait_for() {
    let server = start(&["--max-memory", "4MiB"]);
    let mut idle: Vec<_> = (0..40).map(|_| busy_once(&server)).collect();
    let held = || Metrics::scrape(&server).get(HELD);
    let held_idle = held();
    assert!(held_idle > MIB as f64, "{held_idle} bytes held by idle connections");
    // Two connections need all the memory. The slow one keeps the reserve.
    let frame = submit(1, &vec![1; MIB as usize - 13]);
    let (mut slow, mut others) = (server.connect(), [server.connect(), server.connect(), server.connect()]);
    slow.write_all(&frame[..frame.len() - 1]).unwrap();
    for stream in &mut others {
        stream.write_all(&frame).unwrap();
        expect_acks(stream, [1]);
    }
    slow.write_all(&frame[frame.len() - 1..]).unwrap();
    expect_acks(&mut slow, [1]);
    println!("{held_idle} bytes held by idle connections, {} later", held());
    for stream in &mut idle {
        round_trip(stream, 1);
    }
    assert_eq!(Metrics::scrape(&server).counted("ringpost_connections_closed_total"), [""; 0]);
}

#[test]
fn the_frame_timeout_does_not_run_while_a_connection_waits() {
    const STEP: Duration = Duration::from_millis(500);
    let server =
        start(&["--max-memory", "2MiB", "--write-timeout", "0", "--frame-timeout", "1500ms", "--min-rate", "0"]);
    // Clients that do not read their acks hold all memory except the reserve.
    let deaf: Vec<_> = (0..6).map(|_| server.connect()).collect();
    let frames: Vec<u8> = (0..1000).flat_map(|id| submit(id, b"")).collect();
    for mut stream in &deaf {
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut at = 0;
        while let Ok(count) = stream.write(&frames[at..]) {
            at = (at + count) % frames.len();
        }
    }
    // Each connection gets the reserve for one step, so that the last one waits longer than the timeout.
    let frame = submit(1, &vec![1; MIB as usize - 13]);
    let (begin, end) = frame.split_at(frame.len() - 1);
    let mut streams: Vec<_> = (0..6).map(|_| server.connect()).collect();
    for (stream, index) in streams.iter_mut().zip(0..) {
        stream.write_all(begin).unwrap();
        wait_until("the connection waits", || Metrics::scrape(&server).get(WAITS) > f64::from(index));
    }
    for stream in &mut streams {
        thread::sleep(STEP);
        stream.write_all(end).unwrap();
        expect_acks(stream, [1]);
    }
    let metrics = Metrics::scrape(&server);
    assert_eq!(metrics.counted("ringpost_connections_closed_total"), [""; 0], "{}", server.log());
    assert_eq!(metrics.get(WAITS), 6.0, "each connection waited once");
}

#[test]
fn a_drain_ends_connections_that_wait_for_memory() {
    let server = start(&["--max-memory", "2MiB", "--drain-timeout", "3s", "--linger-timeout", "300ms"]);
    let frame = submit(1, &vec![1; MIB as usize - 13]);
    let mut part: Vec<_> = (0..6).map(|_| server.connect()).collect();
    for stream in &mut part {
        stream.write_all(&frame[..600 << 10]).unwrap();
    }
    wait_until("some connections wait", || Metrics::scrape(&server).get(WAITS) > 2.0);
    let ended = server.stop();
    assert!(ended.status.success(), "{}", ended.log);
    assert!(!ended.log.contains("still open after the drain"), "{}", ended.log);
    for stream in &mut part {
        // No ack is unsent for these connections. Each of them is closed, whether or not the server has read what it
        // sent.
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
}

#[test]
fn zero_means_no_memory_limit_and_too_little_is_refused() {
    let server = start(&["--max-memory", "0"]);
    let mut stream = server.connect();
    stream.write_all(&submit(1, &vec![1; MIB as usize - 13])).unwrap();
    expect_acks(&mut stream, [1]);
    assert_eq!(Metrics::scrape(&server).get("ringpost_buffer_limit_bytes{shard=\"0\"}"), 0.0);
    drop(stream.shutdown(Shutdown::Write));
    expect_clean_end(&mut stream);
    let refused = run(crate::common::ringpost(&["serve", "--workers", "4", "--max-memory", "7MiB"]));
    assert_eq!(refused.status.code(), Some(2), "{}", refused.log);
    assert!(refused.log.contains("--max-memory 7340032: 4 shards need at least 8388608 bytes"), "{}", refused.log);
}

/// Clients that read slowly hold the memory, and one that sends slowly holds the reserve. The write and frame timeouts
/// don't end these connections.
#[test]
fn slow_connections_that_hold_memory_are_closed_for_one_that_waits() {
    let options = ["--max-memory", "2MiB", "--write-timeout", "10m", "--frame-timeout", "10m"];
    let server = start(&options);
    let frames: Vec<u8> = (0..1000).flat_map(|id| submit(id, b"")).collect();
    let mut readers: Vec<_> = (0..6).map(|_| server.connect()).collect();
    for stream in &mut readers {
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut at = 0;
        while let Ok(count) = stream.write(&frames[at..]) {
            at = (at + count) % frames.len();
        }
    }
    let frame = submit(1, &vec![1; MIB as usize - 13]);
    let mut dripper = server.connect();
    dripper.write_all(&frame[..600 << 10]).unwrap();
    wait_until("the connection waits or has the reserve", || Metrics::scrape(&server).get(WAITS) > 0.0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for byte in frame[600 << 10..].iter() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                // Writes to connections that the server has closed fail.
                let _ = dripper.write_all(&[*byte]);
                for stream in &mut readers {
                    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
                    let _ = stream.read(&mut [0; 100]);
                }
                thread::sleep(Duration::from_millis(200));
            }
        });
        let mut good = server.connect();
        good.write_all(&frame).unwrap();
        let mut ack = [0; 14];
        let acked = good.read_exact(&mut ack);
        done.store(true, Ordering::Relaxed);
        acked.expect("the frame is acked, although slow clients hold the memory");
        assert_eq!(ack, crate::common::submit_ack(1, 0));
    });
    let closed = Metrics::scrape(&server).counted("ringpost_connections_closed_total");
    assert!(closed.iter().any(|closed| closed.contains("too_slow")), "{closed:?}");
    assert!(server.log().contains("--min-rate"), "{}", server.log());
}

/// A control group with a memory limit. It is removed on drop.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// Creates a group. Returns `None` without root or without the controller.
    fn new(limit: u64) -> Option<MemoryGroup> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringpost-memory-{}-{number}", std::process::id());
        let v1 = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.swappiness");
        let v2 = ("/sys/fs/cgroup", "memory.max", "memory.swap.max");
        for (root, file, swap) in [v1, v2] {
            let path = Path::new(root).join(&name);
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let group = MemoryGroup(path);
            if fs::write(group.0.join(file), limit.to_string()).is_ok() {
                let _ = fs::write(group.0.join(swap), "0");
                return Some(group);
            }
        }
        CONTROL_GROUPS.missing("no group with a limit of memory can be made");
        None
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_defaults_fit_into_a_control_group_with_little_memory() {
    const CLIENTS: usize = 300;
    let Some(group) = MemoryGroup::new(200 * MIB) else { return };
    let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", crate::common::BINARY, "serve", "--workers", "2", "--listen", "127.0.0.1:0"]);
    let server = Server::spawn(command, 1);
    server.wait_for_log("defaults that fit the limit of the control group");
    assert!(!server.log().contains("WARN"), "{}", server.log());
    let frame = submit(1, &vec![1; MIB as usize - 13]);
    let mut streams: Vec<_> = (0..CLIENTS).map(|_| (server.connect(), 0)).collect();
    // Each client sends its frame without the last byte, as far as the server reads it, until no client makes progress.
    let mut moved = Instant::now();
    while moved.elapsed() < Duration::from_secs(1) {
        for (stream, at) in &mut streams {
            stream.set_nonblocking(true).unwrap();
            if let Ok(count @ 1..) = stream.write(&frame[*at..frame.len() - 1]) {
                *at += count;
                moved = Instant::now();
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    round_trip(&mut server.connect(), 7);
    drop(streams);
    let ended = server.stop();
    assert!(ended.status.success(), "{:?}: {}", ended.status, ended.log);
}

#[test]
fn options_beyond_the_limit_of_the_control_group_cause_a_warning_and_are_used() {
    let Some(group) = MemoryGroup::new(200 * MIB) else { return };
    let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let mut command = Command::new("sh");
    let options = ["serve", "--workers", "1", "--max-memory", "1GiB", "--admin", "127.0.0.1:0"];
    command.args(["-c", &script, "sh", crate::common::BINARY]).args(options).args(["--listen", "127.0.0.1:0"]);
    let server = Server::spawn(command, 1);
    server.wait_for_log("the options allow more memory than the limit of the control group");
    assert_eq!(Metrics::scrape(&server).get("ringpost_buffer_limit_bytes{shard=\"0\"}"), (1024 * MIB) as f64);
    assert!(server.stop().status.success());
}
