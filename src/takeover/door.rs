//! The old one's side: where a takeover is asked for, and what it answers.

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

use super::channel::{Channel, Message, in_words};
use super::{DirId, Given};

/// What a server hands over.
pub struct Offer {
    /// What its shards run on. Who takes over has to run on the same: whether calls on a socket block
    /// is the same for all who have it, and each engine needs it otherwise.
    pub engine: &'static str,
    /// Where it has a journal, which may be shared from now on.
    pub journal: Option<DirId>,
    pub sockets: Vec<Given>,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    #[error(
        "can't make the control socket {path}: a server answers there. Take over from it with --takeover, or name \
         another path with --control", path = .path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "can't make the control socket {path}: there is something else. Remove it, or name another path with \
         --control", path = .path.display()
    )]
    NoSocket { path: PathBuf },
    #[error("can't make the control socket {path}: {source}. Name another path with --control", path = .path.display())]
    Refused { path: PathBuf, source: io::Error },
}

/// The control socket of a server that can be taken over. When it is dropped, its file goes, unless a
/// successor has it.
pub struct Door {
    listener: tokio::net::UnixListener,
    path: PathBuf,
    /// The file, if it is still this one.
    file: Option<DirId>,
    patience: Duration,
    /// The takeover that is under way, and what comes of it: the process of the successor.
    under_way: Option<oneshot::Receiver<Result<u32, String>>>,
}

impl Door {
    /// Makes the socket, in the place of one that a server has left behind that was killed.
    ///
    /// # Errors
    /// Somebody answers there, or it can't be made.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(path: &Path, patience: Duration) -> Result<Door, DoorError> {
        let refused = |source| DoorError::Refused { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(DoorError::NoSocket { path: path.to_owned() }),
            Ok(_) if UnixStream::connect(path).is_ok() => return Err(DoorError::InUse { path: path.to_owned() }),
            Ok(_) => fs::remove_file(path).map_err(refused)?,
            Err(_) => {}
        }
        let make = || {
            let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
            socket.bind(&socket2::SockAddr::unix(path)?)?;
            // Nobody can connect before it listens.
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            socket.listen(BACKLOG)?;
            Door::new(OwnedFd::from(socket).into(), path, patience)
        };
        make().map_err(refused)
    }

    /// Takes the socket of the one that was taken over.
    ///
    /// # Errors
    /// It is none.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn inherit(socket: OwnedFd, path: &Path, patience: Duration) -> Result<Door, DoorError> {
        Door::new(socket.into(), path, patience).map_err(|source| DoorError::Refused { path: path.to_owned(), source })
    }

    fn new(listener: UnixListener, path: &Path, patience: Duration) -> io::Result<Door> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let file = DirId::of(path).ok();
        Ok(Door { listener, path: path.to_owned(), file, patience, under_way: None })
    }

    /// For an [`Offer`].
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Waits until a successor has taken over, and returns its process; `offer` says what each is
    /// offered. Whatever else happens to a takeover is logged, and nothing follows from it. Cancel-safe.
    pub async fn handed_over(&mut self, offer: impl Fn(&Door) -> io::Result<Offer>) -> u32 {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.meet(stream, &offer),
                    Err(error) => {
                        warn!("can't accept on the control socket: {error}");
                        sleep(ACCEPT_BACKOFF).await;
                    }
                },
                outcome = outcome(&mut self.under_way), if self.under_way.is_some() => {
                    self.under_way = None;
                    match outcome {
                        Ok(process) => {
                            // Its file is the successor's.
                            self.file = None;
                            return process;
                        }
                        Err(why) => warn!("nobody has taken over, serving on: {why}"),
                    }
                }
            }
        }
    }

    /// Answers one who asks, on a thread of its own.
    fn meet(&mut self, stream: tokio::net::UnixStream, offer: impl Fn(&Door) -> io::Result<Offer>) {
        match stream.peer_cred() {
            Ok(peer) if may_ask(peer.uid()) => {}
            Ok(peer) => return warn!(user = peer.uid(), "turned away a stranger on the control socket"),
            Err(error) => return warn!("can't tell who asks on the control socket: {error}"),
        }
        let stream = stream.into_std().and_then(|stream| stream.set_nonblocking(false).map(|()| stream));
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => return warn!("can't answer on the control socket: {error}"),
        };
        let channel = Channel::new(stream, self.patience);
        let offer = if self.under_way.is_some() {
            Err("another takeover is under way: wait for its end".into())
        } else {
            offer(self).map_err(|error| format!("it can't hand over its sockets: {error}"))
        };
        let (sender, receiver) = oneshot::channel();
        if offer.is_ok() {
            self.under_way = Some(receiver);
        }
        let body = move || {
            // Where nobody waits for it, the server ends anyhow.
            let _ = sender.send(hand_over(channel, offer));
        };
        if let Err(error) = thread::Builder::new().name("takeover".into()).spawn(body) {
            warn!("can't answer on the control socket: no thread: {error}");
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.file.is_some() && self.file == DirId::of(&self.path).ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn outcome(under_way: &mut Option<oneshot::Receiver<Result<u32, String>>>) -> Result<u32, String> {
    let receiver = under_way.as_mut().expect("one is under way");
    receiver.await.unwrap_or_else(|_| Err("its thread ended".into()))
}

/// The old one's part of the conversation, to the successor's process or to what went wrong.
fn hand_over(mut channel: Channel, offer: Result<Offer, String>) -> Result<u32, String> {
    let mut process = 0;
    let done = converse(&mut channel, offer, &mut process);
    if let Err(why) = &done {
        // Who is still there hears why.
        let _ = channel.send(&Message::Refused { why: why.clone() }, None);
    }
    done.map(|()| process).map_err(|why| format!("process {process}: {why}"))
}

fn converse(channel: &mut Channel, offer: Result<Offer, String>, process: &mut u32) -> Result<(), String> {
    match channel.receive().map_err(|error| in_words(&error))?.0 {
        Message::TakeOver { process: asking } => *process = asking,
        other => return Err(format!("it said {other:?} where it should have asked")),
    }
    let offer = offer?;
    info!(process = *process, sockets = offer.sockets.len(), "asked to hand over");
    let fail = |error: io::Error| in_words(&error);
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
    // What is not needed any more shall not keep the sockets open.
    drop(offer);
    for (expected, answer) in [(Message::Ready, Message::Go), (Message::Accepting, Message::Draining)] {
        match channel.receive().map_err(fail)?.0 {
            said if said == expected => channel.send(&answer, None).map_err(fail)?,
            Message::Refused { why } => return Err(why),
            said => return Err(format!("it said {said:?} and not {expected:?}")),
        }
    }
    Ok(())
}

/// Whether a user may ask for the sockets of this process, or hand it theirs.
pub(super) fn may_ask(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// Connections that wait to be answered on the control socket.
const BACKLOG: i32 = 16;

/// How long accepts pause when descriptors or kernel memory have run out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
