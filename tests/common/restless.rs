//! Clients that continue through a takeover: when a connection is drained, its client connects again. A ledger holds
//! what they sent and what was acked. Anything that a takeover must never do to a client is counted as a fault.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringpost::internal::{Ledger, LedgerPen, LedgerResult, Stamp};
use socket2::{Domain, Socket, Type};

use super::{PATIENCE, submit, submit_ack};

/// The time from one connect of a thread to the next.
const CHURN_PAUSE: Duration = Duration::from_millis(40);

/// The clients' observations.
#[derive(Debug, Default)]
pub struct Seen {
    pub connects: AtomicU64,
    pub acked: AtomicU64,
    /// Connections that the server ended cleanly.
    pub drained: AtomicU64,
    pub faults: Mutex<Vec<String>>,
}

/// The running clients.
pub struct Restless {
    pub seen: Arc<Seen>,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The state of a thread.
struct Client {
    address: SocketAddr,
    /// Each thread has its own address, so that ports in TIME_WAIT never use up all ports.
    source: Ipv4Addr,
    run: u64,
    /// The number of its next connection.
    number: u64,
    pen: LedgerPen,
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
}

impl Restless {
    /// Starts threads that connect, send one request, await its ack and close, `churn` times a second in total, and
    /// this many connections that keep two windows in flight.
    pub fn start(address: SocketAddr, ledger: &Path, churn: u32, pipelining: u32) -> Restless {
        const RUN: u64 = 0x7461_6b65;
        let ledger = Ledger::create(ledger, RUN).unwrap();
        let (seen, stop) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
        let mut threads = Vec::new();
        let churners = churn * CHURN_PAUSE.as_millis() as u32 / 1000;
        for index in 0..churners + pipelining {
            let client = Client {
                address,
                source: Ipv4Addr::from(0x7f00_0100 + index + 1),
                run: RUN,
                number: u64::from(index) << 32,
                pen: ledger.pen(),
                seen: seen.clone(),
                stop: stop.clone(),
            };
            threads.push(thread::spawn(move || if index < churners { client.churn() } else { client.pipeline() }));
        }
        Restless { seen, ledger, stop, threads }
    }

    /// Waits until the clients have received this many more acks.
    pub fn wait_for_acks(&self, more: u64) {
        let acked = self.seen.acked.load(Ordering::Relaxed) + more;
        super::wait_until("the clients get acks", || self.seen.acked.load(Ordering::Relaxed) >= acked);
    }

    /// Ends the clients, and fails on any fault.
    pub fn finish(self) -> Arc<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.ledger.end().unwrap();
        let faults = self.seen.faults.lock().unwrap();
        assert!(faults.is_empty(), "{} faults: {:#?}", faults.len(), &faults[..faults.len().min(10)]);
        drop(faults);
        self.seen
    }
}

/// The reason why a conversation ended.
enum End {
    /// The server ended the connection between two acks.
    Drained,
    Fault(String),
}

impl Client {
    fn churn(mut self) {
        let mut due = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            due += CHURN_PAUSE;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let Some(mut stream) = self.connect() else { continue };
            let done = self.send(&mut stream, 0, 1).and_then(|()| self.acks(&mut stream, 0, 1));
            self.ended(done);
        }
        self.pen.finish().unwrap();
    }

    fn pipeline(mut self) {
        const WINDOW: u64 = 8;
        while !self.stop.load(Ordering::Relaxed) {
            let Some(mut stream) = self.connect() else { continue };
            let done = (|| {
                self.send(&mut stream, 0, WINDOW)?;
                let mut first = 0;
                while !self.stop.load(Ordering::Relaxed) {
                    self.send(&mut stream, first + WINDOW, WINDOW)?;
                    self.acks(&mut stream, first, WINDOW)?;
                    first += WINDOW;
                    thread::sleep(Duration::from_millis(50));
                }
                self.acks(&mut stream, first, WINDOW)
            })();
            self.ended(done);
        }
        self.pen.finish().unwrap();
    }

    fn ended(&self, done: Result<(), End>) {
        match done {
            Ok(()) => {}
            Err(End::Drained) => drop(self.seen.drained.fetch_add(1, Ordering::Relaxed)),
            Err(End::Fault(fault)) => self.seen.faults.lock().unwrap().push(fault),
        }
    }

    fn connect(&mut self) -> Option<TcpStream> {
        self.number += 1;
        self.seen.connects.fetch_add(1, Ordering::Relaxed);
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((self.source, 0)).into())?;
            socket.connect_timeout(&self.address.into(), PATIENCE)?;
            socket.set_tcp_nodelay(true)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok::<_, std::io::Error>(TcpStream::from(socket))
        };
        match connect() {
            Ok(stream) => Some(stream),
            Err(error) => {
                self.ended(Err(End::Fault(format!("connect: {error}"))));
                None
            }
        }
    }

    fn send(&mut self, stream: &mut TcpStream, first: u64, count: u64) -> Result<(), End> {
        let (mut bytes, mut crcs) = (Vec::new(), Vec::new());
        for number in first..first + count {
            let payload = Stamp { run: self.run, connection: self.number, number }.encode();
            crcs.push(crc32c::crc32c(&payload));
            bytes.extend(submit(number, &payload));
        }
        self.pen.sent(self.number, first, &crcs);
        // A drained connection is read for a while. Bytes that are sent then are discarded, but never refused.
        stream.write_all(&bytes).map_err(|error| End::Fault(format!("send: {error}")))
    }

    fn acks(&mut self, stream: &mut TcpStream, first: u64, count: u64) -> Result<(), End> {
        for number in first..first + count {
            let mut ack = [0; 14];
            let mut len = 0;
            while len < ack.len() {
                match stream.read(&mut ack[len..]) {
                    Ok(0) if len == 0 => return Err(End::Drained),
                    Ok(0) => return Err(End::Fault("an end inside an ack".into())),
                    Ok(count) => len += count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(End::Fault(format!("receive: {error}"))),
                }
            }
            if ack != submit_ack(number, 0) {
                return Err(End::Fault(format!("the ack of {number}: {ack:?}")));
            }
            self.pen.answered(self.number, number, 1, LedgerResult::Acked);
            self.seen.acked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
