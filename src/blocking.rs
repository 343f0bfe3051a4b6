//! Threads for blocking calls, at least one of which always exists, and the blocking call of a future. It must not know
//! what the calls do.
//!
//! tokio's `spawn_blocking` panics if it has no thread and the system refuses to create one (EAGAIN: RLIMIT_NPROC,
//! pids.max, memory). By then it has queued the call, which then runs later, long after its caller has given up. For
//! a rename or a write to a journal that would be a disaster. With one thread that never ends, a call waits instead.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// Builds a runtime whose first thread for blocking calls already exists.
///
/// # Errors
/// The system refuses a thread, or something else that the runtime needs.
pub fn build(builder: &mut Builder) -> io::Result<Runtime> {
    // The runtime panics if there is no thread.
    thread::Builder::new().spawn(|| {})?.join().expect("an empty closure can't panic");
    let runtime = builder.thread_keep_alive(Duration::MAX).build()?;
    runtime.spawn_blocking(|| {});
    Ok(runtime)
}

/// Blocks this thread until `future` is done. It needs no runtime, and may be called within one. The future must be
/// woken by other threads.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

/// Dedicated threads for one shard's blocking calls. Dropping them waits for no call: a call that is running
/// continues, and queued calls never run.
pub struct Threads {
    /// `Some` until `Threads` is dropped.
    runtime: Option<Runtime>,
}

impl Threads {
    /// Creates at most `max` threads; further calls wait.
    ///
    /// # Errors
    /// The system refuses the first thread.
    pub fn new(max: usize) -> io::Result<Self> {
        let runtime = build(Builder::new_current_thread().max_blocking_threads(max))?;
        Ok(Threads { runtime: Some(runtime) })
    }

    /// Runs a call on one of the threads. Not cancel-safe: a call whose future is dropped still runs to its end.
    ///
    /// # Errors
    /// Returns the call's own error, or an error if the call panicked.
    pub async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let runtime = self.runtime.as_ref().expect("the runtime exists until the drop");
        runtime.spawn_blocking(call).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_panics_is_an_error_and_the_next_one_is_made() {
        Builder::new_current_thread().build().unwrap().block_on(async {
            let threads = Threads::new(1).unwrap();
            assert!(threads.call(|| -> io::Result<()> { panic!("as planned") }).await.is_err());
            assert_eq!(threads.call(|| Ok(7)).await.unwrap(), 7);
        });
    }

    #[test]
    fn dropping_waits_for_no_call() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        Builder::new_current_thread().build().unwrap().block_on(async {
            let threads = Threads::new(1).unwrap();
            let mut call = Box::pin(threads.call(move || Ok(ended.recv().is_ok())));
            assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx).is_pending())).await);
        });
        drop(end);
    }
}
