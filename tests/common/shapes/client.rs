//! Clients with random behavior, each from a seed. They use plain sockets and encode frames by hand.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::common::random::Random;

/// The phase that a world is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// All clients follow their plans.
    Faults,
    /// Slow clients read and send at full speed, so that all clients must come to an end.
    Calm,
    /// The server has ended.
    Over,
}

/// One request of a plan.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub is_submit: bool,
    pub id: [u8; 8],
    pub len: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As fast as the client can.
    Eager,
    /// This number of bytes, then a pause.
    Slow { bytes: usize, pause: Duration },
    /// After everything is written.
    Late,
    /// Not before the world is calm.
    Never,
}

/// How many requests are sent at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bursts {
    /// As many as the window allows.
    Full,
    /// A single one first, then as many as the window allows.
    OneFirst,
    /// Any number that the window allows.
    Random,
}

/// The end of a connection, after the last request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// The client half-closes the connection.
    HalfClose,
    /// The client closes the connection when it has every ack.
    Close,
    /// The connection stays open until the server closes it.
    Hold,
    /// The client resets the connection, or closes it with unread acks, after it has written this number of requests.
    Abandon { after: usize, reset: bool },
    /// The client sends bytes that break the protocol, and gets this ack, if any.
    Violation { bytes: Vec<u8>, ack: Option<[u8; 14]> },
    /// The client sends a part of a frame and half-closes the connection.
    Truncated(Vec<u8>),
    /// The client sends a part of a frame, and then nothing.
    Stuck(Vec<u8>),
}

/// The behavior of a client.
#[derive(Debug)]
pub struct Plan {
    pub seed: u64,
    pub requests: Vec<Request>,
    pub published_codes: bool,
    pub refuses: bool,
    /// The number of the server's address that the client connects to.
    pub address: usize,
    pub start_after: Duration,
    pub window: usize,
    pub bursts: Bursts,
    /// The most bytes of a write, and the pause after it.
    pub piece: usize,
    pub pause: Duration,
    pub reading: Reading,
    pub small_receive_buffer: bool,
    pub tail: Tail,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { requests, window, bursts, piece, pause, reading, small_receive_buffer, tail, .. } = self;
        let largest = requests.iter().map(|request| request.len).max().unwrap_or(0);
        let submits = requests.iter().filter(|request| request.is_submit).count();
        let tail = match tail {
            Tail::Violation { bytes, ack } => format!("violation {:x?}, acked {}", head(bytes), ack.is_some()),
            Tail::Truncated(bytes) => format!("truncated {:x?}", head(bytes)),
            Tail::Stuck(bytes) => format!("stuck {:x?}", head(bytes)),
            other => format!("{other:?}"),
        };
        write!(
            f,
            "{} requests, {submits} of them SUBMITs, payloads up to {largest}; window {window}, bursts {bursts:?}, \
             pieces of {piece}, pause {pause:?}; reading {reading:?}{}; start after {:?} at address {}; {tail}",
            requests.len(),
            if *small_receive_buffer { ", small receive buffer" } else { "" },
            self.start_after,
            self.address,
        )
    }
}

fn head(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(16)]
}

/// Limits that all clients of a world share.
pub struct Limits {
    pub requests: u64,
    pub bytes: u64,
    /// Every window is at least this one. If that is more than 1, every client sends as many requests as it may.
    pub window_min: u64,
    pub max_frame: u64,
    pub published_codes: bool,
    pub refuses: bool,
    pub addresses: usize,
    /// IDs differ, so that an ID identifies the request of a record.
    pub ids_differ: bool,
    /// Some clients read or send slowly, or break off.
    pub faults: bool,
    /// The server closes the connections that stay open.
    pub holds: bool,
    /// The longest time for which a client waits before it starts.
    pub spread: Duration,
}

