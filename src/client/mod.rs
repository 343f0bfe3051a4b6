//! The client that others build on: ordinary tokio, no io_uring.
//!
//! A [`Client`] is a handle of one connection. A task of its own drives the socket: it sends and
//! receives at once, writes everything that is queued in one go, and matches each ack with the
//! oldest request that is owed one. Handles are cheap to clone; several tasks may use them at once,
//! also from other runtimes, and a frame is always written whole.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ringpost::client::{Client, Options};
//! use ringpost::proto::AckResult;
//!
//! let client = Client::connect("localhost:8888", &Options::default()).await?;
//! // One at a time:
//! assert_eq!(client.submit(b"a message").await?, AckResult::Success);
//! // Pipelined, as far as the window goes:
//! let mut tickets = Vec::new();
//! for message in ["one", "two", "three"] {
//!     tickets.push(client.send(message.as_bytes()).await?);
//! }
//! for mut ticket in tickets {
//!     assert_eq!(ticket.wait().await?, AckResult::Success);
//! }
//! client.finish().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Deadlines
//!
//! They work like those of Go's `net.Conn`: absolute times for the whole connection, in force until
//! set again or cleared, also for waits that are under way. What they end, and what goes on behind
//! them, stands with [`Client::set_read_deadline`] and [`Client::set_write_deadline`].
//!
//! # Vanished servers
//!
//! A server's host that loses power, or a network that drops everything, sends neither a FIN nor a reset. Without a
//! deadline only the kernel ends such a wait:
//! * If nothing is on its way to the server, after [`Options::keepalive`] and its probes: 90 s by default.
//! * If bytes are on their way, when the kernel stops retransmitting them: after about a quarter of an hour, set by
//!   `net.ipv4.tcp_retries2`. To give up sooner, use a deadline or `ringpost submit --timeout`.
//!
//! TCP_USER_TIMEOUT is not set, because the kernel counts the time in which the peer's window is closed. It would end
//! connections to a healthy server that does not read for a while, for example at its memory limit.
//!
//! # Memory
//!
//! At most [`Options::window`] requests are unacked and at most 1 MiB (or one frame, if the limit
//! for frames is larger) waits to be written. A payload is kept until it is written, never longer.

mod connect;
mod driver;
mod error;
mod shared;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::select;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use self::connect::{Attempts, ConnectError};
use self::driver::EndGuard;
pub use self::error::{Cause, Error, Ids, PartlyWritten, ProtocolError, Unacked};
use self::shared::{Answer, Phase, Shared, passed};
use crate::invalid_option::InvalidOption;
use crate::outbound;
use crate::proto::{AckCodes, AckResult, FRAME_LEN_MAX, HEADER_LEN, Id, Kind};

/// What a connection needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long [`Client::connect`] may take, the lookup of the name and every address included.
    /// Zero: as long as the kernel tries.
    pub connect_timeout: Duration,
    /// How long the connection may be silent before the kernel probes the server's host, from
    /// [`outbound::KEEPALIVE_MIN`] to [`outbound::KEEPALIVE_MAX`]; zero for no probes. If the host does not answer
    /// three probes, a sixth of that time apart, the connection ends with [`Cause::Io`]: by default 90 s after the
    /// host vanished. See [Vanished servers](self#vanished-servers).
    pub keepalive: Duration,
    /// Requests that may be unacked at once, from 1 to [`WINDOW_MAX`].
    pub window: usize,
    /// The commands that the server's acks bear.
    pub ack_codes: AckCodes,
    /// The largest frame that is sent, in bytes, its 13-byte head included. The server has a limit of
    /// its own.
    pub frame_len_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout: CONNECT_TIMEOUT,
            keepalive: outbound::KEEPALIVE,
            window: WINDOW,
            ack_codes: AckCodes::Spec,
            frame_len_max: FRAME_LEN_MAX,
        }
    }
}

impl Options {
    /// Checks what [`Client::connect`] checks.
    ///
    /// # Errors
    /// The first option that can't be, with what can.
    pub fn validate(&self) -> Result<(), InvalidOption> {
        if !(1..=WINDOW_MAX).contains(&self.window) {
            return Err(InvalidOption::new("window", self.window, format!("must be from 1 to {WINDOW_MAX} requests")));
        }
        if (self.frame_len_max as usize) < HEADER_LEN {
            let rule = format!("must be from {HEADER_LEN} to {} bytes, the frame's header included", u32::MAX);
            return Err(InvalidOption::new("frame_len_max", self.frame_len_max, rule));
        }
        outbound::check_keepalive("tcp_keepalive", self.keepalive)
    }
}

