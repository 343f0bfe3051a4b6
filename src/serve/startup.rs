//! The start of a server: alone, on a supervisor's sockets, or in place of a running server.
//!
//! This module composes the start of the server with that of the admin address and the control socket. Its invariant:
//! whatever fails, no client is accepted by a server that does not start, and a running server keeps serving.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use anyhow::{Context, bail};
use tracing::{info, warn};

use super::options::Options;
use crate::admin::{AdminListener, AdminServer};
use crate::confine::user;
use crate::server::{Group, Prepared, Server, inherit};
use crate::takeover::{ControlSocket, PassedSocket, Predecessor, Role};
#[cfg(feature = "test-hooks")]
use crate::testing::takeover::{Step, die_if_wanted};

/// A server that has started: every shard accepts.
pub struct Started {
    /// The server.
    pub server: Server,
    /// The admin address. It reports that the server is starting until [`AdminServer::set_state`] is called.
    pub admin: Option<AdminServer>,
    /// The control socket, on which another server can take over from this one.
    pub control: Option<ControlSocket>,
}

/// Starts on sockets of its own, or on `activated` ones if there are any. Calls `before_accept` when all is ready.
///
/// # Errors
/// The first thing that failed.
pub fn alone(options: &Options, activated: Vec<OwnedFd>, before_accept: impl FnOnce()) -> anyhow::Result<Started> {
    // The admin address comes first, so that an error comes before any client is accepted, and so that the address
    // answers while segments are filled.
    let admin = options.admin.map(AdminListener::bind).transpose()?.map(|admin| answer(admin, options)).transpose()?;
    let prepared = Server::prepare(options.server_in_process(), false)?;
    // The data directory is locked now, so any server that still answers on the socket is not one of this directory.
    let control = match options.control_path().map(|path| ControlSocket::bind(&path, options.takeover.timeout)) {
        None => None,
        Some(Ok(control)) => Some(control),
        Some(Err(error)) if options.takeover.control.is_some() => bail!(error),
        Some(Err(error)) => {
            warn!("no server can take over from this one: {error}");
            None
        }
    };
    let server = if activated.is_empty() {
        prepared.bind_and_accept(before_accept)?
    } else {
        info!(sockets = activated.len(), "listening on a supervisor's sockets (LISTEN_FDS); --listen is not used");
        let groups = inherit(prepared.config(), activated.into_iter().map(|socket| (true, socket)).collect())?;
        before_accept();
        accept(prepared, groups)?
    };
    Ok(Started { server, admin, control })
}

/// Takes over from the server that answers on the control socket. Calls `before_accept` when all is ready. Until then
/// nothing is lost if the process ends.
///
/// # Errors
/// The first thing that failed. The other server then keeps serving.
pub async fn in_place_of_another(options: &Options, before_accept: impl FnOnce()) -> anyhow::Result<Started> {
    let path = options.control_path().expect("the options are valid");
    let mut old = Predecessor::ask(&path, options.takeover.timeout)?;
    #[cfg(feature = "test-hooks")]
    die_if_wanted(Step::Offered);
    let listening = old.take(&[Role::Listen, Role::Activated]);
    let admin = admin(options, old.take(&[Role::Admin]))?;
    let passed = old.take(&[Role::Control]).into_iter().next();
    let shares = options.server.journal().is_some_and(|journal| old.shares(&journal.data_dir));
    info!(process = old.process, sockets = listening.len(), shares, "taking over");
    let prepared = Server::prepare(options.server_in_process(), shares)?;
    old.check_engine(prepared.engine().name())?;
    #[cfg(feature = "test-hooks")]
    die_if_wanted(Step::Prepared);
    let listening = listening.into_iter().map(|(role, socket)| (role == Role::Activated, socket)).collect();
    let groups = inherit(prepared.config(), listening)?;
    #[cfg(feature = "test-hooks")]
    die_if_wanted(Step::Bound);
    before_accept();
    old.ready()?;
    #[cfg(feature = "test-hooks")]
    die_if_wanted(Step::Going);
    let mut server = accept(prepared, groups)?;
    let process = old.process;
    if let Err(error) = old.accepting() {
        // The other server accepts. Connections that were accepted here meanwhile are served to an orderly end.
        server.hand_over();
        let _ = server.stopped().await;
        bail!(error);
    }
    info!(process, "taken over; the old server drains");
    // This comes after the takeover, because dropping the control socket removes its file.
    let control = passed.map(|(_, socket)| ControlSocket::inherit(socket, &path, options.takeover.timeout)).transpose();
    let control = control.unwrap_or_else(|error| {
        warn!("no server can take over from this one: {error}");
        None
    });
    // This comes last, since it may be the old server's address, on which that server was still answering.
    let admin = admin.map(|admin| answer(admin, options)).transpose()?;
    Ok(Started { server, admin, control })
}

/// Starts to answer on the admin address.
fn answer(admin: AdminListener, options: &Options) -> anyhow::Result<AdminServer> {
    let user = options.user.clone();
    admin.start(move || user::drop_capabilities(user.as_ref())).context("can't start the thread of the admin address")
}

/// Listens on the sockets of `groups`, and accepts from them.
fn accept(prepared: Prepared, groups: Vec<Group>) -> anyhow::Result<Server> {
    for group in &groups {
        group.listen(prepared.config())?;
    }
    Ok(prepared.accept(groups)?)
}

/// Returns the old server's admin address if it is the same as this server's, or else a new one.
fn admin(options: &Options, given: Vec<PassedSocket>) -> anyhow::Result<Option<AdminListener>> {
    let Some(asked) = options.admin else { return Ok(None) };
    for (_, socket) in given {
        let admin =
            AdminListener::inherit(TcpListener::from(socket)).context("can't use the old server's admin socket")?;
        let theirs = admin.address();
        if theirs == asked || (asked.port() == 0 && theirs.ip() == asked.ip()) {
            return Ok(Some(admin));
        }
    }
    Ok(Some(AdminListener::bind(asked)?))
}
