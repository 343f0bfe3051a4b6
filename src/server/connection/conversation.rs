//! The conversation of one connection: read, frames, session, sink, acks, write, and the next read.
//!
//! There is no queue in this loop. While acks that may leave are unsent, nothing more is read, and TCP holds the client
//! back. While a sink is slow, the connection reads a bounded number of reads ahead if that pays. The conversation owns
//! its socket and buffers. It ends when the peer, an error or the shard ends it, and leaves the closing to its caller.

use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::task::Poll;

use tokio::time::timeout;
use tracing::warn;

use super::buffers::Buffers;
use super::end::End;
use super::outbox::{Batch, Outbox};
use super::read_ahead::ReadAhead;
use crate::clock;
use crate::engine::Socket;
use crate::proto::{Next, Received, Session};
use crate::server::shard::Shard;
use crate::server::shard::register::Registration;
use crate::server::tls_options::TlsMode;
use crate::sink::Sink;
use crate::tls::FaultReason;
use crate::tls::session::FIRST_BYTE;

/// A connection that is being served.
pub struct Conversation<'a, S> {
    pub shard: &'a Shard,
    pub registration: &'a Registration,
    pub socket: Socket,
    pub buffers: Buffers<'a>,
    session: Session,
    pub outbox: Outbox<'a, S>,
    ahead: ReadAhead,
    /// The number of bytes received, for the log.
    pub bytes_received: u64,
}

impl<'a, S: Sink> Conversation<'a, S> {
    /// Begins the conversation with a peer that has sent nothing yet.
    pub fn new(shard: &'a Shard, registration: &'a Registration, socket: Socket, sink: S) -> Self {
        let config = &shard.config;
        let outbox = Outbox::new(shard, registration, sink);
        let busy_len = if outbox.tls.is_some() { HANDSHAKE_BUFFER_LEN } else { config.read_buffer_max };
        let mut buffers = Buffers::new(&shard.memory, registration.key(), busy_len);
        if let Some(tls) = &outbox.tls {
            buffers.set_tls_memory(tls.memory());
        }
        Conversation {
            shard,
            registration,
            socket,
            buffers,
            session: Session::new(config.frame_len_max),
            outbox,
            ahead: ReadAhead::default(),
            bytes_received: 0,
        }
    }

    /// Reads and answers requests until the connection ends. Returns `None` if the shard drains.
    pub async fn run(&mut self) -> Option<End> {
        loop {
            if self.shard.is_draining() {
                return None;
            }
            if let Some(reason) = self.registration.cut_for() {
                return Some(End::TimedOut(reason));
            }
            if !self.buffers.prepare(&mut self.outbox) {
                Box::pin(self.wait_for_memory()).await;
                continue;
            }
            let progress = if self.buffers.input.is_bulk(self.shard.config.read_buffer_max) {
                self.read_in_bulk().await
            } else {
                self.read().await
            };
            let answered = match progress {
                Ok(Some(progress)) => self.answer(progress).await,
                Ok(None) => continue,
                Err(end) => return Some(end),
            };
            if let ControlFlow::Break(end) = answered {
                return Some(end);
            }
            if self.outbox.tls.as_ref().is_some_and(|tls| tls.peer_has_closed()) {
                return Some(self.stream_ended());
            }
        }
    }

    /// Reads into the connection's own buffer, and stages what has arrived. Returns `None` if nothing has.
    #[inline]
    async fn read(&mut self) -> Result<Option<Received>, End> {
        let buffer = self.buffers.input.lend();
        let (result, bytes) = self.wait_for(|socket| socket.receive(buffer)).await;
        self.buffers.input.restore(bytes, *result.as_ref().unwrap_or(&0));
        if let Some(error) = self.outbox.failure() {
            return Err(End::send_failed(error));
        }
        match result {
            Ok(received) => self.take(received).await.map(Some),
            // A drain has begun, or a deadline has passed.
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(None),
            Err(error) => Err(End::receive_failed(error, &self.socket)),
        }
    }

