//! One shard's journal: opens, stages, closes. What happens in between is in `commit` and `segments`.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_local};

use super::appender::Appender;
pub use super::commit::Condition;
use super::commit::{self, Shared};
use super::id::WriterId;
pub use super::options::WriterOptions;
use super::position::Durable;
use super::record::Source;
use super::segments::{self, Next};
use super::storage::Storage;

/// What a writer has done and has to do; all that metrics need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Bytes of records that gather, and that are in commits in flight.
    pub gathered_bytes: usize,
    pub in_flight_bytes: usize,
    pub commits_in_flight: usize,
    pub durable: Durable,
    /// Segments made so far, and those of them that were recycled.
    pub segments: u32,
    pub recycled: u32,
    /// As it was last looked at.
    pub free_space: Option<u64>,
    /// When the oldest record came that is not durable yet.
    pub oldest: Option<Instant>,
}

/// Who wants to know of each durable commit: metrics.
pub trait Observer: 'static {
    /// `bytes` were written, padding included, which hold `records`; it took `elapsed` from the seal
    /// to the end of the sync.
    fn committed(&self, bytes: usize, records: u32, elapsed: Duration) {
        let _ = (bytes, records, elapsed);
    }

    /// The writer's condition has changed.
    fn condition(&self, condition: &Condition) {
        let _ = condition;
    }
}

/// Nobody wants to know.
impl Observer for () {}

/// One shard's journal. Its tasks run on the local set where it was opened, and end when it is
/// closed or dropped.
pub struct Writer<S: Storage> {
    pub(super) shared: Rc<Shared<S>>,
    tasks: Vec<JoinHandle<()>>,
}

impl<S: Storage> Writer<S> {
    /// Opens a writer and makes its first segment. Without room for that it opens all the same,
    /// refuses records, and serves when there is room. `salt` is any random number.
    ///
    /// # Errors
    /// The first segment can't be made for another reason.
    ///
    /// # Panics
    /// The options don't fit each other, or this is not within a `LocalSet`; a tokio-uring runtime has
    /// one.
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
        let shared = Rc::new(Shared::new(storage, id, salt, options, Box::new(observer)));
        segments::open_first(&shared).await?;
        let tasks = vec![
            spawn_local(or_fail(shared.clone(), commit::task(shared.clone()))),
            spawn_local(or_fail(shared.clone(), commit::publish_task(shared.clone()))),
            spawn_local(or_fail(shared.clone(), segments::task(shared.clone()))),
        ];
        Ok(Writer { shared, tasks })
    }

    /// What a connection stages with. `connection` is its number, unique for this writer.
    pub fn appender(&self, connection: u64, peer: SocketAddr) -> Appender<S> {
        Appender::new(self.shared.clone(), Source { connection, peer, received: 0 })
    }

    pub fn condition(&self) -> Condition {
        self.shared.condition()
    }

    /// Returns the segments that are or will be written to, and their numbers.
    pub fn open_segments(&self) -> Vec<(u32, Rc<S::File>)> {
        let state = self.shared.state.borrow();
        let next = if let Next::Ready(next) = &state.next { Some(next) } else { None };
        state.active.iter().chain(next).map(|segment| (segment.number, segment.file.clone())).collect()
    }

    /// Ends the writer's service permanently: it refuses what it holds and everything that comes later.
    pub fn fail(&self, why: &str) {
        self.shared.fail(why);
    }

    pub fn stats(&self) -> WriterStats {
        self.shared.stats()
    }

    /// Ends a writer in good order once nothing is staged any longer. Waits for everything in flight, even after a
    /// failure and for as long as the disk needs (dropping the future gives up the wait). Then writes an empty commit
    /// that names the last durable number, so that later damage to any record is distinguished from a torn tail, and
    /// frees the rest of the segment and the next one. Nothing depends on this call.
    ///
    /// # Errors
    /// The writer has failed, or fails now.
    pub async fn close(mut self) -> io::Result<()> {
        let tasks = std::mem::take(&mut self.tasks);
        let shared = &self.shared;
        while let Some(ticket) = shared.last_ticket() {
            ticket.outcome().await;
        }
        // After a failure, outcomes are known before the writes have ended.
        shared.writes_ended().await;
        if let Some(ticket) = shared.gather_farewell() {
            shared.work.notify_one();
            ticket.outcome().await;
        }
        // A segment that is being made is finished first: an operation that is dropped goes on.
        shared.state.borrow_mut().closing = true;
        for task in [&shared.work, &shared.want, &shared.publish] {
            task.notify_one();
        }
        for task in tasks {
            let _ = task.await;
        }
        if let Condition::Failed(why) = self.condition() {
            return Err(io::Error::other(why));
        }
        segments::give_back(shared).await
    }
}

impl<S: Storage> Drop for Writer<S> {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        // Nobody starts what still gathers: whoever waits for it must not wait for ever.
        self.shared.abandon();
    }
}

/// Runs a task of the writer. If the task panics, the writer has failed: nobody would ever wake those that wait for
/// the task's work.
async fn or_fail<S: Storage>(shared: Rc<Shared<S>>, task: impl Future<Output = ()>) {
    struct Guard<S: Storage>(Rc<Shared<S>>);
    impl<S: Storage> Drop for Guard<S> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.fail("a task of the writer panicked");
            }
        }
    }
    let _guard = Guard(shared);
    task.await;
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::task::LocalSet;

    use super::*;
    use crate::journal::Buffer;
    use crate::journal::appender::Settled;
    use crate::journal::sim::{Disk, Faults, SimStorage};
    use crate::journal::storage::Zeros;
    use crate::proto::{AckResult, Id};

    /// A storage that panics when it is asked to make its second segment.
    struct Fragile {
        sim: SimStorage,
        made: Cell<u32>,
    }

    impl Storage for Fragile {
        type File = <SimStorage as Storage>::File;

        async fn create(&self, name: &str, len: u64, zeros: Zeros) -> io::Result<Self::File> {
            self.made.set(self.made.get() + 1);
            assert!(self.made.get() < 2, "the second segment");
            self.sim.create(name, len, zeros).await
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
    fn a_task_that_panics_fails_the_writer_and_leaves_nobody_waiting() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let disk = Disk::new(1, Faults::default(), 1 << 30);
            let storage = Fragile { sim: SimStorage(disk), made: Cell::new(0) };
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
