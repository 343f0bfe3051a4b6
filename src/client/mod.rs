//! A client for other programs, on ordinary tokio.
//!
//! This module owns connections to a server. It uses no io_uring and builds on every system that tokio supports. It
//! knows the protocol, and nothing of the server.
//!
//! A [`Client`] is a handle of one connection. A separate task drives the socket. It sends and receives at the same
//! time, writes everything in the queue in one call, and matches each ack with the oldest unacked request. Handles are
//! cheap to clone. Several tasks may use them at the same time, also from other runtimes, and a frame is always written
//! whole.
//!
//! A client does not reconnect. When a connection ends, [`Error::Ended`] lists the requests that are unacked, and the
//! caller decides which ones to send again on a new connection. The server may have accepted a request whose ack was
//! lost, so a retry can store a message twice.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ringpost::client::{Client, Options};
//! use ringpost::proto::AckResult;
//!
//! let client = Client::connect("localhost:8888", &Options::default()).await?;
//! // One at a time:
//! assert_eq!(client.submit(b"a message").await?, AckResult::Success);
//! // Pipelined, up to the window:
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
//! Deadlines work like those of Go's `net.Conn`. They are absolute times for the whole connection, and stay in force
//! until they are changed or cleared. A change also affects calls that are already waiting.
//! [`Client::set_read_deadline`] and [`Client::set_write_deadline`] document what a deadline ends, and what continues
//! after it.
//!
//! # Vanished servers
//!
//! If a server's host loses power, or a network drops everything, neither a FIN nor a reset arrives. Without a deadline
//! only the kernel ends a wait:
//! * If nothing is on its way to the server, after [`Options::keepalive`] and its probes: 90 s by default.
//! * If bytes are on their way, when the kernel stops retransmitting them: on Linux after about a quarter of an hour,
//!   set by `net.ipv4.tcp_retries2`. To give up sooner, use a deadline or `ringpost submit --timeout`.
//!
//! TCP_USER_TIMEOUT is not set, because the kernel counts the time in which the peer's window is closed. It would end
//! connections to a healthy server that does not read for a while, for example at its memory limit.
//!
//! # TLS
//!
//! With the cargo feature `client-tls`, [`Options::tls`] encrypts a connection. [`TlsOptions`] name the files, and
//! [`TlsOptions::load`] reads them once for any number of connections. A program that runs for months loads them again
//! before its certificate expires, and connects with the new [`Tls`].
//!
//! ```no_run
//! # #[cfg(feature = "client-tls")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ringpost::client::{Client, Options, TlsOptions};
//!
//! let tls = TlsOptions::default().ca("/etc/ringpost/ca.pem").load()?;
//! let client = Client::connect("ingest.example.com:8888", &Options::default().tls(tls)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! No session is resumed, so each connection makes a full handshake. It counts toward [`Options::connect_timeout`]. In
//! TLS 1.3 a server rejects a client's certificate only after that: the connection then ends with [`Cause::Tls`].
//! [`Client::finish`] sends a close_notify as its half-close.
//!
//! # Memory
//!
//! At most [`Options::window`] requests are unacked, and at most 1 MiB waits to be written (or one frame, if the limit
//! for frames is larger). A payload is kept until it is written, not until it is acked. TLS holds up to 64 KiB of
//! encrypted data more, which counts as written.

mod connect;
mod driver;
mod error;
mod options;
mod shared;
#[cfg(all(test, feature = "client-tls"))]
mod tls_tests;

use std::fmt;
use std::sync::Arc;

use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::select;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use self::connect::{Attempts, ConnectError};
use self::driver::EndGuard;
pub use self::error::{Cause, Error, Ids, PartlyWritten, ProtocolError, Unacked};
pub use self::options::Options;
#[cfg(feature = "cli")]
pub(crate) use self::options::WINDOW;
use self::shared::{Answer, Phase, Shared, passed};
pub use crate::invalid_option::InvalidOption;
use crate::proto::{AckResult, Id, Kind};
#[cfg(feature = "client-tls")]
pub use crate::tls::client::{Tls, TlsError, TlsOptions, TlsOptionsError};

/// A handle of one connection to a server.
///
/// Dropping the last handle closes the connection immediately: unwritten requests are lost, and waiting tickets fail
/// with [`Cause::Closed`]. Use [`Client::finish`] to wait for every ack first.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