    /// Reads into the shard's bulk buffer, and stages what has arrived. The rest is kept in the connection's own
    /// buffer. Returns `None` if nothing has arrived. Call it for a connection that receives much at a time.
    #[inline]
    async fn read_in_bulk(&mut self) -> Result<Option<Received>, End> {
        // There must be no wait between a receive into the bulk buffer and the staging.
        let mut batch = ready(&mut self.outbox, &mut self.buffers).await;
        // If a drain has begun meanwhile, it found no receive to cancel.
        if self.shard.is_draining() {
            return Ok(None);
        }
        let received = {
            let input = &mut self.buffers.input;
            let mut bytes = self.shard.bulk_buffer.begin_with(input.all());
            self.socket.receive_now(&mut bytes).map(|received| {
                batch.received();
                let Some(tls) = batch.tls else {
                    let progress = batch.stage(&mut self.session, &bytes);
                    input.keep(&bytes[progress.consumed..], received);
                    return (received, Ok((received, progress)));
                };
                let plain = input.bytes().len();
                let opened = tls.open_from(input, received, &mut bytes[plain..]).map(|opened| {
                    let progress = batch.stage(&mut self.session, input.bytes());
                    input.consume(progress.consumed);
                    (opened, progress)
                });
                (received, opened)
            })
        };
        match received {
            Ok((0, _)) => Err(self.stream_ended()),
            Ok((received, opened)) => {
                self.shard.metrics.bytes_received.add(received as u64);
                let (opened, progress) = opened.map_err(End::TlsFailed)?;
                self.bytes_received += opened as u64;
                if self.outbox.waits() {
                    self.ahead.brought_bytes();
                }
                Ok(Some(progress))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let result = self.wait_for(|socket| socket.readable()).await;
                if let Some(error) = self.outbox.failure() {
                    return Err(End::send_failed(error));
                }
                match result {
                    Err(error) if error.raw_os_error() != Some(libc::ECANCELED) => {
                        Err(End::receive_failed(error, &self.socket))
                    }
                    _ => Ok(None),
                }
            }
            Err(error) => Err(End::receive_failed(error, &self.socket)),
        }
    }

    /// Waits for `op`, which receives.
    #[inline]
    async fn wait_for<'s, O: Future>(&'s mut self, op: impl FnOnce(&'s Socket) -> O) -> O::Output {
        if self.outbox.waits() {
            // This future is large, and a quiet connection does not need it.
            return Box::pin(self.wait_beside_acks(op)).await;
        }
        let wait = match &self.outbox.tls {
            Some(tls) => tls.wait().unwrap_or(self.buffers.wait()),
            None => self.buffers.wait(),
        };
        let op = pin!(op(&self.socket));
        self.registration.within(wait, op).await
    }

    /// Waits for `op`, which receives. Meanwhile sends acks as the sink settles them.
    async fn wait_beside_acks<'s, O: Future>(&'s mut self, op: impl FnOnce(&'s Socket) -> O) -> O::Output {
        let Conversation { socket, outbox, ahead, registration, shard, buffers, .. } = self;
        let socket = &*socket;
        let mut receive = pin!(op(socket));
        while outbox.waits() {
            // A peer with unsent acks is not idle, but it may have begun a frame.
            let received = {
                let either = pin!(async {
                    tokio::select! {
                        biased;
                        done = &mut receive => Some(done),
                        () = outbox.settle() => None,
                    }
                });
                registration.within(buffers.frame_wait(), either).await
            };
            if let Some(done) = received {
                ahead.brought_bytes();
                return done;
            }
            outbox.send(socket, usize::MAX).await;
            // `cancel_receive` does nothing while a send is in flight, so check here.
            if shard.is_draining() || registration.cut_for().is_some() || outbox.has_failed() {
                socket.cancel().await;
                return receive.await;
            }
        }
        ahead.brought_nothing();
        registration.within(buffers.wait(), receive).await
    }

    /// Waits until the frame in the full read buffer can continue. The frame's time is paused meanwhile.
    pub async fn wait_for_memory(&mut self) {
        if !self.buffers.needs_memory() {
            return;
        }
        if self.shard.peer_log.may_log() {
            warn!(
                shard = self.shard.index,
                "buffers have reached the shard's part of --max-memory; a connection waits"
            );
        }
        let start = clock::now();
        // Unsent acks do not wait for memory.
        self.outbox.flush(&self.socket).await;
        self.buffers.wait_to_grow(&self.outbox).await;
        self.buffers.pause_frame(clock::now() - start);
    }

    /// Stages every whole frame that has arrived in the connection's own buffer.
    #[inline]
    pub async fn take(&mut self, received: usize) -> Result<Received, End> {
        if received == 0 {
            return Err(self.stream_ended());
        }
        self.outbox.received();
        self.shard.metrics.bytes_received.add(received as u64);
        let received = if self.outbox.tls.is_some() { self.open(received).await? } else { received };
        let batch = ready(&mut self.outbox, &mut self.buffers).await;
        let progress = batch.stage(&mut self.session, self.buffers.input.bytes());
        self.buffers.input.consume(progress.consumed);
        self.bytes_received += received as u64;
        Ok(progress)
    }

