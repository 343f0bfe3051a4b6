//! The register of a shard's connections: through it the sweep ends those whose deadline has passed,
//! and a drain ends them all.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout_at};
use tracing::warn;

use super::Shard;
use super::deadline::{CLOCK_LAG, Deadline, Wait};
use super::memory::Seen;
use crate::engine::SocketHandle;
use crate::metrics::{CloseReason, Label};
use crate::server::listen::admission::Permit;
use crate::server::options::STALL_TIMEOUT_MIN;
#[cfg(feature = "test-hooks")]
use crate::testing::faults;

/// What the shard keeps of a connection.
pub(super) struct Registered {
    socket: SocketHandle,
    peer: SocketAddr,
    deadline: Cell<Option<Deadline>>,
    /// Why the shard has ended it, if it has.
    cut_for: Option<CloseReason>,
}

impl Registered {
    /// Until when it may wait. Room to write is given more time whenever the peer has taken anything
    /// since the last look.
    fn deadline_at(&self, now: Instant, write_timeout: Duration) -> Option<Instant> {
        let Deadline { at, wait } = self.deadline.get()?;
        let mut at = at?;
        if let Wait::Room { acked } = wait {
            let acked_now = self.socket.bytes_acked();
            if acked.is_some() && acked_now != acked {
                at = now + write_timeout;
            }
            self.deadline.set(Some(Deadline { at: Some(at), wait: Wait::Room { acked: acked_now } }));
        }
        Some(at)
    }

    /// Returns the peer's progress with what the connection waits for, or `None` if the connection does not wait for
    /// the peer or has been ended.
    fn seen(&self, now: Instant) -> Option<Seen> {
        let wait = self.deadline.get()?.wait;
        let bytes = match wait {
            Wait::Request => return None,
            Wait::Frame => self.socket.bytes_received(),
            Wait::Room { .. } => self.socket.bytes_acked(),
        };
        Some(Seen { at: now, wait: std::mem::discriminant(&wait), bytes: bytes? })
    }
}

/// A connection's place in its shard's register, for as long as its task lives.
pub struct Registration {
    shard: Rc<Shard>,
    key: usize,
    reason: CloseReason,
    _permit: Permit,
}

impl Registration {
    /// Enters a connection.
    pub fn new(shard: Rc<Shard>, socket: SocketHandle, peer: SocketAddr, permit: Permit) -> Self {
        let registered = Registered { socket, peer, deadline: Cell::new(None), cut_for: None };
        let key = shard.connections.borrow_mut().insert(registered);
        shard.metrics.connections_open.add(1);
        // What a task that panics does not get to change.
        Registration { shard, key, reason: CloseReason::Panicked, _permit: permit }
    }

    /// The task is about to wait for the peer to send. `frame_began` is when the first bytes of a frame
    /// came that is not there in full.
    #[inline]
    pub fn waits_for_bytes(&self, frame_began: Option<Instant>) {
        let config = &self.shard.config;
        self.set_deadline(Some(match frame_began {
            Some(began) => Deadline::after(began, config.frame_timeout, Wait::Frame),
            None => Deadline::after(self.now(), config.idle_timeout, Wait::Request),
        }));
    }

    /// The task is about to wait for room to write.
    #[inline]
    pub fn waits_for_room(&self) {
        let timeout = self.shard.config.write_timeout;
        self.set_deadline(Some(Deadline::after(self.now(), timeout, Wait::Room { acked: None })));
    }

    /// The task has a time of its own for what it does now.
    pub fn waits_no_more(&self) {
        self.set_deadline(None);
    }

    /// Why the shard has ended this connection, if it has.
    pub fn cut_for(&self) -> Option<CloseReason> {
        self.shard.connections.borrow()[self.key].cut_for
    }

    /// The shard's coarse clock.
    #[inline]
    pub fn now(&self) -> Instant {
        self.shard.swept.get()
    }

    /// The connection's place in the shard's register.
    pub fn key(&self) -> usize {
        self.key
    }

    #[inline]
    fn set_deadline(&self, deadline: Option<Deadline>) {
        self.shard.connections.borrow()[self.key].deadline.set(deadline);
    }

    /// The connection has come to its end by itself. Where the shard has cut it, that is the reason.
    pub fn ended(&mut self, reason: CloseReason) {
        self.reason = reason;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let shard = &self.shard;
        let mut connections = shard.connections.borrow_mut();
        let Registered { socket, peer, cut_for, .. } = connections.remove(self.key);
        let reason = if self.reason == CloseReason::Panicked { self.reason } else { cut_for.unwrap_or(self.reason) };
        shard.metrics.connections_open.subtract(1);
        shard.metrics.connections_closed.of(reason).add(1);
        if reason == CloseReason::Panicked {
            warn!(%peer, shard = shard.index, "closing a connection: its task panicked");
        }
        drop(socket);
        if connections.is_empty() {
            shard.last_one_gone.notify_one();
        }
    }
}