impl Plan {
    pub fn new(random: &mut Random, limits: &Limits) -> Plan {
        let payload_max = limits.max_frame - 13;
        let sizes = random.below(6);
        let size_max = match sizes {
            0 => 0,
            1 | 2 => 40.min(payload_max),
            3 => random.log_range(1, 4096).min(payload_max),
            _ => payload_max,
        };
        let conn_one_in = random.pick(&[0, 0, 1, 3, 100]);
        let ids = if limits.ids_differ { 0 } else { random.below(4) };
        let first_id = if limits.ids_differ { 1 } else { random.next() };
        let most = limits.requests.max(1);
        let count = if limits.window_min > 1 || random.one_in(4) { most } else { random.log_range(1, most) };
        let window_max = if limits.window_min > 1 || random.one_in(2) { WINDOW_MAX } else { 256 };
        let window = random.log_range(limits.window_min, window_max) as usize;
        // Each round trip may need a sync.
        let count = count.min(window as u64 * ROUND_TRIPS_MAX);
        let mut bytes = limits.bytes;
        let mut requests = Vec::new();
        for number in 0..count {
            let is_submit = !(conn_one_in == 1 && number == 0 || conn_one_in > 1 && random.one_in(conn_one_in));
            let len = match random.below(8) {
                // There are few large payloads, since they would leave no room for other requests.
                _ if size_max <= 4096 => random.below(size_max + 1),
                0 => size_max,
                1 => random.below(size_max + 1),
                _ => random.log_range(1, size_max) - 1,
            };
            if bytes < 13 + len {
                break;
            }
            bytes -= 13 + len;
            let counter = first_id.wrapping_add(number);
            let id = match ids {
                0 | 1 => counter.to_be_bytes(),
                2 => format!("{:08}", counter % 100_000_000).into_bytes().try_into().unwrap(),
                _ => first_id.to_be_bytes(),
            };
            requests.push(Request { is_submit, id, len: len as u32 });
        }

        let drips = limits.faults && random.one_in(8);
        let (piece, pause) = match random.below(4) {
            _ if drips => (random.log_range(1, 2000) as usize, Duration::from_millis(1 + random.below(30))),
            0 => (random.log_range(1, 100_000) as usize, Duration::ZERO),
            1 => (usize::MAX, Duration::from_micros(random.log_range(1, 5000))),
            _ => (usize::MAX, Duration::ZERO),
        };
        let piece = piece.max(if drips { 1 } else { requests.len() / 4 });
        let reading = match random.below(10) {
            0 if limits.faults => Reading::Never,
            1 | 2 if limits.faults => Reading::Slow {
                bytes: random.log_range(1, 4096) as usize,
                pause: Duration::from_millis(1 + random.below(20)),
            },
            3 => Reading::Late,
            _ => Reading::Eager,
        };
        // Small bursts would hardly fill a large window, and each of them may need a sync.
        let small = if limits.window_min > 1 { Bursts::Full } else { Bursts::Random };
        let bursts = random.pick(&[Bursts::Full, Bursts::OneFirst, small, small]);
        let tail = Plan::tail(random, limits, &requests);
        Plan {
            seed: random.next(),
            requests,
            published_codes: limits.published_codes,
            refuses: limits.refuses,
            address: random.below(limits.addresses as u64) as usize,
            start_after: limits.spread.mul_f64(random.below(1000) as f64 / 1000.0),
            window,
            bursts,
            piece,
            pause,
            reading,
            small_receive_buffer: limits.faults && random.one_in(4),
            tail,
        }
    }

    fn tail(random: &mut Random, limits: &Limits, requests: &[Request]) -> Tail {
        let is_submit = random.one_in(2);
        let command = if is_submit { 0x02 } else { 0x01 };
        let frame_in_part = |random: &mut Random| {
            let len = 13 + random.log_range(1, limits.max_frame - 12) - 1;
            let mut bytes = (len as u32).to_be_bytes().to_vec();
            bytes.push(command);
            bytes.extend(random.bytes((len - 5).min(1000)));
            let sent = 1 + random.below((len - 1).min(bytes.len() as u64 - 1)) as usize;
            bytes.truncate(sent);
            bytes
        };
        match random.below(if limits.faults { 12 } else { 4 }) {
            0 | 1 | 4 => Tail::HalfClose,
            2 | 5 => Tail::Close,
            3 if limits.holds => Tail::Hold,
            6 | 7 => Tail::Abandon { after: random.below(requests.len() as u64 + 1) as usize, reset: random.one_in(2) },
            8 => {
                let len = random.below(13) as u32;
                let mut bytes = len.to_be_bytes().to_vec();
                let more = random.below(100);
                bytes.extend(random.bytes(more));
                Tail::Violation { bytes, ack: None }
            }
            9 if random.one_in(2) => {
                let len = 13 + random.below(limits.max_frame) as u32;
                let mut bytes = len.to_be_bytes().to_vec();
                bytes.push(random.pick(&[0, 3, 0x7f, 0x80, 0x81, 0x82, 0xff]));
                let more = random.below(100);
                bytes.extend(random.bytes(more));
                Tail::Violation { bytes, ack: None }
            }
            9 => {
                let len = (limits.max_frame + random.log_range(1, u64::from(u32::MAX) - limits.max_frame)) as u32;
                let id = random.next().to_be_bytes();
                let mut bytes = len.to_be_bytes().to_vec();
                bytes.push(command);
                bytes.extend(id);
                let more = random.below(100_000).min(u64::from(len) - 13);
                bytes.extend(vec![0x55; more as usize]);
                Tail::Violation { bytes, ack: Some(ack(limits.published_codes, is_submit, id, 1)) }
            }
            10 => Tail::Truncated(frame_in_part(random)),
            11 => Tail::Stuck(frame_in_part(random)),
            _ => Tail::HalfClose,
        }
    }

