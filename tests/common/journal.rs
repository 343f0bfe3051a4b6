//! Journals written by the library on plain files, for tests of the commands that read them.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringpost::journal::dir::claim;
use ringpost::journal::{FileStorage, Storage, Writer, WriterOptions};
use ringpost::proto::{AckResult, Id};
use tokio::task::LocalSet;

pub fn options() -> WriterOptions {
    WriterOptions::default()
        .segment_len(64 << 10)
        .commit_len_max(16 << 10)
        .min_free(0)
        .space_interval(Duration::from_millis(20))
}

/// Runs a task as a shard would.
pub fn run<T>(task: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    LocalSet::new().block_on(&runtime, task)
}

/// Adds a writer with one commit for each batch of these connections and payloads. Without `close`, the writer ends
/// like that of a killed server.
pub fn write(data_dir: &Path, batches: &[Vec<(u64, Vec<u8>)>], close: bool) -> PathBuf {
    let made = claim(data_dir, 1, true).unwrap().pop().unwrap();
    run(async {
        let writer = Writer::open(FileStorage::new(&made.path).unwrap(), made.id, 77, options(), ()).await.unwrap();
        let mut number = 0;
        for batch in batches {
            for (connection, payload) in batch {
                let mut appender = writer.appender(*connection, "192.0.2.1:80".parse().unwrap());
                let mut batch = appender.ready().await;
                number += 1;
                assert_eq!(batch.stage(Id::from_number(number), payload), AckResult::Success);
            }
            durable(&writer).await;
        }
        if close {
            writer.close().await.unwrap();
        }
    });
    made.path.clone()
}

/// Waits until every staged message is durable.
async fn durable<S: Storage>(writer: &Writer<S>) {
    while writer.stats().oldest.is_some() {
        tokio::task::yield_now().await;
    }
}

/// Returns `ringpost journal WORDS --data-dir DIR`.
pub fn journal(words: &str, data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
    command.arg("journal").args(words.split_whitespace()).arg("--data-dir").arg(data_dir);
    command
}
