//! One thread's ring, and the tokio runtime that drives it.
//!
//! Three actors submit what tasks have queued: the runtime when its thread is about to sleep, `tokio_uring` when the
//! queue is full, and, for a thread that never sleeps, a task that nobody sees: the [`Flusher`], which finds the ring's
//! descriptor in `/proc/self/fd`. Confinement must therefore leave that directory readable until the shards exist.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::future::Future;
use std::mem::ManuallyDrop;

use tracing::warn;

use super::error::{Asked, RingError};
use super::event_loop::EventLoop;
use super::flush::Flusher;
use super::{setup, submit};

/// One thread's ring and the runtime that drives it.
///
/// Dropping it ends its tasks. While the kernel may still read or write the memory of an op, the runtime is leaked
/// instead, with the ring and the tasks: tokio-uring's own `Drop` frees the buffers of such ops before it cancels
/// them, and then waits for them, forever if the disk hangs.
pub struct Runtime {
    runtime: ManuallyDrop<tokio_uring::Runtime>,
    event_loop: EventLoop,
    /// `Some` until the first [`Self::block_on`] starts it.
    flusher: Cell<Option<Flusher>>,
}

impl Runtime {
    /// Creates a ring for this thread, with `entries` submission queue entries.
    ///
    /// The flags, and their reasons:
    /// * SINGLE_ISSUER: only this thread submits, so the kernel takes no lock.
    /// * COOP_TASKRUN: a completion doesn't interrupt the running thread, which handles it when it next enters the
    ///   kernel. (DEFER_TASKRUN would go further, but it needs a call that asks for the events, which the runtime
    ///   doesn't make: it hangs.)
    /// * SUBMIT_ALL: one bad SQE does not hold back those after it.
    /// * CQSIZE: every op of a burst of connections has room without the overflow list.
    ///
    /// # Errors
    /// The kernel refused. The error has the reason and the fix.
    pub fn new(entries: u32) -> Result<Runtime, RingError> {
        let mut builder = tokio_uring::builder();
        builder.entries(entries).uring_builder(&setup::builder(entries));
        // `tokio_uring::start` would panic with the kernel's error.
        let runtime = tokio_uring::Runtime::new(&builder)
            .map_err(|source| RingError::explain(source, Asked::Ring { entries }))?;
        let event_loop = runtime.block_on(async { EventLoop::of_this_runtime() });
        let flusher = Flusher::of_this_thread(event_loop.clone()).inspect_err(
            |error| warn!(%error, "can't find this shard's ring; its I/O may stop while it is busy: mount /proc"),
        );
        Ok(Runtime { runtime: ManuallyDrop::new(runtime), event_loop, flusher: Cell::new(flusher.ok()) })
    }

    /// Runs `future` and the tasks that it spawns, until `future` is done.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(async {
            let _running = self.event_loop.run();
            if let Some(flusher) = self.flusher.take() {
                tokio_uring::spawn(flusher.run());
            }
            future.await
        })
    }

    /// Returns the event loop that [`Self::block_on`] runs.
    pub fn event_loop(&self) -> &EventLoop {
        &self.event_loop
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if submit::in_flight() == 0 {
            // SAFETY: the runtime is not used afterwards. No op of this thread holds memory, and dropping tasks
            // starts no new op, since an op can't be submitted outside of `block_on`.
            unsafe { ManuallyDrop::drop(&mut self.runtime) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::pin::{Pin, pin};
    use std::rc::Rc;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;
    use crate::ring::ops::{receive, round_trip, send};
    use crate::ring::submit::in_flight;

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
    fn a_completed_op_is_no_longer_in_flight_whether_it_was_awaited_or_dropped() {
        Runtime::new(8).unwrap().block_on(async {
            let (one, other) = UnixStream::pair().unwrap();
            let (one, other) = (Rc::new(OwnedFd::from(one)), Rc::new(OwnedFd::from(other)));
            {
                let mut dropped = pin!(receive(one.clone(), Vec::with_capacity(64)));
                assert!(is_pending(dropped.as_mut()).await, "there is nothing to receive yet");
            }
            assert_eq!(in_flight(), 1, "dropping the future doesn't end the op");
            send(other, b"eaten".to_vec(), 0).await.0.unwrap();
            for _ in 0..1000 {
                if in_flight() == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{} ops in flight", in_flight());
        });
    }

    /// Polls once. Returns whether the future is pending.
    async fn is_pending<F: Future>(mut future: Pin<&mut F>) -> bool {
        std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }
}
