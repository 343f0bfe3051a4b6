//! How connections come to a shard: its accept loops, what they do with a connection, and what they do
//! when an accept fails.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::time::sleep;
use tracing::warn;

use super::Shard;
use crate::config::ACCEPT_BACKOFF;
use crate::engine::{self, Acceptor, Listener, Socket};
use crate::metrics::{CloseReason, Label};
use crate::server::connection;
use crate::sink::Sink;

impl Shard {
    /// Keeps one accept in flight.
    pub(super) async fn accept_loop<S: Sink>(self: Rc<Self>, mut acceptor: Acceptor, sink: Rc<S>) {
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
    pub(super) fn accept_queued<S: Sink>(self: &Rc<Self>, listeners: Vec<Listener>, sink: &S) {
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

    /// Serves a connection, or closes it where there are too many.
    fn spawn_connection<S: Sink>(self: &Rc<Self>, socket: Socket, peer: SocketAddr, sink: &S) {
        match self.admission.admit(peer.ip()) {
            Ok(permit) => {
                self.metrics.connections_accepted.add(1);
                // The handle is not needed: a panic is told by the hook and counted by the registration.
                let sink = sink.of_connection(self.metrics.connections_accepted.get(), peer);
                drop(engine::spawn(connection::serve(self.clone(), socket, peer, permit, sink)));
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
