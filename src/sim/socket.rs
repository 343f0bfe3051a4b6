//! A server's descriptor of a connection or a listener, as the engine uses it, and a shard's event loop.
//!
//! It owns what an engine promises about ops: one receive and one send at a time, cancellation with `ECANCELED`, and
//! that an op which is dropped while the kernel works on it would lose bytes. The simulation reports that as a
//! violation.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{sleep, sleep_until};

use super::backlog::Backlog;
use super::kernel::{self, Descriptor, ProcessId};
use super::link::{Link, Side};
use super::trace;
use crate::clock;

/// A shard's event loop. Cloning it is cheap.
#[derive(Debug, Clone, Copy)]
pub struct EventLoop {
    /// The process that the shard belongs to.
    pub process: ProcessId,
    /// The number of the shard.
    pub shard: usize,
}

impl EventLoop {
    /// Waits until the event loop has handled everything that was ready before the call.
    pub async fn round_trip(self) {
        self.wait_out_stall().await;
        yield_now().await;
        kernel::live(self.process, "round trip", self.shard as u64).await;
    }

    /// Waits while the event loop stands still.
    async fn wait_out_stall(self) {
        while let Some(until) = kernel::stalled_until(self.process, self.shard).filter(|until| *until > clock::now()) {
            sleep_until(until.into()).await;
        }
    }
}

/// A descriptor that an event loop uses.
pub struct Socket {
    descriptor: Descriptor,
    event_loop: EventLoop,
    end: End,
    /// Counts cancellations: an op that began with a lower value has been cancelled.
    cancels: Cell<u64>,
}

enum End {
    Connection(Rc<Link>),
    Listener(Rc<Backlog>),
}

impl Socket {
    /// Takes over a descriptor.
    pub fn new(event_loop: EventLoop, descriptor: Descriptor) -> Self {
        let end = if descriptor.is_listener {
            End::Listener(kernel::backlog(descriptor.number))
        } else {
            End::Connection(kernel::link(descriptor.number))
        };
        Socket { descriptor, event_loop, end, cancels: Cell::new(0) }
    }

    fn link(&self) -> &Link {
        match &self.end {
            End::Connection(link) => link,
            End::Listener(_) => panic!("a listener has no bytes"),
        }
    }

    /// Lets an op begin or end, unless the process is dead.
    async fn step(&self, what: &'static str) {
        self.event_loop.wait_out_stall().await;
        kernel::live(self.descriptor.process, what, self.descriptor.number).await;
    }

    /// Waits until `attempt` succeeds or the op is cancelled.
    async fn until<T>(&self, mut attempt: impl FnMut() -> Option<io::Result<T>>) -> io::Result<T> {
        let before = self.cancels.get();
        loop {
            if let Some(result) = attempt() {
                return result;
            }
            if self.cancels.get() != before {
                return Err(io::Error::from_raw_os_error(libc::ECANCELED));
            }
            match &self.end {
                End::Connection(link) => link.changed(Side::Server).await,
                End::Listener(backlog) => backlog.changed.notified().await,
            }
        }
    }

    /// Cancels every op in progress.
    pub fn cancel(&self) {
        self.cancels.set(self.cancels.get() + 1);
        match &self.end {
            End::Connection(link) => link.wake(),
            End::Listener(backlog) => backlog.changed.notify_waiters(),
        }
    }

    /// Waits for bytes and appends them to `buffer`, within its capacity. Returns 0 at the end of the stream.
    pub async fn receive(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let op = OpInFlight::new(self, "receive");
        self.step("receive").await;
        let result = self.until(|| self.link().try_receive(Side::Server, &mut buffer)).await;
        self.end_late().await;
        self.step("received").await;
        op.ended();
        (result, buffer)
    }

    /// Sends `bytes` or a part of them. Waits until there is room.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let op = OpInFlight::new(self, "send");
        self.step("send").await;
        let result = self.until(|| self.link().try_send(Side::Server, bytes)).await;
        self.end_late().await;
        self.step("sent").await;
        op.ended();
        result
    }

    /// Lets an op end some time after its effect, so that others overtake it.
    async fn end_late(&self) {
        match self.link().lateness() {
            Some(Duration::ZERO) => yield_now().await,
            Some(late) => sleep(late).await,
            None => {}
        }
    }

    /// Receives without waiting.
    ///
    /// # Errors
    /// The connection's, or [`io::ErrorKind::WouldBlock`].
    pub fn receive_now(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let received = self.link().try_receive(Side::Server, buffer);
        received.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
    }

    /// Waits until there may be something to receive or to accept. Cancel-safe.
    ///
    /// # Errors
    /// `ECANCELED` if the wait was cancelled.
    pub async fn readable(&self) -> io::Result<()> {
        self.step("poll").await;
        let is_ready = || match &self.end {
            End::Connection(link) => link.is_readable(),
            End::Listener(backlog) => backlog.oldest().is_some(),
        };
        self.until(|| is_ready().then_some(Ok(()))).await
    }

    /// Accepts a connection without waiting.
    ///
    /// # Errors
    /// There is none ([`io::ErrorKind::WouldBlock`]), or no free descriptor.
    pub fn accept(&self) -> io::Result<(Descriptor, SocketAddr)> {
        let End::Listener(backlog) = &self.end else { panic!("a connection accepts nothing") };
        if !kernel::step(self.descriptor.process, "accept", self.descriptor.number) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        kernel::accept(self.descriptor.process, backlog).unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
    }

    /// Returns the number of bytes that can be read without waiting.
    pub fn readable_bytes(&self) -> usize {
        self.link().readable_bytes()
    }

    /// Returns whether the peer's kernel has not acknowledged all that was sent.
    pub fn has_unacknowledged(&self) -> bool {
        self.link().has_unacknowledged()
    }

    /// Returns the bytes that the peer's kernel has acknowledged.
    pub fn bytes_acked(&self) -> u64 {
        self.link().bytes_acked()
    }

    /// Returns the bytes that have been received from the peer.
    pub fn bytes_received(&self) -> u64 {
        self.link().bytes_received()
    }

    /// Ends the stream to the peer.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn shut_down_writes(&self) -> io::Result<()> {
        let is_connected = self.link().shut_down_writes(Side::Server);
        is_connected.then_some(()).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Ends both directions.
    pub fn shut_down(&self) {
        self.link().shut_down();
    }
}

/// An op that the kernel works on. Dropping it before it has ended is a violation: the kernel would continue, and what
/// it received would be lost.
struct OpInFlight<'a> {
    socket: &'a Socket,
    what: &'static str,
}

impl<'a> OpInFlight<'a> {
    fn new(socket: &'a Socket, what: &'static str) -> Self {
        OpInFlight { socket, what }
    }

    fn ended(self) {
        std::mem::forget(self);
    }
}

impl Drop for OpInFlight<'_> {
    fn drop(&mut self) {
        let Descriptor { process, number, .. } = self.socket.descriptor;
        if kernel::is_alive(process) && !std::thread::panicking() {
            trace::violated(|| format!("a {} of connection {number} was dropped in flight", self.what));
        }
    }
}
