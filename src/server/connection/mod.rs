//! One connection, from its registration to its close.
//!
//! A connection's task owns its socket and its buffers. It uses its shard for its memory and deadlines, to pace acks,
//! and to learn of a drain.

mod buffers;
mod close;
mod conversation;
mod end;
mod outbox;
mod read_ahead;
mod read_buffer;
mod tls;

use std::net::SocketAddr;
use std::rc::Rc;

use tracing::debug;

use conversation::Conversation;
use end::End;

use super::shard::Shard;
use super::shard::register::Registration;
use crate::engine::Socket;
use crate::metrics::CloseReason;
use crate::proto::Violation;
use crate::sink::Sink;
use crate::tls::FaultReason;

/// Serves one connection to its end.
///
/// Each open connection has one of these futures, so its size counts. An `async fn` would keep its arguments twice, and
/// whatever happens at most once in a connection's life has a box of its own.
#[expect(clippy::manual_async_fn, reason = "the size")]
pub fn serve<S: Sink>(
    shard: Rc<Shard>,
    socket: Socket,
    peer: SocketAddr,
    mut registration: Registration,
    sink: S,
) -> impl Future<Output = ()> + 'static {
    async move {
        let mut connection = Conversation::new(&shard, &registration, socket, sink);
        let end = match connection.run().await {
            Some(end) => end,
            None => Box::pin(close::drain(&mut connection)).await,
        };
        let end = connection.flush(end).await;
        // A close_notify ends the peer's stream before TCP does, and bytes may follow it.
        let has_closed = connection.outbox.tls.as_ref().is_some_and(|tls| tls.peer_has_closed());
        let lingers = match &end {
            End::Drained | End::TimedOut(_) => true,
            End::Violated(violation) => {
                shard.peer_log.violation(peer, violation);
                // After the end of its stream, a peer sends nothing that would have to be discarded.
                has_closed || !matches!(violation, Violation::Truncated { .. })
            }
            End::Vanished(reason) => {
                if registration.cut_for().is_none() {
                    shard.peer_log.vanished(peer, *reason);
                }
                false
            }
            End::TlsFailed(fault) => {
                shard.peer_log.tls_failed(peer, fault);
                true
            }
            End::Finished => has_closed,
            End::ReceiveFailed(_) | End::SendFailed(_) => false,
        };
        if registration.cut_for() == Some(CloseReason::HandshakeTimeout) {
            shard.metrics.tls_failures.of(FaultReason::Timeout).add(1);
        }
        if lingers {
            let Conversation { socket, buffers, outbox, .. } = &mut connection;
            Box::pin(close::linger(socket, &shard.config, buffers, outbox)).await;
        }
        let (requests, bytes_received) = (connection.outbox.requests(), connection.bytes_received);
        debug!(%peer, shard = shard.index, requests, bytes_received, ?end, "connection closed");
        drop(connection);
        registration.ended(end.reason());
        drop(registration);
    }
}
