//! Embeds a journal in a program: appends messages with group commit, waits until they are durable, closes the writer,
//! and reads everything back.
//!
//! ```sh
//! cargo run --example embed_journal -- /tmp/embedded-journal
//! ```
//!
//! Each run adds a writer to the journal, and prints how many messages the journal holds then.

use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

use ringpost::journal::dir::claim;
use ringpost::journal::{Appender, FileStorage, Reader, ReaderOptions, Settled, Writer, WriterOptions};
use ringpost::proto::{AckResult, Id};
use tokio::task::LocalSet;

fn main() -> Result<(), Box<dyn Error>> {
    let data_dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: embed_journal DIRECTORY")?);
    // A writer and its appenders live on one thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    LocalSet::new().block_on(&runtime, write(&data_dir))?;
    let messages = Reader::open(&data_dir, ReaderOptions::default())?.try_fold(0, |count, record| {
        let record = record?;
        println!("{} {}", record.position, String::from_utf8_lossy(&record.payload));
        Ok::<u64, Box<dyn Error>>(count + 1)
    })?;
    println!("{messages} messages");
    Ok(())
}

async fn write(data_dir: &Path) -> Result<(), Box<dyn Error>> {
    // The claim makes a directory for one writer, and holds its lock until it is dropped.
    let claimed = claim(data_dir, 1, false)?.remove(0);
    let storage = FileStorage::new(&claimed.path)?;
    // Preallocating a segment needs that much space. 4 MiB suffice for an example.
    let options = WriterOptions::default().segment_len(4 << 20).commits_in_flight(1);
    let salt = RandomState::new().build_hasher().finish();
    let writer = Writer::open(storage, claimed.id, salt, options, ()).await?;

    // Each producer has an appender. The address and the number of the connection are stored with its records.
    let producers: Vec<_> = (0..3)
        .map(|number| {
            let appender = writer.appender(number, ([127, 0, 0, 1], 0).into());
            tokio::task::spawn_local(produce(appender, number))
        })
        .collect();
    for producer in producers {
        producer.await?.map_err(|failed| format!("{failed} messages are not durable: {:?}", writer.condition()))?;
    }
    writer.close().await?;
    Ok(())
}

/// Appends two batches, and waits until each is durable. All producers share the commits. An error is the number of
/// messages that are not durable.
async fn produce(mut appender: Appender<FileStorage>, producer: u64) -> Result<(), u64> {
    for batch in 0..2 {
        let mut failed = 0;
        {
            let mut records = appender.ready().await;
            for number in 0..4 {
                let payload = format!("producer {producer}, batch {batch}, message {number}");
                if records.stage(Id::from_number(number), payload.as_bytes()) == AckResult::Failure {
                    failed += 1;
                }
            }
        }
        // A batch may be in more than one commit.
        while !appender.is_settled() {
            let Settled { failed: not_durable, .. } = appender.settle().await;
            failed += not_durable;
        }
        if failed > 0 {
            return Err(failed);
        }
    }
    Ok(())
}
