//! The io_uring engine: the only code that names `tokio_uring`, and, but for the load generator's own
//! ring (`load/uring.rs`), the only code that builds SQEs. It owns the runtime of a shard's thread and
//! the ops on its ring; the sockets and files that use them are [`crate::engine`]'s.
//!
//! Its invariant: **an op that may be in flight is never dropped**. Dropping an op's future cancels
//! nothing; the kernel goes on, and a dropped receive eats bytes. So a caller pins the future, selects on `&mut` of it, and when it has waited long
//! enough cancels the op ([`cancel_all`]) and awaits the future all the same.
//!
//! A caller's mistake may cost data, but never memory safety: the ring keeps the memory of a dropped op until the
//! kernel has finished with it, and a [`Runtime`] whose ops are still in flight is leaked instead of dropped.
//!
//! Every op owns the descriptor that it works on. SQEs reach the kernel only when the thread parks
//! or the queue is full (or a `flush` comes by): with a bare number, an op could run on whatever had
//! been given that number in the meantime.

#![allow(unsafe_code)]

mod error;
mod flush;
mod ops;
mod probe;
pub mod setup;
pub mod turn;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;

use io_uring::{cqueue, squeue};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};
use tracing::warn;

use error::Asked;
pub use error::RingError;
use flush::Flusher;
pub use ops::{cancel_all, readable, receive, round_trip, send, write_durably};
pub use probe::{make_at_once, probe, unknown_ops};
use turn::Turns;

/// One thread's ring and the runtime that drives it.
///
/// Dropping it ends its tasks. While the kernel may still read or write the memory of an op, the runtime is leaked
/// instead, with the ring and the tasks: tokio-uring's own `Drop` frees the buffers of such ops before it cancels
/// them, and then waits for them, forever if the disk hangs.
pub struct Runtime {
    runtime: ManuallyDrop<tokio_uring::Runtime>,
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
        Ok(Runtime { runtime: ManuallyDrop::new(runtime), flusher: Cell::new(flusher.ok()) })
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
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if IN_FLIGHT.get() == 0 {
            // SAFETY: the runtime is not used afterwards. No op of this thread holds memory, and dropping tasks
            // starts no new op, since an op can't be submitted outside of `block_on`.
            unsafe { ManuallyDrop::drop(&mut self.runtime) };
        }
    }
}

thread_local! {
    /// The number of ops of this thread's rings that hold memory which the kernel may use.
    static IN_FLIGHT: Cell<usize> = const { Cell::new(0) };
}

/// The descriptor and the memory that the kernel uses for an op. The op's future owns both. If the future is dropped,
/// the runtime owns them until the completion arrives.
struct Held<F, B> {
    buffer: B,
    _descriptor: F,
    _counted: Counted<B>,
}

/// Counts an op as in flight until it is dropped, unless it has no memory (a poll, a cancellation).
struct Counted<B>(PhantomData<B>);

impl<B> Counted<B> {
    const COUNT: usize = if size_of::<B>() == 0 { 0 } else { 1 };

    fn new() -> Self {
        IN_FLIGHT.set(IN_FLIGHT.get() + Self::COUNT);
        Counted(PhantomData)
    }
}

impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        IN_FLIGHT.set(IN_FLIGHT.get() - Self::COUNT);
    }
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

/// Queues an op with one completion. `descriptor` and `buffer` live until the completion arrives.
///
/// # Safety
/// All memory that `entry` points to must be behind a pointer that `buffer` owns (`buffer` itself moves), must be
/// valid for what the op reads and writes, and must not be used by anything else until `buffer` is handed back.
/// `entry` must name no descriptor except `descriptor`, and must ask for exactly one completion.
pub(crate) unsafe fn submit<F: Unpin + 'static, B: Unpin + 'static>(
    descriptor: F,
    buffer: B,
    entry: squeue::Entry,
) -> impl Future<Output = (io::Result<u32>, B)> {
    let held = Held { buffer, _descriptor: descriptor, _counted: Counted::new() };
    UnsubmittedOneshot::new(held, HandBack(PhantomData), entry).submit()
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::pin::pin;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;

    /// Drops a runtime, with or without a task that has a receive in flight. Returns whether its tasks were dropped.
    fn drops_its_tasks(receives: bool) -> bool {
        let runtime = Runtime::new(8).unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        let (one, alive) = (Rc::new(OwnedFd::from(one)), Rc::new(()));
        let held = alive.clone();
        runtime.block_on(async {
            tokio::task::spawn_local(async move {
                let _held = held;
                if receives {
                    receive(one, Vec::with_capacity(64)).await.0.unwrap();
                }
                std::future::pending::<()>().await;
            });
            round_trip().await;
        });
        drop(runtime);
        drop(other);
        Rc::strong_count(&alive) == 1
    }

    #[test]
    fn a_runtime_is_dropped_unless_the_kernel_may_use_an_ops_memory() {
        assert!(drops_its_tasks(false));
        assert!(!drops_its_tasks(true), "its buffer would be freed while the kernel may write to it");
    }

    #[test]
    fn what_has_completed_is_in_flight_no_longer_whether_it_was_awaited_or_dropped() {
        Runtime::new(8).unwrap().block_on(async {
            let (one, other) = UnixStream::pair().unwrap();
            let (one, other) = (Rc::new(OwnedFd::from(one)), Rc::new(OwnedFd::from(other)));
            {
                let mut dropped = pin!(receive(one.clone(), Vec::with_capacity(64)));
                assert!(is_pending(dropped.as_mut()).await, "there is nothing to receive yet");
            }
            assert_eq!(IN_FLIGHT.get(), 1, "dropping the future doesn't end the op");
            send(other, b"eaten".to_vec(), 0).await.0.unwrap();
            for _ in 0..1000 {
                if IN_FLIGHT.get() == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{} ops in flight", IN_FLIGHT.get());
        });
    }

    /// Polls once. Returns whether the future is pending.
    async fn is_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }
}
