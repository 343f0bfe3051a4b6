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
use super::segments;
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
            spawn_local(commit::task(shared.clone())),
            spawn_local(commit::publish_task(shared.clone())),
            spawn_local(segments::task(shared.clone())),
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

    pub fn stats(&self) -> WriterStats {
        self.shared.stats()
    }

    /// Ends a writer in good order, when nothing is staged any more: waits for what is under way, also
    /// after a failure and for as long as the disk takes (dropping the future gives up the wait),
    /// writes an empty commit that names the last durable number, so that later damage to any record
    /// is told from a torn tail, and gives back the rest of the segment and the next one. Nothing
    /// depends on it.
    ///
    /// # Errors
    /// The writer has failed, or fails now.
    pub async fn close(mut self) -> io::Result<()> {
        let tasks = std::mem::take(&mut self.tasks);
        let shared = &self.shared;
        while let Some(ticket) = shared.last_ticket() {
            ticket.outcome().await;
        }
        // After a failure outcomes are known before writes have ended.
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