impl Shard {
    /// Looks for deadlines that have passed, for as long as the shard lives.
    pub(super) async fn sweep(self: Rc<Self>) {
        loop {
            sleep(SWEEP_INTERVAL).await;
            #[cfg(feature = "test-hooks")]
            faults::panic_if_wanted(faults::Place::Task);
            // Through the engine, or a shard would be called alive whose I/O stands still.
            self.event_loop.round_trip().await;
            self.metrics.heartbeats.add(1);
            let now = Instant::now();
            self.swept.set(now);
            let write_timeout = self.config.write_timeout;
            let passed =
                |registered: &Registered| registered.deadline_at(now, write_timeout).is_some_and(|at| at <= now);
            let keys: Vec<_> = {
                let connections = self.connections.borrow();
                connections.iter().filter(|(_, registered)| passed(registered)).map(|(key, _)| key).collect()
            };
            for key in keys {
                if let Some(socket) = self.expire(key, now) {
                    socket.cancel_receive().await;
                }
            }
            for key in self.too_slow(now) {
                if let Some(socket) = self.end_slow(key) {
                    socket.cancel_receive().await;
                }
            }
            if self.memory.is_short() {
                // Their tasks look at their buffers before they read on.
                for key in self.memory.large() {
                    let socket = self.connections.borrow().get(key).map(|registered| registered.socket.clone());
                    if let Some(socket) = socket {
                        socket.cancel_receive().await;
                    }
                }
            }
        }
    }

    /// Ends what a connection waits for, if its deadline comes by `due`. That is looked at here, and
    /// not before: while another connection is being ended, this one may go on, or its key be another's.
    /// A receive is left to be cancelled; its task then closes in good
    /// order. A send that is stuck can only be cut.
    fn expire(&self, key: usize, due: Instant) -> Option<SocketHandle> {
        let mut connections = self.connections.borrow_mut();
        let registered = connections.get_mut(key)?;
        let wait = registered.deadline.get().filter(|deadline| deadline.at.is_some_and(|at| at <= due))?.wait;
        Some(self.end_wait(registered, wait.reason(), wait.complaint()))
    }

    /// Returns the connections whose peers are slower than `--min-rate` while others wait for memory.
    fn too_slow(&self, now: Instant) -> Vec<usize> {
        let connections = self.connections.borrow();
        self.memory.too_slow(self.config.rate_min, |key| connections.get(key)?.seen(now))
    }

    /// Ends the wait of a connection whose peer is too slow, if it still waits for the peer.
    fn end_slow(&self, key: usize) -> Option<SocketHandle> {
        let mut connections = self.connections.borrow_mut();
        let registered = connections.get_mut(key)?;
        registered.deadline.get().filter(|deadline| deadline.wait != Wait::Request)?;
        let complaint = "slower than --min-rate while others wait for the memory that it holds";
        Some(self.end_wait(registered, CloseReason::TooSlow, complaint))
    }

    fn end_wait(&self, registered: &mut Registered, reason: CloseReason, complaint: &str) -> SocketHandle {
        let wait = registered.deadline.take().map(|deadline| deadline.wait);
        if matches!(wait, Some(Wait::Room { .. })) {
            registered.socket.shut_down();
        }
        registered.cut_for = Some(reason);
        if self.may_log() {
            let (peer, reason) = (registered.peer, reason.name());
            warn!(%peer, shard = self.index, reason, "closing a connection: {complaint}");
        }
        registered.socket.clone()
    }

    /// Waits for every connection to end, cuts those that have not at the deadline, and returns how
    /// many did not end even so.
    pub(super) async fn end_connections(&self, deadline: Instant) -> usize {
        let waiting: Vec<_> = self.handles(|registered| registered.socket.clone());
        for socket in waiting {
            socket.cancel_receive().await;
        }
        if self.none_left_by(deadline).await {
            return 0;
        }
        for (_, straggler) in self.connections.borrow_mut().iter_mut() {
            if self.may_log() {
                let peer = straggler.peer;
                warn!(%peer, shard = self.index, "cut a connection that still held on at the drain deadline");
            }
            straggler.cut_for = Some(CloseReason::Cut);
            straggler.socket.shut_down();
        }
        self.memory.lift_limit();
        self.none_left_by(Instant::now() + CUT_GRACE).await;
        self.connections.borrow().len()
    }

    fn handles<T>(&self, of: impl Fn(&Registered) -> T) -> Vec<T> {
        self.connections.borrow().iter().map(|(_, registered)| of(registered)).collect()
    }

    async fn none_left_by(&self, deadline: Instant) -> bool {
        while !self.connections.borrow().is_empty() {
            if timeout_at(deadline.into(), self.last_one_gone.notified()).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// How often a shard looks for deadlines that have passed. Each sweep is also its heartbeat.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// How long a cut connection has to end before the process ends without waiting for it.
pub const CUT_GRACE: Duration = Duration::from_secs(1);

const _: () = assert!(SWEEP_INTERVAL.as_millis() <= CLOCK_LAG.as_millis());
const _: () = assert!(STALL_TIMEOUT_MIN.as_millis() >= 2 * SWEEP_INTERVAL.as_millis());
