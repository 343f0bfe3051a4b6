//! A TCP connection between a peer and a server, as both kernels and the network between them keep it.
//!
//! It owns the bytes on their way in each direction, the windows that limit them, and how the connection ends: in
//! order, by a reset, or because one end falls silent. It must not know frames.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::random::Random;
use super::trace;
use crate::clock;

/// How a connection's network behaves.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// The longest time that bytes travel. They arrive in order.
    pub latency_max: Duration,
    /// Bytes that each kernel keeps until the other one has received them.
    pub send_buffer: usize,
    /// Bytes that the peer's kernel receives before the peer reads them: its window.
    pub peer_window: usize,
    /// Bytes that the server's kernel receives before the server reads them.
    pub server_window: usize,
    /// Receives and sends are cut short once in so many times; 0 for never.
    pub cut_one_in: u64,
    /// Ops of the server end late once in so many times; 0 for never.
    pub late_one_in: u64,
}

/// The server kernel's limits for a silent peer; zero for none.
#[derive(Debug, Clone, Copy, Default)]
pub struct SilenceOptions {
    /// How long a connection is silent until its peer is probed. It ends after as much time again.
    pub keepalive: Duration,
    /// How long sent bytes may remain unacknowledged.
    pub user_timeout: Duration,
}

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Peer,
    /// The server.
    Server,
}

/// A connection.
pub struct Link {
    /// Its number in the trace.
    pub number: u64,
    /// The peer's address.
    pub peer: SocketAddr,
    options: LinkOptions,
    silence: SilenceOptions,
    random: RefCell<Random>,
    to_server: RefCell<Pipe>,
    to_peer: RefCell<Pipe>,
    changed: [Notify; 2],
    /// The error that the next operation of each end gets. After a reset, an end has no connection any longer.
    errors: [Cell<Option<i32>>; 2],
    gone: [Cell<bool>; 2],
    closed: [Cell<bool>; 2],
    /// When the network between the ends broke without a sign.
    broken: Cell<Option<Instant>>,
}

/// The bytes of one direction.
struct Pipe {
    /// Bytes on their way, and when they arrive.
    traveling: VecDeque<(Instant, Vec<u8>)>,
    traveling_len: usize,
    /// Bytes that have arrived and were not read.
    arrived: VecDeque<u8>,
    window: usize,
    /// When the end of the stream arrives.
    end: Option<Instant>,
    /// The bytes that have arrived since the beginning.
    total: u64,
    /// When the last bytes arrived, or the connection began.
    progress: Instant,
    last_arrival: Instant,
}

impl Pipe {
    fn new(window: usize) -> Self {
        let now = clock::now();
        Pipe {
            traveling: VecDeque::new(),
            traveling_len: 0,
            arrived: VecDeque::new(),
            window,
            end: None,
            total: 0,
            progress: now,
            last_arrival: now,
        }
    }

    /// Lets bytes arrive. Returns whether any have.
    fn flow(&mut self, now: Instant) -> bool {
        let before = self.total;
        while let Some((at, bytes)) = self.traveling.front_mut() {
            let room = self.window.saturating_sub(self.arrived.len());
            if *at > now || room == 0 {
                break;
            }
            let count = room.min(bytes.len());
            self.arrived.extend(bytes.drain(..count));
            self.traveling_len -= count;
            self.total += count as u64;
            if bytes.is_empty() {
                self.traveling.pop_front();
            }
        }
        if self.total > before {
            self.progress = now;
        }
        self.total > before
    }

    /// Returns when something may arrive next, unless the window is closed.
    fn next_arrival(&self) -> Option<Instant> {
        match self.traveling.front() {
            Some((at, _)) => (self.arrived.len() < self.window).then_some(*at),
            None => self.end,
        }
    }

    /// Returns whether the end of the stream has arrived by `now`.
    fn has_ended(&self, now: Instant) -> bool {
        self.traveling.is_empty() && self.end.is_some_and(|end| end <= now)
    }

    fn drop_traveling(&mut self) {
        self.traveling.clear();
        self.traveling_len = 0;
    }
}

impl Link {
    /// Returns a new connection of a peer with this address.
    pub fn new(number: u64, peer: SocketAddr, options: LinkOptions, silence: SilenceOptions, seed: u64) -> Self {
        Link {
            number,
            peer,
            silence,
            random: RefCell::new(Random(seed)),
            to_server: RefCell::new(Pipe::new(options.server_window)),
            to_peer: RefCell::new(Pipe::new(options.peer_window)),
            options,
            changed: [Notify::new(), Notify::new()],
            errors: [Cell::new(None), Cell::new(None)],
            gone: [Cell::new(false), Cell::new(false)],
            closed: [Cell::new(false), Cell::new(false)],
            broken: Cell::new(None),
        }
    }

    fn incoming(&self, side: Side) -> &RefCell<Pipe> {
        if side == Side::Server { &self.to_server } else { &self.to_peer }
    }

