//! Pipelined frames. Every ack arrives in order and with its ID, however many requests a client has in flight.

use std::io::Write;
use std::net::Shutdown;
use std::thread;

use crate::common::random::Random;
use crate::common::{Server, expect_acks, expect_clean_end, round_trip, submit};

#[test]
fn a_hundred_thousand_pipelined_frames_are_each_acked() {
    const FRAMES: u64 = 100_000;
    let server = Server::start(&["--workers", "1"]);
    let mut stream = server.connect();
    let mut sender = stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        // Payloads of 0 to 99 bytes, in writes that end anywhere in a frame.
        let frames: Vec<u8> = (0..FRAMES).flat_map(|id| submit(id, &vec![b'x'; id as usize % 100])).collect();
        for part in frames.chunks(7919) {
            sender.write_all(part).unwrap();
        }
        sender.shutdown(Shutdown::Write).unwrap();
    });
    expect_acks(&mut stream, 0..FRAMES);
    expect_clean_end(&mut stream);
    sending.join().unwrap();
    let ended = server.stop();
    assert!(ended.log.contains("requests=100000 failures=0"), "{}", ended.log);
}

/// With a journal, acks become known in batches of many sizes. A client that never gets its ack fails by its read
/// timeout.
#[test]
fn successive_windows_of_any_size_are_acked_and_so_is_another_client() {
    for engine in ["uring", "epoll"] {
        if engine == "uring" && !crate::common::has_rings() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().to_str().unwrap();
        let server = Server::start(&[
            "--workers",
            "1",
            "--engine",
            engine,
            "--segment-size",
            "8MiB",
            "--min-free",
            "0",
            "--data-dir",
            data_dir,
        ]);
        let mut stream = server.connect();
        let mut bystander = server.connect();
        let seed = 13;
        let mut random = Random(seed);
        let mut windows: Vec<u64> = [1, 4000].repeat(20);
        windows.extend([1, 1025, 1, 1026, 1, 2047, 1, 2048, 1, 2049, 1, 100_000]);
        windows.extend((0..20).map(|_| {
            let most = [2, 100, 3000, 30_000][random.below(4) as usize];
            1 + random.below(most)
        }));
        let mut id = 0;
        for window in windows {
            println!("{engine}, seed {seed}: a window of {window}");
            let frames: Vec<u8> = (id..id + window).flat_map(|id| submit(id, b"")).collect();
            let mut sender = stream.try_clone().unwrap();
            let sending = thread::spawn(move || sender.write_all(&frames).unwrap());
            expect_acks(&mut stream, id..id + window);
            sending.join().unwrap();
            id += window;
            round_trip(&mut bystander, id);
        }
        let ended = server.stop();
        assert!(ended.status.success(), "{}", ended.log);
    }
}
