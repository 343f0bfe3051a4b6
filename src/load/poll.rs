//! Waits for sockets with edge-triggered epoll. A socket is reported once when it becomes ready, so the caller then
//! reads until the socket is empty.
//!
//! The epoll engine and churn use it. It works on every host, also if io_uring is refused.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::plan::NANOS_PER_SECOND;

/// An epoll instance and the events of its last wait.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
    /// Whether the kernel accepts timeouts with nanoseconds (`epoll_pwait2`).
    fine: bool,
}

/// A socket that became ready.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// The number that the socket was added with.
    pub index: usize,
    /// Bytes or the end of the stream have arrived.
    pub readable: bool,
    /// The send buffer may have room, or the socket has just been connected.
    pub writable: bool,
    /// The peer has closed the connection, or the connection failed. A read reports it after the last bytes.
    pub ended: bool,
}

impl Poll {
    /// Returns an instance that reports up to `batch` events for each wait.
    ///
    /// # Errors
    /// The kernel refuses an epoll instance.
    pub fn new(batch: usize) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Poll { epoll, events: Vec::with_capacity(batch), fine: true })
    }

    /// Watches a socket for input, for room in its send buffer and for its end, until the socket is closed.
    ///
    /// # Errors
    /// The kernel refuses to watch the socket.
    pub fn add(&self, socket: impl AsFd, index: usize) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(index as u64), flags)?)
    }

    /// Waits for at most `nanos`. A signal may end the wait early.
    ///
    /// # Errors
    /// The kernel fails to wait.
    pub fn wait(&mut self, nanos: u64) -> io::Result<()> {
        self.events.clear();
        let nanos = if self.fine { nanos } else { nanos.next_multiple_of(NANOS_PER_MILLISECOND) };
        // Whole milliseconds go through the older call, which every kernel has.
        let timeout =
            Timespec { tv_sec: (nanos / NANOS_PER_SECOND) as i64, tv_nsec: (nanos % NANOS_PER_SECOND) as i64 };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(Errno::NOSYS | Errno::PERM) if self.fine => {
                self.fine = false;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns how many sockets the last wait found ready.
    pub fn ready_count(&self) -> usize {
        self.events.len()
    }

    /// Returns one of the sockets that the last wait found ready.
    #[inline]
    pub fn ready(&self, at: usize) -> Ready {
        let (flags, data) = (self.events[at].flags, self.events[at].data);
        let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        Ready {
            index: data.u64() as usize,
            readable: ended || flags.contains(EventFlags::IN),
            writable: flags.contains(EventFlags::OUT),
            ended,
        }
    }
}

const NANOS_PER_MILLISECOND: u64 = 1_000_000;