impl Client {
    /// Connects to `addr` and starts the task that drives the connection. `addr` can be `"HOST:PORT"`, a pair of host
    /// and port, or a socket address. The addresses of a name are tried one after the other, each with an equal share
    /// of the remaining time. Cancel-safe.
    ///
    /// # Errors
    /// An option is out of range, none of the addresses can be reached, or the handshake of TLS fails.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn connect(addr: impl ToSocketAddrs + fmt::Debug, options: &Options) -> Result<Client, ConnectError> {
        options.validate()?;
        let connected = connect::connect(addr, options).await?;
        #[cfg(feature = "client-tls")]
        if let Some(tls) = &options.tls {
            return Ok(Client::drive(connected.handshake(tls).await?, options));
        }
        Ok(Client::drive(connected.stream, options))
    }

    /// Creates a client from a connected stream, whose socket options the caller has chosen. The connect timeout and
    /// the keepalive of `options` have no effect.
    ///
    /// # Errors
    /// An option is out of range, or `options` ask for TLS, whose handshake only [`Self::connect`] makes.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn from_stream(stream: TcpStream, options: &Options) -> Result<Client, InvalidOption> {
        options.validate()?;
        #[cfg(feature = "client-tls")]
        if options.tls.is_some() {
            return Err(InvalidOption::new("tls", "", "must not be set for a connected stream: use `Client::connect`"));
        }
        Ok(Client::drive(stream, options))
    }

    fn drive(stream: impl driver::Stream, options: &Options) -> Client {
        let shared = Arc::new(Shared::new(options));
        tokio::spawn(driver::drive(stream, EndGuard(shared.clone()), options.ack_codes));
        Client { handle: Arc::new(Handle { shared }) }
    }

    /// Sends a CONN and waits for its ack. A server needs none: it accepts SUBMITs without one.
    ///
    /// # Errors
    /// See [`Self::submit`], which is also cancelled in the same way.
    pub async fn conn(&self, payload: &[u8]) -> Result<AckResult, Error> {
        self.request(Kind::Conn, payload).await?.wait().await
    }

    /// Sends a SUBMIT and waits for its ack.
    ///
    /// If the future is dropped while it waits, it has sent either the whole request or nothing, and the caller does
    /// not learn which. Use [`Self::send`] if that matters.
    ///
    /// # Errors
    /// See [`Self::send`] and [`Ticket::wait`]. An ack that arrives after the read deadline is matched with its
    /// request and discarded.
    pub async fn submit(&self, payload: &[u8]) -> Result<AckResult, Error> {
        self.send(payload).await?.wait().await
    }

    /// Queues a SUBMIT and returns the ticket for its ack, without waiting for the ack.
    ///
    /// Waits while the window is full or too many bytes are queued. Cancel-safe: a future that is dropped while it
    /// waits has queued nothing.
    ///
    /// # Errors
    /// Nothing was queued in any of these cases:
    /// * [`Error::TooLarge`]: the frame exceeds the limit.
    /// * [`Error::WriteDeadline`]: the write deadline passed, before the call or during its wait.
    /// * [`Error::ReadDeadline`]: the read deadline passed while the call waited for room.
    /// * [`Error::Closing`], [`Error::Ended`]: nothing more can be sent.
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
    /// The deadline applies to [`Ticket::wait`], to [`Self::finish`], and to a [`Self::send`] that waits for room. The
    /// connection stays open: a late ack is matched with its request, and waiting on the ticket again returns it. An
    /// ack that has arrived is also returned after the deadline.
    pub fn set_read_deadline(&self, deadline: Option<Instant>) {
        self.handle.shared.read_deadline.send_replace(deadline);
    }

    /// Sets or clears the time at which sending ends with an error.
    ///
    /// After the deadline, [`Self::send`] fails with [`Error::WriteDeadline`]. If data is waiting to be written at that
    /// time, because the server does not read:
    /// * If no frame is partly written, the unwritten requests are withdrawn, and their tickets fail with
    ///   [`Error::WriteDeadline`]. The connection stays open, and their IDs are used again.
    /// * Otherwise nothing can follow the partly written frame, and the connection ends with [`Cause::WriteDeadline`].
    pub fn set_write_deadline(&self, deadline: Option<Instant>) {
        self.handle.shared.write_deadline.send_replace(deadline);
    }

    /// Returns the unacked requests. Once the connection has ended, these are the ones that were unacked at its end.
    pub fn unacked(&self) -> Unacked {
        self.handle.shared.state().unacked()
    }

    /// Writes everything in the queue, half-closes the connection, waits for every ack, then closes. Once it is called,
    /// no handle can send a request.
    ///
    /// Only the deadlines limit the wait. Cancel-safe: call it again to continue waiting.
    ///
    /// # Errors
    /// * [`Error::ReadDeadline`]: requests are still unacked, and the connection stays open.
    /// * [`Error::WriteDeadline`]: requests were withdrawn, and all others are acked.
    /// * [`Error::Ended`]: the connection ended before every ack arrived.
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

    /// Closes the connection immediately and returns the unacked requests. Waiting tickets fail with [`Cause::Closed`].
    ///
    /// Waits only for the task that drives the connection, not for the server. Cancel-safe: the connection is closed
    /// even if the future is dropped.
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

/// The part that the clones of a client share. Dropping it closes the connection.
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

/// A claim to the ack of one request.
///
/// Dropping a ticket does not withdraw the request: its ack is still matched when it arrives. A ticket does not keep
/// the connection open.
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
    /// Returns the request's ID.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Waits for the ack and returns its result. Cancel-safe. It can be called again: after a read deadline it
    /// continues to wait, otherwise it returns the same result.
    ///
    /// # Errors
    /// * [`Error::ReadDeadline`]: the read deadline passed before the ack arrived.
    /// * [`Error::WriteDeadline`]: the request was withdrawn, and no byte of it was written.
    /// * [`Error::Ended`]: the connection ended first.
    pub async fn wait(&mut self) -> Result<AckResult, Error> {
        if let TicketState::Waiting(receiver) = &mut self.state {
            let answer = select! {
                biased;
                answer = receiver => answer.expect("every request is answered before the shared state is dropped"),
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