    /// Appends a request in its encoding on the wire.
    fn encode(&self, number: usize, into: &mut Vec<u8>) {
        let Request { is_submit, id, len } = self.requests[number];
        into.extend((13 + len).to_be_bytes());
        into.push(if is_submit { 0x02 } else { 0x01 });
        into.extend(id);
        let start = into.len();
        into.resize(start + len as usize, self.filler(number));
        let mark = (number as u64).to_be_bytes();
        let marked = mark.len().min(len as usize);
        into[start..start + marked].copy_from_slice(&mark[8 - marked..]);
    }

    fn filler(&self, number: usize) -> u8 {
        (self.seed >> (number % 8 * 8)) as u8
    }

    /// Whether `payload` is that of request `number`.
    pub fn is_payload(&self, number: usize, payload: &[u8]) -> bool {
        let mark = (number as u64).to_be_bytes();
        let (marked, filler) = (mark.len().min(payload.len()), self.filler(number));
        payload.len() == self.requests[number].len as usize
            && payload[..marked] == mark[8 - marked..]
            && payload[marked..].iter().all(|byte| *byte == filler)
    }

    /// The expected ack of a request.
    fn ack(&self, number: usize) -> [u8; 14] {
        let Request { is_submit, id, .. } = self.requests[number];
        ack(self.published_codes, is_submit, id, u8::from(is_submit && self.refuses))
    }

    /// The expected number of acks.
    pub fn acks(&self) -> usize {
        self.requests.len() + usize::from(matches!(self.tail, Tail::Violation { ack: Some(_), .. }))
    }

    /// Whether the client never delays the server, and ends its connection in good order.
    pub fn is_polite(&self) -> bool {
        matches!(self.tail, Tail::HalfClose | Tail::Close | Tail::Hold)
    }
}

fn ack(published_codes: bool, is_submit: bool, id: [u8; 8], result: u8) -> [u8; 14] {
    let mut ack = [0; 14];
    ack[3] = 14;
    ack[4] = 0x81 + u8::from(is_submit) - u8::from(published_codes);
    ack[5..13].copy_from_slice(&id);
    ack[13] = result;
    ack
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The client ended it, as planned.
    Closed,
    /// The server closed in good order.
    Eof,
    /// The kernel reported this error.
    Reset(String),
    NotConnected(String),
}

/// The outcome of a plan.
#[derive(Debug)]
pub struct Sent {
    pub plan: Arc<Plan>,
    pub peer: Option<SocketAddr>,
    /// Requests that were possibly passed to the kernel completely.
    pub begun: usize,
    pub acked: usize,
    /// The most requests that were written and not acked.
    pub in_flight_max: usize,
    /// `None` while the client runs.
    pub ending: Option<Ending>,
    /// An answer that the client should not have got.
    pub wrong: Option<String>,
}

/// State that all clients of a server share.
pub struct Shared {
    pub addresses: Vec<SocketAddr>,
    /// The addresses that clients have or had.
    pub peers: RefCell<HashSet<SocketAddr>>,
}

/// A running client. Its task records its progress here.
pub struct Client {
    pub plan: Arc<Plan>,
    pub peer: Cell<Option<SocketAddr>>,
    pub begun: Cell<usize>,
    pub acked: Cell<usize>,
    in_flight_max: Cell<usize>,
    /// The last time at which the client connected, wrote or read something.
    pub progressed: Cell<Instant>,
    pub ending: RefCell<Option<Ending>>,
    wrong: RefCell<Option<String>>,
    all_written: Cell<bool>,
    progress: Notify,
    written: Notify,
}

impl Client {
    pub fn new(plan: Arc<Plan>) -> Client {
        Client {
            plan,
            peer: Cell::default(),
            begun: Cell::default(),
            acked: Cell::default(),
            in_flight_max: Cell::default(),
            progressed: Cell::new(Instant::now()),
            ending: RefCell::default(),
            wrong: RefCell::default(),
            all_written: Cell::default(),
            progress: Notify::new(),
            written: Notify::new(),
        }
    }

