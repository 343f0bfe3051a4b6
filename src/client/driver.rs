//! The task that owns the socket. It sends and receives at the same time, and only this task ends a connection.
//!
//! It does not know handles or tickets: it shares the queue and the unacked requests with them. The stream is a socket,
//! or TLS on a socket. Invariant: the socket is closed before anybody is notified of the end.

use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::select;

use crate::client::error::{Cause, ProtocolError};
use crate::client::shared::{Phase, Shared, passed};
use crate::proto::{ACK_LEN, Ack, AckCodes, FrameReader};
#[cfg(feature = "client-tls")]
use crate::tls::client::TlsError;

/// Drives a connection until it ends, and notifies handles and tickets of the cause.
///
/// The runtime may drop this task anywhere, even before its first poll. The guard then notifies them. It is dropped
/// after the driver, so the socket is closed by then.
pub(super) async fn drive<S: Stream>(stream: S, guard: EndGuard, codes: AckCodes) {
    let mut driver = Driver {
        stream,
        shared: guard.0.clone(),
        codes,
        reader: FrameReader::new(codes.commands(), ACK_LEN as u32),
        input: vec![0; INPUT_LEN],
        input_len: 0,
        batch: Vec::new(),
        batch_written: 0,
        half_closed: false,
    };
    let cause = driver.run().await;
    drop(driver);
    guard.0.end(cause);
}

/// Ends the connection when it is dropped, unless the driver has done so.
pub(super) struct EndGuard(pub(super) Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end(Cause::RuntimeGone);
    }
}

/// A socket, or TLS on a socket.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

struct Driver<S> {
    stream: S,
    shared: Arc<Shared>,
    codes: AckCodes,
    reader: FrameReader,
    input: Vec<u8>,
    /// The number of bytes in `input`: the beginning of an ack.
    input_len: usize,
    /// Whole frames from the queue that are being written. Empty once they are written.
    batch: Vec<u8>,
    batch_written: usize,
    half_closed: bool,
}

impl<S: Stream> Driver<S> {
    async fn run(&mut self) -> Cause {
        let shared = self.shared.clone();
        loop {
            if let Err(cause) = poll_fn(|cx| Poll::Ready(self.read_and_write(cx))).await {
                return cause;
            }
            let blocked = !self.batch.is_empty();
            let waited = select! {
                biased;
                () = passed(&shared.write_deadline), if blocked => self.withdraw(),
                () = shared.work.notified() => Ok(()),
                () = woken() => Ok(()),
            };
            if let Err(cause) = waited {
                return cause;
            }
        }
    }