/// A handle of one connection to a server.
///
/// Dropping the last handle closes the connection at once: what is not written is lost, and tickets
/// that still wait fail with [`Cause::Closed`]. [`Client::finish`] is the orderly way.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

impl Client {
    /// Connects to `addr`, `"HOST:PORT"` or a socket address, and starts the task that drives the
    /// connection. Every address of a name is tried in turn, each with an equal share of the time
    /// that is left. Cancel-safe.
    ///
    /// # Errors
    /// An option can't be, or no address could be connected to.
    ///
    /// # Panics
    /// Outside a tokio runtime that has I/O and time enabled.
    pub async fn connect(addr: impl ToSocketAddrs + fmt::Display, options: &Options) -> Result<Client, ConnectError> {
        options.validate()?;
        let stream = connect::connect(addr, options.connect_timeout).await?;
        // All that is queued goes out in one write: waiting for more would only delay it. A failure
        // costs time, not correctness, and the first read or write says what is wrong.
        let _ = stream.set_nodelay(true);
        if !options.keepalive.is_zero() {
            let keepalive = outbound::keepalive(options.keepalive);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(ConnectError::Keepalive)?;
        }
        Ok(Client::from_stream(stream, options)?)
    }

    /// Uses a connection whose socket options the caller has chosen. The connect timeout and the keepalive have no
    /// effect here.
    ///
    /// # Errors
    /// An option can't be.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn from_stream(stream: TcpStream, options: &Options) -> Result<Client, InvalidOption> {
        options.validate()?;
        let shared = Arc::new(Shared::new(options));
        tokio::spawn(driver::drive(stream, EndGuard(shared.clone()), options.ack_codes));
        Ok(Client { handle: Arc::new(Handle { shared }) })
    }

    /// Sends a CONN and waits for its ack. Errors and cancel-safety are those of [`Self::submit`].
    pub async fn conn(&self, payload: &[u8]) -> Result<AckResult, Error> {
        self.request(Kind::Conn, payload).await?.wait().await
    }

    /// Sends a SUBMIT and waits for its ack.
    ///
    /// Dropped while it waits, it has sent the whole request or nothing; which of the two can't be
    /// told. Where that matters use [`Self::send`].
    ///
    /// # Errors
    /// Those of [`Self::send`] and of [`Ticket::wait`]. Behind a read deadline the ack is still
    /// matched when it comes, and nobody hears it.
    pub async fn submit(&self, payload: &[u8]) -> Result<AckResult, Error> {
        self.send(payload).await?.wait().await
    }

    /// Queues a SUBMIT and returns the ticket for its ack, without waiting for that.
    ///
    /// It waits while the window is full, or too many bytes are queued. Cancel-safe: dropped while
    /// it waits, nothing was queued.
    ///
    /// # Errors
    /// * [`Error::TooLarge`]: the frame passes the limit.
    /// * [`Error::WriteDeadline`]: the write deadline has passed, at once or while this waited.
    /// * [`Error::ReadDeadline`]: the read deadline has passed while this waited for room.
    /// * [`Error::Closing`], [`Error::Ended`]: nothing more can be sent.
    ///
    /// In each case nothing was queued.
    pub async fn send(&self, payload: &[u8]) -> Result<Ticket, Error> {
        self.request(Kind::Submit, payload).await
    }

    async fn request(&self, kind: Kind, payload: &[u8]) -> Result<Ticket, Error> {
        let shared = &self.handle.shared;
        let (id, answer) = shared.send(kind, payload).await?;
        Ok(Ticket { id, shared: shared.clone(), state: TicketState::Waiting(answer) })
    }

    /// Sets or clears the time at which waits for acks end with [`Error::ReadDeadline`].
    ///
    /// These are [`Ticket::wait`], [`Self::finish`], and [`Self::send`] where it waits for room. The
    /// connection goes on: a late ack is matched with its request, and heard by whoever awaits the
    /// ticket again. An ack that has come is given also behind the deadline.
    pub fn set_read_deadline(&self, deadline: Option<Instant>) {
        self.handle.shared.read_deadline.send_replace(deadline);
    }

    /// Sets or clears the time at which sending ends with an error.
    ///
    /// Behind it [`Self::send`] fails with [`Error::WriteDeadline`]. If data waits to be written
    /// at that time, because the server does not read:
    /// * If no frame is written in part, the requests that are not begun are withdrawn, their tickets
    ///   fail with [`Error::WriteDeadline`], and the connection goes on. Their IDs are used again.
    /// * Otherwise nothing can follow that part: the connection ends with [`Cause::WriteDeadline`].
    pub fn set_write_deadline(&self, deadline: Option<Instant>) {
        self.handle.shared.write_deadline.send_replace(deadline);
    }

    /// What is written and not acked; once the connection is gone, what was then.
    pub fn unacked(&self) -> Unacked {
        self.handle.shared.state().unacked()
    }

    /// Writes what is queued, half-closes the connection, waits for every ack that is owed, then
    /// closes. From the call on nothing more can be sent, on any handle.
    ///
    /// It does not time out by itself; the deadlines hold. Cancel-safe, and can be called again to
    /// wait on.
    ///
    /// # Errors
    /// * [`Error::ReadDeadline`]: acks are still owed; the connection goes on.
    /// * [`Error::WriteDeadline`]: requests were withdrawn; all others are acked.
    /// * [`Error::Ended`]: the connection ended before every ack was there.
    pub async fn finish(&self) -> Result<(), Error> {
        let shared = &self.handle.shared;
        {
            let mut state = shared.state();
            if state.phase == Phase::Open {
                state.phase = Phase::Finishing;
            }
        }
        shared.work.notify_one();
        let ended = select! {
            biased;
            ended = shared.ended() => ended,
            () = passed(&shared.read_deadline) => return Err(shared.read_deadline_error()),
        };
        match (&shared.state().finish_error, ended) {
            (Some(withdrawn), Error::Ended { cause: Cause::Finished, .. }) => Err(Error::clone(withdrawn)),
            (None, Error::Ended { cause: Cause::Finished, .. }) => Ok(()),
            (_, error) => Err(error),
        }
    }

    /// Closes the connection at once and tells what was not acked. Tickets that still wait fail with
    /// [`Cause::Closed`].
    ///
    /// It waits for no peer, only for the task that drives the connection. Cancel-safe: the
    /// connection is closed also when this is dropped.
    pub async fn close(&self) -> Unacked {
        self.handle.close();
        self.handle.shared.ended().await;
        self.unacked()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("unacked", &self.unacked()).finish()
    }
}

