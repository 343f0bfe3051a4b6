//! Options of `serve` that no other file tests do what their help says.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::admin::Metrics;
use crate::common::{Server, expect_acks, ringpost, round_trip, run, submit, wait_until};

/// Returns the CPUs that each shard's thread may run on.
fn cpus_of_shards(server: &Server) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().flatten();
    let statuses = tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap());
    let of_shards = statuses.filter(|status| status.contains("Name:\tshard-"));
    of_shards
        .map(|status| status.split("Cpus_allowed_list:\t").nth(1).unwrap().lines().next().unwrap().into())
        .collect()
}

#[test]
fn pinned_shards_have_a_cpu_of_their_own() {
    let cpus = thread::available_parallelism().unwrap().to_string();
    let all = cpus_of_shards(&Server::start(&["--workers", &cpus]));
    let pinned = cpus_of_shards(&Server::start(&["--workers", &cpus, "--pin"]));
    assert_eq!(pinned.len(), all.len());
    assert!(pinned.iter().all(|list| list.parse::<usize>().is_ok()), "one CPU each: {pinned:?}");
    assert_eq!(pinned.iter().collect::<BTreeSet<_>>().len(), pinned.len(), "two shards have the same CPU: {pinned:?}");
    if pinned.len() > 1 {
        assert!(all.iter().all(|list| list.parse::<usize>().is_err()), "without --pin: {all:?}");
    }
}

#[test]
fn a_busy_connection_does_not_exceed_its_read_buffer_limit() {
    let held = |options: &[&str]| {
        let server = Server::start(&[&["--workers", "1", "--admin", "127.0.0.1:0"], options].concat());
        let mut stream = server.connect();
        let frames: Vec<u8> = (0..500).flat_map(|id| submit(id, &[7; 1000])).collect();
        stream.write_all(&frames).unwrap();
        expect_acks(&mut stream, 0..500);
        // A frame larger than the buffer is accepted.
        stream.write_all(&submit(500, &[7; 200_000])).unwrap();
        expect_acks(&mut stream, [500]);
        // The buffer is kept while a frame is incomplete.
        stream.write_all(&submit(501, &[7; 3000])[..2900]).unwrap();
        wait_until("everything has arrived", || {
            Metrics::scrape(&server).get("ringpost_received_bytes_total") > 709_400.0
        });
        Metrics::scrape(&server).get("ringpost_buffer_bytes{shard=\"0\"}")
    };
    let (small, usual) = (held(&["--read-buffer", "4KiB"]), held(&[]));
    println!("buffers used {small} bytes with 4KiB, {usual} by default");
    // The memory for the acks of what the buffer held is counted too.
    assert!((2900.0..10_000.0).contains(&small), "{small}");
    assert!(usual > 60_000.0, "{usual}");
}

#[test]
fn binding_an_address_in_use_is_retried_for_the_configured_time() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let serve = |retry| ringpost(&["serve", "--workers", "2", "--listen", &address, "--bind-retry", retry]);
    assert_eq!(run(serve("0")).status.code(), Some(1));
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        drop(holder);
    });
    let start = Instant::now();
    let server = Server::spawn(serve("15s"), 1);
    assert!(start.elapsed() > Duration::from_millis(500), "{:?}", start.elapsed());
    round_trip(&mut server.connect(), 1);
}

#[test]
fn a_closed_connection_is_read_up_to_the_configured_bytes() {
    let is_closed_soon = |bytes| {
        let options = ["--workers", "1", "--admin", "127.0.0.1:0", "--linger-timeout", "60s", "--linger-bytes", bytes];
        let server = Server::start(&options);
        let mut stream = server.connect();
        // No frame is so short. The rest is what a client may send before it notices the close.
        stream.write_all(&[0; 13]).unwrap();
        server.wait_for_log("length_too_small");
        let _ = stream.write_all(&vec![0; 256 << 10]);
        let is_closed = || Metrics::scrape(&server).get("ringpost_connections_open{shard=\"0\"}") == 0.0;
        let start = Instant::now();
        while !is_closed() && start.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(20));
        }
        is_closed()
    };
    assert!(is_closed_soon("64KiB"));
    assert!(!is_closed_soon("16MiB"));
}

#[test]
fn a_ring_has_the_configured_entries_and_serves_more_connections() {
    let server = Server::start(&["--engine", "uring", "--workers", "1", "--ring-entries", "8", "--accepts", "2"]);
    let masks = || {
        let rings = fs::read_dir(format!("/proc/{}/fdinfo", server.pid())).unwrap().flatten();
        let infos = rings.filter_map(|ring| fs::read_to_string(ring.path()).ok());
        infos.filter_map(|info| Some(info.split("SqMask:\t").nth(1)?.lines().next()?.to_owned())).collect::<Vec<_>>()
    };
    // The kernel omits the line while the ring is in use.
    wait_until("the ring has 8 entries", || masks() == ["0x7"]);
    let mut streams: Vec<_> = (0..100).map(|_| server.connect()).collect();
    for id in 0..3 {
        streams.iter_mut().for_each(|stream| stream.write_all(&submit(id, b"payload")).unwrap());
        streams.iter_mut().for_each(|stream| expect_acks(stream, [id]));
    }
}

/// If a `\\` is missing at the end of a line of a string, the next line's indentation is part of the text.
#[test]
fn no_message_has_a_run_of_spaces_in_its_middle() {
    fn files(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                files(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 100);
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        let messages = text.lines().take_while(|line| *line != "mod tests {");
        for (number, line) in messages.enumerate() {
            let code = line.trim_start();
            // rustfmt leaves no such run of spaces in code, so it is in a string or a comment. Comments may hold
            // tables.
            let words: Vec<&str> = code.split("   ").filter(|words| !words.trim().is_empty()).collect();
            let is_text = |text: &str, at_end: bool| {
                let text = text.trim();
                let edge = if at_end { text.chars().last() } else { text.chars().next() };
                // An indentation after `\n` is intended.
                !(at_end && text.ends_with("\\n"))
                    && edge.is_some_and(|edge| edge.is_ascii_alphabetic() || (at_end && ",.;:".contains(edge)))
            };
            let breaks = words.windows(2).any(|pair| is_text(pair[0], true) && is_text(pair[1], false));
            assert!(code.starts_with("//") || !breaks, "{}:{}: {code}", path.display(), number + 1);
        }
    }
}
