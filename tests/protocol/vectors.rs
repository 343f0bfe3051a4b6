//! Every conversation of `tests/vectors` is answered byte for byte, however it is cut, with one shard and with two.

use std::io::Write;

use crate::common::Server;
use crate::common::vectors::{Step, converse, piece, vectors};

fn check(workers: &str) {
    let server = Server::start(&["--workers", workers]);
    for (name, steps) in vectors() {
        converse(&server, &name, &steps, |stream, bytes| stream.write_all(bytes).unwrap());
        converse(&server, &name, &steps, |stream, bytes| {
            for byte in bytes {
                piece(stream, &[*byte]);
            }
        });
        let longest =
            steps.iter().map(|step| if let Step::Send(bytes) = step { bytes.len() } else { 0 }).max().unwrap();
        for cut in 1..longest {
            converse(&server, &name, &steps, |stream, bytes| {
                let (head, tail) = bytes.split_at(cut.min(bytes.len()));
                piece(stream, head);
                piece(stream, tail);
            });
        }
    }
    assert!(server.stop().status.success());
}

#[test]
fn one_shard_answers_every_vector() {
    check("1");
}

#[test]
fn two_shards_answer_every_vector() {
    check("2");
}
