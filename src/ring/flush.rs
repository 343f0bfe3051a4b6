//! Submits ops even if the thread never parks.
//!
//! The runtime submits its queue when the thread is about to sleep, or when the queue is full. A shard whose tasks are
//! always ready does neither. Without this, all its I/O would stop for as long as that lasts.
//!
//! The runtime keeps the ring's descriptor private, so it is searched in `/proc/self/fd`: the only ring to which this
//! thread can submit without being refused. Invariant: a flush submits only ops that the runtime has queued completely.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use tokio::time::sleep;

use super::event_loop::EventLoop;

/// Submits what one ring has queued, from time to time.
pub struct Flusher {
    /// The runtime's descriptor, which is open for longer than any of the runtime's tasks exists.
    ring: RawFd,
    event_loop: EventLoop,
}

impl Flusher {
    /// Finds the one ring to which only this thread may submit.
    ///
    /// # Errors
    /// `/proc` can't be read, or shows no such ring.
    pub fn of_this_thread(event_loop: EventLoop) -> io::Result<Self> {
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let entry = entry?;
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let number = entry.file_name().to_string_lossy().parse();
            if let ("anon_inode:[io_uring]", Ok(ring)) = (&*target.to_string_lossy(), number)
                && flush(ring).is_ok()
            {
                return Ok(Flusher { ring, event_loop });
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the ring's descriptor is not in /proc/self/fd"))
    }

    /// Flushes for as long as the runtime exists. If a flush has submitted something, the thread may not be parking,
    /// and the next flush follows soon.
    pub async fn run(self) {
        let mut submitted = false;
        loop {
            sleep(if submitted { BUSY_INTERVAL } else { IDLE_INTERVAL }).await;
            submitted = flush(self.ring).is_ok_and(|count| count > 0);
            // A thread that doesn't park stays in one iteration.
            self.event_loop.forget_time();
        }
    }
}

/// Submits everything that is queued. Returns the number of ops. The kernel refuses if the ring is another thread's.
fn flush(ring: RawFd) -> io::Result<usize> {
    const ALL: u32 = 1 << 16;
    const NOTHING: usize = 0;
    // SAFETY: without arguments to read or write, the call uses only the ring, and submits only what its owner has
    // queued completely. With another descriptor it fails.
    let submitted = unsafe { libc::syscall(libc::SYS_io_uring_enter, ring, ALL, 0, 0, NOTHING, NOTHING) };
    usize::try_from(submitted).map_err(|_| io::Error::last_os_error())
}

/// The time to the next flush if the last one found queued ops.
const BUSY_INTERVAL: Duration = Duration::from_millis(5);

/// The time to the next flush if the last one found nothing.
const IDLE_INTERVAL: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::task::spawn_local as spawn;

    use crate::ring::{Runtime, round_trip};

    #[test]
    fn ops_complete_although_other_tasks_are_always_ready() {
        // The ring of another thread, which must not be mistaken for this one's.
        let (ready, when_ready) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            let _ring = Runtime::new(8).unwrap();
            ready.send(()).unwrap();
            let _ = ended.recv();
        });
        when_ready.recv().unwrap();
        let runtime = Runtime::new(8).unwrap();
        let event_loop = runtime.event_loop().clone();
        runtime.block_on(async {
            for _ in 0..2 {
                spawn(async {
                    loop {
                        tokio::task::yield_now().await;
                    }
                });
            }
            let (start, time) = (Instant::now(), event_loop.now());
            for _ in 0..20 {
                let done = tokio::time::timeout(Duration::from_secs(10), round_trip()).await;
                done.expect("the op completes");
            }
            assert!(start.elapsed() < Duration::from_secs(5), "20 ops needed {:?}", start.elapsed());
            assert!(event_loop.now() > time, "the time does not advance while the thread doesn't park");
        });
        drop(end);
        other.join().unwrap();
    }
}
