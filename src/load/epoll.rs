//! The engine on epoll: a system call for each send and each receive.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use super::acks::StreamLost;
use super::connect::Wire;
use super::event::Event;
use super::faults::CLOSED_BY_SERVER;
use super::frames::Frames;
use super::poll::Poll;
use super::tls::Channel;

/// Sockets that are driven by epoll.
pub struct Epoll {
    poll: Poll,
    sockets: Vec<Socket>,
    frames: Frames,
    input: Box<[u8]>,
}

struct Socket {
    /// `None` once the socket is closed.
    stream: Option<TcpStream>,
    tls: Option<Box<Channel>>,
    /// Bytes that the kernel had no room for.
    unsent: Vec<u8>,
    /// The error of a send. It is reported with the end of the connection, which always follows it.
    failed: Option<io::Error>,
}

impl Epoll {
    /// Returns an engine for these sockets, which it makes non-blocking.
    ///
    /// # Errors
    /// The kernel refuses the epoll instance or a socket.
    pub fn new(wires: Vec<Wire>, frames: Frames) -> io::Result<Self> {
        let poll = Poll::new(wires.len().clamp(1, EVENTS_MAX))?;
        let mut sockets = Vec::with_capacity(wires.len());
        for (slot, Wire { socket: stream, tls }) in wires.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            poll.add(&stream, slot)?;
            sockets.push(Socket { stream: Some(stream), tls, unsent: Vec::new(), failed: None });
        }
        Ok(Epoll { poll, sockets, frames, input: vec![0; INPUT_LEN].into() })
    }

    /// Returns the bytes of the requests.
    pub fn frames(&mut self) -> &mut Frames {
        &mut self.frames
    }

    /// Sends up to `wanted` requests, with IDs from `id` on. Returns how many requests were sent and their length in
    /// bytes.
    ///
    /// # Errors
    /// Never. A failed send is reported with the end of the connection.
    pub fn send(&mut self, slot: usize, id: u64, wanted: usize) -> io::Result<(usize, usize)> {
        let socket = &mut self.sockets[slot];
        let (mut sent, mut len) = (0, 0);
        while sent < wanted && socket.unsent.is_empty() {
            let Some(mut stream) = socket.stream.as_ref() else { break };
            let (range, count) = self.frames.take(id + sent as u64, wanted - sent);
            let bytes = self.frames.bytes(range);
            (sent, len) = (sent + count, len + bytes.len());
            if let Some(tls) = &mut socket.tls {
                // The error of a session that can't send arrives with the end of the connection.
                let _ = tls.send(bytes, &mut socket.unsent);
                self.frames.reuse();
                socket.send_rest();
                continue;
            }
            match stream.write(bytes) {
                Ok(written) => socket.unsent.extend_from_slice(&bytes[written..]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => socket.unsent.extend_from_slice(bytes),
                Err(error) => {
                    socket.failed.get_or_insert(error);
                    break;
                }
            }
            // All bytes were copied, by the kernel or to `unsent`.
            self.frames.reuse();
        }
        Ok((sent, len))
    }

    /// Waits for at most `nanos`, and passes every event to `on`. If `on` returns an error, the socket is closed.
    ///
    /// # Errors
    /// The kernel fails to wait.
    pub fn wait(
        &mut self,
        nanos: u64,
        mut on: impl FnMut(usize, Event<'_>) -> Result<(), StreamLost>,
    ) -> io::Result<()> {
        self.poll.wait(nanos)?;
        for at in 0..self.poll.ready_count() {
            let ready = self.poll.ready(at);
            let (slot, socket) = (ready.index, &mut self.sockets[ready.index]);
            if ready.writable && !socket.unsent.is_empty() && socket.send_rest() {
                let _ = on(slot, Event::Room);
            }
            if ready.readable {
                socket.receive(&mut self.input, ready.ended, |event| on(slot, event));
            }
        }
        Ok(())
    }
}

impl Socket {
    /// Sends what is left to send. Returns whether everything was sent.
    fn send_rest(&mut self) -> bool {
        let Some(mut stream) = self.stream.as_ref() else { return false };
        match stream.write(&self.unsent) {
            Ok(written) => drop(self.unsent.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => drop(self.failed.get_or_insert(error)),
        }
        self.unsent.is_empty()
    }

    /// Receives until the socket is empty. A receive that does not fill the buffer has emptied the socket. Only the
    /// end of the stream needs another receive.
    fn receive(&mut self, input: &mut [u8], ended: bool, mut on: impl FnMut(Event<'_>) -> Result<(), StreamLost>) {
        let end = loop {
            let Some(mut stream) = self.stream.as_ref() else { return };
            match stream.read(input) {
                Ok(0) => {
                    break match self.failed.take() {
                        Some(error) => format!("sending failed: {error}"),
                        None => CLOSED_BY_SERVER.to_owned(),
                    };
                }
                Ok(len) => {
                    let continues = match &mut self.tls {
                        None => on(Event::Received(&input[..len])).is_ok(),
                        Some(tls) => tls.deliver(&input[..len], &mut self.unsent, &mut on),
                    };
                    if self.tls.is_some() && !self.unsent.is_empty() {
                        // Perhaps TLS has an answer.
                        self.send_rest();
                    }
                    if !continues {
                        self.stream = None;
                        return;
                    }
                    if len < input.len() && !ended {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break format!("receiving failed: {error}"),
            }
        };
        self.stream = None;
        let _ = on(Event::Ended(end));
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let (Some(stream), Some(tls)) = (&self.stream, &mut self.tls)
            && self.unsent.is_empty()
        {
            tls.end(stream);
        }
    }
}

/// The most events that one wait returns. More would only be handled later.
const EVENTS_MAX: usize = 1024;
/// The most bytes of one receive: the acks of 4,681 requests.
const INPUT_LEN: usize = 64 << 10;