    /// Opens the TLS records of a receive into the connection's own buffer. Returns how many bytes of plaintext came.
    async fn open(&mut self, received: usize) -> Result<usize, End> {
        if self.outbox.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            return Box::pin(self.shake_hands(received)).await;
        }
        let (Some(tls), Some(handshakes)) = (&mut self.outbox.tls, &self.shard.handshakes) else { return Ok(received) };
        let mut scratch = handshakes.scratch.begin_with(&[]);
        tls.open(&mut self.buffers.input, received, &mut scratch).map_err(End::TlsFailed)
    }

    /// Continues the TLS handshake with what has arrived. Returns how many bytes of plaintext came after it.
    async fn shake_hands(&mut self, received: usize) -> Result<usize, End> {
        let Conversation { shard, socket, buffers, outbox, .. } = self;
        let (Some(tls), Some(options), Some(handshakes)) = (&mut outbox.tls, &shard.config.tls, &shard.handshakes)
        else {
            return Ok(received);
        };
        if !tls.has_begun() {
            if options.mode == TlsMode::Allow && buffers.input.all().first() != Some(&FIRST_BYTE) {
                outbox.tls = None;
                buffers.set_tls_memory(0);
                buffers.end_handshake(shard.config.read_buffer_max);
                return Ok(received);
            }
            let now = shard.now();
            let limit = options.handshake_timeout;
            let limit = (tls.accepted + limit).saturating_duration_since(now);
            let Ok(place) = timeout(limit, handshakes.begin()).await else {
                return Err(End::TlsFailed(FaultReason::Timeout.into()));
            };
            tls.begin(options.credentials.get().config.clone(), place, now).map_err(End::TlsFailed)?;
        }
        handshakes.steps.pass(1).await;
        let opened = {
            let mut scratch = handshakes.scratch.begin_with(&[]);
            tls.open(&mut buffers.input, received, &mut scratch)
        };
        if tls.completes(shard.now()) {
            buffers.end_handshake(shard.config.read_buffer_max);
        }
        buffers.set_tls_memory(tls.memory());
        let opened = opened.map_err(End::TlsFailed)?;
        outbox.send_records(socket).await;
        Ok(opened)
    }

    /// Answers what has been staged.
    pub async fn answer(&mut self, progress: Received) -> ControlFlow<End> {
        if self.outbox.has_records() {
            Box::pin(self.outbox.send_records(&self.socket)).await;
        }
        if !self.outbox.is_empty() {
            self.buffers.account(&mut self.outbox);
            self.send().await;
            // The rest of a partial frame is on its way in any case.
            let ahead = self.ahead.pays() || !self.buffers.input.all().is_empty();
            if !ahead && self.outbox.waits() {
                self.ahead.brought_nothing();
            }
            while self.outbox.is_full() || (!ahead && self.outbox.waits()) {
                self.outbox.settle().await;
                self.send().await;
            }
            if let Some(error) = self.outbox.failure() {
                return ControlFlow::Break(End::send_failed(error));
            }
        }
        match progress.next {
            Next::Read { frame_len } => {
                // The time of a new frame begins only now that the acks are sent.
                self.buffers.frame_continues(frame_len, progress.consumed, self.registration.now());
                ControlFlow::Continue(())
            }
            Next::Close(violation) => ControlFlow::Break(End::Violated(violation)),
        }
    }

    /// Sends the acks whose outcome is known.
    #[inline]
    async fn send(&mut self) {
        self.outbox.send(&self.socket, self.buffers.acks_kept()).await;
    }

    /// Sends all acks before the connection ends, if it can still be used to send.
    pub async fn flush(&mut self, end: End) -> End {
        if let End::TlsFailed(_) = &end {
            // The alert.
            self.outbox.send_records(&self.socket).await;
        }
        if !end.can_send() {
            return end;
        }
        self.outbox.flush(&self.socket).await;
        if let Some(tls) = &mut self.outbox.tls {
            tls.close();
            self.outbox.send_records(&self.socket).await;
        }
        self.outbox.failure().map_or(end, End::send_failed)
    }

    /// Returns the end after the peer has ended its stream.
    fn stream_ended(&mut self) -> End {
        if let Some(tls) = self.outbox.tls.as_ref().filter(|tls| tls.has_begun() && !tls.peer_has_closed()) {
            if tls.is_handshaking() {
                // A deadline ends a handshake by shutting the socket down, which looks like an end of the stream.
                let cut_for = self.registration.cut_for();
                return cut_for.map_or_else(|| End::TlsFailed(FaultReason::Ended.into()), End::TimedOut);
            }
            self.shard.metrics.tls_truncated.add(1);
        }
        match self.session.end(self.buffers.input.bytes()) {
            Ok(()) => End::Finished,
            Err(violation) => End::Violated(violation),
        }
    }
}

/// Waits until the sink accepts a batch, which it mostly does immediately.
///
/// A slow sink is not the peer's fault. So no deadline applies, and the time of a frame that has begun is paused.
#[inline]
async fn ready<'o, 'a, S: Sink>(
    outbox: &'o mut Outbox<'a, S>,
    buffers: &mut Buffers<'_>,
) -> Batch<'o, 'a, S::Batch<'o>> {
    let mut ready = pin!(outbox.ready());
    match poll_fn(|context| Poll::Ready(ready.as_mut().poll(context))).await {
        Poll::Ready(batch) => batch,
        Poll::Pending => {
            let start = clock::now();
            let batch = ready.await;
            buffers.pause_frame(clock::now() - start);
            batch
        }
    }
}

/// The capacity of the read buffer of a connection whose TLS handshake is not complete. A larger message grows it.
const HANDSHAKE_BUFFER_LEN: usize = 4 << 10;
