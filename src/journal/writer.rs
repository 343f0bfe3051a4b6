//! One shard's journal: opens, stages, closes.
//!
//! The writer owns the tasks that make segments, start commits and publish the position, and ends them. It does not
//! know how a commit is made: see `commit` and `segments`. Everything runs on one thread.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::task::{JoinHandle, spawn_local};

use super::appender::Appender;
use super::commit::condition::Condition;
use super::commit::observer::{Observer, WriterStats};
use super::commit::publish;
use super::commit::writer_core::WriterCore;
use super::id::WriterId;
use super::options::WriterOptions;
use super::record::Source;
use super::segments;
use super::storage::Storage;
use super::watch::MissingFile;

/// The writer of one shard's part of a journal.
///
/// A writer has a directory of its own: [`dir::claim`](super::dir::claim) makes and locks it. Keep the lock for as long
/// as the writer exists. A process that was killed leaves a directory that any reader accepts; a later start makes
/// another writer, so no writer is ever opened again.
///
/// Each connection stages records with an [`Appender`] of its own. The writer's tasks run on the `LocalSet` where it
/// was opened, and end when it is closed or dropped. Dropping the writer fails every record that has no outcome yet.
///
/// # Example
///
/// ```no_run
/// use ringpost::journal::{FileStorage, Writer, WriterOptions, dir::claim};
/// use ringpost::proto::Id;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let claimed = claim("/var/lib/journal".as_ref(), 1, false)?.remove(0);
/// let storage = FileStorage::new(&claimed.path)?;
/// let writer = Writer::open(storage, claimed.id, 0x5eed, WriterOptions::default(), ()).await?;
/// let mut appender = writer.appender(1, "192.0.2.1:4711".parse()?);
/// appender.ready().await.stage(Id::from_number(1), b"a message");
/// assert_eq!(appender.settle().await.durable, 1);
/// writer.close().await?;
/// # Ok(())
/// # }
/// ```
///
/// The program `examples/embed_journal.rs` opens a journal, appends records, closes the journal and reads it back.
pub struct Writer<S: Storage> {
    pub(super) core: Rc<WriterCore<S>>,
    tasks: Vec<JoinHandle<()>>,
}

impl<S: Storage> Writer<S> {
    /// Opens a writer and makes its first segment. If there is no space for the segment, the writer opens
    /// nevertheless: it refuses records until there is space.
    ///
    /// `salt` is any random number that no client knows. It keeps a payload that looks like a commit from being
    /// accepted as one after damage. `observer` may be `()`.
    ///
    /// # Errors
    /// The first segment can't be made for another reason than a lack of space.
    ///
    /// # Panics
    /// The options don't fit each other ([`WriterOptions::check`]), or the call is not within a `LocalSet`. A
    /// tokio-uring runtime has one.
    pub async fn open(
        storage: S,
        id: WriterId,
        salt: u64,
        options: WriterOptions,
        observer: impl Observer,
    ) -> io::Result<Self> {
        if let Err(what) = options.check() {
            panic!("{what}");
        }
        let core = Rc::new(WriterCore::new(storage, id, salt, options, Box::new(observer)));
        segments::make_first(&core).await?;
        let tasks = vec![
            spawn_local(or_fail(core.clone(), core.clone().run_commits())),
            spawn_local(or_fail(core.clone(), publish::run(core.clone()))),
            spawn_local(or_fail(core.clone(), segments::run(core.clone()))),
        ];
        Ok(Writer { core, tasks })
    }

    /// Returns an appender for a connection. `connection` is a number that is unique for this writer; it and the peer's
    /// address are stored with each record.
    pub fn appender(&self, connection: u64, peer: SocketAddr) -> Appender<S> {
        Appender::new(self.core.clone(), Source { connection, peer, received: 0 })
    }

    /// Returns whether the writer accepts records.
    pub fn condition(&self) -> Condition {
        self.core.condition()
    }

    /// Returns the segments that are or will be written to, and their numbers.
    pub fn open_segments(&self) -> Vec<(u32, Rc<S::File>)> {
        self.core.open_segments()
    }

    /// Checks whether the writer's files are still in their places, and returns one that is not.
    ///
    /// # Errors
    /// The storage can't check it.
    pub async fn missing_file(&self) -> io::Result<Option<MissingFile>> {
        self.core.storage().missing_file(self.open_segments()).await
    }

    /// Ends the writer's service permanently: every record that has no outcome fails, and so does every later one.
    pub fn fail(&self, why: &str) {
        self.core.fail(why);
    }

    /// Returns the figures for metrics.
    pub fn stats(&self) -> WriterStats {
        self.core.stats()
    }