/// What the clones of a client share; the last one takes the connection with it.
struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    fn close(&self) {
        self.shared.state().phase = Phase::Closing;
        self.shared.work.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// The claim to one request's ack.
///
/// Dropping it gives up the claim, not the request: the ack is still matched when it comes. A ticket
/// does not keep the connection open.
pub struct Ticket {
    id: Id,
    shared: Arc<Shared>,
    state: TicketState,
}

enum TicketState {
    Waiting(oneshot::Receiver<Answer>),
    Answered(Answer),
}

impl Ticket {
    /// The request's ID.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Waits for the ack, and says what the server made of the request. Cancel-safe. It can be
    /// awaited again: behind a read deadline it waits on, else it says the same once more.
    ///
    /// # Errors
    /// * [`Error::ReadDeadline`]: the read deadline has passed and the ack has not come.
    /// * [`Error::WriteDeadline`]: the request was withdrawn, nothing of it was written.
    /// * [`Error::Ended`]: the connection ended first.
    pub async fn wait(&mut self) -> Result<AckResult, Error> {
        if let TicketState::Waiting(receiver) = &mut self.state {
            let answer = select! {
                biased;
                answer = receiver => answer.expect("every request is answered before the connection is forgotten"),
                () = passed(&self.shared.read_deadline) => return Err(self.shared.read_deadline_error()),
            };
            self.state = TicketState::Answered(answer);
        }
        match &self.state {
            TicketState::Answered(answer) => answer.clone().map_err(|error| Error::clone(&error)),
            TicketState::Waiting(_) => unreachable!("the answer was awaited above"),
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The window where no other is set: requests in flight.
pub const WINDOW: usize = 64;
/// The largest window. The client keeps about 200 bytes for each request in it.
pub const WINDOW_MAX: usize = 1 << 20;
/// The limit on the time to connect where no other is set.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_cannot_be_are_refused() {
        Options::default().validate().unwrap();
        for window in [0, WINDOW_MAX + 1] {
            let refused = Options { window, ..Options::default() }.validate();
            assert_eq!(refused.map_err(|error| error.field), Err("window"));
        }
        let refused = Options { frame_len_max: 12, ..Options::default() }.validate();
        assert_eq!(refused.map_err(|error| error.field), Err("frame_len_max"));
        let refused = Options { keepalive: Duration::from_millis(1), ..Options::default() }.validate();
        assert_eq!(refused.map_err(|error| error.field), Err("tcp_keepalive"));
    }
}
