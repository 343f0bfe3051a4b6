//! Every conversation of `tests/vectors` is answered byte for byte by a server with a journal, sent whole and byte by
//! byte. Every acked message is in the journal.

use std::io::Write;

use crate::common::kept::{cat, expect_sound, serve};
use crate::common::vectors::{Step, converse, piece, vectors};

/// Returns how many SUBMITs a conversation has acked with 0.
fn acked(steps: &[Step]) -> usize {
    let acks =
        steps.iter().flat_map(|step| if let Step::Expect(bytes) = step { bytes.chunks(14).collect() } else { vec![] });
    acks.filter(|ack| ack[4] == 0x82 && ack[13] == 0).count()
}

fn check(workers: &str) {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), &format!("--workers {workers}"));
    let mut expected = 0;
    for (name, steps) in vectors() {
        converse(&server, &name, &steps, |stream, bytes| stream.write_all(bytes).unwrap());
        converse(&server, &name, &steps, |stream, bytes| {
            for byte in bytes {
                piece(stream, &[*byte]);
            }
        });
        expected += 2 * acked(&steps);
        assert_eq!(cat(dir.path()).len(), expected, "{name}");
    }
    assert!(expected > 10, "{expected}");
    assert!(server.stop().status.success());
    expect_sound(dir.path());
}

#[test]
fn one_shard_with_a_journal_answers_every_vector() {
    check("1");
}

#[test]
fn two_shards_with_journals_answer_every_vector() {
    check("2");
}
