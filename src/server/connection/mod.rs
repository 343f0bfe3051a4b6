//! One connection: read, frames, session, sink, acks, write; then the next read.
//!
//! No queue stands in this loop. While acks that may leave are unwritten nothing more is taken, and TCP
//! tells the client. While a sink takes its time it reads on, a bounded number of reads ahead, where that
//! pays. The task owns its socket and its buffers; it touches its shard only to be counted, to pass
//! the gate that settled acks leave by, and to hear of a drain.

mod end;
mod outbox;
mod read_ahead;
mod read_buffer;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use tracing::{debug, warn};

use self::end::End;
use self::outbox::Outbox;
use self::read_ahead::ReadAhead;
use self::read_buffer::{Growth, ReadBuffer};
use super::options::READ_BUFFER_MIN;
use super::shard::memory::Share;
use super::shard::{Registration, Shard};
use crate::engine::Socket;
use crate::proto::{HEADER_LEN, Next, Received, Session, Violation};
use crate::sink::Sink;

/// Serves one connection to its end.
///
/// Each connection has a future of this kind for as long as it is open, so its size counts. An `async fn` would
/// keep its arguments twice; and what happens once in a connection's life, if at all, has a box of its own.
#[expect(clippy::manual_async_fn, reason = "the size")]
pub fn serve<S: Sink>(
    shard: Rc<Shard>,
    socket: Socket,
    peer: SocketAddr,
    mut registration: Registration,
    sink: S,
) -> impl Future<Output = ()> + 'static {
    async move {
        let config = &shard.config;
        let mut connection = Connection {
            shard: &shard,
            registration: &registration,
            frame_began: None,
            memory: Share::new(&shard.memory, registration.key()),
            socket,
            input: ReadBuffer::new(config.read_buffer_max),
            frame_len: HEADER_LEN,
            session: Session::new(config.frame_len_max),
            outbox: Outbox::new(&shard, &registration, sink),
            ahead: ReadAhead::default(),
            bytes_received: 0,
        };
        let end = connection.run().await;
        let end = connection.flush(end).await;
        match &end {
            End::Finished => {}
            End::Drained | End::TimedOut(_) => Box::pin(connection.linger()).await,
            End::Violated(violation) => {
                shard.violation(peer, violation);
                // After its own FIN a peer sends nothing that would have to be read away.
                if !matches!(violation, Violation::Truncated { .. }) {
                    Box::pin(connection.linger()).await;
                }
            }
            End::Vanished(reason) if registration.cut_for().is_none() => shard.vanished(peer, *reason),
            End::Vanished(_) | End::ReceiveFailed(_) | End::SendFailed(_) => {}
        }
        let (requests, bytes_received) = (connection.outbox.requests(), connection.bytes_received);
        debug!(%peer, shard = shard.index, requests, bytes_received, ?end, "connection closed");
        drop(connection);
        registration.ended(end.reason());
        drop(registration);
    }
}

struct Connection<'a, S> {
    shard: &'a Shard,
    registration: &'a Registration,
    /// When the frame began that is at the head of `input` in part.
    frame_began: Option<Instant>,
    socket: Socket,
    input: ReadBuffer,
    /// Bytes that the frame at the head of `input` will have, as far as can be told.
    frame_len: usize,
    session: Session,
    outbox: Outbox<'a, S>,
    ahead: ReadAhead,
    memory: Share<'a>,
    /// For the log.
    bytes_received: u64,
}

