//! Messages over a Unix socket, each with at most one descriptor. Every wait is bounded.

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

use super::{DirId, Role};

/// What is said. [The module](super) has the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Message {
    TakeOver { process: u32 },
    Offer { process: u32, engine: String, journal: Option<DirId>, sockets: usize },
    Socket { role: Role },
    Ready,
    Go,
    Accepting,
    Draining,
    Refused { why: String },
}

/// One end of a conversation.
pub struct Channel {
    stream: UnixStream,
    /// How long to wait for each message, and for room to send one.
    patience: Duration,
}

impl Channel {
    /// Over a stream in blocking mode.
    pub fn new(stream: UnixStream, patience: Duration) -> Channel {
        Channel { stream, patience }
    }

    /// Sends a message, with a descriptor if it is to have one.
    ///
    /// # Errors
    /// The other end is gone, or reads nothing for as long as the patience lasts.
    pub fn send(&mut self, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let len = u16::try_from(body.len()).map_err(|_| io::Error::other("a message that is too long"))?;
        let bytes = [&MAGIC[..], &VERSION.to_be_bytes(), &len.to_be_bytes(), &body].concat();
        self.stream.set_write_timeout(Some(self.patience))?;
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
        // The descriptor went with the first byte.
        self.stream.write_all(&bytes[sent..])
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// `UnexpectedEof` where the other end has hung up, `TimedOut`, `InvalidData` for what is no message
    /// of this version.
    pub fn receive(&mut self) -> io::Result<(Message, Option<OwnedFd>)> {
        let deadline = Instant::now() + self.patience;
        let mut descriptor = None;
        let mut head = [0; 8];
        self.fill(&mut head, &mut descriptor, deadline)?;
        if head[..4] != MAGIC {
            return Err(invalid("it speaks another protocol".into()));
        }
        let [version, len] = [4, 6].map(|at| u16::from_be_bytes([head[at], head[at + 1]]));
        if version != VERSION {
            return Err(invalid(format!(
                "it speaks version {version} of the takeover's protocol, and this version {VERSION}"
            )));
        }
        let mut body = vec![0; len.into()];
        self.fill(&mut body, &mut descriptor, deadline)?;
        let message = serde_json::from_slice(&body).map_err(|error| invalid(format!("not a message: {error}")))?;
        Ok((message, descriptor))
    }

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

/// What an error of a [`Channel`] says of the other end.
pub(super) fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => HUNG_UP.into(),
        io::ErrorKind::TimedOut => "it said nothing in time (--takeover-timeout)".into(),
        _ => error.to_string(),
    }
}

pub(super) const HUNG_UP: &str = "it hung up";
const MAGIC: [u8; 4] = *b"RPTK";
const VERSION: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(patience: Duration) -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one, patience), Channel::new(other, patience))
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
        assert_eq!(in_words(&other.receive().unwrap_err()), "it hung up");
    }

    #[test]
    fn what_is_late_or_no_message_is_told() {
        let (one, mut other) = pair(Duration::from_millis(50));
        let mut raw = one.stream.try_clone().unwrap();
        raw.write_all(b"RPTK").unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::TimedOut);
        for (bytes, words) in [
            (&b"GET / HTTP"[..], "another protocol"),
            (b"RPTK\0\x02\0\0", "version 2 of the takeover's protocol, and this version 1"),
            (b"RPTK\0\x01\0\x02{}", "not a message"),
        ] {
            let (one, mut other) = pair(Duration::from_secs(5));
            let mut raw = one.stream.try_clone().unwrap();
            raw.write_all(bytes).unwrap();
            let error = other.receive().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
