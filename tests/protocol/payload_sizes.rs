//! Payloads of 0 bytes, 1 byte and the largest size are accepted. One byte more is refused as soon as the frame's head
//! has arrived.

use std::io::{Read, Write};

use crate::common::{Server, expect_acks, expect_clean_end, submit, submit_ack};

const FRAME_LEN_MAX: usize = 1 << 20;

#[test]
fn the_largest_frame_is_accepted_and_one_byte_more_is_refused() {
    let server = Server::start(&["--workers", "1"]);
    let mut stream = server.connect();
    for (id, len) in [0, 1, 1011, 1012, 65_523, 65_524, FRAME_LEN_MAX - 13].into_iter().enumerate() {
        stream.write_all(&submit(id as u64, &vec![7; len])).unwrap();
        expect_acks(&mut stream, [id as u64]);
    }
    let too_large = submit(99, &vec![7; FRAME_LEN_MAX - 12]);
    stream.write_all(&too_large[..13]).unwrap();
    let mut ack = [0; 14];
    stream.read_exact(&mut ack).unwrap();
    assert_eq!(ack, submit_ack(99, 1));
    expect_clean_end(&mut stream);
    let ended = server.stop();
    assert!(ended.log.contains("frame_too_large=1"), "{}", ended.log);
}

#[test]
fn the_largest_payload_can_be_set() {
    let server = Server::start(&["--workers", "1", "--max-frame", "20"]);
    let mut stream = server.connect();
    stream.write_all(&submit(1, b"seven b")).unwrap();
    expect_acks(&mut stream, [1]);
    stream.write_all(&submit(2, b"eight by")).unwrap();
    let mut ack = [0; 14];
    stream.read_exact(&mut ack).unwrap();
    assert_eq!(ack, submit_ack(2, 1));
    expect_clean_end(&mut stream);
}
