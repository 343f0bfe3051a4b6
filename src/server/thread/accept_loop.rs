//! How connections come to a shard: from its accept loops, and from the accept loops of other shards.
//!
//! The kernel distributes connections over the shards by a hash of their addresses, which is uneven for few
//! connections: of eight connections, one of two shards gets six or more in 29 of 100 cases. So the shard that has
//! accepted a connection hands it to the shard that has the fewest ([`Admission::better_than`]) before any byte of it
//! is read.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::warn;

use super::context::{Arrival, ShardContext};
use crate::engine::{self, Acceptor, Listener, RawSocket, Socket};
use crate::metrics::{CloseReason, Label};
use crate::server::connection;
use crate::server::listen::admission::Admission;
use crate::server::listen::spare_descriptor::SpareDescriptor;
use crate::server::phase::PhaseReceiver;
use crate::server::shard::Shard;
use crate::server::shard::register::Registration;
use crate::sink::Sink;

/// The state that the accept loops of one shard share.
pub struct Accepts<S> {
    shard: Rc<Shard>,
    admission: Arc<Admission>,
    spare_descriptor: Arc<SpareDescriptor>,
    inboxes: Arc<[mpsc::Sender<Arrival>]>,
    /// The sink from which each connection gets its own.
    sink: S,
}

impl<S: Sink> Accepts<S> {
    /// Prepares the accept loops of `shard`.
    pub fn new(shard: Rc<Shard>, context: &ShardContext, sink: S) -> Rc<Self> {
        Rc::new(Accepts {
            shard,
            admission: context.admission.clone(),
            spare_descriptor: context.spare_descriptor.clone(),
            inboxes: context.inboxes.clone(),
            sink,
        })
    }

    /// Accepts connections from one listener until the shard drains.
    pub async fn accept_loop(self: Rc<Self>, mut acceptor: Acceptor) {
        while !self.shard.is_draining() {
            match acceptor.accept().await {
                Ok((socket, peer)) if self.spare_descriptor.hold() => self.arrived(socket, peer),
                // The connection has the descriptor that was kept in reserve.
                Ok((socket, peer)) => {
                    self.turn_away(socket, peer, CloseReason::OutOfDescriptors);
                    sleep(ACCEPT_BACKOFF).await;
                }
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
                Err(error) => {
                    self.accept_failed(&error);
                    let back_off = match error.raw_os_error() {
                        // A connection that was aborted in the backlog does not affect the next one.
                        Some(libc::ECONNABORTED) => false,
                        // The next connection can use the spare descriptor, unless it has been given up before.
                        Some(libc::EMFILE | libc::ENFILE) => !self.spare_descriptor.give_up(),
                        _ => true,
                    };
                    // Without a pause the same connection would fail again immediately, thousands of times a second.
                    if back_off {
                        sleep(ACCEPT_BACKOFF).await;
                    }
                }
            }
        }
    }

    /// Accepts what the listeners have queued, and closes them.
    pub fn accept_queued(&self, listeners: Vec<Listener>) {
        let mut accepted = Vec::new();
        for listener in listeners {
            if let Err(error) = listener.stop(&mut accepted) {
                self.accept_failed(&error);
            }
        }
        for (socket, peer) in accepted {
            self.arrived(socket, peer);
        }
    }

    /// Serves connections that other shards have accepted. Ends after a drain has begun and the connections that were
    /// handed over before are served.
    pub async fn serve_inbox(self: Rc<Self>, mut inbox: mpsc::Receiver<Arrival>, phase: PhaseReceiver) {
        loop {
            tokio::select! {
                biased;
                arrival = inbox.recv() => match arrival {
                    Some(arrival) => self.serve(arrival),
                    None => return,
                },
                // From now on the other shards keep what they accept.
                _ = phase.accepting_ends(), if !inbox.is_closed() => inbox.close(),
            }
        }
    }

    /// Has a connection served by this shard or a better one, or closes it if a limit is reached.
    fn arrived(&self, socket: RawSocket, peer: SocketAddr) {
        match self.admission.admit(peer.ip(), self.shard.index) {
            Ok(permit) => {
                if let Some(arrival) = self.hand_on(Arrival { socket, peer, permit }) {
                    self.serve(arrival);
                }
            }
            Err(reason) => self.turn_away(socket, peer, reason),
        }
    }

    /// Hands a connection to a shard that has fewer connections. Returns the connection if there is no such shard, or
    /// its inbox is full or closed.
    fn hand_on(&self, mut arrival: Arrival) -> Option<Arrival> {
        let shard = &self.shard;
        if !shard.config.balance || shard.is_draining() {
            return Some(arrival);
        }
        let Some(better) = self.admission.better_than(shard.index) else { return Some(arrival) };
        arrival.permit.move_to(better);
        match self.inboxes[better].try_send(arrival) {
            Ok(()) => {
                shard.metrics.connections_moved.add(1);
                None
            }
            Err(refused) => {
                let mut arrival = refused.into_inner();
                arrival.permit.move_to(shard.index);
                Some(arrival)
            }
        }
    }

    /// Starts the task of a connection.
    fn serve(&self, arrival: Arrival) {
        let (shard, Arrival { socket, peer, permit }) = (&self.shard, arrival);
        match Socket::new(&shard.event_loop, socket) {
            Ok(socket) => {
                shard.metrics.connections_accepted.add(1);
                let sink = self.sink.of_connection(shard.next_connection().get(), peer);
                // Register the connection now, and not when its task first runs: a drain may begin in between.
                let registration = Registration::new(&shard.register, socket.handle(), peer, permit);
                // The task's handle is not needed: the panic hook reports a panic, and the registration counts it.
                drop(engine::spawn(connection::serve(shard.clone(), socket, peer, registration, sink)));
            }
            Err(error) => self.accept_failed(&error),
        }
    }

    /// Closes a connection that a limit leaves no room for.
    fn turn_away(&self, socket: RawSocket, peer: SocketAddr, reason: CloseReason) {
        let shard = &self.shard;
        // Count before the client can notice.
        shard.metrics.connections_accepted.add(1);
        shard.metrics.connections_closed.of(reason).add(1);
        drop(socket);
        if shard.peer_log.may_log() {
            warn!(%peer, shard = shard.index, reason = reason.name(), "closed a connection: limit reached");
        }
    }

    fn accept_failed(&self, error: &io::Error) {
        let shard = &self.shard;
        shard.metrics.accept_errors.of(error.into()).add(1);
        if shard.peer_log.may_log() {
            let advice = match error.raw_os_error() {
                Some(libc::EMFILE) => "; raise RLIMIT_NOFILE (`ulimit -n`, LimitNOFILE=)",
                Some(libc::ENFILE) => "; raise sysctl fs.file-max",
                _ => "",
            };
            warn!(shard = shard.index, "can't accept a connection: {error}{advice}");
        }
    }
}

/// How long an accept loop pauses when descriptors or kernel memory have run out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