    /// Closes the writer, once no appender stages any longer. Waits for everything in flight, even after a failure and
    /// for as long as the disk needs. Then writes an empty commit that names the last durable number, so that later
    /// damage to any record is distinguished from a torn tail, and frees the rest of the segment and the next one.
    ///
    /// Nothing depends on this call: readers accept the files of a writer that was dropped or killed. The future may be
    /// dropped to stop waiting.
    ///
    /// # Errors
    /// The writer has failed, or fails now.
    pub async fn close(mut self) -> io::Result<()> {
        let core = &self.core;
        while let Some(outcome) = core.last_outcome() {
            outcome.wait().await;
        }
        // After a failure, outcomes are known before the writes have ended.
        core.writes_ended().await;
        if let Some(outcome) = core.open_final_commit() {
            core.wake_commits();
            outcome.wait().await;
        }
        // A segment that is being made is finished first, because a dropped operation may still be executed.
        core.close();
        // If this future is dropped meanwhile, the writer ends its tasks.
        for task in &mut self.tasks {
            let _ = task.await;
        }
        if let Condition::Failed(why) = self.condition() {
            return Err(io::Error::other(why));
        }
        segments::give_back(core).await
    }
}

impl<S: Storage> Drop for Writer<S> {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        // No task starts the open commits any longer, so appenders must not wait for them.
        self.core.abandon();
    }
}

/// Runs a task of the writer. If the task panics, the writer fails, since nothing else would wake the appenders that
/// wait for the task's work.
async fn or_fail<S: Storage>(core: Rc<WriterCore<S>>, task: impl Future<Output = ()>) {
    struct Guard<S: Storage>(Rc<WriterCore<S>>);
    impl<S: Storage> Drop for Guard<S> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.fail("a task of the writer panicked");
            }
        }
    }
    let _guard = Guard(core);
    task.await;
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::super::appender::Settled;
    use super::super::buffer::Buffer;
    use super::super::position::Durable;
    use super::super::retention::Retention;
    use super::super::storage::Prealloc;
    use super::*;
    use crate::proto::{AckResult, Id};
    use crate::sim::disk::{Faults, SimStorage};
    use crate::sim::test_disk::{TestDisk, run};

    /// A storage that panics when the writer makes its second segment.
    struct Fragile {
        sim: SimStorage,
        made: Cell<u32>,
    }

    impl Storage for Fragile {
        type File = <SimStorage as Storage>::File;

        async fn create(&self, name: &str, len: u64, prealloc: Prealloc) -> io::Result<Self::File> {
            self.made.set(self.made.get() + 1);
            assert!(self.made.get() < 2, "the second segment");
            self.sim.create(name, len, prealloc).await
        }

        async fn write_at(
            &self,
            file: &Self::File,
            offset: u64,
            buffer: Buffer,
            from: usize,
        ) -> (io::Result<usize>, Buffer) {
            self.sim.write_at(file, offset, buffer, from).await
        }

        async fn sync(&self, file: &Self::File) -> io::Result<()> {
            self.sim.sync(file).await
        }

        async fn truncate(&self, file: &Self::File, len: u64) -> io::Result<()> {
            self.sim.truncate(file, len).await
        }

        async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.sim.rename(from, to).await
        }

        async fn remove(&self, name: &str) -> io::Result<()> {
            self.sim.remove(name).await
        }

        async fn sync_dir(&self) -> io::Result<()> {
            self.sim.sync_dir().await
        }

        async fn free_space(&self) -> io::Result<u64> {
            self.sim.free_space().await
        }

        async fn publish(&self, durable: Durable) -> io::Result<()> {
            self.sim.publish(durable).await
        }
    }

    #[test]
    fn a_task_that_panics_fails_the_writer_and_no_appender_waits_for_ever() {
        run(async {
            let disk = TestDisk::new(1, Faults::default(), 1 << 30);
            let sim = disk.open(1, WriterId(1 << 20), Retention::default());
            let storage = Fragile { sim, made: Cell::new(0) };
            let options = WriterOptions { segment_len: 64 << 10, commit_len_max: 16 << 10, ..WriterOptions::default() };
            let writer = Writer::open(storage, WriterId(1 << 20), 9, options, ()).await.unwrap();
            let mut appender = writer.appender(1, "[::1]:1".parse().unwrap());
            let (mut durable, mut failed) = (0, 0);
            // This is more than a segment holds.
            for _ in 0..20 {
                if appender.ready().await.stage(Id::from_number(1), &[7; 8000]) == AckResult::Failure {
                    failed += 1;
                    continue;
                }
                let settled = tokio::time::timeout(Duration::from_secs(60), appender.settle()).await;
                let Settled { durable: kept, failed: lost } = settled.expect("the outcome is reported");
                (durable, failed) = (durable + kept, failed + lost);
            }
            assert!(matches!(writer.condition(), Condition::Failed(_)), "{:?}", writer.condition());
            assert_eq!((durable + failed, failed > 0), (20, true));
        });
    }
}
