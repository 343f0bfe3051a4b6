//! The event loop of a shard's thread, of either engine.
//!
//! Owns nothing but the choice between the two. Sockets, listeners and the shard get it from their
//! [`Runtime`](super::Runtime), so whatever they measure is measured by one clock.

use std::time::Instant;

#[cfg(test)]
use super::choice::Engine;
use crate::clock;
use crate::ring;
#[cfg(feature = "sim")]
use crate::sim;

/// A handle of a thread's event loop. Cloning it is cheap.
#[derive(Clone)]
pub enum EventLoop {
    /// The event loop of a ring.
    Uring(ring::EventLoop),
    /// The event loop of tokio's own runtime, which keeps no state here.
    Epoll,
    /// The event loop of a simulated shard.
    #[cfg(feature = "sim")]
    Sim(sim::socket::EventLoop),
}

impl EventLoop {
    /// Returns the engine that runs it.
    #[cfg(test)]
    pub fn engine(&self) -> Engine {
        match self {
            EventLoop::Uring(_) => Engine::Uring,
            EventLoop::Epoll => Engine::Epoll,
            #[cfg(feature = "sim")]
            EventLoop::Sim(event_loop) => Engine::Sim(event_loop.process),
        }
    }

    /// Returns the time for what this thread's tasks measure. On a ring it is the same during an event-loop iteration.
    ///
    /// # Panics
    /// The runtime of the event loop is not running.
    #[inline]
    pub fn now(&self) -> Instant {
        match self {
            EventLoop::Uring(event_loop) => event_loop.now(),
            EventLoop::Epoll => clock::now(),
            #[cfg(feature = "sim")]
            EventLoop::Sim(_) => clock::now(),
        }
    }

    /// Waits until the event loop has handled everything that was ready before the call: a sign that it runs. May be
    /// dropped: it holds no data.
    pub async fn round_trip(&self) {
        match self {
            EventLoop::Uring(_) => ring::round_trip().await,
            // The task continues after the tasks that are ready, and after a look at epoll.
            EventLoop::Epoll => tokio::task::yield_now().await,
            #[cfg(feature = "sim")]
            EventLoop::Sim(event_loop) => event_loop.round_trip().await,
        }
    }
}
