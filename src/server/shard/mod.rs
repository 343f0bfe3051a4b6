//! One shard: one thread, one engine at work, one listener an address; nothing shared with the others on the
//! path of a request.
//!
//! The shard owns its accept loops ([`accepts`]) and the register of its connections ([`register`]),
//! through which a drain reaches them. Connections own everything else themselves
//! ([`super::connection`]).

mod accepts;
mod ack_pacer;
mod bulk_buffer;
pub mod deadline;
mod fault_log;
mod journal;
pub mod memory;
pub mod register;
mod storage;
pub mod thread;
pub mod watchdog;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use slab::Slab;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::warn;

pub use accepts::Arrival;
use ack_pacer::AckPacer;
use bulk_buffer::BulkBuffer;
use fault_log::FaultLog;
use memory::Memory;
use register::Registered;
pub use register::Registration;

use super::Phase;
use super::listen::admission::Admission;
use super::listen::spare_descriptor::SpareDescriptor;
use crate::engine::{self, EventLoop, Listener};
use crate::metrics::{CloseReason, Label, ShardMetrics};
use crate::proto::Violation;
use crate::server::Options;
use crate::sink::Sink;
#[cfg(feature = "test-hooks")]
use crate::testing::faults;

/// What the tasks of one shard share. They all run on its thread.
pub struct Shard {
    pub index: usize,
    event_loop: EventLoop,
    pub config: Arc<Options>,
    pub metrics: Arc<ShardMetrics>,
    pub memory: Memory,
    pub ack_pacer: AckPacer,
    admission: Arc<Admission>,
    spare_descriptor: Arc<SpareDescriptor>,
    /// Where each shard takes connections that others have accepted.
    inboxes: Arc<[mpsc::Sender<Arrival>]>,
    connections: RefCell<Slab<Registered>>,
    /// What connections receive to that receive much at once.
    pub bulk_buffer: BulkBuffer,
    /// The time of the last sweep: the clock that deadlines go by.
    swept: Cell<Instant>,
    draining: Cell<bool>,
    /// Notified by each connection that leaves the register empty. A drain then checks again, and also at its deadline.
    last_one_gone: Notify,
    fault_log: FaultLog,
}