    fn outgoing(&self, side: Side) -> &RefCell<Pipe> {
        if side == Side::Server { &self.to_peer } else { &self.to_server }
    }

    /// Lets the bytes of both directions arrive, and wakes the ends that wait for them.
    fn flow(&self) {
        let now = clock::now();
        if self.broken.get().is_none_or(|broken| now < broken) {
            let moved = self.to_server.borrow_mut().flow(now) | self.to_peer.borrow_mut().flow(now);
            if moved {
                self.wake();
            }
        }
        if let Some(end) = self.end_of_silence()
            && end <= now
            && !self.gone[Side::Server as usize].get()
        {
            self.fail(Side::Server, libc::ETIMEDOUT);
        }
    }

    /// Returns the time, or when the network broke.
    fn network_time(&self) -> Instant {
        self.broken.get().unwrap_or_else(clock::now)
    }

    /// Returns when the server's kernel gives the connection up, if the network is broken.
    fn end_of_silence(&self) -> Option<Instant> {
        let broken = self.broken.get()?;
        let to_peer = self.to_peer.borrow();
        let unacknowledged = to_peer.traveling_len > 0 || to_peer.end.is_some();
        let SilenceOptions { keepalive, user_timeout } = self.silence;
        if unacknowledged && !user_timeout.is_zero() {
            return Some(broken.max(to_peer.last_arrival) + user_timeout);
        }
        (!unacknowledged && !keepalive.is_zero()).then(|| broken.max(self.to_server.borrow().progress) + keepalive * 2)
    }

    /// Wakes both ends.
    pub(crate) fn wake(&self) {
        self.changed.iter().for_each(Notify::notify_waiters);
    }

    fn fail(&self, side: Side, error: i32) {
        self.errors[side as usize].set(Some(error));
        self.gone[side as usize].set(true);
        self.wake();
    }

    /// Tries to read. Returns `None` if that would have to wait.
    pub(crate) fn try_receive(&self, side: Side, buffer: &mut Vec<u8>) -> Option<io::Result<usize>> {
        self.flow();
        let mut pipe = self.incoming(side).borrow_mut();
        let room = buffer.capacity() - buffer.len();
        if !pipe.arrived.is_empty() && room > 0 {
            let most = room.min(pipe.arrived.len());
            let count = self.cut(most);
            buffer.extend(pipe.arrived.drain(..count));
            // The window has opened.
            drop(pipe);
            self.flow();
            self.wake();
            return Some(Ok(count));
        }
        if let Some(error) = self.errors[side as usize].take() {
            return Some(Err(io::Error::from_raw_os_error(error)));
        }
        if self.gone[side as usize].get() || pipe.has_ended(self.network_time()) {
            return Some(Ok(0));
        }
        None
    }

    /// Tries to send a part of `bytes`, which are not empty. Returns `None` if that would have to wait.
    pub(crate) fn try_send(&self, side: Side, bytes: &[u8]) -> Option<io::Result<usize>> {
        self.flow();
        if let Some(error) = self.errors[side as usize].take() {
            return Some(Err(io::Error::from_raw_os_error(error)));
        }
        let mut pipe = self.outgoing(side).borrow_mut();
        if self.gone[side as usize].get() || pipe.end.is_some() {
            return Some(Err(io::Error::from_raw_os_error(libc::EPIPE)));
        }
        let room = self.options.send_buffer.saturating_sub(pipe.traveling_len);
        if room == 0 {
            return None;
        }
        let count = self.cut(room.min(bytes.len()));
        let now = clock::now();
        let arrival = pipe.last_arrival.max(now + self.latency());
        pipe.last_arrival = arrival;
        pipe.traveling.push_back((arrival, bytes[..count].to_vec()));
        pipe.traveling_len += count;
        let other = if side == Side::Server { Side::Peer } else { Side::Server };
        let answers_with_reset = self.closed[other as usize].get() && self.broken.get().is_none();
        drop(pipe);
        if answers_with_reset {
            // Nobody reads these bytes any longer.
            self.reset(other);
        }
        self.wake();
        Some(Ok(count))
    }

