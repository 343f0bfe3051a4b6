//! A shard's journal: opened before the shard accepts, watched while it serves, closed after the drain.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::storage::EngineStorage;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::blocking::Threads;
use crate::engine::{self, Engine};
use crate::health::Health;
use crate::journal::dir::WriterDir;
use crate::journal::watch::Watch;
use crate::journal::{Condition, Observer, Writer, WriterStats};
use crate::metrics::ShardMetrics;
use crate::server::Options;
use crate::sink::Journal;

/// The writer of one shard, and its lock.
pub struct ShardJournal {
    writer: Rc<Writer<EngineStorage>>,
    tasks: [JoinHandle<()>; 2],
    /// Held until everything is written.
    _dir: WriterDir,
}

impl ShardJournal {
    /// Opens the writer of a shard and makes its first segment.
    ///
    /// # Errors
    /// Its files can't be made.
    pub async fn open(
        dir: WriterDir,
        shard: usize,
        engine: Engine,
        config: &Options,
        metrics: Arc<ShardMetrics>,
        health: Arc<Health>,
    ) -> io::Result<Self> {
        let journal = config.journal().expect("the shard has a journal");
        let storage = EngineStorage::new(engine, &dir.path, journal.retention)?;
        let (mut options, page_cache) = (journal.writer_options(config.frame_len_max), storage.page_cache());
        if page_cache.is_used() {
            options.commits_in_flight = 1;
            if shard == 0 {
                info!("the data directory's file system {page_cache}: commits are written one at a time");
            }
        }
        // Any number that no client knows will do.
        let salt = RandomState::new().build_hasher().finish();
        let observer = Observing { shard, metrics: metrics.clone(), health };
        let writer = Rc::new(Writer::open(storage, dir.id, salt, options, observer).await?);
        let gauges = engine::spawn(keep_gauges(writer.clone(), metrics));
        let watching = engine::spawn(keep_watch(writer.clone(), dir.watch()?, Threads::new(1)?));
        Ok(ShardJournal { writer, tasks: [gauges, watching], _dir: dir })
    }

    /// What the shard's connections make their sinks from.
    pub fn sink(&self) -> Journal<EngineStorage> {
        Journal::new(self.writer.appender(0, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
    }

    /// Ends the writer in good order, once no connection is left. Where one is, or the writer has
    /// failed, its files stay as they are: readers accept them so. If the disk hangs, this waits no longer than
    /// `patience`.
    pub async fn close(self, patience: Duration) {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        let Ok(writer) = Rc::try_unwrap(self.writer) else { return };
        let Ok(closed) = timeout(patience, writer.close()).await else {
            return warn!("the disk does not answer: the journal was not closed properly; no acked message is lost");
        };
        if let Err(error) = closed {
            warn!("the journal was not closed properly; no acked message is lost: {error}");
        }
    }
}

/// Shows what the writer has to do, every while.
async fn keep_gauges(writer: Rc<Writer<EngineStorage>>, metrics: Arc<ShardMetrics>) {
    loop {
        let WriterStats { open_bytes, in_flight_bytes, segments, recycled, free_space, oldest, .. } = writer.stats();
        metrics.journal_gathered_bytes.set(open_bytes as u64);
        metrics.journal_in_flight_bytes.set(in_flight_bytes as u64);
        metrics.journal_segments.set(segments.into());
        metrics.journal_segments_recycled.set(recycled.into());
        metrics.journal_free_bytes.set(free_space.unwrap_or(0));
        metrics.journal_oldest_unsynced_ms.set(oldest.map_or(0, |oldest| oldest.elapsed().as_millis() as u64));
        sleep(GAUGES_INTERVAL).await;
    }
}

/// Checks from time to time that the writer's files are still there, and fails the writer if they are not.
///
/// The failure is final even if the files come back. Meanwhile another server may have made files of the same names,
/// and nobody knows whether the names of new segments are on disk.
async fn keep_watch(writer: Rc<Writer<EngineStorage>>, watch: Watch, threads: Threads) {
    let watch = Arc::new(watch);
    loop {
        sleep(WATCH_INTERVAL).await;
        let segments: Vec<_> =
            writer.open_segments().into_iter().map(|(number, file)| (number, file.descriptor())).collect();
        let looking = watch.clone();
        // There is one check at a time. If the disk hangs, the check waits for it and reports nothing.
        let taken = match threads.call(move || Ok(looking.look(&segments))).await {
            Ok(Err(taken)) => taken,
            Ok(Ok(())) => continue,
            Err(error) => {
                warn!("can't check that the journal's files are still there: {error}");
                continue;
            }
        };
        // If a segment has become full meanwhile, retention may have removed it.
        let is_own = |number| writer.open_segments().iter().any(|(own, _)| *own == number);
        if taken.segment.is_none_or(is_own) {
            return writer.fail(&taken.to_string());
        }
    }
}

/// Counts commits, and tells the health of the journal's condition.
struct Observing {
    shard: usize,
    metrics: Arc<ShardMetrics>,
    health: Arc<Health>,
}

impl Observer for Observing {
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

/// How often the writer checks that its files are still where they were.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How often the journal's gauges are updated.
const GAUGES_INTERVAL: Duration = Duration::from_millis(250);
