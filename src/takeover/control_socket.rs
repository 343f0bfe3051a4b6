//! The old server's side: the socket on which a takeover is asked for, and the answers.
//!
//! Owns the socket's file and the takeover in progress. It must not know what the passed sockets are for. Invariant: at
//! most one takeover is in progress, and its failure changes nothing.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::{info, warn};

use super::channel::{Channel, Message, describe};
use super::passed::{DirId, PassedSocket, is_trusted};

/// The sockets and the journal that a server hands over.
pub struct Offer {
    /// The name of its engine. A successor must use the same one: whether calls on a socket block is the same for all
    /// processes that have it, and each engine needs the other mode.
    pub engine: &'static str,
    /// The directory of its journal, if it has one, in which the successor may then open writers.
    pub journal: Option<DirId>,
    /// Its sockets.
    pub sockets: Vec<PassedSocket>,
}

/// The reason why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlSocketError {
    /// A server answers there.
    #[error(
        "cannot create the control socket {path}: a server answers there. Take over from it with --takeover, or choose \
         another path with --control", path = .path.display()
    )]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Another kind of file is there.
    #[error(
        "cannot create the control socket {path}: there is a file that is not a socket. Remove it, or choose another \
         path with --control", path = .path.display()
    )]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// The system refused it.
    #[error(
        "cannot create the control socket {path}: {source}. Choose another path with --control", path = .path.display()
    )]
    Refused {
        /// The socket's path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The control socket of a server that can be taken over. Dropping it removes its file, unless a successor has it.
pub struct ControlSocket {
    listener: tokio::net::UnixListener,
    path: PathBuf,
    /// The socket's file, unless a successor has it.
    file: Option<DirId>,
    timeout: Duration,
    /// The outcome of the takeover in progress: the successor's process, or the reason of its failure.
    in_progress: Option<oneshot::Receiver<Result<u32, String>>>,
}

impl ControlSocket {
    /// Creates the socket. Replaces the file that a killed server has left there. `timeout` limits the wait for each
    /// message.
    ///
    /// # Errors
    /// A process answers there, or the socket can't be created.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(path: &Path, timeout: Duration) -> Result<ControlSocket, ControlSocketError> {
        let refused = |source| ControlSocketError::Refused { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ControlSocketError::NotASocket { path: path.to_owned() });
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(ControlSocketError::InUse { path: path.to_owned() });
            }
            Ok(_) => fs::remove_file(path).map_err(refused)?,
            Err(_) => {}
        }
        let create = || {
            let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
            socket.bind(&socket2::SockAddr::unix(path)?)?;
            // This comes before `listen`, so nobody could have connected with another mode.
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            socket.listen(BACKLOG)?;
            ControlSocket::new(OwnedFd::from(socket).into(), path, timeout)
        };
        create().map_err(refused)
    }

    /// Takes over the socket of the predecessor.
    ///
    /// # Errors
    /// The descriptor is not a listening Unix socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn inherit(socket: OwnedFd, path: &Path, timeout: Duration) -> Result<ControlSocket, ControlSocketError> {
        let refused = |source| ControlSocketError::Refused { path: path.to_owned(), source };
        ControlSocket::new(socket.into(), path, timeout).map_err(refused)
    }

    fn new(listener: UnixListener, path: &Path, timeout: Duration) -> io::Result<ControlSocket> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let file = DirId::of(path).ok();
        Ok(ControlSocket { listener, path: path.to_owned(), file, timeout, in_progress: None })
    }

    /// Returns a copy of the descriptor, for an [`Offer`].
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Waits until a successor has taken over, and returns its process ID. `offer` returns what the server offers.
    /// A takeover that fails is logged and changes nothing. Cancel-safe.
    pub async fn handed_over(&mut self, offer: impl Fn(&ControlSocket) -> io::Result<Offer>) -> u32 {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.answer(stream, &offer),
                    Err(error) => {
                        warn!(%error, "cannot accept on the control socket");
                        sleep(ACCEPT_BACKOFF).await;
                    }
                },
                outcome = outcome(&mut self.in_progress), if self.in_progress.is_some() => {
                    self.in_progress = None;
                    match outcome {
                        Ok(process) => {
                            // The file belongs to the successor now.
                            self.file = None;
                            return process;
                        }
                        Err(reason) => warn!(%reason, "takeover failed; still serving"),
                    }
                }
            }
        }
    }

    /// Answers a connection, on a thread of its own.
    fn answer(&mut self, stream: tokio::net::UnixStream, offer: impl Fn(&ControlSocket) -> io::Result<Offer>) {
        match stream.peer_cred() {
            Ok(peer) if is_trusted(peer.uid()) => {}
            Ok(peer) => return warn!(user = peer.uid(), "rejected another user's connection to the control socket"),
            Err(error) => return warn!(%error, "cannot read the user of a connection to the control socket"),
        }
        let stream = stream.into_std().and_then(|stream| stream.set_nonblocking(false).map(|()| stream));
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => return warn!(%error, "cannot answer on the control socket"),
        };
        let channel = Channel::new(stream, self.timeout);
        let offer = if self.in_progress.is_some() {
            Err("another takeover is in progress: wait for its end".into())
        } else {
            offer(self).map_err(|error| format!("its sockets cannot be handed over: {error}"))
        };
        let (sender, receiver) = oneshot::channel();
        if offer.is_ok() {
            self.in_progress = Some(receiver);
        }
        let body = move || {
            // Without a receiver the server is ending, or the takeover was refused.
            let _ = sender.send(hand_over(channel, offer));
        };
        if let Err(error) = thread::Builder::new().name("takeover".into()).spawn(body) {
            warn!(%error, "cannot answer on the control socket: no thread");
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if self.file.is_some() && self.file == DirId::of(&self.path).ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn outcome(in_progress: &mut Option<oneshot::Receiver<Result<u32, String>>>) -> Result<u32, String> {
    let receiver = in_progress.as_mut().expect("a takeover is in progress");
    receiver.await.unwrap_or_else(|_| Err("its thread ended".into()))
}

/// Holds the old server's side of the conversation. Returns the successor's process, or what went wrong.
fn hand_over(mut channel: Channel, offer: Result<Offer, String>) -> Result<u32, String> {
    let mut process = 0;
    let done = converse(&mut channel, offer, &mut process);
    if let Err(why) = &done {
        // The other side may be gone, or may still read the reason.
        let _ = channel.send(&Message::Refused { why: why.clone() }, None);
    }
    done.map(|()| process).map_err(|why| format!("process {process}: {why}"))
}

fn converse(channel: &mut Channel, offer: Result<Offer, String>, process: &mut u32) -> Result<(), String> {
    match channel.receive().map_err(|error| describe(&error))?.0 {
        Message::TakeOver { process: asking } => *process = asking,
        other => return Err(format!("it sent {other:?} instead of a request")),
    }
    let offer = offer?;
    info!(process = *process, sockets = offer.sockets.len(), "takeover requested; offering sockets");
    let fail = |error: io::Error| describe(&error);
    let message = Message::Offer {
        process: std::process::id(),
        engine: offer.engine.into(),
        journal: offer.journal,
        sockets: offer.sockets.len(),
    };
    channel.send(&message, None).map_err(fail)?;
    for (role, socket) in &offer.sockets {
        channel.send(&Message::Socket { role: *role }, Some(socket.as_fd())).map_err(fail)?;
    }
    // Copies that are no longer needed must not keep the sockets open.
    drop(offer);
    for (expected, answer) in [(Message::Ready, Message::Go), (Message::Accepting, Message::Draining)] {
        match channel.receive().map_err(fail)?.0 {
            message if message == expected => channel.send(&answer, None).map_err(fail)?,
            Message::Refused { why } => return Err(why),
            message => return Err(format!("it sent {message:?} instead of {expected:?}")),
        }
    }
    Ok(())
}

/// The pause after an accept that failed, since the next one would fail too.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// The backlog of the control socket.
const BACKLOG: i32 = 16;
