//! Measures what the journal costs a shard apart from the disk: staging a batch, sealing its commit and returning the
//! outcome, on a storage that does nothing.

use std::io;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::journal::position::Durable;
use ringpost::journal::{Buffer, Prealloc, Storage, Writer, WriterId, WriterOptions};
use ringpost::proto::Id;
use tokio::task::LocalSet;

/// A storage that needs no time.
struct Nowhere;

impl Storage for Nowhere {
    type File = ();

    async fn create(&self, _: &str, _: u64, _: Prealloc) -> io::Result<()> {
        Ok(())
    }

    async fn write_at(&self, (): &(), _: u64, buffer: Buffer, from: usize) -> (io::Result<usize>, Buffer) {
        (Ok(buffer.len() - from), buffer)
    }

    async fn sync(&self, (): &()) -> io::Result<()> {
        Ok(())
    }

    async fn truncate(&self, (): &(), _: u64) -> io::Result<()> {
        Ok(())
    }

    async fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    async fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    async fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    async fn free_space(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    async fn publish(&self, _: Durable) -> io::Result<()> {
        Ok(())
    }
}

/// Stages a batch on each of 50 connections and waits for its outcome, `rounds` times.
fn run(rounds: u64, batch: u64, payload: &[u8]) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let writer = Writer::open(Nowhere, WriterId(1), 1, WriterOptions::default(), ()).await.unwrap();
        let began = Instant::now();
        let connections = (0..CONNECTIONS).map(|number| {
            let mut appender = writer.appender(number, "192.0.2.1:80".parse().unwrap());
            let payload = payload.to_vec();
            tokio::task::spawn_local(async move {
                for round in 0..rounds {
                    let mut records = appender.ready().await.received_at(round);
                    for id in 0..batch {
                        records.stage(Id::from_number(id), &payload);
                    }
                    assert_eq!(appender.settle().await.durable, batch);
                }
            })
        });
        for connection in connections.collect::<Vec<_>>() {
            connection.await.unwrap();
        }
        began.elapsed()
    })
}

const CONNECTIONS: u64 = 50;

fn journal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    group.sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    for (name, batch, len) in
        [("32 B, one by one", 1, 32), ("32 B, batches of 64", 64, 32), ("16 KiB, batches of 4", 4, 16 << 10)]
    {
        let payload = vec![7; len];
        group.throughput(Throughput::Elements(CONNECTIONS * batch));
        group.bench_function(name, |bencher| bencher.iter_custom(|rounds| run(rounds, batch, &payload)));
    }
    group.finish();
}

criterion_group!(benches, journal);
criterion_main!(benches);
