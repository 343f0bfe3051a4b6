//! The register of a shard's connections. The shard's sweep and a drain end connections through it.
//!
//! The register owns the shard's coarse clock and each connection's deadline. It knows sockets only by their handles,
//! and nothing of frames or acks. Its invariant: a connection has a deadline exactly while its task waits
//! [`within`](Registration::within) one.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::timeout_at;
use tracing::warn;

use super::deadline::{CLOCK_LAG, Deadline, Progress, Wait};
use super::memory::Memory;
use super::peer_log::PeerLog;
use crate::clock;
use crate::engine::SocketHandle;
use crate::metrics::{CloseReason, ShardMetrics};
use crate::server::listen::admission::Permit;
use crate::server::options::{Options, STALL_TIMEOUT_MIN};

/// The connections of one shard.
pub struct Register {
    shard: usize,
    config: Arc<Options>,
    metrics: Arc<ShardMetrics>,
    peer_log: Rc<PeerLog>,
    connections: RefCell<Slab<Registered>>,
    /// The coarse clock: the time of the last sweep.
    now: Cell<Instant>,
    /// When the shard last ran again after it had not run for a while, and for how long it had not.
    stopped: Cell<Option<(Instant, Duration)>>,
    /// Notified by each connection that leaves the register empty.
    emptied: Notify,
}

/// The register's entry of a connection.
struct Registered {
    socket: SocketHandle,
    peer: SocketAddr,
    deadline: Cell<Option<Deadline>>,
    /// Why the shard has ended the connection, if it has.
    cut_for: Option<CloseReason>,
}

/// A connection's membership in its shard's register, for as long as its task lives.
pub struct Registration {
    register: Rc<Register>,
    key: usize,
    reason: CloseReason,
    _permit: Permit,
}

/// A future that is awaited under a deadline: see [`Registration::within`].
#[must_use = "futures do nothing unless you await them"]
pub struct Within<'a, F> {
    registration: &'a Registration,
    future: F,
}

impl Register {
    /// Creates a register without connections.
    pub fn new(shard: usize, config: Arc<Options>, metrics: Arc<ShardMetrics>, peer_log: Rc<PeerLog>) -> Rc<Self> {
        Rc::new(Register {
            shard,
            config,
            metrics,
            peer_log,
            connections: RefCell::default(),
            now: Cell::new(clock::now()),
            stopped: Cell::new(None),
            emptied: Notify::new(),
        })
    }

    /// Sets the coarse clock to `now`. Then ends the waits whose deadline has passed, and those of peers that are too
    /// slow while other connections wait for memory. If memory is short, also wakes connections that may hold memory
    /// which they do not need.
    pub async fn sweep(&self, now: Instant, memory: &Memory) {
        let elapsed = now.saturating_duration_since(self.now.replace(now));
        if elapsed > CLOCK_LAG * 2 {
            self.ran_again(now, elapsed - CLOCK_LAG);
            memory.measure_anew();
        }
        for key in self.overdue(now) {
            if let Some(socket) = self.expire(key, now) {
                socket.cancel_receive().await;
            }
        }
        for key in self.too_slow(now, memory) {
            if let Some(socket) = self.end_slow(key) {
                socket.cancel_receive().await;
            }
        }
        if memory.is_short() {
            // A cancelled receive makes the task look at its buffers before it receives again.
            for key in memory.large() {
                let socket = self.connections.borrow().get(key).map(|registered| registered.socket.clone());
                if let Some(socket) = socket {
                    socket.cancel_receive().await;
                }
            }
        }
    }

    /// Extends all deadlines by the time in which the shard did not run: the process was stopped, or the CPU was busy.
    /// No peer is to blame for it. A deadline that was set from the coarse clock since then is extended too, because
    /// that clock did not run either.
    fn ran_again(&self, now: Instant, stopped: Duration) {
        self.stopped.set(Some((now, stopped)));
        for (_, registered) in self.connections.borrow().iter() {
            registered.deadline.set(registered.deadline.get().map(|deadline| deadline.extended(stopped)));
        }
    }

