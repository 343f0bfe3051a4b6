//! The life of a server process: what `serve` does, without the parts that a simulation has no use for.

use std::rc::Rc;

use tokio::task::spawn_local;
use tokio::time::sleep;
use tracing::warn;

use super::process::{End, Order, Process};
use super::world::World;
use crate::engine::RawSocket;
use crate::journal::moment::Moment;
use crate::journal::retention::Enforcer;
use crate::server::{Group, Options, ServeError, Server};
use crate::sim::link::SilenceOptions;
use crate::sim::{kernel, trace};

/// Runs a process to its end.
pub async fn run(world: Rc<World>, process: Rc<Process>, predecessor: Option<Rc<Process>>) {
    let end = live(&world, &process, predecessor).await;
    process.set_end(end);
}

async fn live(world: &Rc<World>, process: &Rc<Process>, predecessor: Option<Rc<Process>>) -> End {
    let mut options = world.plan.options(process.shards, &world.data_dir);
    options.engine.simulated = Some(process.id);
    let prepared = match Server::prepare_shards(options.clone(), predecessor.is_some()).await {
        Ok(prepared) => prepared,
        Err(error) => {
            warn!(process = process.id, "can't start: {error}");
            return End::NotStarted;
        }
    };
    let groups = match &predecessor {
        Some(predecessor) => inherit(process, predecessor, &options),
        None => listen(process, &options, world),
    };
    let Some(groups) = groups else { return End::NotStarted };
    let Ok(server) = prepared.accept_from(groups).await else { return End::NotStarted };
    process.set_started(&server);
    if let Some(predecessor) = &predecessor {
        predecessor.hand_over();
    }
    let retention = spawn_local(retain(world.clone(), process.clone()));
    let stopped = serve(process, server).await;
    retention.abort();
    match stopped {
        Ok(()) => End::Drained,
        Err(ServeError::Stalled { .. }) => End::Stalled,
        Err(error) => {
            trace::violated(|| format!("process {} ended by its own fault: {error}", process.id));
            End::Faulty
        }
    }
}

/// Serves until the server has stopped, and passes orders to it.
async fn serve(process: &Process, mut server: Server) -> Result<(), ServeError> {
    loop {
        tokio::select! {
            biased;
            stopped = server.stopped() => return stopped,
            order = process.ordered() => match order {
                Order::HandOver => server.hand_over(),
                Order::Drain => server.drain(),
            }
        }
    }
}

/// Removes old segments, as the task of `serve` does.
async fn retain(world: Rc<World>, process: Rc<Process>) {
    let Some(journal) = world.plan.server.options.journal() else { return };
    if journal.retention.is_off() {
        return;
    }
    let mut enforcer = Enforcer::new(journal.retention, world.data_dir.clone());
    loop {
        sleep(world.plan.server.retention_interval).await;
        if !kernel::step(process.id, "retention", 0) {
            return;
        }
        let _ = enforcer.enforce(Moment::now());
    }
}

/// Opens the listeners of a server: one for each shard.
fn listen(process: &Process, options: &Options, world: &World) -> Option<Vec<Group>> {
    let mut group = Group { address: world.address, sockets: Vec::new(), activated: false };
    join(&mut group, process, options)?;
    Some(vec![group])
}

/// Adds listeners until each shard has one.
fn join(group: &mut Group, process: &Process, options: &Options) -> Option<()> {
    let silence = SilenceOptions { keepalive: options.listen.tcp_keepalive, user_timeout: options.write_timeout };
    while group.sockets.len() < process.shards {
        let listening = kernel::listen(process.id, group.address, options.listen.backlog as usize, silence);
        group.sockets.push(RawSocket::Sim(listening.ok()?));
    }
    Some(())
}

/// Gets the listeners of a predecessor, and adds some if it had fewer shards.
fn inherit(process: &Process, predecessor: &Process, options: &Options) -> Option<Vec<Group>> {
    let mut groups = predecessor.pass_listeners(process.id)?;
    for group in &mut groups {
        join(group, process, options)?;
    }
    Some(groups)
}