    /// Reads and writes as much as is possible without waiting. The stream wakes the task when more is possible.
    ///
    /// # Errors
    /// The cause of the connection's end, which may be the user's request.
    fn read_and_write(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        match self.read(cx) {
            // A server that has acked everything may close as soon as it sees the half-close.
            Err(Cause::PeerClosed | Cause::Io { .. }) if self.is_finished() => return Err(Cause::Finished),
            outcome => outcome?,
        }
        if self.shared.state().phase == Phase::Closing {
            return Err(Cause::Closed);
        }
        self.write(cx).map_err(|cause| self.sooner_cause(cause, cx))?;
        if self.batch.is_empty() && !self.half_closed && self.shared.state().phase == Phase::Finishing {
            match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.half_closed = true,
                Poll::Ready(Err(error)) => return Err(io_cause("half-close the connection", error)),
                Poll::Pending => {}
            }
        }
        if self.is_finished() { Err(Cause::Finished) } else { Ok(()) }
    }

    fn is_finished(&self) -> bool {
        self.half_closed && self.shared.state().pending.is_empty()
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        loop {
            match poll_read(&mut self.stream, cx, &mut self.input[self.input_len..]) {
                Poll::Ready(Ok(0)) if self.input_len > 0 => {
                    return Err(ProtocolError::Truncated { have: self.input_len }.into());
                }
                Poll::Ready(Ok(0)) => return Err(Cause::PeerClosed),
                Poll::Ready(Ok(count)) => self.input_len += count,
                Poll::Ready(Err(error)) => return Err(io_cause("read", error)),
                Poll::Pending => return Ok(()),
            }
            self.match_acks()?;
        }
    }

    fn match_acks(&mut self) -> Result<(), ProtocolError> {
        let mut rest = &self.input[..self.input_len];
        let mut acked = 0;
        let mut state = self.shared.state();
        let outcome = loop {
            let settled = match self.reader.next(&mut rest) {
                Ok(Some(frame)) => Ack::decode(frame, self.codes).map_err(Into::into).and_then(|ack| state.settle(ack)),
                Ok(None) => break Ok(()),
                Err(_) if rest.starts_with(&TLS_ALERT) => Err(ProtocolError::TlsAlert),
                Err(error) => Err(error.into()),
            };
            match settled {
                Ok(()) => acked += 1,
                Err(error) => break Err(error),
            }
        };
        drop(state);
        self.shared.window.add_permits(acked);
        let rest_len = rest.len();
        self.input.copy_within(self.input_len - rest_len..self.input_len, 0);
        self.input_len = rest_len;
        outcome
    }

    /// Writes everything in the queue, or as much as the kernel accepts. The state is not locked during a write, so
    /// that other tasks can queue the next batch.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        loop {
            if self.batch.is_empty() {
                mem::swap(&mut self.batch, &mut self.shared.state().queue);
                if self.batch.is_empty() {
                    return self.flush(cx);
                }
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.batch[self.batch_written..]) {
                Poll::Ready(Ok(count)) => {
                    self.shared.state().written += count as u64;
                    self.shared.room.add_permits(count);
                    self.batch_written += count;
                }
                Poll::Ready(Err(error)) => return Err(io_cause("write", error)),
                Poll::Pending => return Ok(()),
            }
            if self.batch_written == self.batch.len() {
                self.batch.clear();
                self.batch_written = 0;
            }
        }
    }

    /// Sends the records that TLS still holds. A socket holds nothing.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(io_cause("write", error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Returns why a write failed: the alert of a TLS server that closed, if one has arrived, or `cause`.
    fn sooner_cause(&mut self, cause: Cause, cx: &mut Context<'_>) -> Cause {
        #[cfg(feature = "client-tls")]
        if let Err(alert @ Cause::Tls(_)) = self.read(cx) {
            return alert;
        }
        let _ = cx;
        cause
    }

    fn withdraw(&mut self) -> Result<(), Cause> {
        self.shared.withdraw()?;
        self.batch.clear();
        self.batch_written = 0;
        Ok(())
    }
}

/// Reads into `buffer`. The end of a TLS stream without a close_notify counts as a plain end: frames have lengths, so
/// that a stream that was cut off can't be taken for a whole one.
fn poll_read<S: Stream>(stream: &mut S, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    match ready!(Pin::new(stream).poll_read(cx, &mut buffer)) {
        Ok(()) => Poll::Ready(Ok(buffer.filled().len())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
        Err(error) => Poll::Ready(Err(error)),
    }
}

/// Waits until something wakes the task.
fn woken() -> impl Future<Output = ()> {
    let mut was_polled = false;
    poll_fn(move |_| if mem::replace(&mut was_polled, true) { Poll::Ready(()) } else { Poll::Pending })
}

fn io_cause(doing: &'static str, error: io::Error) -> Cause {
    #[cfg(feature = "client-tls")]
    if let Some(error) = TlsError::of_stream(&error) {
        return Cause::Tls(error);
    }
    Cause::Io { doing, error: Arc::new(error) }
}

/// Bytes of the read buffer: a thousand acks.
const INPUT_LEN: usize = 1000 * ACK_LEN;
/// The first bytes of a TLS alert: its type, and the major version that all versions of TLS share.
const TLS_ALERT: [u8; 2] = [21, 3];
