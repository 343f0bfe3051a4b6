//! How a connection ends: why, what is answered before, and a close that loses none of it.

use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::{Duration, Instant};

use super::Connection;
use super::read_buffer::ReadBuffer;
use crate::engine::Socket;
use crate::metrics::CloseReason;
use crate::proto::Violation;
use crate::server::options::READ_BUFFER_MIN;
use crate::server::shard::deadline::CLOCK_LAG;
use crate::sink::Sink;

/// How a connection came to its end. What it was owed has been written, but for the last.
#[derive(Debug)]
pub enum End {
    /// The peer sent its last, and was answered in full.
    Finished,
    /// The server drains.
    Drained,
    /// The peer broke the protocol.
    Violated(Violation),
    /// It waited for its peer for too long.
    TimedOut(CloseReason),
    /// The peer did not take what was sent within the kernel's own limit, or does not answer any more.
    Vanished(CloseReason),
    /// Nothing more can be received: a reset, mostly.
    ReceiveFailed(#[expect(dead_code, reason = "for the log")] io::Error),
    /// Nothing more can be sent.
    SendFailed(#[expect(dead_code, reason = "for the log")] io::Error),
}

impl End {
    pub(super) fn reason(&self) -> CloseReason {
        match self {
            End::Finished => CloseReason::ClientClosed,
            End::Drained => CloseReason::Drained,
            End::Violated(violation) => violation.reason().into(),
            End::TimedOut(reason) | End::Vanished(reason) => *reason,
            End::ReceiveFailed(_) | End::SendFailed(_) => CloseReason::Reset,
        }
    }

    /// Nothing more can be sent, for this reason.
    pub fn send_failed(error: io::Error) -> Self {
        // The kernel's own limit may come first: it counts from the last progress, we from this send.
        if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable) {
            End::Vanished(CloseReason::WriteTimeout)
        } else {
            End::SendFailed(error)
        }
    }
}

impl<S: Sink> Connection<'_, S> {
    /// Why the kernel gave the connection up: TCP_USER_TIMEOUT and keepalive end in the same errors.
    pub(super) fn receive_failed(&self, error: io::Error) -> End {
        use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
        if !matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable) {
            return End::ReceiveFailed(error);
        }
        let owed = self.socket.has_unacknowledged();
        End::Vanished(if owed { CloseReason::WriteTimeout } else { CloseReason::Keepalive })
    }

    pub(super) fn received_last(&mut self) -> End {
        match self.session.end(self.input.bytes()) {
            Ok(()) => End::Finished,
            Err(violation) => End::Violated(violation),
        }
    }

    /// Sees to it that everything that is owed has left, where the peer can still be sent anything.
    pub(super) async fn flush(&mut self, end: End) -> End {
        if matches!(end, End::Vanished(_) | End::ReceiveFailed(_) | End::SendFailed(_)) {
            return end;
        }
        self.outbox.flush(&self.socket).await;
        self.outbox.failure().map_or(end, End::send_failed)
    }

    /// Answers the requests that the socket holds at this moment, and the first request of a connection that was
    /// accepted just before. Drops a partial frame at the end, which needs no ack.
    pub(super) async fn drain(&mut self) -> End {
        if let Err(end) = self.await_first_request().await {
            return end;
        }
        let mut left = match self.socket.readable_bytes() {
            Ok(left) => left as usize,
            Err(error) => return End::ReceiveFailed(error),
        };
        while left > 0 {
            while !self.has_room() {
                self.wait_for_memory().await;
            }
            let mut bytes = self.input.lend();
            let result = self.socket.receive_now(&mut bytes);
            self.input.restore(bytes, *result.as_ref().unwrap_or(&0));
            match result {
                Ok(received) => {
                    let end = match self.take(received).await {
                        Ok(progress) => self.answer(progress).await,
                        Err(end) => return end,
                    };
                    if let ControlFlow::Break(end) = end {
                        return end;
                    }
                    left = left.saturating_sub(received);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return End::ReceiveFailed(error),
            }
        }
        End::Drained
    }

    /// Waits for the first request and answers it, if none has arrived and the connection was accepted at most
    /// [`FIRST_REQUEST_GRACE`] ago. Its client has seen it open, and may have sent a request by now.
    async fn await_first_request(&mut self) -> Result<(), End> {
        // The time of the accept comes from a coarse clock.
        let deadline = self.outbox.last_received() + FIRST_REQUEST_GRACE + CLOCK_LAG;
        while self.bytes_received == self.input.bytes().len() as u64 && Instant::now() < deadline {
            while !self.has_room() {
                self.wait_for_memory().await;
            }
            self.registration.waits_no_more();
            let buffer = self.input.lend();
            let (result, bytes) = receive_until(&self.socket, buffer, deadline).await;
            self.input.restore(bytes, *result.as_ref().unwrap_or(&0));
            match result {
                Ok(received) => {
                    let progress = self.take(received).await?;
                    if let ControlFlow::Break(end) = self.answer(progress).await {
                        return Err(end);
                    }
                }
                // The drain has begun, or the time is over.
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
                Err(error) => return Err(self.receive_failed(error)),
            }
        }
        Ok(())
    }

    /// Closes so that the acks on their way arrive. A socket closed with unread bytes sends RST, and
    /// the peer may then lose them: so say that no more comes, and throw away what the peer still
    /// sends until it closes too, for a bounded time and size.
    pub(super) async fn linger(&mut self) {
        if self.socket.shut_down_writes().is_err() {
            return;
        }
        let config = &self.shard.config;
        self.registration.waits_no_more();
        let deadline = Instant::now() + config.linger_timeout;
        let mut left = config.linger_bytes_max;
        self.input = ReadBuffer::new(0);
        self.outbox.shrink(0);
        self.memory.set(0, 0);
        let large = self.memory.may_grow_to(config.read_buffer_max);
        let mut scratch = Vec::with_capacity(if large { config.read_buffer_max } else { READ_BUFFER_MIN });
        self.memory.set(scratch.capacity(), 0);
        while left > 0 && Instant::now() < deadline {
            scratch.clear();
            let (result, bytes) = receive_until(&self.socket, scratch, deadline).await;
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

/// Receives into `buffer`. At the deadline it cancels the receive, which returns `ECANCELED` unless bytes have arrived.
async fn receive_until(socket: &Socket, buffer: Vec<u8>, deadline: Instant) -> (io::Result<usize>, Vec<u8>) {
    let mut receive = pin!(socket.receive(buffer));
    tokio::select! {
        done = &mut receive => done,
        () = tokio::time::sleep_until(deadline.into()) => {
            socket.cancel().await;
            receive.await
        }
    }
}

/// How long a connection that was accepted just before a drain has to send its first request, which is then answered.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);
