//! The epoll engine, for hosts that refuse io_uring: tokio's current-thread runtime, and a few threads for writes to
//! files, since epoll reports no readiness of files.
//!
//! Owns the runtime and the writes. Sockets wait with [`crate::readiness`], and [`crate::engine`] puts both together.
//! It must not know rings. Invariant: a write whose future is dropped still owns its memory and its file until it ends.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags};
use tokio::task::{LocalSet, spawn_blocking};

use crate::blocking;

/// One thread's epoll and the runtime that drives it. Dropping it ends its tasks and waits for no thread: a write that
/// has begun owns its memory and its file, and continues.
pub struct Runtime {
    /// `Some` until this value is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    /// Dropped after the runtime that the tasks run on was asked to end.
    tasks: LocalSet,
}

impl Runtime {
    /// Creates a runtime for this thread.
    ///
    /// # Errors
    /// The process has no descriptor, thread or memory for it.
    pub fn new() -> io::Result<Runtime> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = blocking::build(builder.enable_all().max_blocking_threads(BLOCKING_THREADS_MAX))?;
        Ok(Runtime { runtime: Some(runtime), tasks: LocalSet::new() })
    }

    /// Runs `future` and the tasks that it spawns, until `future` is done.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.tasks.block_on(self.runtime.as_ref().expect("the runtime exists until it is dropped"), future)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Writes the bytes of `memory` in `range` at `offset` of a file, on another thread. Returns once they are durable
/// (RWF_DSYNC).
pub async fn write_durably(
    file: Arc<OwnedFd>,
    offset: u64,
    memory: Box<[u8]>,
    range: Range<usize>,
) -> (io::Result<usize>, Box<[u8]>) {
    let write = move || {
        let bytes = [io::IoSlice::new(&memory[range])];
        let result = loop {
            match rustix::io::pwritev2(&file, &bytes, offset, ReadWriteFlags::DSYNC) {
                Err(Errno::INTR) => {}
                result => break result.map_err(io::Error::from),
            }
        };
        (result, memory)
    };
    spawn_blocking(write).await.expect("a write does not panic")
}

/// The most threads of one shard for calls that block, such as writes to the journal.
const BLOCKING_THREADS_MAX: usize = 8;
