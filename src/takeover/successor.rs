//! The new one's side: the old server, as it is seen by the one that takes over.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::channel::{Channel, HUNG_UP, Message, in_words};
use super::door::may_ask;
use super::{DirId, Given, Role};
use crate::engine::Engine;

/// Why a server could not take over from another one.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    #[error(
        "can't take over: asked on {path}, and nobody answers: {source}. Name the running server's --data-dir or \
         --control; if none runs, start without --takeover", path = .path.display()
    )]
    Nobody { path: PathBuf, source: io::Error },
    #[error("can't take over: {path} belongs to user {user}, who is neither this one nor root", path = .path.display())]
    Stranger { path: PathBuf, user: u32 },
    #[error("can't take over: the running server refuses: {why}")]
    Refused { why: String },
    #[error("can't take over: the running server was to say {expected}, but {why}. Look at its log, and ask again")]
    Lost { expected: &'static str, why: String },
    #[error(
        "can't take over: the running server is on {theirs} and this one on {ours}, which can't share a socket. Take \
         --engine {theirs}, or stop that server first"
    )]
    Engine { theirs: String, ours: &'static str },
}

/// The server that is taken over.
pub struct Old {
    channel: Channel,
    /// Its process.
    pub process: u32,
    engine: String,
    journal: Option<DirId>,
    sockets: Vec<Given>,
}

impl Old {
    /// Asks it for its sockets. Blocks for at most twice the `patience` a message.
    ///
    /// # Errors
    /// Nobody is there, or it refuses.
    pub fn ask(path: &Path, patience: Duration) -> Result<Old, TakeoverError> {
        let nobody = |source| TakeoverError::Nobody { path: path.to_owned(), source };
        let user = fs::metadata(path).map_err(nobody)?.uid();
        if !may_ask(user) {
            return Err(TakeoverError::Stranger { path: path.to_owned(), user });
        }
        let mut channel = Channel::new(UnixStream::connect(path).map_err(nobody)?, patience * 2);
        send(&mut channel, &Message::TakeOver { process: std::process::id() })?;
        let (process, engine, journal, count) = match receive(&mut channel, "what it has")? {
            (Message::Offer { process, engine, journal, sockets }, _) => (process, engine, journal, sockets),
            (other, _) => return Err(unexpected("what it has", &other)),
        };
        let mut sockets = Vec::new();
        for _ in 0..count {
            match receive(&mut channel, "its sockets")? {
                (Message::Socket { role }, Some(socket)) => sockets.push((role, socket)),
                (other, _) => return Err(unexpected("its sockets", &other)),
            }
        }
        Ok(Old { channel, process, engine, journal, sockets })
    }

    /// Takes those of its sockets that have one of these roles.
    pub fn take(&mut self, roles: &[Role]) -> Vec<Given> {
        self.sockets.extract_if(.., |(role, _)| roles.contains(role)).collect()
    }

    /// Whether it gives leave to write to its journal's directory, and this is it.
    pub fn shares(&self, data_dir: &Path) -> bool {
        self.journal.is_some() && self.journal == DirId::of(data_dir).ok()
    }

    /// # Errors
    /// It is on another engine.
    pub fn check_engine(&self, ours: Engine) -> Result<(), TakeoverError> {
        if self.engine == ours.name() {
            return Ok(());
        }
        Err(TakeoverError::Engine { theirs: self.engine.clone(), ours: ours.name() })
    }

    /// Says that everything is open, and waits for leave to accept.
    ///
    /// # Errors
    /// It is gone, or refuses: it serves on.
    pub fn ready(&mut self) -> Result<(), TakeoverError> {
        send(&mut self.channel, &Message::Ready)?;
        match receive(&mut self.channel, "that it may be taken over")?.0 {
            Message::Go => Ok(()),
            other => Err(unexpected("that it may be taken over", &other)),
        }
    }

    /// Says that connections are accepted here, and waits until it drains.
    ///
    /// # Errors
    /// It serves on, and this one has to end. It is no error if it has died: somebody has to serve.
    pub fn accepting(mut self) -> Result<(), TakeoverError> {
        let answer = send(&mut self.channel, &Message::Accepting).and_then(|()| self.channel_answer());
        match answer {
            Ok(Message::Draining) => Ok(()),
            Ok(other) => Err(unexpected("that it drains", &other)),
            Err(TakeoverError::Lost { why, .. }) if why == HUNG_UP => {
                tracing::warn!(process = self.process, "the old server is gone before it has drained");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn channel_answer(&mut self) -> Result<Message, TakeoverError> {
        receive(&mut self.channel, "that it drains").map(|(message, _)| message)
    }
}

/// Sends; if the other end is gone, it may have said why.
fn send(channel: &mut Channel, message: &Message) -> Result<(), TakeoverError> {
    let Err(error) = channel.send(message, None) else { return Ok(()) };
    match channel.receive() {
        Ok((Message::Refused { why }, _)) => Err(TakeoverError::Refused { why }),
        _ => Err(TakeoverError::Lost { expected: "more", why: in_words(&error) }),
    }
}

fn receive(
    channel: &mut Channel,
    expected: &'static str,
) -> Result<(Message, Option<std::os::fd::OwnedFd>), TakeoverError> {
    match channel.receive() {
        Ok((Message::Refused { why }, _)) => Err(TakeoverError::Refused { why }),
        Ok(received) => Ok(received),
        Err(error) => Err(TakeoverError::Lost { expected, why: in_words(&error) }),
    }
}

fn unexpected(expected: &'static str, said: &Message) -> TakeoverError {
    TakeoverError::Lost { expected, why: format!("it said {said:?}") }
}
