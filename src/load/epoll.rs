//! The engine on epoll: each send and each receive is a call of its own.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use super::acks::StreamLost;
use super::engine::Event;
use super::frames::Frames;
use super::poll::Poll;

/// Sockets that are driven by epoll.
pub struct Epoll {
    poll: Poll,
    sockets: Vec<Socket>,
    frames: Frames,
    input: Box<[u8]>,
}

struct Socket {
    /// None once it is closed.
    stream: Option<TcpStream>,
    /// Bytes that the kernel had no room for.
    unsent: Vec<u8>,
    /// What a send failed with. It is told at the next event, which an end always brings.
    failed: Option<io::Error>,
}

impl Epoll {
    pub fn new(streams: Vec<TcpStream>, frames: Frames) -> io::Result<Self> {
        let poll = Poll::new(streams.len().clamp(1, EVENTS_MAX))?;
        let mut sockets = Vec::with_capacity(streams.len());
        for (slot, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            poll.add(&stream, slot)?;
            sockets.push(Socket { stream: Some(stream), unsent: Vec::new(), failed: None });
        }
        Ok(Epoll { poll, sockets, frames, input: vec![0; INPUT_LEN].into() })
    }

    pub fn frames(&mut self) -> &mut Frames {
        &mut self.frames
    }

    pub fn send(&mut self, slot: usize, id: u64, wanted: usize) -> io::Result<(usize, usize)> {
        let socket = &mut self.sockets[slot];
        let (mut sent, mut len) = (0, 0);
        while sent < wanted && socket.unsent.is_empty() {
            let Some(mut stream) = socket.stream.as_ref() else { break };
            let (range, count) = self.frames.take(id + sent as u64, wanted - sent);
            let bytes = self.frames.bytes(range);
            (sent, len) = (sent + count, len + bytes.len());
            match stream.write(bytes) {
                Ok(written) => socket.unsent.extend_from_slice(&bytes[written..]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => socket.unsent.extend_from_slice(bytes),
                Err(error) => {
                    socket.failed.get_or_insert(error);
                    break;
                }
            }
            // The kernel has a copy of it all.
            self.frames.reuse();
        }
        Ok((sent, len))
    }

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
    /// Says whether nothing is left to send.
    fn send_rest(&mut self) -> bool {
        let Some(mut stream) = self.stream.as_ref() else { return false };
        match stream.write(&self.unsent) {
            Ok(written) => drop(self.unsent.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => drop(self.failed.get_or_insert(error)),
        }
        self.unsent.is_empty()
    }

    /// Receives until nothing is left. A receive that does not fill the buffer has emptied the
    /// socket; only the end has to be asked for behind it.
    fn receive(&mut self, input: &mut [u8], ended: bool, mut on: impl FnMut(Event<'_>) -> Result<(), StreamLost>) {
        let Some(mut stream) = self.stream.as_ref() else { return };
        let end = loop {
            match stream.read(input) {
                Ok(0) => {
                    break match self.failed.take() {
                        Some(error) => format!("sending failed: {error}"),
                        None => "the server closed it".to_owned(),
                    };
                }
                Ok(len) => {
                    if on(Event::Received(&input[..len])).is_err() {
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

/// Events that one wait takes: more would only be handled later.
const EVENTS_MAX: usize = 1024;
/// One receive takes the acks of 4,681 requests.
const INPUT_LEN: usize = 64 << 10;
