//! One shard: one thread, one ring, one listener an address; nothing shared with the others on the
//! path of a request.
//!
//! The shard owns its accept loops and the register of its connections, through which a drain
//! reaches them. Connections own everything else themselves ([`super::connection`]).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout_at};
use tracing::warn;

use super::admission::{Admission, Permit};
use super::deadline::{Deadline, Wait};
use super::memory::Memory;
use super::reserve::Reserve;
use super::{Phase, connection};
use crate::config::{ACCEPT_BACKOFF, CUT_GRACE, FAULT_LINES_PER_SECOND, SWEEP_INTERVAL, ServerConfig};
use crate::metrics::{CloseReason, Label, ShardMetrics};
use crate::proto::Violation;
use crate::ring::{self, Acceptor, Listener, Socket, SocketHandle};
use crate::sink::Sink;
#[cfg(debug_assertions)]
use crate::sink::faulty;

/// What the tasks of one shard share. They all run on its thread.
pub struct Shard {
    pub index: usize,
    pub config: Arc<ServerConfig>,
    pub metrics: Arc<ShardMetrics>,
    pub memory: Memory,
    admission: Arc<Admission>,
    reserve: Arc<Reserve>,
    connections: RefCell<Slab<Registered>>,
    /// The time of the last sweep: the clock that deadlines go by.
    now: Cell<Instant>,
    draining: Cell<bool>,
    last_one_gone: Notify,
    fault_log: FaultLog,
}

struct Registered {
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
        let Deadline { mut at, wait } = self.deadline.get()?;
        if let Wait::Room { acked } = wait {
            let acked_now = self.socket.bytes_acked();
            if acked.is_some() && acked_now != acked {
                at = now + write_timeout;
            }
            self.deadline.set(Some(Deadline { at, wait: Wait::Room { acked: acked_now } }));
        }
        Some(at)
    }
}

impl Shard {
    /// A shard without connections.
    pub fn new(
        index: usize,
        config: Arc<ServerConfig>,
        metrics: Arc<ShardMetrics>,
        admission: Arc<Admission>,
        reserve: Arc<Reserve>,
    ) -> Rc<Self> {
        let memory = Memory::new(&config, metrics.clone());
        Rc::new(Shard {
            index,
            memory,
            config,
            metrics,
            admission,
            reserve,
            connections: RefCell::default(),
            now: Cell::new(Instant::now()),
            draining: Cell::new(false),
            last_one_gone: Notify::new(),
            fault_log: FaultLog::default(),
        })
    }

    /// Accepts and serves until `phase` says to drain, then drains. Returns how many connections
    /// did not end even when cut: their ops are still in flight. Should one of the shard's own tasks
    /// panic, `broken` is told; the shard then waits for the drain as ever, to end in good order.
    pub async fn run<S: Sink>(
        self: Rc<Self>,
        listeners: Vec<Listener>,
        sink: S,
        mut phase: watch::Receiver<Phase>,
        accepting: impl FnOnce(),
        broken: impl FnOnce(Box<dyn Any + Send>),
    ) -> usize {
        let sink = Rc::new(sink);
        let mut accept_loops = Vec::new();
        for listener in &listeners {
            for _ in 0..self.config.accepts_in_flight {
                accept_loops.push(ring::spawn(self.clone().accept_loop(listener.acceptor(), sink.clone())));
            }
        }
        let mut sweep = ring::spawn(self.clone().sweep());
        accepting();
        let drains = phase.wait_for(|phase| *phase != Phase::Accepting);
        tokio::select! {
            _ = drains => {}
            panic = first_panic(&mut accept_loops) => broken(panic),
            // It ends by a panic alone.
            Err(end) = &mut sweep => broken(end.into_panic()),
        }
        #[cfg(debug_assertions)]
        faulty::panic_if_wanted(faulty::Place::Shard);
        // An error means that the server is gone: then too, drain.
        let deadline = match phase.wait_for(|phase| *phase != Phase::Accepting).await.as_deref() {
            Ok(Phase::Draining { deadline }) => *deadline,
            Ok(Phase::Accepting) | Err(_) => Instant::now() + self.config.drain_timeout,
        };
        self.draining.set(true);
        for listener in &listeners {
            listener.cancel_accepts().await;
        }
        for accept_loop in accept_loops {
            // Should another one have panicked, the panic hook has told it.
            let _ = accept_loop.await;
        }
        self.accept_queued(listeners, &*sink);
        let left = self.end_connections(deadline).await;
        sweep.abort();
        left
    }

    /// Whether connections shall come to an end.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Counts and logs that a peer broke the protocol.
    pub fn violation(&self, peer: SocketAddr, violation: &Violation) {
        let reason = violation.reason();
        self.metrics.frames_rejected.of(reason).add(1);
        if self.may_log() {
            warn!(%peer, shard = self.index, reason = reason.name(), "closing a connection: {violation}");
        }
    }

