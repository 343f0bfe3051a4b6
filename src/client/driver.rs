//! The task that owns the socket. It sends and receives at the same time, and only this task ends a connection.
//!
//! It does not know handles or tickets: it shares the queue and the unacked requests with them. Invariant: the socket
//! is closed before anybody is notified of the end.

use std::io;
use std::mem;
use std::sync::Arc;

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::select;

use crate::client::error::{Cause, ProtocolError};
use crate::client::shared::{Phase, Shared, passed};
use crate::proto::{ACK_LEN, Ack, AckCodes, FrameReader};

/// Drives a connection until it ends, and notifies handles and tickets of the cause.
///
/// The runtime may drop this task anywhere, even before its first poll. The guard then notifies them. It is dropped
/// after the driver, so the socket is closed by then.
pub(super) async fn drive(stream: TcpStream, guard: EndGuard, codes: AckCodes) {
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

struct Driver {
    stream: TcpStream,
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

impl Driver {
    async fn run(&mut self) -> Cause {
        let shared = self.shared.clone();
        loop {
            if let Err(cause) = self.read_and_write().await {
                return cause;
            }
            let blocked = !self.batch.is_empty();
            let interest = if blocked { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let waited = select! {
                ready = self.stream.ready(interest) => ready.map(drop).map_err(|error| io_cause("wait", error)),
                () = shared.work.notified() => Ok(()),
                () = passed(&shared.write_deadline), if blocked => self.withdraw(),
            };
            if let Err(cause) = waited {
                return cause;
            }
        }
    }

    /// Reads and writes as much as is possible without waiting.
    ///
    /// # Errors
    /// The cause of the connection's end, which may be the user's request.
    async fn read_and_write(&mut self) -> Result<(), Cause> {
        match self.read() {
            // A server that has acked everything may close as soon as it sees the half-close.
            Err(Cause::PeerClosed | Cause::Io { .. }) if self.is_finished() => return Err(Cause::Finished),
            outcome => outcome?,
        }
        if self.shared.state().phase == Phase::Closing {
            return Err(Cause::Closed);
        }
        self.write()?;
        if self.batch.is_empty() && !self.half_closed && self.shared.state().phase == Phase::Finishing {
            self.stream.shutdown().await.map_err(|error| io_cause("half-close the connection", error))?;
            self.half_closed = true;
        }
        if self.is_finished() { Err(Cause::Finished) } else { Ok(()) }
    }

    fn is_finished(&self) -> bool {
        self.half_closed && self.shared.state().pending.is_empty()
    }

    fn read(&mut self) -> Result<(), Cause> {
        loop {
            match self.stream.try_read(&mut self.input[self.input_len..]) {
                Ok(0) if self.input_len > 0 => return Err(ProtocolError::Truncated { have: self.input_len }.into()),
                Ok(0) => return Err(Cause::PeerClosed),
                Ok(count) => self.input_len += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(io_cause("read", error)),
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
    fn write(&mut self) -> Result<(), Cause> {
        loop {
            if self.batch.is_empty() {
                mem::swap(&mut self.batch, &mut self.shared.state().queue);
                if self.batch.is_empty() {
                    return Ok(());
                }
            }
            match self.stream.try_write(&self.batch[self.batch_written..]) {
                Ok(count) => {
                    self.shared.state().written += count as u64;
                    self.shared.room.add_permits(count);
                    self.batch_written += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(io_cause("write", error)),
            }
            if self.batch_written == self.batch.len() {
                self.batch.clear();
                self.batch_written = 0;
            }
        }
    }

    fn withdraw(&mut self) -> Result<(), Cause> {
        self.shared.withdraw()?;
        self.batch.clear();
        self.batch_written = 0;
        Ok(())
    }
}

fn io_cause(doing: &'static str, error: io::Error) -> Cause {
    Cause::Io { doing, error: Arc::new(error) }
}

/// Bytes of the read buffer: a thousand acks.
const INPUT_LEN: usize = 1000 * ACK_LEN;
