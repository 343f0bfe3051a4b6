//! Sees to it that ops reach the kernel also where the thread never parks.
//!
//! The runtime submits its queue when the thread is about to sleep, or when the queue is full. A shard
//! whose tasks are always ready does neither: without this, all its I/O stands still for as long as
//! that lasts.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use tokio::time::sleep;

/// Submits what one ring has queued, every while.
pub struct Flusher {
    /// The runtime's, and open for as long as the runtime lives, which is longer than any of its tasks.
    ring: RawFd,
}

impl Flusher {
    /// For the one ring that only this thread may submit to. The runtime keeps its descriptor to
    /// itself, so it is looked for among the process's.
    ///
    /// # Errors
    /// `/proc` can't be read, or shows no such ring.
    pub fn of_this_thread() -> io::Result<Self> {
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let entry = entry?;
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let number = entry.file_name().to_string_lossy().parse();
            if let ("anon_inode:[io_uring]", Ok(ring)) = (&*target.to_string_lossy(), number)
                && (Flusher { ring }).flush().is_ok()
            {
                return Ok(Flusher { ring });
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the ring's descriptor is not in /proc/self/fd"))
    }

    /// Flushes for as long as the runtime lives. Where the last flush found something, the thread may
    /// not be parking: then the next one comes soon.
    pub async fn run(self) {
        let mut found = false;
        loop {
            sleep(if found { BUSY_INTERVAL } else { IDLE_INTERVAL }).await;
            found = self.flush().is_ok_and(|submitted| submitted > 0);
        }
    }

    /// Submits all that is queued, and says how many ops that were. A ring of another thread refuses.
    fn flush(&self) -> io::Result<usize> {
        const ALL: u32 = 1 << 16;
        const NOTHING: usize = 0;
        // SAFETY: without arguments that it would read or write, the call touches the ring alone, and
        // submits only what the runtime has made ready for that.
        let submitted = unsafe { libc::syscall(libc::SYS_io_uring_enter, self.ring, ALL, 0, 0, NOTHING, NOTHING) };
        usize::try_from(submitted).map_err(|_| io::Error::last_os_error())
    }
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
    fn ops_go_on_beside_tasks_that_are_always_ready() {
        // Rings of other threads, which are not to be taken for this one's.
        let (ready, when_ready) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            let _ring = Runtime::new(8).unwrap();
            ready.send(()).unwrap();
            let _ = ended.recv();
        });
        when_ready.recv().unwrap();
        Runtime::new(8).unwrap().block_on(async {
            for _ in 0..2 {
                spawn(async {
                    loop {
                        tokio::task::yield_now().await;
                    }
                });
            }
            let start = Instant::now();
            for _ in 0..20 {
                let done = tokio::time::timeout(Duration::from_secs(10), round_trip()).await;
                done.expect("the op completes");
            }
            assert!(start.elapsed() < Duration::from_secs(5), "20 ops took {:?}", start.elapsed());
        });
        drop(end);
        other.join().unwrap();
    }
}