    /// Returns the connections whose deadline has passed.
    fn overdue(&self, now: Instant) -> Vec<usize> {
        let connections = self.connections.borrow();
        let overdue = connections.iter().filter(|(_, registered)| registered.is_overdue(now, &self.config));
        overdue.map(|(key, _)| key).collect()
    }

    /// Returns the deadline of a wait that begins now.
    #[inline]
    fn deadline(&self, wait: Wait) -> Deadline {
        let deadline = Deadline::new(wait, self.now.get(), &self.config);
        match (wait, self.stopped.get()) {
            (Wait::Frame { began }, Some((ran_again, stopped))) if began < ran_again => deadline.extended(stopped),
            _ => deadline,
        }
    }

    /// Ends what a connection waits for, if its deadline has passed by `now`. The deadline is checked here again: while
    /// another connection was being ended, this one may have continued, or its key may belong to another connection.
    ///
    /// A receive remains to be cancelled by the caller, and the task then closes the connection in good order. A stuck
    /// send can only be cut.
    fn expire(&self, key: usize, now: Instant) -> Option<SocketHandle> {
        let mut connections = self.connections.borrow_mut();
        let registered = connections.get_mut(key)?;
        let wait = registered.deadline.get().filter(|deadline| deadline.has_passed(now))?.wait;
        Some(self.end_wait(registered, wait.reason(), wait.complaint()))
    }

    /// Returns the connections whose peers are slower than `--min-rate` while others wait for memory.
    fn too_slow(&self, now: Instant, memory: &Memory) -> Vec<usize> {
        let connections = self.connections.borrow();
        memory.too_slow(self.config.rate_min, |key| connections.get(key)?.progress(now))
    }

    /// Ends the wait of a connection whose peer is too slow, if it still waits for the peer.
    fn end_slow(&self, key: usize) -> Option<SocketHandle> {
        let mut connections = self.connections.borrow_mut();
        let registered = connections.get_mut(key)?;
        registered.deadline.get().filter(|deadline| matches!(deadline.wait, Wait::Frame { .. } | Wait::Room))?;
        let complaint = "the peer was slower than --min-rate while others waited for the memory that it held";
        Some(self.end_wait(registered, CloseReason::TooSlow, complaint))
    }

    fn end_wait(&self, registered: &mut Registered, reason: CloseReason, complaint: &str) -> SocketHandle {
        let deadline = registered.deadline.take();
        // A handshake also waits for room, and there is nothing to tell a peer that is too slow for it.
        if deadline.is_some_and(|deadline| matches!(deadline.wait, Wait::Room | Wait::Handshake { .. })) {
            registered.socket.shut_down();
        }
        registered.cut_for = Some(reason);
        self.peer_log.closing(registered.peer, reason, complaint);
        registered.socket.clone()
    }

    /// Cancels the receives of all connections, so that their tasks notice that the shard drains.
    pub async fn cancel_receives(&self) {
        let sockets: Vec<_> =
            self.connections.borrow().iter().map(|(_, registered)| registered.socket.clone()).collect();
        for socket in sockets {
            socket.cancel_receive().await;
        }
    }

    /// Cuts all connections.
    pub fn cut_all(&self) {
        for (_, registered) in self.connections.borrow_mut().iter_mut() {
            if self.peer_log.may_log() {
                warn!(peer = %registered.peer, shard = self.shard, "drain deadline reached; cutting a connection");
            }
            registered.cut_for = Some(CloseReason::Cut);
            registered.socket.shut_down();
        }
    }

