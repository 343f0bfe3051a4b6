//! How a server comes up: alone, on a supervisor's sockets, or in the place of one that runs.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use anyhow::{Context, bail};
use tracing::{info, warn};

use crate::admin::{Admin, Answering};
use crate::config::ServerConfig;
use crate::server::{Group, Prepared, Server, inherit};
use crate::takeover::{ControlSocket, PassedSocket, Predecessor, Role};
#[cfg(feature = "test-hooks")]
use crate::testing::takeover::{Step, die_if_wanted};

/// What has come up: every shard accepts.
pub struct Started {
    pub server: Server,
    /// It answers that the server is starting, until [`Answering::show`] is called.
    pub admin: Option<Answering>,
    /// Where it can be taken over.
    pub door: Option<ControlSocket>,
}

/// Starts on sockets of its own, or on `activated` ones if there are any. Calls `before_accept` when all is ready.
///
/// # Errors
/// The first thing that was refused.
pub fn alone(config: ServerConfig, activated: Vec<OwnedFd>, before_accept: impl FnOnce()) -> anyhow::Result<Started> {
    // The admin address comes first, so that an error comes before any client is accepted, and so that the address
    // answers while segments are filled.
    let admin = config.admin.map(Admin::bind).transpose()?.map(|admin| answer(admin, &config)).transpose()?;
    let (path, patience, explicit) = (config.control_path(), config.takeover_timeout, config.control.is_some());
    let prepared = Server::prepare(config, false)?;
    // Behind the data directory's lock: whoever answers there now is no server of this directory.
    let door = match path.map(|path| ControlSocket::bind(&path, patience)) {
        None => None,
        Some(Ok(door)) => Some(door),
        Some(Err(error)) if explicit => bail!(error),
        Some(Err(error)) => {
            warn!("nobody can take over from this server: {error}");
            None
        }
    };
    let server = if activated.is_empty() {
        prepared.bind_and_accept(before_accept)?
    } else {
        info!(sockets = activated.len(), "listening on a supervisor's sockets (LISTEN_FDS), not on --listen");
        let groups = inherit(prepared.config(), activated.into_iter().map(|socket| (true, socket)).collect())?;
        before_accept();
        accept(prepared, groups)?
    };
    Ok(Started { server, admin, door })
}

/// Takes over from the server that answers on the control socket. Calls `before_accept` when all is ready. Until then
/// nothing is lost if the process ends.
///
/// # Errors
/// The first thing that was refused; the other server goes on then.
pub async fn in_place_of_another(config: ServerConfig, before_accept: impl FnOnce()) -> anyhow::Result<Started> {
    let path = config.control_path().expect("the configuration is valid");
    let mut old = Predecessor::ask(&path, config.takeover_timeout)?;
    #[cfg(feature = "test-hooks")]
    die_if_wanted(Step::Offered);
    let listening = old.take(&[Role::Listen, Role::Activated]);
    let user = config.user.clone();
    let admin = admin(&config, old.take(&[Role::Admin]))?;
    let control = old.take(&[Role::Control]).into_iter().next();
    let shares = old.shares(&config.data_dir);
    info!(process = old.process, sockets = listening.len(), shares, "taking over");
    let patience = config.takeover_timeout;
    let prepared = Server::prepare(config, shares)?;
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
        // The other one accepts. Whoever has come here meanwhile is served to a clean end.
        server.hand_over();
        let _ = server.stopped().await;
        bail!(error);
    }
    info!(process, "has taken over; the old server drains");
    // Not before: where a door is dropped, its file goes.
    let door = control.map(|(_, socket)| ControlSocket::inherit(socket, &path, patience)).transpose();
    let door = door.unwrap_or_else(|error| {
        warn!("nobody can take over from this server: {error}");
        None
    });
    // Not earlier, since it may be the old server's address, on which that server was still answering.
    let admin = admin.map(|admin| admin.start(user).context(NO_ADMIN_THREAD)).transpose()?;
    Ok(Started { server, admin, door })
}

fn answer(admin: Admin, config: &ServerConfig) -> anyhow::Result<Answering> {
    admin.start(config.user.clone()).context(NO_ADMIN_THREAD)
}

const NO_ADMIN_THREAD: &str = "can't start the thread of the admin address";

fn accept(prepared: Prepared, groups: Vec<Group>) -> anyhow::Result<Server> {
    for group in &groups {
        group.listen(prepared.config())?;
    }
    Ok(prepared.accept(groups)?)
}

/// The old server's admin address if it is the same, or one of its own.
fn admin(config: &ServerConfig, given: Vec<PassedSocket>) -> anyhow::Result<Option<Admin>> {
    let Some(asked) = config.admin else { return Ok(None) };
    for (_, socket) in given {
        let admin = Admin::inherit(TcpListener::from(socket)).context("can't use the old server's admin socket")?;
        let theirs = admin.address();
        if theirs == asked || (asked.port() == 0 && theirs.ip() == asked.ip()) {
            return Ok(Some(admin));
        }
    }
    Ok(Some(Admin::bind(asked)?))
}