    /// Returns the outcome so far.
    pub fn sent(&self) -> Sent {
        Sent {
            plan: self.plan.clone(),
            peer: self.peer.get(),
            begun: self.begun.get(),
            acked: self.acked.get(),
            in_flight_max: self.in_flight_max.get(),
            ending: self.ending.borrow().clone(),
            wrong: self.wrong(),
        }
    }

    /// Returns the first answer that the client should not have got.
    pub fn wrong(&self) -> Option<String> {
        self.wrong.borrow().clone()
    }

    pub fn has_ended(&self) -> bool {
        self.ending.borrow().is_some()
    }

    /// Follows the plan to the end.
    pub async fn run(&self, world: &Shared, mut phase: watch::Receiver<Phase>) {
        sleep(self.plan.start_after).await;
        let ending = match self.connect(world).await {
            Err(error) => Ending::NotConnected(error.to_string()),
            Ok(mut stream) => match self.converse(&mut stream, &mut phase).await {
                Ok(ending) => ending,
                Err(error) => Ending::Reset(error.to_string()),
            },
        };
        *self.ending.borrow_mut() = Some(ending);
    }

    async fn connect(&self, world: &Shared) -> io::Result<TcpStream> {
        let address = world.addresses[self.plan.address];
        loop {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if self.plan.small_receive_buffer {
                socket.set_recv_buffer_size(4096)?;
            }
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            let peer = stream.local_addr()?;
            // A reset frees a port for the next client. Then the records of both clients would have the same peer.
            if world.peers.borrow_mut().insert(peer) {
                self.peer.set(Some(peer));
                self.progressed.set(Instant::now());
                return Ok(stream);
            }
        }
    }

