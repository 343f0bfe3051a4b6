//! The new server's side: the running server that it takes over from.
//!
//! Owns the connection to that server and the sockets that it has passed. It must not know what they are for.
//! Invariant: dropping it before [`Predecessor::accepting`] leaves the running server as it was.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use super::channel::{CLOSED, Channel, Message, describe};
use super::passed::{DirId, PassedSocket, Role, is_trusted};

/// The reason why a server could not take over.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// No server answers on the control socket.
    #[error(
        "cannot take over: no server answers on {path}: {source}. Pass the running server's --data-dir or --control; \
         if none runs, start without --takeover", path = .path.display()
    )]
    NoServer {
        /// The control socket's path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The control socket belongs to another user.
    #[error(
        "cannot take over: {path} belongs to user {user}, which is neither this process's user nor root. Run as that \
         user", path = .path.display()
    )]
    OtherUser {
        /// The control socket's path.
        path: PathBuf,
        /// The user's number.
        user: u32,
    },
    /// The running server refuses.
    #[error("cannot take over: the running server refuses: {why}")]
    Refused {
        /// Its reason.
        why: String,
    },
    /// The running server ended the conversation, or broke its rules.
    #[error("cannot take over: expected {expected} from the running server, but {why}. See its log, then retry")]
    Lost {
        /// The message that it should have sent.
        expected: &'static str,
        /// The event that came instead.
        why: String,
    },
    /// The running server uses the other engine.
    #[error(
        "cannot take over: the running server is on {theirs} and this one on {ours}, which can't share a socket. Use \
         --engine {theirs}, or stop that server first"
    )]
    Engine {
        /// The running server's engine.
        theirs: String,
        /// The new server's engine.
        ours: &'static str,
    },
}

/// The running server that a new one takes over from.
pub struct Predecessor {
    channel: Channel,
    /// The server's process ID.
    pub process: u32,
    engine: String,
    journal: Option<DirId>,
    sockets: Vec<PassedSocket>,
}

impl Predecessor {
    /// Asks the server at `path` for its sockets. Blocks for at most twice the `timeout` for each message.
    ///
    /// # Errors
    /// No server answers, or it refuses.
    pub fn ask(path: &Path, timeout: Duration) -> Result<Predecessor, TakeoverError> {
        let no_server = |source| TakeoverError::NoServer { path: path.to_owned(), source };
        let user = fs::metadata(path).map_err(no_server)?.uid();
        if !is_trusted(user) {
            return Err(TakeoverError::OtherUser { path: path.to_owned(), user });
        }
        let stream = UnixStream::connect(path).map_err(no_server)?;
        Predecessor::converse(Channel::new(stream, timeout * 2))
    }

    /// Asks the server at the other end of a channel for its sockets.
    ///
    /// # Errors
    /// The server refuses, or breaks the conversation's rules.
    pub fn converse(mut channel: Channel) -> Result<Predecessor, TakeoverError> {
        send(&mut channel, &Message::TakeOver { process: std::process::id() })?;
        let (process, engine, journal, count) = match receive(&mut channel, OFFER)? {
            (Message::Offer { process, engine, journal, sockets }, _) => (process, engine, journal, sockets),
            (other, _) => return Err(unexpected(OFFER, &other)),
        };
        let mut sockets = Vec::new();
        for _ in 0..count {
            match receive(&mut channel, SOCKETS)? {
                (Message::Socket { role }, Some(socket)) => sockets.push((role, socket)),
                (other, _) => return Err(unexpected(SOCKETS, &other)),
            }
        }
        Ok(Predecessor { channel, process, engine, journal, sockets })
    }

    /// Removes and returns the passed sockets with these roles.
    pub fn take(&mut self, roles: &[Role]) -> Vec<PassedSocket> {
        self.sockets.extract_if(.., |(role, _)| roles.contains(role)).collect()
    }

    /// Returns whether `data_dir` is the directory of the server's journal, in which it allows other writers.
    pub fn shares(&self, data_dir: &Path) -> bool {
        self.journal.is_some() && self.journal == DirId::of(data_dir).ok()
    }

    /// Checks that the server runs on the engine with this name.
    ///
    /// # Errors
    /// The server runs on the other engine.
    pub fn check_engine(&self, ours: &'static str) -> Result<(), TakeoverError> {
        if self.engine == ours {
            return Ok(());
        }
        Err(TakeoverError::Engine { theirs: self.engine.clone(), ours })
    }

    /// Reports that everything is open, and waits for the permission to accept.
    ///
    /// # Errors
    /// The server is gone, or refuses and still serves.
    pub fn ready(&mut self) -> Result<(), TakeoverError> {
        send(&mut self.channel, &Message::Ready)?;
        match receive(&mut self.channel, GO)?.0 {
            Message::Go => Ok(()),
            other => Err(unexpected(GO, &other)),
        }
    }

    /// Reports that this process accepts, and waits until the old server drains.
    ///
    /// # Errors
    /// The old server still serves, so this process has to end. If the old server has died, that is no error, because
    /// otherwise nobody would serve.
    pub fn accepting(mut self) -> Result<(), TakeoverError> {
        let answer = send(&mut self.channel, &Message::Accepting).and_then(|()| receive(&mut self.channel, DRAINING));
        match answer {
            Ok((Message::Draining, _)) => Ok(()),
            Ok((other, _)) => Err(unexpected(DRAINING, &other)),
            Err(TakeoverError::Lost { why, .. }) if why == CLOSED => {
                warn!(process = self.process, "the old server ended before it drained");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Sends a message. If that fails, the other side may have sent the reason.
fn send(channel: &mut Channel, message: &Message) -> Result<(), TakeoverError> {
    let Err(error) = channel.send(message, None) else { return Ok(()) };
    match channel.receive() {
        Ok((Message::Refused { why }, _)) => Err(TakeoverError::Refused { why }),
        _ => Err(TakeoverError::Lost { expected: ANSWER, why: describe(&error) }),
    }
}

fn receive(channel: &mut Channel, expected: &'static str) -> Result<(Message, Option<OwnedFd>), TakeoverError> {
    match channel.receive() {
        Ok((Message::Refused { why }, _)) => Err(TakeoverError::Refused { why }),
        Ok(received) => Ok(received),
        Err(error) => Err(TakeoverError::Lost { expected, why: describe(&error) }),
    }
}

fn unexpected(expected: &'static str, message: &Message) -> TakeoverError {
    TakeoverError::Lost { expected, why: format!("it sent {message:?}") }
}

/// Names of the expected messages, for [`TakeoverError::Lost`].
const ANSWER: &str = "an answer";
const OFFER: &str = "an offer";
const SOCKETS: &str = "sockets";
const GO: &str = "its permission to accept";
const DRAINING: &str = "its drain";
