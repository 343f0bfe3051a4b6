//! A hundred thousand pipelined frames on one connection: every ack comes, in order, with its ID.

mod common;

use std::io::Write;
use std::net::Shutdown;
use std::thread;

use common::{Server, expect_acks, expect_clean_end, submit};

#[test]
fn a_hundred_thousand_pipelined_frames_are_each_acked() {
    const FRAMES: u64 = 100_000;
    let server = Server::start(&["--workers", "1"]);
    let mut stream = server.connect();
    let mut sender = stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        // Payloads of 0 to 99 bytes, in writes that end anywhere.
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
