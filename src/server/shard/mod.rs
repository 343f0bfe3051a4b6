//! A shard: what the connections of one thread share. No other thread touches it, so a request needs no lock.
//!
//! The shard owns the register of its connections with their deadlines, their memory, and the pace of their acks. It
//! does not know how connections are accepted or served ([`super::thread`], [`super::connection`]).

pub mod bulk_buffer;
pub mod deadline;
pub mod handshakes;
pub mod memory;
pub mod pacer;
pub mod peer_log;
pub mod register;

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bulk_buffer::BulkBuffer;
use handshakes::Handshakes;
use memory::Memory;
use pacer::{ACKS_PER_ITERATION, Pacer};
use peer_log::PeerLog;
use register::{Register, SWEEP_INTERVAL};
use tokio::time::sleep;

use crate::engine::EventLoop;
use crate::metrics::ShardMetrics;
use crate::server::options::Options;

/// The state that the tasks of one shard share.
pub struct Shard {
    pub index: usize,
    pub event_loop: EventLoop,
    pub config: Arc<Options>,
    pub metrics: Arc<ShardMetrics>,
    pub register: Rc<Register>,
    pub peer_log: Rc<PeerLog>,
    pub memory: Memory,
    pub ack_pacer: Pacer,
    /// The TLS handshakes in flight, if the server has a certificate.
    pub handshakes: Option<Handshakes>,
    /// The buffer into which connections receive that receive much at a time.
    pub bulk_buffer: BulkBuffer,
    /// The newest connection's number.
    last_connection: Cell<ConnectionId>,
    draining: Cell<bool>,
}

/// A connection's number, unique within the shard for the life of the process. The journal stores it with each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Returns the number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl Shard {
    /// Creates a shard without connections.
    pub fn new(index: usize, event_loop: EventLoop, config: Arc<Options>, metrics: Arc<ShardMetrics>) -> Rc<Self> {
        let peer_log = Rc::new(PeerLog::new(index, metrics.clone()));
        Rc::new(Shard {
            index,
            event_loop,
            register: Register::new(index, config.clone(), metrics.clone(), peer_log.clone()),
            peer_log,
            memory: Memory::new(&config, metrics.clone()),
            ack_pacer: Pacer::new(ACKS_PER_ITERATION),
            handshakes: config.tls.as_ref().map(Handshakes::new),
            bulk_buffer: BulkBuffer::new(config.read_buffer_max),
            last_connection: Cell::new(ConnectionId(0)),
            draining: Cell::new(false),
            config,
            metrics,
        })
    }

    /// Returns the number of a new connection. The first one is 1.
    pub fn next_connection(&self) -> ConnectionId {
        let id = ConnectionId(self.last_connection.get().0 + 1);
        self.last_connection.set(id);
        id
    }

    /// Returns the time, for measurements by connections: see [`EventLoop::now`].
    #[inline]
    pub fn now(&self) -> Instant {
        self.event_loop.now()
    }

    /// Reports again and again that the event loop runs. Never returns. Cancel-safe.
    pub async fn beat(&self) -> Infallible {
        loop {
            self.heartbeat().await;
            sleep(SWEEP_INTERVAL).await;
        }
    }

    /// Reports that the event loop runs. The report depends on the engine: a shard whose I/O has stopped is not alive.
    pub async fn heartbeat(&self) {
        self.event_loop.round_trip().await;
        self.metrics.heartbeats.add(1);
    }

    /// Refills the pacers. Never returns.
    pub async fn refill(&self) {
        let handshakes = async {
            match &self.handshakes {
                Some(handshakes) => handshakes.steps.refill(&self.event_loop).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(self.ack_pacer.refill(&self.event_loop), handshakes);
    }

    /// Makes connections end once they have answered what has arrived.
    pub fn begin_drain(&self) {
        self.draining.set(true);
        if let Some(handshakes) = &self.handshakes {
            handshakes.lift_limit();
        }
    }

    /// Returns whether connections should end.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, Runtime};

    #[test]
    fn connections_are_numbered_from_one() {
        let event_loop = Runtime::new(Engine::Epoll, 8).unwrap().event_loop();
        let shard = Shard::new(0, event_loop, Arc::default(), Arc::default());
        let ids = [shard.next_connection(), shard.next_connection(), shard.next_connection()];
        assert_eq!(ids.map(ConnectionId::get), [1, 2, 3]);
    }
}
