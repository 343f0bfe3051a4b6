//! One connection: read, frames, session, sink, acks, write; then the next read.
//!
//! No queue stands in this loop. While acks are unwritten nothing more is read, and TCP tells the
//! client. The task owns its socket and its buffers; it touches its shard only to be counted and to
//! hear of a drain.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;

use tokio::time::Instant;
use tracing::debug;

use super::read_buffer::ReadBuffer;
use super::shard::{Registration, Shard};
use crate::proto::{AckResult, Acks, HEADER_LEN, Next, Session, Violation};
use crate::ring::Socket;
use crate::sink::Sink;

/// Serves one connection to its end.
pub async fn serve<S: Sink>(shard: Rc<Shard>, socket: Socket, peer: SocketAddr, sink: S) {
    let registration = Registration::new(shard.clone(), socket.handle(), peer);
    let config = &shard.config;
    let mut connection = Connection {
        shard: &shard,
        socket,
        input: ReadBuffer::new(config.read_buffer_max),
        frame_len: HEADER_LEN,
        session: Session::new(config.frame_len_max),
        sink,
        acks: Acks::new(config.ack_codes),
    };
    let end = connection.run().await;
    match &end {
        End::Finished => {}
        End::Drained => connection.linger().await,
        End::Violated(violation) => {
            shard.violation(peer, violation);
            // After its own FIN a peer sends nothing that would have to be read away.
            if !matches!(violation, Violation::Truncated { .. }) {
                connection.linger().await;
            }
        }
        End::Failed(_) => shard.metrics.connections_reset.add(1),
    }
    debug!(%peer, shard = shard.index, ?end, "connection closed");
    drop(connection);
    drop(registration);
}

/// How a connection came to its end. What it was owed has been written, but for the last.
#[derive(Debug)]
enum End {
    /// The peer sent its last, and was answered in full.
    Finished,
    /// The server drains.
    Drained,
    /// The peer broke the protocol.
    Violated(Violation),
    /// The socket failed: a reset, mostly.
    Failed(#[expect(dead_code, reason = "for the log")] io::Error),
}

struct Connection<'a, S> {
    shard: &'a Shard,
    socket: Socket,
    input: ReadBuffer,
    /// Bytes that the frame at the head of `input` will have, as far as can be told.
    frame_len: usize,
    session: Session,
    sink: S,
    acks: Acks,
}

impl<S: Sink> Connection<'_, S> {
    async fn run(&mut self) -> End {
        loop {
            if self.shard.is_draining() {
                return self.drain().await;
            }
            let (result, bytes) = self.socket.receive(self.input.lend(self.frame_len)).await;
            self.input.restore(bytes, *result.as_ref().unwrap_or(&0));
            match result {
                Ok(received) => {
                    if let ControlFlow::Break(end) = self.answer(received).await {
                        return end;
                    }
                }
                // A drain has begun.
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
                Err(error) => return End::Failed(error),
            }
        }
    }

    /// Answers every whole frame that has come.
    async fn answer(&mut self, received: usize) -> ControlFlow<End> {
        if received == 0 {
            return ControlFlow::Break(match self.session.end(self.input.bytes()) {
                Ok(()) => End::Finished,
                Err(violation) => End::Violated(violation),
            });
        }
        let mut failures = 0;
        let progress = self.session.receive(self.input.bytes(), &mut self.acks, |submit| {
            let result = self.sink.stage(submit);
            failures += u64::from(result == AckResult::Failure);
            result
        });
        self.input.consume(progress.consumed);
        let metrics = &self.shard.metrics;
        metrics.bytes_received.add(received as u64);
        if !self.acks.is_empty() {
            self.sink.settle().await;
            metrics.requests.add(self.acks.len() as u64);
            metrics.failures.add(failures);
            let (result, bytes) = self.socket.send_all(self.acks.take()).await;
            if let Err(error) = result {
                return ControlFlow::Break(End::Failed(error));
            }
            metrics.bytes_sent.add(bytes.len() as u64);
            if !self.input.is_small() || bytes.capacity() <= QUIET_ACKS_LEN {
                self.acks.put_back(bytes);
            }
        }
        match progress.next {
            Next::Read { frame_len } => {
                self.frame_len = frame_len;
                ControlFlow::Continue(())
            }
            Next::Close(violation) => ControlFlow::Break(End::Violated(violation)),
        }
    }

    /// Answers what the socket holds at this moment. A partial frame at the end of it is dropped:
    /// its sender is not owed an ack.
    async fn drain(&mut self) -> End {
        let mut left = match self.socket.readable_bytes() {
            Ok(left) => left as usize,
            Err(error) => return End::Failed(error),
        };
        while left > 0 {
            let (result, bytes) = self.socket.receive_now(self.input.lend(self.frame_len)).await;
            self.input.restore(bytes, *result.as_ref().unwrap_or(&0));
            match result {
                Ok(received) => {
                    if let ControlFlow::Break(end) = self.answer(received).await {
                        return end;
                    }
                    left = left.saturating_sub(received);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return End::Failed(error),
            }
        }
        End::Drained
    }

    /// Closes so that the acks on their way arrive. A socket closed with unread bytes sends RST, and
    /// the peer may then lose them: so say that no more comes, and throw away what the peer still
    /// sends until it closes too, for a bounded time and size.
    async fn linger(&mut self) {
        if self.socket.shut_down_writes().is_err() {
            return;
        }
        let config = &self.shard.config;
        let deadline = Instant::now() + config.linger_timeout;
        let mut left = config.linger_bytes_max;
        let mut scratch = Vec::with_capacity(config.read_buffer_max);
        while left > 0 && Instant::now() < deadline {
            scratch.clear();
            let mut receive = pin!(self.socket.receive(scratch));
            let (result, bytes) = tokio::select! {
                done = &mut receive => done,
                () = tokio::time::sleep_until(deadline) => {
                    self.socket.cancel().await;
                    receive.await
                }
            };
            scratch = bytes;
            match result {
                Ok(0) => return,
                Ok(count) => left = left.saturating_sub(count as u64),
                // A drain has begun, or the time is over.
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
                Err(_) => return,
            }
        }
    }
}

/// Bytes of an ack buffer that a quiet connection keeps; a larger one is given back.
const QUIET_ACKS_LEN: usize = 256;
