//! How connections come to a shard: its accept loops, what they do with a connection, what they do
//! when an accept fails; and from the accept loops of others.
//!
//! The kernel spreads connections over the shards by a hash of their addresses, which leaves few
//! connections uneven: of eight, one of two shards gets six or more in 29 of 100 cases. So the one that
//! has accepted a connection hands it to the one that has the fewest ([`Admission::better_than`]), before
//! it has read a byte of it.
//!
//! [`Admission::better_than`]: crate::server::listen::admission::Admission::better_than

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::warn;

use super::{Registration, Shard};
use crate::engine::{self, Acceptor, Listener, Socket};
use crate::metrics::{CloseReason, Label};
use crate::server::listen::admission::Permit;
use crate::server::{Phase, connection};
use crate::sink::Sink;

/// A connection that has been accepted and admitted, on its way to its shard.
pub struct Arrival {
    socket: OwnedFd,
    peer: SocketAddr,
    permit: Permit,
}

impl Shard {
    /// Accepts what comes to one listener.
    pub(super) async fn accept_loop<S: Sink>(self: Rc<Self>, mut acceptor: Acceptor, sink: Rc<S>) {
        while !self.is_draining() {
            match acceptor.accept().await {
                Ok((socket, peer)) if self.spare_descriptor.hold() => self.arrived(socket, peer, &*sink),
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
                        Some(libc::EMFILE | libc::ENFILE) => !self.spare_descriptor.give_up(),
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
    pub(super) fn accept_queued<S: Sink>(self: &Rc<Self>, listeners: Vec<Listener>, sink: &S) {
        let mut accepted = Vec::new();
        for listener in listeners {
            if let Err(error) = listener.stop(&mut accepted) {
                self.accept_failed(&error);
            }
        }
        for (socket, peer) in accepted {
            self.arrived(socket, peer, sink);
        }
    }

    /// Serves what other shards have accepted, until a drain: then what they had handed on before.
    pub(super) async fn take_over<S: Sink>(
        self: Rc<Self>,
        mut inbox: mpsc::Receiver<Arrival>,
        mut phase: watch::Receiver<Phase>,
        sink: Rc<S>,
    ) {
        loop {
            tokio::select! {
                arrival = inbox.recv() => match arrival {
                    Some(arrival) => self.serve(arrival, &*sink),
                    None => return,
                },
                // From then on they keep what they accept.
                _ = phase.wait_for(|phase| *phase != Phase::Accepting), if !inbox.is_closed() => inbox.close(),
            }
        }
    }

    /// Sees to it that a connection is served, here or by another shard; or closes it where there are too many.
    fn arrived<S: Sink>(self: &Rc<Self>, socket: OwnedFd, peer: SocketAddr, sink: &S) {
        match self.admission.admit(peer.ip(), self.index) {
            Ok(permit) => {
                if let Some(arrival) = self.hand_on(Arrival { socket, peer, permit }) {
                    self.serve(arrival, sink);
                }
            }
            Err(reason) => self.turn_away(socket, peer, reason),
        }
    }

    /// Hands a connection to a shard that has fewer; gives it back where there is none, or it takes none.
    fn hand_on(&self, mut arrival: Arrival) -> Option<Arrival> {
        let better = self.admission.better_than(self.index).filter(|_| self.config.balance && !self.is_draining());
        let Some(better) = better else { return Some(arrival) };
        arrival.permit.move_to(better);
        match self.inboxes[better].try_send(arrival) {
            Ok(()) => {
                self.metrics.connections_moved.add(1);
                None
            }
            Err(kept) => {
                let mut arrival = kept.into_inner();
                arrival.permit.move_to(self.index);
                Some(arrival)
            }
        }
    }

    fn serve<S: Sink>(self: &Rc<Self>, arrival: Arrival, sink: &S) {
        let Arrival { socket, peer, permit } = arrival;
        match Socket::new(&self.event_loop, socket) {
            Ok(socket) => {
                self.metrics.connections_accepted.add(1);
                // The handle is not needed: a panic is told by the hook and counted by the registration.
                let sink = sink.of_connection(self.metrics.connections_accepted.get(), peer);
                // Registered now, and not when the task first runs: a drain may begin in between.
                let registration = Registration::new(self.clone(), socket.handle(), peer, permit);
                drop(engine::spawn(connection::serve(self.clone(), socket, peer, registration, sink)));
            }
            Err(error) => self.accept_failed(&error),
        }
    }

    /// Closes a connection that there is no place for.
    fn turn_away(&self, socket: OwnedFd, peer: SocketAddr, reason: CloseReason) {
        // Counted before its client can see it.
        self.metrics.connections_accepted.add(1);
        self.metrics.connections_closed.of(reason).add(1);
        drop(socket);
        if self.may_log() {
            warn!(%peer, shard = self.index, reason = reason.name(), "closed a connection: there are too many");
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
}

/// How long an accept loop pauses when descriptors or kernel memory have run out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
