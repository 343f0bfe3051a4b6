//! Waits for sockets, edge-triggered: a socket is told once when it becomes ready, so whoever is
//! told reads until nothing is left.
//!
//! Plain epoll serves a load generator on any host, also where io_uring is refused.

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
    /// Whether the kernel takes timeouts of less than a millisecond (`epoll_pwait2`).
    fine: bool,
}

/// What became ready.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// The number that the socket was added with.
    pub index: usize,
    /// Something has come, or the end has.
    pub readable: bool,
    /// Its send buffer may have room, or it has just been connected.
    pub writable: bool,
    /// The peer has closed, or the connection failed: read until that shows.
    pub ended: bool,
}

impl Poll {
    /// One that takes up to `batch` events a wait.
    pub fn new(batch: usize) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Poll { epoll, events: Vec::with_capacity(batch), fine: true })
    }

    /// Watches a socket for input, room for output, and its end. Closing it ends that.
    pub fn add(&self, socket: impl AsFd, index: usize) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(index as u64), flags)?)
    }

    /// Waits for at most `nanos`; a signal may end it early.
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

    /// How many sockets the last wait found ready.
    pub fn ready_count(&self) -> usize {
        self.events.len()
    }

    /// One of them.
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
