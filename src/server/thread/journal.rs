//! A shard's journal: opened before the shard accepts, watched while it serves, closed after the drain.
//!
//! This module owns the writer of one shard and the tasks that observe it. It knows no connections: those append
//! through the sink ([`ShardJournal::sink`]).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::context::{ShardContext, ShardParts};
use super::storage::EngineStorage;
use crate::clock;
use crate::engine;
use crate::health::Health;
use crate::journal::dir::{self, WriterDir};
use crate::journal::storage::Storage;
use crate::journal::{Condition, Observer, Writer, WriterStats};
use crate::metrics::ShardMetrics;
use crate::sink::journal::JournalSink;

/// One shard's writer, with the lock of its directory.
pub struct ShardJournal<S: Storage> {
    writer: Rc<Writer<S>>,
    tasks: [JoinHandle<()>; 2],
    /// The lock, held until everything is written.
    dir: WriterDir,
}

impl ShardJournal<EngineStorage> {
    /// Opens the writer of a shard in `dir`, with files on the shard's engine.
    ///
    /// # Errors
    /// The writer's files can't be created.
    pub async fn open_files(dir: WriterDir, parts: &ShardParts, context: &ShardContext) -> io::Result<Self> {
        let journal = context.config.journal().expect("the shard has a journal");
        let storage = EngineStorage::new(context.engine, &dir, journal.retention)?;
        let page_cache = storage.page_cache();
        if page_cache.is_used() && parts.index == 0 {
            info!("the data directory's file system {page_cache}; writing commits one at a time");
        }
        Self::open(storage, page_cache.is_used(), dir, parts, context).await
    }
}

impl<S: Storage> ShardJournal<S> {
    /// Opens the writer of a shard in `dir` with this storage, and creates its first segment. `one_at_a_time` permits
    /// only one commit in flight.
    ///
    /// # Errors
    /// The writer's files can't be created.
    pub async fn open(
        storage: S,
        one_at_a_time: bool,
        dir: WriterDir,
        parts: &ShardParts,
        context: &ShardContext,
    ) -> io::Result<Self> {
        let journal = context.config.journal().expect("the shard has a journal");
        let (shard, config, metrics) = (parts.index, &context.config, parts.metrics.clone());
        let mut options = journal.writer_options(config.frame_len_max);
        if one_at_a_time {
            options.commits_in_flight = 1;
        }
        // Any number that clients don't know serves as the salt.
        let salt = context.engine.random();
        let observer = WriterObserver { shard, metrics: metrics.clone(), health: context.health.clone() };
        let writer = Rc::new(Writer::open(storage, dir.id, salt, options, observer).await?);
        let gauges = engine::spawn(keep_gauges(writer.clone(), metrics));
        let watching = engine::spawn(keep_watch(writer.clone()));
        Ok(ShardJournal { writer, tasks: [gauges, watching], dir })
    }

    /// Returns the sink from which the shard's connections get theirs.
    pub fn sink(&self) -> JournalSink<S> {
        JournalSink::new(self.writer.appender(0, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
    }

    /// Closes the writer in good order, if it has not failed. Otherwise its files stay as they are, which readers
    /// accept. If the disk hangs, this waits no longer than `limit`, and the lock is held until the process ends.
    pub async fn close(self, limit: Duration) {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        let writer = Rc::try_unwrap(self.writer).ok().expect("only the tasks share the writer");
        match timeout(limit, writer.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("the journal was not closed properly; no acked message is lost: {error}"),
            Err(_) => {
                dir::hold_until_exit(self.dir);
                warn!("the disk does not respond; the journal was not closed properly; no acked message is lost");
            }
        }
    }
}

/// Updates the gauges of the writer's work at regular intervals.
async fn keep_gauges<S: Storage>(writer: Rc<Writer<S>>, metrics: Arc<ShardMetrics>) {
    loop {
        let WriterStats { open_bytes, in_flight_bytes, segments, recycled, free_space, oldest, .. } = writer.stats();
        metrics.journal_gathered_bytes.set(open_bytes as u64);
        metrics.journal_in_flight_bytes.set(in_flight_bytes as u64);
        metrics.journal_segments.set(segments.into());
        metrics.journal_segments_recycled.set(recycled.into());
        metrics.journal_free_bytes.set(free_space.unwrap_or(0));
        metrics.journal_oldest_unsynced_ms.set(oldest.map_or(0, |oldest| (clock::now() - oldest).as_millis() as u64));
        sleep(GAUGES_INTERVAL).await;
    }
}

/// Checks at regular intervals that the writer's files still exist, and fails the writer if they do not.
///
/// The failure is final even if the files come back. Meanwhile another server may have created files with the same
/// names, and it is unknown whether the names of new segments are on disk.
async fn keep_watch<S: Storage>(writer: Rc<Writer<S>>) {
    loop {
        sleep(WATCH_INTERVAL).await;
        // Only one check runs at a time. If the disk hangs, the check waits for it and reports nothing.
        let taken = match writer.missing_file().await {
            Ok(Some(taken)) => taken,
            Ok(None) => continue,
            Err(error) => {
                warn!("can't check that the journal's files still exist: {error}");
                continue;
            }
        };
        // A segment that has become full meanwhile may have been removed by retention.
        let is_own = |number| writer.open_segments().iter().any(|(own, _)| *own == number);
        if taken.segment.is_none_or(is_own) {
            return writer.fail(&taken.to_string());
        }
    }
}

/// Counts commits, and reports the journal's condition as part of the server's health.
struct WriterObserver {
    shard: usize,
    metrics: Arc<ShardMetrics>,
    health: Arc<Health>,
}

impl Observer for WriterObserver {
    fn committed(&self, bytes: usize, records: u32, elapsed: Duration) {
        self.metrics.commit_latency.record(elapsed, 1);
        self.metrics.commit_sizes.add(bytes as u64, 1);
        self.metrics.journal_records.add(records.into());
    }

    fn condition(&self, condition: &Condition) {
        let (number, refusal) = match condition {
            Condition::Serving => (0, None),
            Condition::Full(why) => (1, Some(format!("refuses messages until there is room: {why}"))),
            Condition::Failed(why) => {
                self.health.fails(self.shard, format!("refuses messages until a restart: {why}"));
                (2, None)
            }
        };
        self.metrics.journal_condition.set(number);
        self.health.refuses(self.shard, refusal);
    }
}

/// How often the writer checks that its files still exist.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How often the journal's gauges are updated.
const GAUGES_INTERVAL: Duration = Duration::from_millis(250);