    /// Waits until all connections have ended, at most until `deadline`. Returns whether they have.
    pub async fn is_empty_by(&self, deadline: Instant) -> bool {
        while !self.connections.borrow().is_empty() {
            if timeout_at(deadline.into(), self.emptied.notified()).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Returns the number of connections.
    pub fn len(&self) -> usize {
        self.connections.borrow().len()
    }
}

impl Registered {
    /// Returns whether the connection's deadline has passed. Renews the deadline of a wait for room if the peer has
    /// acknowledged anything since the last sweep.
    fn is_overdue(&self, now: Instant, config: &Options) -> bool {
        let Some(mut deadline) = self.deadline.get() else { return false };
        if deadline.wait == Wait::Room && deadline.at.is_some() {
            deadline = deadline.with_progress(self.socket.bytes_acked(), now, config.write_timeout);
            self.deadline.set(Some(deadline));
        }
        deadline.has_passed(now)
    }

    /// Returns the peer's progress with what the connection waits for, or `None` if the connection does not wait for
    /// the peer or has been ended.
    fn progress(&self, now: Instant) -> Option<Progress> {
        let wait = self.deadline.get()?.wait;
        let bytes = match wait {
            Wait::Request | Wait::Handshake { .. } => return None,
            Wait::Frame { .. } => self.socket.bytes_received(),
            Wait::Room => self.socket.bytes_acked(),
        };
        Some(Progress { at: now, kind: wait.kind(), bytes: bytes? })
    }
}

impl Registration {
    /// Registers a connection.
    pub fn new(register: &Rc<Register>, socket: SocketHandle, peer: SocketAddr, permit: Permit) -> Self {
        let registered = Registered { socket, peer, deadline: Cell::new(None), cut_for: None };
        let key = register.connections.borrow_mut().insert(registered);
        register.metrics.connections_open.add(1);
        // A task that panics never sets its reason.
        Registration { register: register.clone(), key, reason: CloseReason::Panicked, _permit: permit }
    }

    /// Awaits `future` under the deadline of `wait`, or without a deadline if `wait` is `None`. The deadline is set
    /// now, and cleared when the future completes or is dropped. Once it passes, the shard's sweep cancels the
    /// connection's receive, or cuts its send, and [`cut_for`](Self::cut_for) returns why.
    ///
    /// Any other `await` of the connection's task has no deadline.
    ///
    /// # Panics
    /// The connection already waits under a deadline. Waits do not nest.
    #[inline]
    pub fn within<F: Future + Unpin>(&self, wait: impl Into<Option<Wait>>, future: F) -> Within<'_, F> {
        let deadline = wait.into().map(|wait| self.register.deadline(wait));
        let before = self.register.connections.borrow()[self.key].deadline.replace(deadline);
        assert!(before.is_none(), "waits under a deadline do not nest");
        Within { registration: self, future }
    }

    /// Returns why the shard has ended this connection, if it has.
    #[inline]
    pub fn cut_for(&self) -> Option<CloseReason> {
        self.register.connections.borrow()[self.key].cut_for
    }

    /// Returns the time of the shard's coarse clock.
    #[inline]
    pub fn now(&self) -> Instant {
        self.register.now.get()
    }

    /// Returns the connection's key in the register.
    pub fn key(&self) -> usize {
        self.key
    }

    /// Records why the connection has ended. If the shard has cut it, that reason takes precedence.
    pub fn ended(&mut self, reason: CloseReason) {
        self.reason = reason;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let register = &self.register;
        let mut connections = register.connections.borrow_mut();
        let Registered { socket, peer, cut_for, .. } = connections.remove(self.key);
        let reason = if self.reason == CloseReason::Panicked { self.reason } else { cut_for.unwrap_or(self.reason) };
        register.metrics.connections_open.subtract(1);
        register.metrics.connections_closed.of(reason).add(1);
        if reason == CloseReason::Panicked {
            warn!(%peer, shard = register.shard, "closing a connection: its task panicked");
        }
        drop(socket);
        if connections.is_empty() {
            register.emptied.notify_one();
        }
    }
}

impl<F: Future + Unpin> Future for Within<'_, F> {
    type Output = F::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        Pin::new(&mut self.future).poll(context)
    }
}

impl<F> Drop for Within<'_, F> {
    #[inline]
    fn drop(&mut self) {
        let registration = self.registration;
        registration.register.connections.borrow()[registration.key].deadline.set(None);
    }
}