impl Shard {
    /// A shard without connections.
    pub fn new(
        index: usize,
        event_loop: EventLoop,
        config: Arc<Options>,
        metrics: Arc<ShardMetrics>,
        admission: Arc<Admission>,
        spare_descriptor: Arc<SpareDescriptor>,
        inboxes: Arc<[mpsc::Sender<Arrival>]>,
    ) -> Rc<Self> {
        let memory = Memory::new(&config, metrics.clone());
        Rc::new(Shard {
            index,
            event_loop,
            memory,
            ack_pacer: AckPacer::new(),
            bulk_buffer: BulkBuffer::new(config.read_buffer_max),
            config,
            metrics,
            admission,
            spare_descriptor,
            inboxes,
            connections: RefCell::default(),
            swept: Cell::new(Instant::now()),
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
        arrivals: mpsc::Receiver<Arrival>,
        sink: S,
        mut phase: watch::Receiver<Phase>,
        accepting: impl FnOnce(),
        broken: impl FnOnce(Box<dyn Any + Send>),
    ) -> usize {
        let sink = Rc::new(sink);
        let mut accept_loops = vec![engine::spawn(self.clone().take_over(arrivals, phase.clone(), sink.clone()))];
        for listener in &listeners {
            let acceptor = listener.acceptor(self.config.listen.accepts_in_a_row);
            accept_loops.push(engine::spawn(self.clone().accept_loop(acceptor, sink.clone())));
        }
        let mut sweep = engine::spawn(self.clone().sweep());
        let shard = self.clone();
        let mut turns = engine::spawn(async move { shard.ack_pacer.turns(&shard.event_loop).await });
        accepting();
        let drains = phase.wait_for(|phase| *phase != Phase::Accepting);
        tokio::select! {
            _ = drains => {}
            panic = first_panic(&mut accept_loops) => broken(panic),
            // Both end only with a panic. Without the sweep no deadline passes, and without `turns` no ack leaves.
            Err(end) = &mut sweep => broken(end.into_panic()),
            Err(end) = &mut turns => broken(end.into_panic()),
        }
        #[cfg(feature = "test-hooks")]
        faults::panic_if_wanted(faults::Place::Shard);
        // An error means that the server is gone: then too, drain.
        let (deadline, leaves_queue) = match phase.wait_for(|phase| *phase != Phase::Accepting).await.as_deref() {
            Ok(Phase::Draining { deadline, leaves_queue }) => (*deadline, *leaves_queue),
            Ok(Phase::Accepting) | Err(_) => (Instant::now() + self.config.drain_timeout, false),
        };
        self.draining.set(true);
        for listener in &listeners {
            listener.cancel_accepts().await;
        }
        for accept_loop in accept_loops {
            // Should another one have panicked, the panic hook has told it.
            let _ = accept_loop.await;
        }
        if leaves_queue {
            // The sockets stay open elsewhere, with all that they have queued.
            drop(listeners);
        } else {
            self.accept_queued(listeners, &*sink);
        }
        let left = self.end_connections(deadline).await;
        sweep.abort();
        turns.abort();
        left
    }

    /// The time, for what connections measure: see [`EventLoop::now`].
    #[inline]
    pub fn now(&self) -> Instant {
        self.event_loop.now()
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

    /// The kernel has given a peer up, for this reason.
    pub fn vanished(&self, peer: SocketAddr, reason: CloseReason) {
        if self.may_log() {
            let why = match reason {
                CloseReason::Keepalive => "it does not answer any more (--tcp-keepalive)",
                _ => "its host did not take its acks (--write-timeout)",
            };
            warn!(%peer, shard = self.index, reason = reason.name(), "closing a connection: {why}");
        }
    }

    /// Whether a line about a peer may be written now; counted where not.
    pub fn may_log(&self) -> bool {
        let allowed = self.fault_log.allow(Instant::now());
        self.metrics.fault_lines_suppressed.add(u64::from(!allowed));
        allowed
    }
}

/// Waits for one of these tasks to panic, which end only when they are told to, and takes it out.
async fn first_panic(tasks: &mut Vec<JoinHandle<()>>) -> Box<dyn Any + Send> {
    poll_fn(|context| {
        let mut index = 0;
        while let Some(task) = tasks.get_mut(index) {
            match Pin::new(task).poll(context) {
                Poll::Pending => index += 1,
                Poll::Ready(end) => {
                    drop(tasks.swap_remove(index));
                    if let Err(end) = end {
                        return Poll::Ready(end.into_panic());
                    }
                }
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use socket2::{Domain, Type};

    use super::*;
    use crate::engine::{Engine, Runtime};
    use crate::proto::{AckResult, Id, Kind, Submit};
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
                let runtime = Runtime::new(Engine::Uring, 64).unwrap();
                let workers = std::num::NonZeroUsize::MIN;
                let config = Options { shards: workers, ..Options::default() };
                let admission = Admission::new(&config);
                let shard = Shard::new(
                    0,
                    runtime.event_loop(),
                    Arc::new(config),
                    metrics,
                    admission,
                    Arc::default(),
                    [].into(),
                );
                let listener = Listener::new(&runtime.event_loop(), socket).unwrap();
                runtime.run(shard.run(vec![listener], mpsc::channel(1).1, Fragile, phase_seen, || {}, |_| {}))
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
        phase.send(Phase::Draining { deadline: Instant::now() + Duration::from_secs(5), leaves_queue: false }).unwrap();
        assert_eq!(thread.join().unwrap(), 0, "no connection is left");
        assert_eq!(metrics.connections_closed.by_name(), "client_closed=1 panicked=10");
        assert_eq!((metrics.connections_open.get(), metrics.buffer_bytes.get()), (0, 0));
        assert_eq!(metrics.requests.sum(), 22);
        assert_eq!(metrics.acks.by_name(), "success=21 failure=1");
    }

    /// A sink that is full after [`FULL_AFTER`] messages until it is emptied.
    #[derive(Clone)]
    struct Full {
        staged: Rc<Cell<usize>>,
        waits: Arc<AtomicBool>,
        emptied: Arc<AtomicBool>,
    }

    /// The number of messages of [`PAYLOAD_LEN`] bytes that fill the sink. Together they fill many read buffers.
    const FULL_AFTER: usize = 1000;
    const PAYLOAD_LEN: usize = 1000;

    impl Sink for Full {
        fn of_connection(&self, _connection: u64, _peer: SocketAddr) -> Self {
            self.clone()
        }

        async fn ready(&mut self) {
            while self.staged.get() >= FULL_AFTER && !self.emptied.load(Ordering::SeqCst) {
                self.waits.store(true, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }

        fn stage(&mut self, _submit: Submit<'_>) -> AckResult {
            self.staged.set(self.staged.get() + 1);
            AckResult::Success
        }

        fn owes(&self) -> bool {
            false
        }

        async fn settle(&mut self) -> Settled {
            Settled::default()
        }
    }

    /// In this case the drain finds no receive to cancel, so the connection must check for a drain before it receives.
    #[test]
    fn a_connection_that_waits_for_a_full_sink_sees_a_drain_that_began_meanwhile() {
        for engine in [Engine::Uring, Engine::Epoll] {
            let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            socket.listen(16).unwrap();
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            let (metrics, waits, emptied) =
                (Arc::<ShardMetrics>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
            let (phase, phase_seen) = watch::channel(Phase::Accepting);
            let thread = {
                let (metrics, waits, emptied) = (metrics.clone(), waits.clone(), emptied.clone());
                thread::spawn(move || {
                    let runtime = Runtime::new(engine, 64).unwrap();
                    let workers = std::num::NonZeroUsize::MIN;
                    let config = Options { shards: workers, ..Options::default() };
                    let admission = Admission::new(&config);
                    let shard = Shard::new(
                        0,
                        runtime.event_loop(),
                        Arc::new(config),
                        metrics,
                        admission,
                        Arc::default(),
                        [].into(),
                    );
                    let sink = Full { staged: Rc::default(), waits, emptied };
                    let event_loop = runtime.event_loop();
                    let run = async move {
                        let listener = Listener::new(&event_loop, socket).unwrap();
                        shard.run(vec![listener], mpsc::channel(1).1, sink, phase_seen, || {}, |_| {}).await
                    };
                    runtime.run(run)
                })
            };
            let mut client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut frames = Vec::new();
            for number in 0..FULL_AFTER {
                Kind::Submit.encode(Id::from_number(number as u64), &[7; PAYLOAD_LEN], &mut frames);
            }
            client.write_all(&frames).unwrap();
            client.read_exact(&mut vec![0; 14 * FULL_AFTER]).unwrap();
            let by = Instant::now() + Duration::from_secs(20);
            while !waits.load(Ordering::SeqCst) {
                assert!(Instant::now() < by, "the connection does not wait for the sink");
                thread::sleep(Duration::from_millis(1));
            }
            let deadline = Instant::now() + Duration::from_secs(10);
            phase.send(Phase::Draining { deadline, leaves_queue: false }).unwrap();
            // The drain has asked all connections to end by then.
            thread::sleep(Duration::from_millis(500));
            emptied.store(true, Ordering::SeqCst);
            assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "a clean end");
            drop(client);
            assert_eq!(thread.join().unwrap(), 0);
            let closed = metrics.connections_closed.by_name();
            assert!(closed.contains("drained=1"), "{closed} on {}", engine.name());
        }
    }
}
