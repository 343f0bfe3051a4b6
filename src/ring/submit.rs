//! How an op reaches the ring, and who owns its memory meanwhile.
//!
//! Owns the count of this thread's ops in flight. It must not know any particular op ([`super::ops`]). Invariant: the
//! memory and the descriptor of an op exist until its completion has arrived, even if its future is dropped.
//!
//! Every op owns its descriptor, because an SQE reaches the kernel only when the thread parks, the queue is full, or
//! the ring is flushed. With a bare number, an op could run on another file that got the same number meanwhile.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::marker::PhantomData;

use io_uring::{cqueue, squeue};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

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

/// Returns the number of ops of this thread's rings that hold memory which the kernel may use.
pub(super) fn in_flight() -> usize {
    IN_FLIGHT.get()
}

thread_local! {
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