impl<S: Sink> Connection<'_, S> {
    async fn run(&mut self) -> End {
        loop {
            if self.shard.is_draining() {
                return Box::pin(self.drain()).await;
            }
            if let Some(reason) = self.registration.cut_for() {
                return End::TimedOut(reason);
            }
            if !self.has_room() {
                Box::pin(self.wait_for_memory()).await;
                continue;
            }
            let progress = if self.input.is_bulk(self.shard.config.read_buffer_max) {
                self.read_in_bulk().await
            } else {
                self.read().await
            };
            let end = match progress {
                Ok(Some(progress)) => self.answer(progress).await,
                Ok(None) => continue,
                Err(end) => return end,
            };
            if let ControlFlow::Break(end) = end {
                return end;
            }
        }
    }

    /// Reads to the connection's own buffer, and stages what has come; `None` if nothing has.
    #[inline]
    async fn read(&mut self) -> Result<Option<Received>, End> {
        let buffer = self.input.lend();
        let (result, bytes) = self.wait_for(|socket| socket.receive(buffer)).await;
        self.input.restore(bytes, *result.as_ref().unwrap_or(&0));
        if let Some(error) = self.outbox.failure() {
            return Err(End::send_failed(error));
        }
        match result {
            Ok(received) => self.take(received).await.map(Some),
            // A drain has begun, or a deadline has passed.
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(None),
            Err(error) => Err(self.receive_failed(error)),
        }
    }

    /// The same for a connection that receives much at once: it reads to the shard's common buffer, and keeps
    /// what is left of it in its own.
    async fn read_in_bulk(&mut self) -> Result<Option<Received>, End> {
        // There must be no wait between a receive to the common buffer and the staging.
        self.wait_for_sink().await;
        // If a drain has begun meanwhile, it found no receive to cancel.
        if self.shard.is_draining() {
            return Ok(None);
        }
        let received = {
            let mut bytes = self.shard.bulk_buffer.begin_with(self.input.bytes());
            self.socket.receive_now(&mut bytes).map(|received| {
                self.outbox.received();
                let progress = self.outbox.take(&mut self.session, &bytes);
                self.input.keep(&bytes[progress.consumed..], received);
                (received, progress)
            })
        };
        match received {
            Ok((0, _)) => Err(self.received_last()),
            Ok((received, progress)) => {
                self.count(received);
                if self.outbox.waits() {
                    self.ahead.brought();
                }
                Ok(Some(progress))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let result = self.wait_for(|socket| socket.readable()).await;
                if let Some(error) = self.outbox.failure() {
                    return Err(End::send_failed(error));
                }
                match result {
                    Err(error) if error.raw_os_error() != Some(libc::ECANCELED) => Err(self.receive_failed(error)),
                    _ => Ok(None),
                }
            }
            Err(error) => Err(self.receive_failed(error)),
        }
    }

    /// Waits for `op`, which receives.
    #[inline]
    async fn wait_for<'s, O: Future>(&'s mut self, op: impl FnOnce(&'s Socket) -> O) -> O::Output {
        if self.outbox.waits() {
            // Large, and not needed by a connection that is quiet.
            return Box::pin(self.wait_beside_acks(op)).await;
        }
        self.registration.waits_for_bytes(self.frame_began);
        op(&self.socket).await
    }

    /// Waits for `op`, which receives. Acks that the sink settles meanwhile leave meanwhile.
    async fn wait_beside_acks<'s, O: Future>(&'s mut self, op: impl FnOnce(&'s Socket) -> O) -> O::Output {
        let Connection { socket, outbox, ahead, registration, shard, frame_began, .. } = self;
        let socket = &*socket;
        let mut receive = pin!(op(socket));
        while outbox.waits() {
            // A peer that is owed acks is not idle.
            match *frame_began {
                None => registration.waits_no_more(),
                began => registration.waits_for_bytes(began),
            }
            tokio::select! {
                biased;
                done = &mut receive => {
                    ahead.brought();
                    return done;
                }
                () = outbox.settle() => {}
            }
            outbox.send(socket, usize::MAX).await;
            // Whoever wanted to end the receive has left it alone for the send's sake.
            if shard.is_draining() || registration.cut_for().is_some() || outbox.has_failed() {
                socket.cancel().await;
                return receive.await;
            }
        }
        registration.waits_for_bytes(*frame_began);
        ahead.in_vain();
        receive.await
    }

    /// Makes room for the next receive; `false` where that has to wait for memory. Counts what the
    /// connection's buffers take now.
    #[inline]
    fn has_room(&mut self) -> bool {
        if self.shard.memory.is_short() {
            self.give_back();
        }
        if let Some(growth) = self.input.growth(self.frame_len)
            && !self.grow(growth)
        {
            return false;
        }
        self.memory.set(self.input.capacity(), self.outbox.capacity());
        true
    }

    /// Lets the read buffer grow as far as there is memory. `false` where it is full and may not.
    #[cold]
    fn grow(&mut self, Growth { least, best }: Growth) -> bool {
        let promised = self.memory.has_promise();
        let capacity = if best <= READ_BUFFER_MIN || (!promised && self.memory.may_grow_to(best)) {
            best
        } else if promised || least == self.input.capacity() || self.memory.may_grow_to(least) {
            least
        } else {
            return false;
        };
        if capacity > self.input.capacity() {
            self.input.grow_to(capacity);
        }
        true
    }

    /// Waits until the frame in the full read buffer can go on. Its time stands still meanwhile.
    async fn wait_for_memory(&mut self) {
        let Some(Growth { least, .. }) = self.input.growth(self.frame_len) else { return };
        if self.shard.may_log() {
            let shard = self.shard.index;
            warn!(shard, "the buffers have reached their part of --max-memory: a connection waits");
        }
        self.registration.waits_no_more();
        let start = Instant::now();
        // What is owed does not wait for that.
        self.outbox.flush(&self.socket).await;
        self.registration.waits_no_more();
        self.memory.wait_to_grow_to(self.frame_len).await;
        self.input.grow_to(least);
        self.memory.set(self.input.capacity(), self.outbox.capacity());
        self.frame_began = self.frame_began.map(|began| began + start.elapsed());
    }

    /// Gives back the memory that is not needed now, to those who wait for it.
    #[cold]
    fn give_back(&mut self) {
        self.input.shrink();
        if self.input.is_small() {
            self.outbox.shrink(QUIET_ACKS_LEN);
        }
        self.memory.set(self.input.capacity(), self.outbox.capacity());
    }

    /// Waits until the sink may be staged to, which it mostly may at once.
    #[inline]
    async fn wait_for_sink(&mut self) {
        let at_once = {
            let mut ready = pin!(self.outbox.ready());
            poll_fn(|context| Poll::Ready(ready.as_mut().poll(context).is_ready())).await
        };
        if !at_once {
            Box::pin(self.wait_for_slow_sink()).await;
        }
    }

    /// That the sink takes its time is not the peer's fault: no deadline cuts it, and the time of a frame that
    /// it has begun stands still.
    async fn wait_for_slow_sink(&mut self) {
        self.registration.waits_no_more();
        let start = Instant::now();
        self.outbox.ready().await;
        self.frame_began = self.frame_began.map(|began| began + start.elapsed());
    }

    /// Stages every whole frame that has come to the connection's own buffer.
    #[inline]
    async fn take(&mut self, received: usize) -> Result<Received, End> {
        if received == 0 {
            return Err(self.received_last());
        }
        self.outbox.received();
        self.wait_for_sink().await;
        let progress = self.outbox.take(&mut self.session, self.input.bytes());
        self.input.consume(progress.consumed);
        self.count(received);
        Ok(progress)
    }

    #[inline]
    fn count(&mut self, received: usize) {
        self.shard.metrics.bytes_received.add(received as u64);
        self.bytes_received += received as u64;
    }

    /// Answers what has been staged.
    async fn answer(&mut self, progress: Received) -> ControlFlow<End> {
        if !self.outbox.is_empty() {
            if self.shard.memory.is_short() {
                self.give_back();
            }
            self.memory.set(self.input.capacity(), self.outbox.capacity());
            self.send().await;
            // Of a frame in part the rest is on its way in any case.
            let ahead = self.ahead.pays() || !self.input.bytes().is_empty();
            if !ahead && self.outbox.waits() {
                self.ahead.in_vain();
            }
            while self.outbox.is_full() || (!ahead && self.outbox.waits()) {
                self.registration.waits_no_more();
                self.outbox.settle().await;
                self.send().await;
            }
            if let Some(error) = self.outbox.failure() {
                return ControlFlow::Break(End::send_failed(error));
            }
        }
        match progress.next {
            Next::Read { frame_len } => {
                self.frame_len = frame_len;
                // What is left of the input is a frame in part: the one that it was, or a new one, whose
                // time begins only now that the acks are written.
                let began = if progress.consumed == 0 { self.frame_began } else { None };
                self.frame_began = match self.input.bytes() {
                    [] => None,
                    _ => began.or_else(|| Some(self.registration.now())),
                };
                ControlFlow::Continue(())
            }
            Next::Close(violation) => ControlFlow::Break(End::Violated(violation)),
        }
    }

    /// Sends what may leave.
    #[inline]
    async fn send(&mut self) {
        let keep = if self.input.is_small() { QUIET_ACKS_LEN } else { usize::MAX };
        self.outbox.send(&self.socket, keep).await;
    }
}

/// Bytes of an ack buffer that a quiet connection keeps; a larger one is given back.
const QUIET_ACKS_LEN: usize = 256;
