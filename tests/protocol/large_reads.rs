//! Connections that send much in a short time are read through a shared buffer. Every message arrives as it was sent,
//! whatever part of a frame is at the end of a read.

use crate::common::journal::journal;
use crate::common::{Server, ringpost, run};

/// Sizes from a few frames in one read to a few reads for one frame, and sizes at which connections change from the
/// shared buffer to their own.
const PAYLOADS: [&str; 4] = ["16384", "24..3000", "24..60000", "24..300000"];

#[test]
fn large_reads_journal_messages_of_many_sizes_as_they_were_sent() {
    for payload in PAYLOADS {
        let dir = tempfile::tempdir().unwrap();
        let (data, ledger) = (dir.path().join("data"), dir.path().join("ledger"));
        let server = Server::start(&["--workers", "1", "--data-dir", data.to_str().unwrap()]);
        let address = server.address().to_string();
        let mut command = ringpost(&["bench", "--addr", &address, "--duration", "700ms", "--warmup", "0s"]);
        command.args(["--connections", "5", "--window", "16", "--payload", payload, "--ledger"]).arg(&ledger);
        let ended = run(command);
        assert!(ended.status.success(), "{payload}: {}{}", ended.stdout, ended.log);
        assert_eq!(server.stop().status.code(), Some(0));
        let mut command = journal("check", &data);
        command.arg("--ledger").arg(&ledger);
        let ended = run(command);
        assert!(ended.status.success(), "{payload}: {}{}", ended.stdout, ended.log);
        let acked = |word: &str| word.split(' ').next().and_then(|count| count.parse::<u64>().ok());
        let acked = ended.stdout.split(", ").find(|part| part.ends_with(" acked")).and_then(acked);
        assert!(acked.is_some_and(|acked| acked >= 100), "{payload}: {}", ended.stdout);
        println!("{payload}: {}", ended.stdout);
    }
}