    /// Serves a connection, or closes it where there are too many.
    fn spawn_connection<S: Sink>(self: &Rc<Self>, socket: Socket, peer: SocketAddr, sink: &S) {
        match self.admission.admit(peer.ip()) {
            Ok(permit) => {
                self.metrics.connections_accepted.add(1);
                // The handle is not needed: a panic is told by the hook and counted by the registration.
                let number = self.metrics.connections_accepted.get();
                let sink = sink.of_connection(number, peer);
                drop(ring::spawn(connection::serve(self.clone(), socket, peer, permit, sink)));
            }
            Err(reason) => self.turn_away(socket, peer, reason),
        }
    }

    /// Closes a connection that there is no place for.
    fn turn_away(&self, socket: Socket, peer: SocketAddr, reason: CloseReason) {
        // Counted before its client can see it.
        self.metrics.connections_accepted.add(1);
        self.metrics.connections_closed.of(reason).add(1);
        drop(socket);
        if self.may_log() {
            warn!(%peer, shard = self.index, reason = reason.name(), "closed a connection: there are too many");
        }
    }

    /// Looks for deadlines that have passed, for as long as the shard lives.
    async fn sweep(self: Rc<Self>) {
        loop {
            sleep(SWEEP_INTERVAL).await;
            #[cfg(debug_assertions)]
            faulty::panic_if_wanted(faulty::Place::Task);
            // Through the ring, or a shard would be called alive whose I/O stands still.
            ring::round_trip().await;
            self.metrics.heartbeats.add(1);
            let now = Instant::now();
            self.now.set(now);
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
            if self.memory.is_short() {
                // Their tasks look at their buffers before they read on.
                for socket in self.memory.large() {
                    socket.cancel_receive().await;
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
        let wait = registered.deadline.get().filter(|deadline| deadline.at <= due)?.wait;
        if matches!(wait, Wait::Room { .. }) {
            registered.socket.shut_down();
        }
        registered.deadline.set(None);
        registered.cut_for = Some(wait.reason());
        if self.may_log() {
            let (peer, reason) = (registered.peer, wait.reason().name());
            warn!(%peer, shard = self.index, reason, "closing a connection: {}", wait.complaint());
        }
        Some(registered.socket.clone())
    }

    /// Keeps one accept in flight.
    async fn accept_loop<S: Sink>(self: Rc<Self>, mut acceptor: Acceptor, sink: Rc<S>) {
        while !self.is_draining() {
            match acceptor.accept().await {
                Ok((socket, peer)) if self.reserve.hold() => self.spawn_connection(socket, peer, &*sink),
                // It has what was the reserve's place.
                Ok((socket, peer)) => {
                    self.turn_away(socket, peer, CloseReason::OutOfDescriptors);
                    sleep(ACCEPT_BACKOFF).await;
                }
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
                Err(error) => {
                    self.accept_failed(&error);
                    let rests = match error.raw_os_error() {
                        // A connection that was aborted in the queue says nothing about the next one.
                        Some(libc::ECONNABORTED) => false,
                        // The reserve's place is there for the next one, unless it has been given up before.
                        Some(libc::EMFILE | libc::ENFILE) => !self.reserve.give_up(),
                        _ => true,
                    };
                    // What is there still would come again at once, thousands of times a second.
                    if rests {
                        sleep(ACCEPT_BACKOFF).await;
                    }
                }
            }
        }
    }

    /// Takes what the listeners have queued, and closes them.
    fn accept_queued<S: Sink>(self: &Rc<Self>, listeners: Vec<Listener>, sink: &S) {
        let mut accepted = Vec::new();
        for listener in listeners {
            if let Err(error) = listener.stop(&mut accepted) {
                self.accept_failed(&error);
            }
        }
        for (socket, peer) in accepted {
            self.spawn_connection(socket, peer, sink);
        }
    }

    fn accept_failed(&self, error: &io::Error) {
        self.metrics.accept_errors.of(error.into()).add(1);
        if self.may_log() {
            let advice = match error.raw_os_error() {
                Some(libc::EMFILE) => "; raise RLIMIT_NOFILE (`ulimit -n`, LimitNOFILE=)",
                Some(libc::ENFILE) => "; raise sysctl fs.file-max",
                _ => "",
            };
            warn!(shard = self.index, "can't accept a connection: {error}{advice}");
        }
    }

    /// Waits for every connection to end, cuts those that have not at the deadline, and returns how
    /// many did not end even so.
    async fn end_connections(&self, deadline: Instant) -> usize {
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

    /// Whether a line about a peer may be written now; counted where not.
    pub fn may_log(&self) -> bool {
        let allowed = self.fault_log.allow(Instant::now());
        self.metrics.fault_lines_suppressed.add(u64::from(!allowed));
        allowed
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
        self.set_deadline(match frame_began {
            Some(began) => Deadline::after(began, config.frame_timeout, Wait::Frame),
            None => Deadline::after(self.now(), config.idle_timeout, Wait::Request),
        });
    }

    /// The task is about to wait for room to write.
    #[inline]
    pub fn waits_for_room(&self) {
        let timeout = self.shard.config.write_timeout;
        self.set_deadline(Deadline::after(self.now(), timeout, Wait::Room { acked: None }));
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
        self.shard.now.get()
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

/// Waits for one of these tasks to panic, which end only when they are told to, and takes it out.
async fn first_panic(tasks: &mut Vec<JoinHandle<()>>) -> Box<dyn Any + Send> {
    poll_fn(|context| {
        for index in 0..tasks.len() {
            if let Poll::Ready(Err(end)) = Pin::new(&mut tasks[index]).poll(context) {
                drop(tasks.swap_remove(index));
                return Poll::Ready(end.into_panic());
            }
        }
        Poll::Pending
    })
    .await
}

/// Keeps a flood of faults from flooding the log.
#[derive(Default)]
struct FaultLog {
    second: Cell<Option<Instant>>,
    lines: Cell<u32>,
}

impl FaultLog {
    fn allow(&self, now: Instant) -> bool {
        if self.second.get().is_none_or(|start| now.duration_since(start) >= Duration::from_secs(1)) {
            self.second.set(Some(now));
            self.lines.set(0);
        }
        self.lines.set(self.lines.get() + 1);
        self.lines.get() <= FAULT_LINES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::thread;

    use socket2::{Domain, Type};

    use super::*;
    use crate::proto::{AckResult, Id, Kind, Submit};
    use crate::ring::Runtime;
    use crate::sink::Settled;

    /// A sink that panics on one message and refuses another.
    #[derive(Clone)]
    struct Fragile;

    impl Sink for Fragile {
        fn of_connection(&self, _connection: u64, _peer: SocketAddr) -> Self {
            Fragile
        }

        async fn ready(&mut self) {}

        fn stage(&mut self, submit: Submit<'_>) -> AckResult {
            assert_ne!(submit.payload, b"poison");
            if submit.payload == b"unwanted" { AckResult::Failure } else { AckResult::Success }
        }

        fn owes(&self) -> bool {
            false
        }

        async fn settle(&mut self) -> Settled {
            Settled::default()
        }
    }

    fn round_trip(stream: &mut TcpStream, payload: &[u8]) -> io::Result<u8> {
        let mut frame = Vec::new();
        Kind::Submit.encode(Id::from_number(1), payload, &mut frame);
        stream.write_all(&frame)?;
        let mut ack = [0; 14];
        stream.read_exact(&mut ack)?;
        Ok(ack[13])
    }

    #[test]
    fn a_sinks_panic_and_its_refusal_concern_one_connection_and_one_message() {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(16).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let metrics = Arc::new(ShardMetrics::default());
        let (phase, phase_seen) = watch::channel(Phase::Accepting);
        let thread = {
            let metrics = metrics.clone();
            thread::spawn(move || {
                let runtime = Runtime::new(64).unwrap();
                let config = ServerConfig { accepts_in_flight: 2, ..ServerConfig::default() };
                let admission = Admission::new(&config);
                let shard = Shard::new(0, Arc::new(config), metrics, admission, Arc::default());
                runtime.block_on(shard.run(vec![Listener::new(socket)], Fragile, phase_seen, || {}, |_| {}))
            })
        };
        let mut bystander = TcpStream::connect(address).unwrap();
        assert_eq!(round_trip(&mut bystander, b"good").unwrap(), 0);
        assert_eq!(round_trip(&mut bystander, b"unwanted").unwrap(), 1, "refused, and the connection stays");
        for _ in 0..10 {
            let mut victim = TcpStream::connect(address).unwrap();
            assert_eq!(round_trip(&mut victim, b"good").unwrap(), 0);
            round_trip(&mut victim, b"poison").expect_err("its connection is closed");
            assert_eq!(round_trip(&mut bystander, b"good").unwrap(), 0);
        }
        drop(bystander);
        // Or the drain might end it first.
        while metrics.connections_open.get() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        phase.send(Phase::Draining { deadline: Instant::now() + Duration::from_secs(5) }).unwrap();
        assert_eq!(thread.join().unwrap(), 0, "no connection is left");
        assert_eq!(metrics.connections_closed.by_name(), "client_closed=1 panicked=10");
        assert_eq!((metrics.connections_open.get(), metrics.buffer_bytes.get()), (0, 0));
        assert_eq!(metrics.requests.sum(), 22);
        assert_eq!(metrics.acks.by_name(), "success=21 failure=1");
    }

    #[test]
    fn a_flood_of_faults_writes_a_bounded_number_of_lines_a_second() {
        let log = FaultLog::default();
        let start = Instant::now();
        let allowed = |millis| (0..1000).filter(|_| log.allow(start + Duration::from_millis(millis))).count();
        assert_eq!(allowed(0), FAULT_LINES_PER_SECOND as usize);
        assert_eq!(allowed(999), 0);
        assert_eq!(allowed(1000), FAULT_LINES_PER_SECOND as usize);
    }
}
