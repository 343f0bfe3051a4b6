//! Random conversations, cut at random places, are answered exactly as a naive model predicts.
//!
//! A failed test prints its seed. `RINGPOST_TEST_SEED` repeats it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, SystemTime};
use std::{env, thread};

use crate::common::Server;
use crate::common::random::Random;

const FRAME_LEN_MAX: u32 = 300;

/// Returns mostly whole valid frames, and now and then an invalid one or a part of one.
fn random_stream(random: &mut Random) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..random.below(60) {
        let payload_len = if random.below(4) == 0 { random.below(289) } else { random.below(40) };
        let len = match random.below(120) {
            0 => random.below(14) as u32,
            1 => FRAME_LEN_MAX - 1 + random.below(4) as u32,
            2 => random.next() as u32,
            _ => 13 + payload_len as u32,
        };
        stream.extend_from_slice(&len.to_be_bytes());
        stream.push(if random.below(100) == 0 { random.next() as u8 } else { 1 + random.below(2) as u8 });
        stream.extend(random.bytes(8 + payload_len));
    }
    if random.below(4) == 0 {
        stream.truncate(random.below(stream.len() as u64 + 1) as usize);
    }
    stream
}

/// Returns what a server that accepts every message must answer before it closes.
fn naive_answer(mut stream: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    while stream.len() >= 13 {
        let len = u32::from_be_bytes([stream[0], stream[1], stream[2], stream[3]]);
        let command = stream[4];
        if len < 13 || (command != 1 && command != 2) {
            break;
        }
        let result = u8::from(len > FRAME_LEN_MAX);
        if result == 0 && stream.len() < len as usize {
            break;
        }
        answer.extend_from_slice(&[0, 0, 0, 14, command + 0x80]);
        answer.extend_from_slice(&stream[5..13]);
        answer.push(result);
        if result == 1 {
            break;
        }
        stream = &stream[len as usize..];
    }
    answer
}

/// Sends `stream` in random pieces, half-closes, and returns the whole answer.
fn converse(server: &Server, stream: &[u8], random: &mut Random) -> Vec<u8> {
    let mut socket = server.connect();
    let mut rest = stream;
    while !rest.is_empty() {
        let longest = if random.below(2) == 0 { 20 } else { 2000 };
        let (piece, behind) = rest.split_at((1 + random.below(longest) as usize).min(rest.len()));
        // The server continues to read for a while after it has stopped answering, so this does not fail.
        socket.write_all(piece).unwrap();
        rest = behind;
        if random.below(8) == 0 {
            thread::sleep(Duration::from_micros(random.below(300)));
        }
    }
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("a clean end");
    answer
}

#[test]
fn random_conversations_are_answered_as_the_model_predicts() {
    let seed = match env::var("RINGPOST_TEST_SEED") {
        Ok(seed) => seed.parse().expect("RINGPOST_TEST_SEED is a number"),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    println!("RINGPOST_TEST_SEED={seed}");
    let server = Server::start(&["--workers", "2", "--max-frame", &FRAME_LEN_MAX.to_string()]);
    let (mut acks, mut broken) = (0, 0);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let server = &server;
                scope.spawn(move || {
                    let mut random = Random(seed.wrapping_add(client));
                    let mut counts = (0, 0);
                    for round in 0..250 {
                        let stream = random_stream(&mut random);
                        let expected = naive_answer(&stream);
                        let answer = converse(server, &stream, &mut random);
                        assert!(answer == expected, "client {client}, round {round}: {answer:x?}, not {expected:x?}");
                        counts.0 += expected.len() / 14;
                        counts.1 += usize::from(expected.ends_with(&[1]));
                    }
                    counts
                })
            })
            .collect();
        for client in clients {
            let counts = client.join().unwrap();
            acks += counts.0;
            broken += counts.1;
        }
    });
    assert!(
        acks > 5000 && broken > 10,
        "the streams have too little variety: {acks} acks, {broken} frames over the limit"
    );
    assert!(server.stop().status.success());
}
