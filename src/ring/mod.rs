//! The io_uring engine: the only code that names `tokio_uring`, and, but for the load generator's own
//! ring (`load/uring.rs`), the only code that builds SQEs. It owns the runtime of a shard's thread and
//! the ops on its ring; the sockets and files that use them are [`crate::engine`]'s.
//!
//! Its invariant: **an op that may be in flight is never dropped**. Dropping an op's future cancels
//! nothing; the kernel goes on, and a dropped receive eats bytes. So a caller pins the future, selects on `&mut` of it, and when it has waited long
//! enough cancels the op ([`cancel_all`]) and awaits the future all the same.
//!
//! Every op owns the descriptor that it works on. SQEs reach the kernel only when the thread parks
//! or the queue is full (or a `flush` comes by): with a bare number, an op could run on whatever had
//! been given that number in the meantime.

#![allow(unsafe_code)]

mod error;
mod flush;
mod ops;
mod probe;
#[cfg(debug_assertions)]
mod reach;
pub mod setup;
pub mod turn;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::marker::PhantomData;

use io_uring::{cqueue, squeue};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};
use tracing::warn;

use error::Asked;
pub use error::RingError;
use flush::Flusher;
pub use ops::{cancel_all, readable, receive, round_trip, send, write_durably};
pub use probe::{make_at_once, probe, unknown_ops};
#[cfg(debug_assertions)]
pub use reach::reach;
use turn::Turns;

/// One thread's ring and the runtime that drives it.
pub struct Runtime {
    runtime: tokio_uring::Runtime,
    /// Not yet running.
    flusher: Cell<Option<Flusher>>,
}

impl Runtime {
    /// Makes a ring with `entries` submission queue entries, for this thread alone.
    ///
    /// The flags, and what each is for:
    /// * SINGLE_ISSUER: only this thread submits, so the kernel takes no lock for it.
    /// * COOP_TASKRUN: completions do not interrupt the running thread; it meets them when it enters
    ///   the kernel anyway. (DEFER_TASKRUN would go further, but nothing in the runtime asks for the
    ///   events, and it hangs.)
    /// * SUBMIT_ALL: one bad SQE does not hold back those behind it.
    /// * CQSIZE: every op of a burst of connections finds room without the overflow list.
    ///
    /// # Errors
    /// The kernel refused; the error says why and what to do.
    pub fn new(entries: u32) -> Result<Runtime, RingError> {
        let mut builder = tokio_uring::builder();
        builder.entries(entries).uring_builder(&setup::builder(entries));
        // `start` would unwrap what the kernel refuses.
        let runtime = tokio_uring::Runtime::new(&builder)
            .map_err(|source| RingError::explain(source, Asked::Ring { entries }))?;
        let flusher = Flusher::of_this_thread()
            .inspect_err(|error| warn!("a worker that is always busy may stop its own I/O: {error}. Mount /proc"));
        Ok(Runtime { runtime, flusher: Cell::new(flusher.ok()) })
    }

    /// Runs `future`, and what it spawns, until `future` is done.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(async {
            let _turns = Turns::of_this_runtime();
            if let Some(flusher) = self.flusher.take() {
                tokio_uring::spawn(flusher.run());
            }
            future.await
        })
    }

    /// Gives the runtime up without dropping it, for when ops are still in flight: its `Drop` frees
    /// the buffers of such ops before it cancels them. Only for a process about to end.
    pub fn leak(self) {
        std::mem::forget(self);
    }
}

/// What an op needs while the kernel works on it: the descriptor and the memory.
struct Held<F, B> {
    buffer: B,
    _descriptor: F,
}

/// Hands the buffer back with the result.
struct HandBack<F, B>(PhantomData<(F, B)>);

impl<F: 'static, B: 'static> OneshotOutputTransform for HandBack<F, B> {
    type Output = (io::Result<u32>, B);
    type StoredData = Held<F, B>;

    fn transform_oneshot_output(self, held: Held<F, B>, cqe: cqueue::Entry) -> Self::Output {
        let result = u32::try_from(cqe.result()).map_err(|_| io::Error::from_raw_os_error(-cqe.result()));
        (result, held.buffer)
    }
}

/// Queues an op with one completion. `descriptor` and `buffer` live until that has come; the
/// memory that `entry` points to must be behind a pointer in `buffer`, since `buffer` itself moves.
fn submit<F: Unpin + 'static, B: Unpin + 'static>(
    descriptor: F,
    buffer: B,
    entry: squeue::Entry,
) -> InFlightOneshot<Held<F, B>, HandBack<F, B>> {
    UnsubmittedOneshot::new(Held { buffer, _descriptor: descriptor }, HandBack(PhantomData), entry).submit()
}
