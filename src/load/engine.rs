//! The sockets of one thread and how they are driven: io_uring where the kernel lets us, else epoll.
//!
//! An engine owns the sockets and the [`Frames`] that it sends from. It doesn't know what acks are:
//! it hands over what was received, and whatever it has no room to send it keeps and sends later.

use std::io;
use std::net::TcpStream;

use super::acks::StreamLost;
use super::epoll::Epoll;
use super::frames::Frames;
use super::uring::Uring;

/// How sockets are driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// io_uring if it can be had, else epoll
    Auto,
    /// io_uring: costs less per request
    Uring,
    /// epoll: works on any host
    Epoll,
}

impl Io {
    /// What `Auto` comes to here; `Uring` must be possible.
    ///
    /// # Errors
    /// io_uring was asked for and the kernel refuses it.
    pub fn choose(self) -> io::Result<Io> {
        match (self, Uring::probe()) {
            (Io::Uring, Err(error)) => Err(error),
            (Io::Epoll, _) | (Io::Auto, Err(_)) => Ok(Io::Epoll),
            (Io::Uring | Io::Auto, Ok(())) => Ok(Io::Uring),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Io::Auto => "auto",
            Io::Uring => "io_uring",
            Io::Epoll => "epoll",
        }
    }
}

/// What happened on a socket.
pub enum Event<'a> {
    Received(&'a [u8]),
    /// What was kept for want of room has been sent.
    Room,
    /// The connection is over, and why.
    Ended(String),
}

/// Sockets, numbered from 0.
pub enum Engine {
    Uring(Box<Uring>),
    Epoll(Epoll),
}

impl Engine {
    /// `input_len_max` is the most that is received before it is answered, for each socket.
    pub fn new(io: Io, sockets: Vec<TcpStream>, frames: Frames, input_len_max: usize) -> io::Result<Self> {
        match io {
            Io::Epoll => Epoll::new(sockets, frames).map(Engine::Epoll),
            Io::Auto | Io::Uring => {
                Uring::new(sockets, frames, input_len_max).map(|uring| Engine::Uring(Box::new(uring)))
            }
        }
    }

    /// Sends up to `wanted` requests, with IDs from `id` on. Returns how many were taken and their
    /// bytes; fewer than wanted where the kernel has no room.
    #[inline]
    pub fn send(&mut self, slot: usize, id: u64, wanted: usize) -> io::Result<(usize, usize)> {
        match self {
            Engine::Uring(uring) => uring.send(slot, id, wanted),
            Engine::Epoll(epoll) => epoll.send(slot, id, wanted),
        }
    }

    /// The requests' bytes.
    #[inline]
    pub fn frames(&mut self) -> &mut Frames {
        match self {
            Engine::Uring(uring) => uring.frames(),
            Engine::Epoll(epoll) => epoll.frames(),
        }
    }

    /// Waits for at most `nanos`, and hands every event to `on`. Where that returns an error, the
    /// socket is closed.
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
