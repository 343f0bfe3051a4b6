//! Each violation of the protocol closes its connection, is counted by its reason, is logged with the peer's address,
//! and affects no other connection.

use std::io::{Read, Write};

use crate::common::{Server, expect_acks, expect_clean_end, round_trip, submit};

#[test]
fn each_violation_is_counted_and_affects_no_other_connection() {
    let server = Server::start(&["--workers", "1"]);
    let mut bystander = server.connect();
    for (index, (bad, reason)) in [
        (&b"\0\0\0\x0c"[..], "length_too_small"),
        (b"\0\0\0\x0d\x03", "unknown_command"),
        (b"\0\0\0\x0e\x81", "ack_from_client"),
        (b"\x00\x10\x00\x01\x0212345678", "frame_too_large"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = server.connect();
        let mut bytes = submit(1, b"owed");
        bytes.extend_from_slice(bad);
        stream.write_all(&bytes).unwrap();
        // Bytes after the violation must not turn the close into a reset, which would destroy the ack.
        let _ = stream.write_all(&[0xee; 5000]);
        expect_acks_only(&mut stream, reason == "frame_too_large");
        let peer = stream.local_addr().unwrap();
        let line = format!("peer={peer} shard=0 reason=\"{reason}\"");
        server.wait_for_log(&line);
        round_trip(&mut bystander, index as u64);
    }
    let log = server.stop().log;
    assert!(log.contains("length_too_small=1 unknown_command=1 ack_from_client=1 frame_too_large=1"), "{log}");
}

fn expect_acks_only(stream: &mut std::net::TcpStream, refusal: bool) {
    let mut ack = [0; 14];
    stream.read_exact(&mut ack).unwrap();
    assert_eq!(ack, crate::common::submit_ack(1, 0));
    if refusal {
        stream.read_exact(&mut ack).unwrap();
        assert_eq!((ack[4], &ack[5..13], ack[13]), (0x82, &b"12345678"[..], 1));
    }
    expect_clean_end(stream);
}

#[test]
fn a_flood_of_violations_does_not_flood_the_log() {
    let server = Server::start(&["--workers", "1"]);
    for _ in 0..300 {
        let mut stream = server.connect();
        stream.write_all(b"\0\0\0\0").unwrap();
        expect_clean_end(&mut stream);
    }
    let log = server.stop().log;
    let lines = log.lines().filter(|line| line.contains("closing a connection")).count();
    assert!((10..=150).contains(&lines), "{lines} lines");
    assert!(log.contains("length_too_small=300"), "{log}");
}

#[test]
fn the_published_ack_codes_are_used_if_configured() {
    let server = Server::start(&["--ack-codes", "published"]);
    let mut stream = server.connect();
    stream.write_all(b"\0\0\0\x0d\x0112345678\0\0\0\x0d\x02abcdefgh").unwrap();
    let mut acks = [0; 28];
    stream.read_exact(&mut acks).unwrap();
    assert_eq!(&acks, b"\0\0\0\x0e\x8012345678\0\0\0\0\x0e\x81abcdefgh\0");
}

#[test]
fn a_request_in_an_earlier_read_than_a_violation_is_acked() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    stream.write_all(&submit(1, b"")).unwrap();
    expect_acks(&mut stream, [1]);
    stream.write_all(b"\0\0\0\x0d\xff").unwrap();
    expect_clean_end(&mut stream);
}
