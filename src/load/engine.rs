//! The sockets of one thread, driven by io_uring if the kernel allows it, otherwise by epoll.
//!
//! An engine owns the sockets and the [`Frames`] that it sends from. It knows nothing of acks: it hands over the bytes
//! that it received. It keeps the bytes that the kernel has no room for, and sends them later.

use std::io;

use super::acks::StreamLost;
use super::connect::Wire;
use super::epoll::Epoll;
use super::event::Event;
use super::frames::Frames;
use super::plan::Io;
use super::uring::Uring;

/// Returns the engine that a run uses: never [`Io::Auto`].
///
/// # Errors
/// io_uring was requested and the kernel refuses it.
pub fn choose(io: Io) -> io::Result<Io> {
    match (io, Uring::probe()) {
        (Io::Uring, Err(error)) => Err(error),
        (Io::Epoll, _) | (Io::Auto, Err(_)) => Ok(Io::Epoll),
        (Io::Uring | Io::Auto, Ok(())) => Ok(Io::Uring),
    }
}

/// An engine and its sockets, which are numbered from 0.
pub enum Engine {
    Uring(Box<Uring>),
    Epoll(Epoll),
}

impl Engine {
    /// Returns an engine for these connections. Each socket receives up to `input_len_max` bytes in one piece.
    ///
    /// # Errors
    /// The kernel refuses what the engine needs.
    pub fn new(io: Io, wires: Vec<Wire>, frames: Frames, input_len_max: usize) -> io::Result<Self> {
        match io {
            Io::Epoll => Epoll::new(wires, frames).map(Engine::Epoll),
            Io::Auto | Io::Uring => {
                Uring::new(wires, frames, input_len_max).map(|uring| Engine::Uring(Box::new(uring)))
            }
        }
    }

    /// Sends up to `wanted` requests, with IDs from `id` on. Returns how many requests were sent and their length in
    /// bytes. Fewer than `wanted` are sent if the kernel has no room.
    ///
    /// # Errors
    /// The kernel fails to submit.
    #[inline]
    pub fn send(&mut self, slot: usize, id: u64, wanted: usize) -> io::Result<(usize, usize)> {
        match self {
            Engine::Uring(uring) => uring.send(slot, id, wanted),
            Engine::Epoll(epoll) => epoll.send(slot, id, wanted),
        }
    }

    /// Returns the bytes of the requests.
    #[inline]
    pub fn frames(&mut self) -> &mut Frames {
        match self {
            Engine::Uring(uring) => uring.frames(),
            Engine::Epoll(epoll) => epoll.frames(),
        }
    }

    /// Waits for at most `nanos`, and passes every event to `on`. If `on` returns an error, the socket is closed.
    ///
    /// # Errors
    /// The kernel fails to wait.
    #[inline]
    pub fn wait(&mut self, nanos: u64, on: impl FnMut(usize, Event<'_>) -> Result<(), StreamLost>) -> io::Result<()> {
        match self {
            Engine::Uring(uring) => uring.wait(nanos, on),
            Engine::Epoll(epoll) => epoll.wait(nanos, on),
        }
    }
}
