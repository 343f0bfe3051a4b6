//! The work of a shard from its first accept to the end of its drain.
//!
//! It starts the shard's tasks and stops them in order: first the accepts, then the connections, then the sweep and the
//! refill of the ack pacer, which connections need to the end.

use std::any::Any;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::accept_loop::Accepts;
use super::context::{Arrival, ShardContext};
use crate::clock;
use crate::engine::{self, Listener};
use crate::server::phase::Phase;
use crate::server::shard::Shard;
use crate::server::shard::register::SWEEP_INTERVAL;
use crate::sink::Sink;
#[cfg(feature = "test-hooks")]
use crate::testing::faults;

/// The sockets that a shard's work begins with, and the callbacks that report its progress.
pub struct Start<A, B> {
    pub listeners: Vec<Listener>,
    pub inbox: mpsc::Receiver<Arrival>,
    /// Called once connections are accepted.
    pub accepting: A,
    /// Called with the panic of a task that the shard needs.
    pub broken: B,
}

/// Accepts and serves connections until the phase is [`Phase::Draining`], then drains. Returns the number of
/// connections that did not end even when cut: their ops are still in flight.
///
/// If a task that the shard needs panics, the shard calls `broken` and still waits for the drain, so as to end in good
/// order.
pub async fn run<S: Sink>(
    shard: Rc<Shard>,
    context: ShardContext,
    sink: S,
    start: Start<impl FnOnce(), impl FnOnce(Box<dyn Any + Send>)>,
) -> usize {
    let Start { listeners, inbox, accepting, broken } = start;
    let accepts = Accepts::new(shard.clone(), &context, sink);
    let phase = context.phase;
    let mut accept_loops = vec![engine::spawn(accepts.clone().serve_inbox(inbox, phase.clone()))];
    for listener in &listeners {
        let acceptor = listener.acceptor(shard.config.listen.accepts_in_a_row);
        accept_loops.push(engine::spawn(accepts.clone().accept_loop(acceptor)));
    }
    let mut sweep = engine::spawn(sweep(shard.clone()));
    let paced = shard.clone();
    let mut refill = engine::spawn(async move { paced.refill().await });
    accepting();
    tokio::select! {
        biased;
        _ = phase.accepting_ends() => {}
        panic = first_panic(&mut accept_loops) => broken(panic),
        // Both end only by a panic. Without the sweep no deadline passes, and without the refill no ack leaves.
        Err(end) = &mut sweep => broken(end.into_panic()),
        Err(end) = &mut refill => broken(end.into_panic()),
    }
    #[cfg(feature = "test-hooks")]
    faults::panic_if_wanted(faults::Place::Shard);
    let (deadline, leaves_queue) = match phase.accepting_ends().await {
        Phase::Draining { deadline, leaves_queue } => (deadline, leaves_queue),
        // The server is gone, so the shard should drain as well.
        Phase::Accepting => (clock::now() + shard.config.drain_timeout, false),
    };
    shard.begin_drain();
    for listener in &listeners {
        listener.cancel_accepts().await;
    }
    for accept_loop in accept_loops {
        // If another accept loop has panicked, the panic hook has reported it.
        let _ = accept_loop.await;
    }
    if leaves_queue {
        // The sockets stay open in another process, with the connections that they have queued.
        drop(listeners);
    } else {
        accepts.accept_queued(listeners);
    }
    let left = end_connections(&shard, deadline).await;
    sweep.abort();
    refill.abort();
    left
}

/// Ends waits whose deadline has passed, and reports that the shard is alive, for as long as the shard runs.
async fn sweep(shard: Rc<Shard>) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        #[cfg(feature = "test-hooks")]
        faults::panic_if_wanted(faults::Place::Task);
        shard.heartbeat().await;
        shard.register.sweep(clock::now(), &shard.memory).await;
    }
}

/// Waits for every connection to end, and cuts those that have not ended at the deadline. Returns the number of
/// connections that did not end even then.
async fn end_connections(shard: &Shard, deadline: Instant) -> usize {
    let register = &shard.register;
    register.cancel_receives().await;
    if !register.is_empty_by(deadline).await {
        register.cut_all();
        shard.memory.lift_limit();
        register.is_empty_by(clock::now() + CUT_GRACE).await;
    }
    register.len()
}

/// Waits for one of these tasks to panic, and removes it and those that have ended. The tasks end only when they are
/// asked to.
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