/// How often a shard looks for deadlines that have passed. Each sweep is also its heartbeat.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

const _: () = assert!(SWEEP_INTERVAL.as_millis() <= CLOCK_LAG.as_millis());
const _: () = assert!(STALL_TIMEOUT_MIN.as_millis() >= 2 * SWEEP_INTERVAL.as_millis());

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::pin::pin;
    use std::task::Waker;

    use super::*;
    use crate::engine::{Engine, EventLoop, Runtime, Socket};
    use crate::server::listen::admission::Admission;
    use crate::server::shard::memory::{RATE_WINDOW, Share};

    const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
    const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
    const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
    const RATE_MIN: u64 = 1000;
    const MEMORY_MAX: usize = 300_000;

    /// A register with one connection, whose clock begins at `start` and follows the test's sweeps.
    struct Fixture {
        start: Instant,
        register: Rc<Register>,
        memory: Memory,
        registration: Registration,
        socket: Socket,
        handle: SocketHandle,
        peer: TcpStream,
    }

    impl Fixture {
        fn new(event_loop: &EventLoop, config: Options) -> Self {
            let (config, metrics) = (Arc::new(config), Arc::<ShardMetrics>::default());
            let memory = Memory::new(&config, metrics.clone());
            let permit = Admission::new(&config).admit([127, 0, 0, 1].into(), 0).unwrap();
            let peer_log = Rc::new(PeerLog::new(0, metrics.clone()));
            let register = Register::new(0, config, metrics, peer_log);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (socket, address) = listener.accept().unwrap();
            let socket = Socket::new(event_loop, socket2::Socket::from(socket).into()).unwrap();
            let handle = socket.handle();
            let registration = Registration::new(&register, handle.clone(), address, permit);
            Fixture { start: register.now.get(), register, memory, registration, socket, handle, peer }
        }

        /// Sweeps at this time after the start, as if the shard had also swept shortly before.
        async fn sweep(&self, after: Duration) {
            let before = (self.start + after).checked_sub(SWEEP_INTERVAL).unwrap();
            self.register.now.set(self.register.now.get().max(before));
            self.register.sweep(self.start + after, &self.memory).await;
        }

        fn deadline(&self) -> Option<Deadline> {
            self.register.connections.borrow()[self.registration.key].deadline.get()
        }
    }

    fn config() -> Options {
        Options {
            frame_timeout: FRAME_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
            rate_min: RATE_MIN,
            frame_len_max: 100_000,
            memory_max: Some(MEMORY_MAX),
            shards: std::num::NonZeroUsize::MIN,
            ..Options::default()
        }
    }

    fn run(test: impl AsyncFnOnce(&EventLoop)) {
        let runtime = Runtime::new(Engine::Epoll, 8).unwrap();
        let event_loop = runtime.event_loop();
        runtime.block_on(test(&event_loop));
    }

    fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Waits for the kernel, which may take a moment to count bytes.
    fn wait_until(condition: impl Fn() -> bool) {
        let by = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < by, "the kernel does not count the bytes");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_deadline_is_set_on_entry_and_cleared_on_completion_and_on_drop() {
        run(async |event_loop| {
            let fixture = Fixture::new(event_loop, config());
            assert!(fixture.deadline().is_none(), "there is no deadline by default");
            let wait = fixture.registration.within(Wait::Request, ready(7));
            let deadline = fixture.deadline().unwrap();
            assert_eq!(deadline.wait, Wait::Request);
            assert_eq!(deadline.at, Some(fixture.start + IDLE_TIMEOUT + CLOCK_LAG));
            assert_eq!(wait.await, 7);
            assert!(fixture.deadline().is_none());
            let mut wait = fixture.registration.within(Wait::Room, pending::<()>());
            assert!(is_pending(&mut wait));
            assert_eq!(fixture.deadline().unwrap().wait, Wait::Room);
            drop(wait);
            assert!(fixture.deadline().is_none());
            let wait = fixture.registration.within(None, ready(()));
            assert!(fixture.deadline().is_none());
            wait.await;
            // A select that is won by another branch drops the wait.
            tokio::select! {
                biased;
                () = fixture.registration.within(Wait::Request, pending()) => unreachable!(),
                () = ready(()) => {}
            }
            assert!(fixture.deadline().is_none());
        });
    }

    #[test]
    #[should_panic(expected = "do not nest")]
    fn waits_do_not_nest() {
        run(async |event_loop| {
            let fixture = Fixture::new(event_loop, config());
            let _outer = fixture.registration.within(Wait::Request, pending::<()>());
            let _inner = fixture.registration.within(Wait::Room, pending::<()>());
        });
    }

    #[test]
    fn a_receive_ends_at_its_timeout_and_not_before() {
        run(async |event_loop| {
            for (began, timeout, reason) in [
                (None, IDLE_TIMEOUT, CloseReason::IdleTimeout),
                (Some(Duration::ZERO), FRAME_TIMEOUT, CloseReason::FrameTimeout),
                // A frame's time counts from its first byte, however late the wait begins.
                (Some(Duration::from_secs(3)), FRAME_TIMEOUT, CloseReason::FrameTimeout),
            ] {
                let fixture = Fixture::new(event_loop, config());
                let wait = began.map_or(Wait::Request, |began| Wait::Frame { began: fixture.start + began });
                let began = began.unwrap_or(Duration::ZERO);
                let receive = pin!(fixture.socket.receive(Vec::with_capacity(8)));
                let mut receive = fixture.registration.within(wait, receive);
                assert!(is_pending(&mut receive));
                fixture.sweep(began + timeout + CLOCK_LAG - Duration::from_nanos(1)).await;
                assert_eq!(fixture.registration.cut_for(), None, "{reason:?} came early");
                assert!(is_pending(&mut receive));
                fixture.sweep(began + timeout + CLOCK_LAG).await;
                assert_eq!(receive.await.0.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
                assert_eq!(fixture.registration.cut_for(), Some(reason));
            }
        });
    }

    #[test]
    fn a_timeout_of_zero_never_ends_a_wait_and_neither_does_a_wait_without_a_deadline() {
        run(async |event_loop| {
            let off = Duration::ZERO;
            let off = Options { frame_timeout: off, idle_timeout: off, write_timeout: off, ..config() };
            let year = Duration::from_secs(365 * 86_400);
            let fixture = Fixture::new(event_loop, off);
            for wait in [Wait::Request, Wait::Frame { began: fixture.start }, Wait::Room] {
                let _wait = fixture.registration.within(wait, pending::<()>());
                fixture.sweep(year).await;
                assert_eq!(fixture.registration.cut_for(), None, "{wait:?}");
            }
            let fixture = Fixture::new(event_loop, config());
            let mut wait = fixture.registration.within(None, pending::<()>());
            assert!(is_pending(&mut wait));
            fixture.sweep(year).await;
            assert_eq!(fixture.registration.cut_for(), None);
        });
    }

    /// The time in which a shard did not run counts for no wait, whenever it began.
    #[test]
    fn a_shard_that_did_not_run_extends_all_deadlines() {
        run(async |event_loop| {
            let fixture = Fixture::new(event_loop, config());
            let (stop, second) = (Duration::from_secs(1000), Duration::from_secs(1));
            let wait = fixture.registration.within(Wait::Request, pending::<()>());
            fixture.register.sweep(fixture.start + stop, &fixture.memory).await;
            assert_eq!(fixture.registration.cut_for(), None);
            assert_eq!(fixture.deadline().unwrap().at, Some(fixture.start + stop + IDLE_TIMEOUT));
            drop(wait);
            // The rest of a frame that began before is due later as well.
            let wait = Wait::Frame { began: fixture.start };
            let wait = fixture.registration.within(wait, pending::<()>());
            assert_eq!(fixture.deadline().unwrap().at, Some(fixture.start + stop + FRAME_TIMEOUT));
            drop(wait);
            let wait = Wait::Frame { began: fixture.start + stop + second };
            let _wait = fixture.registration.within(wait, pending::<()>());
            assert_eq!(fixture.deadline().unwrap().at, Some(fixture.start + stop + second + FRAME_TIMEOUT + CLOCK_LAG));
        });
    }

    #[test]
    fn a_send_is_cut_if_the_peer_makes_no_progress_for_the_timeout() {
        run(async |event_loop| {
            let fixture = Fixture::new(event_loop, config());
            let acked = || fixture.handle.bytes_acked();
            let send = pin!(fixture.socket.send_all(vec![7; 64 << 20]));
            let mut send = fixture.registration.within(Wait::Room, send);
            assert!(is_pending(&mut send), "the peer does not read");
            let step = WRITE_TIMEOUT + CLOCK_LAG;
            fixture.sweep(Duration::from_secs(1)).await;
            let before = acked();
            // The peer reads some of it, so that its kernel acknowledges more.
            fixture.peer.set_nonblocking(true).unwrap();
            let mut read = vec![0; 1 << 20];
            let by = Instant::now() + Duration::from_secs(20);
            while acked() <= before {
                assert!(Instant::now() < by, "the peer's kernel acknowledges nothing");
                // There may be nothing to read yet.
                let _ = (&fixture.peer).read(&mut read);
                assert!(is_pending(&mut send), "the peer has not read everything");
                tokio::task::yield_now().await;
            }
            fixture.sweep(step).await;
            assert_eq!(fixture.registration.cut_for(), None, "progress renews the deadline");
            // Late acknowledgements may renew it once more.
            let mut time = step;
            while fixture.registration.cut_for().is_none() {
                time += step;
                assert!(time < step * 5, "the send is not cut");
                fixture.sweep(time).await;
            }
            assert_eq!(fixture.registration.cut_for(), Some(CloseReason::WriteTimeout));
            send.await.0.unwrap_err();
        });
    }

    /// A connection with a partial frame holds memory that others wait for.
    async fn receive_while_memory_is_short(event_loop: &EventLoop, rate: u64) -> Option<CloseReason> {
        let fixture = Fixture::new(event_loop, Options { frame_timeout: Duration::ZERO, ..config() });
        let mut holder = Share::new(&fixture.memory, fixture.registration.key());
        holder.set(MEMORY_MAX, 0);
        let (mut one, mut two) = (Share::new(&fixture.memory, 98), Share::new(&fixture.memory, 99));
        assert!(!is_pending(&mut pin!(one.wait_to_grow_to(2000))), "the first has the reserve");
        let mut waits = pin!(two.wait_to_grow_to(2000));
        assert!(is_pending(&mut waits));

        let wait = Wait::Frame { began: fixture.start };
        // The sweeps also cancel receives, so that the connection looks at its buffers. It has no memory to return.
        let mut wait = fixture.registration.within(wait, pending::<()>());
        assert!(is_pending(&mut wait));
        fixture.sweep(Duration::ZERO).await;
        let sent = rate * RATE_WINDOW.as_secs();
        (&fixture.peer).write_all(&vec![7; sent as usize]).unwrap();
        wait_until(|| fixture.handle.bytes_received().unwrap() >= sent);
        fixture.sweep(RATE_WINDOW - Duration::from_nanos(1)).await;
        assert_eq!(fixture.registration.cut_for(), None, "the rate is measured over the whole window");
        fixture.sweep(RATE_WINDOW).await;
        fixture.registration.cut_for()
    }

    #[test]
    fn a_peer_that_is_slower_than_the_minimum_rate_is_cut_while_memory_is_short() {
        run(async |event_loop| {
            assert_eq!(receive_while_memory_is_short(event_loop, RATE_MIN - 1).await, Some(CloseReason::TooSlow));
            assert_eq!(receive_while_memory_is_short(event_loop, RATE_MIN).await, None);
        });
    }
}