    /// Waits until something may have changed for this end.
    pub(crate) async fn changed(&self, side: Side) {
        let now = clock::now();
        let broken = self.broken.get().is_some_and(|broken| broken <= now);
        let arrivals = [&self.to_server, &self.to_peer].map(|pipe| pipe.borrow().next_arrival());
        let arrivals = arrivals.into_iter().flatten().filter(|at| !broken && *at > now);
        let next = arrivals.chain(self.end_of_silence().filter(|at| *at > now)).min();
        let changed = self.changed[side as usize].notified();
        match next {
            None => changed.await,
            Some(next) => tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(next.into()) => {}
            },
        }
    }

    /// Returns whether an op should end late, and how late.
    pub(crate) fn lateness(&self) -> Option<Duration> {
        let mut random = self.random.borrow_mut();
        random.one_in(self.options.late_one_in).then(|| Duration::from_millis(random.below(4)))
    }

    fn latency(&self) -> Duration {
        let most = self.options.latency_max.as_millis() as u64;
        Duration::from_millis(self.random.borrow_mut().below(most + 1))
    }

    fn cut(&self, most: usize) -> usize {
        let mut random = self.random.borrow_mut();
        if random.one_in(self.options.cut_one_in) { 1 + random.below(most as u64) as usize } else { most }
    }

    /// Returns the number of bytes that can be read without waiting.
    pub(crate) fn readable_bytes(&self) -> usize {
        self.flow();
        self.to_server.borrow().arrived.len()
    }

    /// Returns whether a read of the server would not wait.
    pub(crate) fn is_readable(&self) -> bool {
        self.flow();
        let pipe = self.to_server.borrow();
        let server = Side::Server as usize;
        let failed = self.errors[server].get().is_some() || self.gone[server].get();
        !pipe.arrived.is_empty() || failed || pipe.has_ended(self.network_time())
    }

    /// Returns the bytes that the peer's kernel has received and acknowledged.
    pub(crate) fn bytes_acked(&self) -> u64 {
        self.flow();
        self.to_peer.borrow().total
    }

    /// Returns the bytes that the server's kernel has received.
    pub(crate) fn bytes_received(&self) -> u64 {
        self.flow();
        self.to_server.borrow().total
    }

    /// Returns whether the peer's kernel has not acknowledged all that was sent.
    pub(crate) fn has_unacknowledged(&self) -> bool {
        self.flow();
        let pipe = self.to_peer.borrow();
        pipe.traveling_len > 0
    }

    /// Ends the stream of this end. Returns `false` if the connection is gone.
    pub(crate) fn shut_down_writes(&self, side: Side) -> bool {
        if self.gone[side as usize].get() {
            return false;
        }
        let mut pipe = self.outgoing(side).borrow_mut();
        if pipe.end.is_none() {
            let arrival = pipe.last_arrival.max(clock::now() + self.latency());
            (pipe.end, pipe.last_arrival) = (Some(arrival), arrival);
        }
        drop(pipe);
        self.wake();
        true
    }

    /// Shuts down both directions of the server's end: all its operations end.
    pub(crate) fn shut_down(&self) {
        self.shut_down_writes(Side::Server);
        self.gone[Side::Server as usize].set(true);
        self.wake();
    }

    /// Closes the server's end. The peer gets a reset if the server has not read everything.
    pub fn close_server(&self) {
        self.close(Side::Server);
    }

    /// Closes the peer's end.
    pub fn close_peer(&self) {
        self.close(Side::Peer);
    }

    fn close(&self, side: Side) {
        if self.closed[side as usize].replace(true) {
            return;
        }
        self.flow();
        let incoming = self.incoming(side).borrow();
        let unread = !incoming.arrived.is_empty() || !incoming.traveling.is_empty();
        drop(incoming);
        if unread {
            self.reset(side);
        } else {
            self.shut_down_writes(side);
        }
        self.gone[side as usize].set(true);
        self.wake();
    }

    /// Resets the connection from this end. Bytes that have not arrived are lost, and mostly also bytes that were not
    /// read.
    pub(crate) fn reset(&self, side: Side) {
        self.closed[side as usize].set(true);
        self.gone[side as usize].set(true);
        if self.broken.get().is_some_and(|broken| broken <= clock::now()) {
            return;
        }
        trace::add("reset", self.number, side as u64);
        let other = if side == Side::Server { Side::Peer } else { Side::Server };
        let mut outgoing = self.outgoing(side).borrow_mut();
        outgoing.drop_traveling();
        if !self.random.borrow_mut().one_in(3) {
            outgoing.arrived.clear();
        }
        drop(outgoing);
        self.incoming(side).borrow_mut().drop_traveling();
        if !self.gone[other as usize].get() {
            self.fail(other, libc::ECONNRESET);
        }
    }

    /// Waits until this end has no connection any longer.
    pub(crate) async fn gone(&self, side: Side) {
        while !self.gone[side as usize].get() {
            self.changed(side).await;
        }
    }

    /// Breaks the network between the ends without a sign for either.
    pub fn break_network(&self) {
        if self.broken.get().is_none() {
            self.broken.set(Some(clock::now()));
            self.wake();
        }
    }

    /// The server's host has lost its power. It answers the peer with a reset once it has power again.
    pub(crate) fn lose_server(&self) {
        self.closed[Side::Server as usize].set(true);
        self.gone[Side::Server as usize].set(true);
        self.to_peer.borrow_mut().drop_traveling();
        self.to_server.borrow_mut().drop_traveling();
        self.fail(Side::Peer, libc::ECONNRESET);
    }
}