/// How long a cut connection has to end before the process ends without waiting for it.
pub const CUT_GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{self, Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::num::NonZeroUsize;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use socket2::{Domain, Type};

    use super::*;
    use crate::engine::{Engine, Runtime};
    use crate::journal::Settled;
    use crate::metrics::ShardMetrics;
    use crate::proto::{AckResult, Id, Kind, Submit};
    use crate::server::listen::admission::Admission;
    use crate::server::listen::spare_descriptor::SpareDescriptor;
    use crate::server::options::Options;
    use crate::server::phase::{self, PhaseReceiver};
    use crate::sink::Batch;

    /// A listening socket, and its address.
    fn listen() -> (socket2::Socket, SocketAddr) {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(16).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    /// Runs a shard on this thread until the phase is draining and every connection has ended.
    fn run_shard<S: Sink>(
        engine: Engine,
        socket: socket2::Socket,
        sink: S,
        metrics: Arc<ShardMetrics>,
        phase: PhaseReceiver,
    ) -> usize {
        let config = Arc::new(Options { shards: NonZeroUsize::MIN, ..Options::default() });
        let context = ShardContext {
            engine,
            admission: Admission::new(&config),
            config: config.clone(),
            spare_descriptor: Arc::new(SpareDescriptor::new(engine)),
            inboxes: [].into(),
            health: Arc::default(),
            phase,
            events: mpsc::channel(1).0,
        };
        let runtime = Runtime::new(engine, 64).unwrap();
        let event_loop = runtime.event_loop();
        let shard = Shard::new(0, event_loop.clone(), config, metrics);
        runtime.run(async move {
            let listeners = vec![Listener::new(&event_loop, socket.into()).unwrap()];
            let start = Start { listeners, inbox: mpsc::channel(1).1, accepting: || {}, broken: |_| {} };
            run(shard, context, sink, start).await
        })
    }

    /// A sink that panics on one message and refuses another.
    #[derive(Clone)]
    struct Fragile;

    impl Sink for Fragile {
        type Batch<'a> = Fragile;

        fn of_connection(&self, _connection: u64, _peer: SocketAddr) -> Self {
            Fragile
        }

        async fn ready(&mut self) -> Fragile {
            Fragile
        }

        fn has_unsettled(&self) -> bool {
            false
        }

        async fn settle(&mut self) -> Settled {
            Settled::default()
        }
    }

    impl Batch for Fragile {
        fn stage(&mut self, submit: Submit<'_>) -> AckResult {
            assert_ne!(submit.payload, b"poison");
            if submit.payload == b"unwanted" { AckResult::Failure } else { AckResult::Success }
        }

        fn has_unsettled(&self) -> bool {
            false
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
    fn a_panic_of_the_sink_costs_one_connection_and_a_refusal_one_message() {
        let (socket, address) = listen();
        let metrics = Arc::new(ShardMetrics::default());
        let (phase, phase_seen) = phase::channel();
        let thread = {
            let metrics = metrics.clone();
            thread::spawn(move || run_shard(Engine::Uring, socket, Fragile, metrics, phase_seen))
        };
        let mut bystander = TcpStream::connect(address).unwrap();
        assert_eq!(round_trip(&mut bystander, b"good").unwrap(), 0);
        assert_eq!(round_trip(&mut bystander, b"unwanted").unwrap(), 1, "refused, and the connection stays open");
        for _ in 0..10 {
            let mut victim = TcpStream::connect(address).unwrap();
            assert_eq!(round_trip(&mut victim, b"good").unwrap(), 0);
            round_trip(&mut victim, b"poison").expect_err("its connection is closed");
            assert_eq!(round_trip(&mut bystander, b"good").unwrap(), 0);
        }
        drop(bystander);
        // Otherwise the drain might end the connection first.
        while metrics.connections_open.get() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        phase.drain(Instant::now() + Duration::from_secs(5), false);
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
        type Batch<'a> = &'a Full;

        fn of_connection(&self, _connection: u64, _peer: SocketAddr) -> Self {
            self.clone()
        }

        async fn ready(&mut self) -> &Full {
            while self.staged.get() >= FULL_AFTER && !self.emptied.load(Ordering::SeqCst) {
                self.waits.store(true, Ordering::SeqCst);
                sleep(Duration::from_millis(1)).await;
            }
            self
        }

        fn has_unsettled(&self) -> bool {
            false
        }

        async fn settle(&mut self) -> Settled {
            Settled::default()
        }
    }

    impl Batch for &Full {
        fn stage(&mut self, _submit: Submit<'_>) -> AckResult {
            self.staged.set(self.staged.get() + 1);
            AckResult::Success
        }

        fn has_unsettled(&self) -> bool {
            false
        }
    }

    /// In this case the drain finds no receive to cancel, so the connection must check for a drain before it receives.
    #[test]
    fn a_connection_that_waits_for_a_full_sink_notices_a_drain_that_began_meanwhile() {
        for engine in [Engine::Uring, Engine::Epoll] {
            let (socket, address) = listen();
            let (metrics, waits, emptied) =
                (Arc::<ShardMetrics>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
            let (phase, phase_seen) = phase::channel();
            let thread = {
                let (metrics, waits, emptied) = (metrics.clone(), waits.clone(), emptied.clone());
                thread::spawn(move || {
                    let sink = Full { staged: Rc::default(), waits, emptied };
                    run_shard(engine, socket, sink, metrics, phase_seen)
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
            phase.drain(deadline, false);
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
