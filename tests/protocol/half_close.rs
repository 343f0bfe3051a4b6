//! A client that half-closes after its last request gets every remaining ack, then a clean end.

use std::io::Write;
use std::net::Shutdown;

use crate::common::{Server, expect_acks, expect_clean_end, submit};

#[test]
fn acks_come_after_the_clients_fin() {
    let server = Server::start(&[]);
    for count in [0, 1, 5_000] {
        let mut stream = server.connect();
        let frames: Vec<u8> = (0..count).flat_map(|id| submit(id, b"last words")).collect();
        stream.write_all(&frames).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        expect_acks(&mut stream, 0..count);
        expect_clean_end(&mut stream);
    }
}

#[test]
fn a_fin_inside_a_frame_discards_the_part_and_whole_frames_are_acked() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let mut bytes = submit(1, b"whole");
    bytes.extend_from_slice(&submit(2, b"cut short")[..15]);
    stream.write_all(&bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    expect_acks(&mut stream, [1]);
    expect_clean_end(&mut stream);
    let ended = server.stop();
    assert!(ended.log.contains("violations=\"truncated_frame=1\""), "{}", ended.log);
}