    async fn converse(&self, stream: &mut TcpStream, phase: &mut watch::Receiver<Phase>) -> io::Result<Ending> {
        let mut abandoned = false;
        let ending = {
            let (read, mut write) = stream.split();
            let (mut phase_of_reader, mut phase_of_writer) = (phase.clone(), phase.clone());
            let reading = self.read(read, &mut phase_of_reader);
            let writing = async {
                let done = self.write(&mut write, &mut phase_of_writer).await;
                self.all_written.set(true);
                self.written.notify_one();
                done
            };
            tokio::pin!(reading, writing);
            let mut ending = None;
            tokio::select! {
                biased;
                done = &mut reading => ending = Some(done),
                done = &mut writing => match done {
                    Ok(()) => abandoned = matches!(self.plan.tail, Tail::Abandon { .. }),
                    // The server's earlier answers can still be read.
                    Err(error) => ending = Some(match reading.as_mut().await {
                        Ok(Ending::Eof) => Err(error),
                        other => other,
                    }),
                },
            }
            match ending {
                Some(ending) => ending?,
                None if abandoned => Ending::Closed,
                None => self.wait_for_the_end(reading, phase).await?,
            }
        };
        if abandoned && matches!(self.plan.tail, Tail::Abandon { reset: true, .. }) {
            socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(ending)
    }

    /// Waits for the remaining answers after everything is written.
    async fn wait_for_the_end(
        &self,
        reading: impl Future<Output = io::Result<Ending>>,
        phase: &mut watch::Receiver<Phase>,
    ) -> io::Result<Ending> {
        if !matches!(self.plan.tail, Tail::Stuck(_)) {
            return reading.await;
        }
        tokio::select! {
            ending = reading => ending,
            // Nobody else ends the connection if the server's timeouts are long.
            () = async {
                let _ = phase.wait_for(|phase| *phase >= Phase::Calm).await;
                while self.acked.get() < self.plan.requests.len() {
                    self.progress.notified().await;
                }
            } => Ok(Ending::Closed),
        }
    }

    async fn write(&self, stream: &mut WriteHalf<'_>, phase: &mut watch::Receiver<Phase>) -> io::Result<()> {
        let plan = &self.plan;
        let mut random = Random(plan.seed);
        let last = if let Tail::Abandon { after, .. } = plan.tail { after } else { plan.requests.len() };
        let mut number = 0;
        let mut bytes = Vec::new();
        while number < last {
            let room = loop {
                let on_their_way = number - self.acked.get().min(number);
                if on_their_way < plan.window {
                    break plan.window - on_their_way;
                }
                self.progress.notified().await;
            };
            let burst = match plan.bursts {
                Bursts::OneFirst if number == 0 => 1,
                Bursts::Full | Bursts::OneFirst => room,
                Bursts::Random => random.log_range(1, room as u64) as usize,
            };
            let end = (number + burst).min(last);
            bytes.clear();
            while number < end && bytes.len() < BURST_BYTES_MAX {
                plan.encode(number, &mut bytes);
                number += 1;
            }
            self.begun.set(number);
            self.put(stream, &bytes, phase).await?;
            let in_flight = number - self.acked.get().min(number);
            self.in_flight_max.set(self.in_flight_max.get().max(in_flight));
        }
        match &plan.tail {
            Tail::Violation { bytes, .. } | Tail::Stuck(bytes) => self.put(stream, bytes, phase).await,
            Tail::Truncated(bytes) => {
                self.put(stream, bytes, phase).await?;
                stream.shutdown().await
            }
            Tail::HalfClose => stream.shutdown().await,
            Tail::Close | Tail::Hold | Tail::Abandon { .. } => Ok(()),
        }
    }

    /// Writes in pieces with pauses between them, and what is left once the world is calm in a single piece.
    async fn put(
        &self,
        stream: &mut WriteHalf<'_>,
        bytes: &[u8],
        phase: &mut watch::Receiver<Phase>,
    ) -> io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            let len = if *phase.borrow() == Phase::Faults { self.plan.piece } else { usize::MAX };
            let (piece, rest) = left.split_at(len.min(left.len()));
            stream.write_all(piece).await?;
            left = rest;
            self.progressed.set(Instant::now());
            pause(self.plan.pause, phase).await;
        }
        Ok(())
    }

    async fn read(&self, mut stream: ReadHalf<'_>, phase: &mut watch::Receiver<Phase>) -> io::Result<Ending> {
        let plan = &self.plan;
        match plan.reading {
            Reading::Never => drop(phase.wait_for(|phase| *phase >= Phase::Calm).await),
            Reading::Late => {
                // The window may be full before everything is written.
                let written = async {
                    while !self.all_written.get() {
                        self.written.notified().await;
                    }
                };
                let _ = timeout(LATE_MAX, written).await;
            }
            Reading::Eager | Reading::Slow { .. } => {}
        }
        let mut buffer = vec![0; 64 << 10];
        let mut len = 0;
        loop {
            let closes = matches!(plan.tail, Tail::Close | Tail::Abandon { .. });
            if closes && self.acked.get() == plan.requests.len() {
                return Ok(Ending::Closed);
            }
            let (most, rest) = match plan.reading {
                Reading::Slow { bytes, pause } if *phase.borrow() == Phase::Faults => (bytes, pause),
                _ => (buffer.len(), Duration::ZERO),
            };
            let end = (len + most).min(buffer.len());
            let received = stream.read(&mut buffer[len..end]).await?;
            self.progressed.set(Instant::now());
            if received == 0 {
                // A server that is killed, or cuts the connection, does this.
                let inside = || Ending::Reset(format!("the end inside an ack: {:x?}", &buffer[..len]));
                return Ok(if len > 0 { inside() } else { Ending::Eof });
            }
            len += received;
            let acks = buffer[..len].chunks_exact(14);
            let rest_len = acks.remainder().len();
            for ack in acks {
                self.acked(ack);
            }
            buffer.copy_within(len - rest_len..len, 0);
            len = rest_len;
            self.progress.notify_one();
            pause(rest, phase).await;
        }
    }

    fn acked(&self, ack: &[u8]) {
        let (number, plan) = (self.acked.get(), &self.plan);
        let due = match &plan.tail {
            _ if number < self.begun.get() => Some(plan.ack(number)),
            Tail::Violation { ack, .. } if number == plan.requests.len() => *ack,
            _ => None,
        };
        if due.is_none_or(|due| due != ack) {
            self.is_wrong(format!("ack {number} is {ack:x?}, expected {due:x?}"));
        }
        self.acked.set(number + 1);
    }

    fn is_wrong(&self, what: String) {
        self.wrong.borrow_mut().get_or_insert(what);
    }
}

/// Waits, unless the world is calm.
async fn pause(pause: Duration, phase: &mut watch::Receiver<Phase>) {
    if !pause.is_zero() && *phase.borrow() == Phase::Faults {
        let _ = timeout(pause, phase.wait_for(|phase| *phase >= Phase::Calm)).await;
    }
}

const WINDOW_MAX: u64 = 100_000;
/// The approximate number of bytes that are written at a time.
const BURST_BYTES_MAX: usize = 256 << 10;
/// The approximate number of round trips of a client.
const ROUND_TRIPS_MAX: u64 = 300;
/// The longest time that a late reader waits.
const LATE_MAX: Duration = Duration::from_millis(500);
