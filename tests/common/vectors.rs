//! The conversations of `tests/vectors`: the bytes that a client sends, and the exact answers.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use super::{Server, expect_clean_end};

pub enum Step {
    Send(Vec<u8>),
    Expect(Vec<u8>),
    Closed,
}

pub fn vectors() -> Vec<(String, Vec<Step>)> {
    let mut files: Vec<_> = fs::read_dir("tests/vectors").unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "the vectors are there");
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let steps = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).map(step).collect();
        (path.display().to_string(), steps)
    };
    files.iter().map(read).collect()
}

fn step(line: &str) -> Step {
    if line.trim() == "= closed" {
        return Step::Closed;
    }
    let (direction, hex) = line.split_at(1);
    let digits: String = hex.split_whitespace().collect();
    let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect();
    match direction {
        ">" => Step::Send(bytes),
        "<" => Step::Expect(bytes),
        _ => panic!("not a step: {line}"),
    }
}

/// Holds one conversation. `send` writes a step's bytes, in pieces of any size.
pub fn converse(server: &Server, name: &str, steps: &[Step], mut send: impl FnMut(&mut TcpStream, &[u8])) {
    let mut stream = server.connect();
    for step in steps {
        match step {
            Step::Send(bytes) => send(&mut stream, bytes),
            Step::Expect(bytes) => {
                let mut got = vec![0; bytes.len()];
                stream.read_exact(&mut got).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(&got, bytes, "{name}");
            }
            Step::Closed => expect_clean_end(&mut stream),
        }
    }
    if !matches!(steps.last(), Some(Step::Closed)) {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        expect_clean_end(&mut stream);
    }
}

/// Writes one piece so that it arrives alone. The server may already have closed because of an earlier piece.
pub fn piece(stream: &mut TcpStream, bytes: &[u8]) {
    match stream.write_all(bytes) {
        Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => panic!("{error}"),
        _ => sleep(Duration::from_micros(300)),
    }
}
