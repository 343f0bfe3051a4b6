//! A client's end of a simulated connection.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use crate::sim::backlog::Backlog;
use crate::sim::kernel;
use crate::sim::link::{Link, LinkOptions, Side};
use crate::sim::random::Random;
use crate::sim::trace;

/// A client's socket. Dropping it closes the connection.
pub struct Peer(Rc<Link>);

impl Peer {
    /// Connects from `peer` to `address`. Tries again while the backlog is full, as a kernel does.
    ///
    /// # Errors
    /// Nobody listens there, or the backlog stays full.
    pub async fn connect(
        peer: SocketAddr,
        address: SocketAddr,
        options: LinkOptions,
        random: &mut Random,
    ) -> io::Result<Peer> {
        for _ in 0..CONNECTS_MAX {
            let listeners = kernel::backlogs_of(address);
            if listeners.is_empty() {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let listener: &Rc<Backlog> = &listeners[random.below(listeners.len() as u64) as usize];
            let number = kernel::next_number();
            let link = Rc::new(Link::new(number, peer, options.clone(), listener.silence, random.next()));
            if listener.queue(link.clone()) {
                trace::add("connected", number, peer.port().into());
                return Ok(Peer(link));
            }
            sleep(CONNECT_PAUSE).await;
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Waits until bytes arrive, and appends at most `most` of them. Returns 0 at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// The connection was reset.
    pub async fn receive(&self, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let mut bytes = Vec::with_capacity(most);
        loop {
            if let Some(received) = self.0.try_receive(Side::Peer, &mut bytes) {
                buffer.extend_from_slice(&bytes);
                return received;
            }
            self.0.changed(Side::Peer).await;
        }
    }

    /// Waits until a part of `bytes` can be sent, and returns how many bytes were. Cancel-safe.
    ///
    /// # Errors
    /// The connection was reset, or the server reads no longer.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if let Some(sent) = self.0.try_send(Side::Peer, bytes) {
                return sent;
            }
            self.0.changed(Side::Peer).await;
        }
    }

    /// Waits until the connection is reset. Cancel-safe.
    pub async fn closed(&self) {
        self.0.gone(Side::Peer).await;
    }

    /// Ends the stream to the server.
    pub fn shut_down_writes(&self) {
        self.0.shut_down_writes(Side::Peer);
    }

    /// Resets the connection.
    pub fn reset(&self) {
        self.0.reset(Side::Peer);
    }

    /// Breaks the network between the client and the server without a sign for either.
    pub fn vanish(&self) {
        self.0.break_network();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.close_peer();
    }
}

/// How often a client tries to connect while the backlog is full.
const CONNECTS_MAX: u32 = 20;
/// How long it waits in between, as Linux does at first.
const CONNECT_PAUSE: Duration = Duration::from_secs(1);
