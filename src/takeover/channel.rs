//! Messages over a Unix socket, each with at most one descriptor.
//!
//! Owns the stream and the layout of a message. It must not know the order of messages. Invariants: every wait is
//! bounded, a message needs at most 64 KiB, and every received descriptor is returned or closed.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::passed::{DirId, Role};

/// A message. [The module](super) has the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Message {
    /// Asks for a takeover.
    TakeOver {
        /// The new server's process ID.
        process: u32,
    },
    /// Announces the sockets that follow.
    Offer {
        /// The old server's process ID.
        process: u32,
        /// The name of its engine.
        engine: String,
        /// The directory of its journal, if it has one.
        journal: Option<DirId>,
        /// The number of sockets.
        sockets: usize,
    },
    /// Carries a socket.
    Socket {
        /// Its purpose.
        role: Role,
    },
    /// Reports that the new server has everything it needs.
    Ready,
    /// Permits the new server to accept.
    Go,
    /// Reports that the new server accepts.
    Accepting,
    /// Reports that the old server drains.
    Draining,
    /// Ends the conversation.
    Refused {
        /// The reason.
        why: String,
    },
}

/// One end of a conversation.
pub struct Channel {
    stream: UnixStream,
    /// How long to wait for each message, and for room to send one.
    timeout: Duration,
}

impl Channel {
    /// Returns a channel over a stream in blocking mode.
    pub fn new(stream: UnixStream, timeout: Duration) -> Channel {
        Channel { stream, timeout }
    }

    /// Sends a message, with or without a descriptor.
    ///
    /// # Errors
    /// The other end is closed, or reads nothing within the timeout.
    pub fn send(&mut self, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let len = u16::try_from(body.len()).map_err(|_| io::Error::other("the message is too long"))?;
        let bytes = [&MAGIC[..], &VERSION.to_be_bytes(), &len.to_be_bytes(), &body].concat();
        self.stream.set_write_timeout(Some(self.timeout))?;
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|descriptor| [descriptor]);
        if let Some(descriptors) = &descriptors {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "there is room for one");
        }
        let sent = loop {
            match sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                done => break done?,
            }
        };
        // The descriptor was sent with the first byte.
        self.stream.write_all(&bytes[sent..])
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// `UnexpectedEof` if the other end is closed, `TimedOut`, or `InvalidData` if the bytes are not a message of this
    /// version.
    pub fn receive(&mut self) -> io::Result<(Message, Option<OwnedFd>)> {
        let deadline = Instant::now() + self.timeout;
        let mut descriptor = None;
        let mut head = [0; 8];
        self.fill(&mut head, &mut descriptor, deadline)?;
        if head[..4] != MAGIC {
            return Err(invalid("it uses another protocol".into()));
        }
        let [version, len] = [4, 6].map(|at| u16::from_be_bytes([head[at], head[at + 1]]));
        if version != VERSION {
            return Err(invalid(format!(
                "it uses version {version} of the takeover protocol, and this server version {VERSION}"
            )));
        }
        let mut body = vec![0; len.into()];
        self.fill(&mut body, &mut descriptor, deadline)?;
        let message = serde_json::from_slice(&body).map_err(|error| invalid(format!("not a message: {error}")))?;
        Ok((message, descriptor))
    }

    /// Fills `bytes`. Keeps the last descriptor that arrives with them, and closes the others.
    fn fill(&self, mut bytes: &mut [u8], descriptor: &mut Option<OwnedFd>, deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received =
                recvmsg(self.stream.as_fd(), &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
            let count = match received {
                Ok(received) => received.bytes,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    *descriptor = descriptors.last().or(descriptor.take());
                }
            }
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes = &mut bytes[count..];
        }
        Ok(())
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Describes what the other end did, for an error of a [`Channel`].
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => CLOSED.into(),
        io::ErrorKind::TimedOut => "it sent nothing within --takeover-timeout".into(),
        _ => error.to_string(),
    }
}

/// The description of a closed connection.
pub(super) const CLOSED: &str = "it closed the connection";
const MAGIC: [u8; 4] = *b"RPTK";
const VERSION: u16 = 1;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn pair(timeout: Duration) -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one, timeout), Channel::new(other, timeout))
    }

    #[test]
    fn messages_keep_their_descriptors() {
        let (mut one, mut other) = pair(Duration::from_secs(5));
        let sockets: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        for socket in &sockets {
            one.send(&Message::Socket { role: Role::Listen }, Some(socket.as_fd())).unwrap();
        }
        one.send(&Message::Ready, None).unwrap();
        for socket in &sockets {
            let (message, descriptor) = other.receive().unwrap();
            assert_eq!(message, Message::Socket { role: Role::Listen });
            let given = std::net::TcpListener::from(descriptor.expect("a descriptor"));
            assert_eq!(given.local_addr().unwrap(), socket.local_addr().unwrap());
        }
        let (message, descriptor) = other.receive().unwrap();
        assert_eq!((message, descriptor.is_none()), (Message::Ready, true));
        drop(one);
        assert_eq!(describe(&other.receive().unwrap_err()), CLOSED);
    }

    #[test]
    fn late_and_invalid_messages_are_errors() {
        let (one, mut other) = pair(Duration::from_millis(50));
        let mut raw = one.stream.try_clone().unwrap();
        raw.write_all(b"RPTK").unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::TimedOut);
        for (bytes, words) in [
            (&b"GET / HTTP"[..], "another protocol"),
            (b"RPTK\0\x02\0\0", "version 2 of the takeover protocol, and this server version 1"),
            (b"RPTK\0\x01\0\x02{}", "not a message"),
        ] {
            let (one, mut other) = pair(Duration::from_secs(5));
            let mut raw = one.stream.try_clone().unwrap();
            raw.write_all(bytes).unwrap();
            let error = other.receive().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    /// Sends random bytes and descriptors, cut anywhere. Nothing panics, and no descriptor stays open. The fuzz target
    /// `takeover_channel` does the same with inputs that it has learned.
    #[test]
    fn random_bytes_and_descriptors_neither_panic_nor_leak() {
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let bodies = [r#"{"message":"ready"}"#, r#"{"message":"socket","role":"listen"}"#, "{}", "null", "\u{e9}"];
        for _ in 0..2000 {
            let mut bytes = Vec::new();
            for _ in 0..random(4) {
                let body = bodies[random(bodies.len())].as_bytes();
                bytes.extend([&MAGIC[..], &VERSION.to_be_bytes(), &(body.len() as u16).to_be_bytes(), body].concat());
            }
            for _ in 0..random(3) {
                if !bytes.is_empty() {
                    let at = random(bytes.len());
                    bytes[at] = random(256) as u8;
                }
            }
            bytes.truncate(bytes.len() - random(bytes.len() + 1) / 2);
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (passed, closed) = UnixStream::pair().unwrap();
            let copies: Vec<_> = (0..random(4)).map(|_| passed.as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(copies.is_empty() || control.push(SendAncillaryMessage::ScmRights(&copies)));
            if !bytes.is_empty() {
                sendmsg(&ours, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
            }
            drop(ours);
            let mut channel = Channel::new(theirs, Duration::from_secs(5));
            while channel.receive().is_ok() {}
            drop((channel, passed));
            closed.set_nonblocking(true).unwrap();
            assert_eq!((&closed).read(&mut [0]).expect("a passed descriptor is still open"), 0);
        }
    }
}
