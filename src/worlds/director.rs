//! The director of a world: starts its servers, lets the events of the plan happen, and lets the world end.
//!
//! Each server process has a task set of its own. Dropping that set is the end of the process, at whatever points its
//! tasks are.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::plan::Event;
use super::process::{End, Process};
use super::world::World;
use super::{client, follower, laws, serving};
use crate::clock;
use crate::journal::{dir, layout, position};
use crate::metrics::CloseReason;
use crate::proto::AckResult;
use crate::sim::kernel::{self, ProcessId};
use crate::sim::trace;

/// The director of a world.
struct Director {
    world: Rc<World>,
    lives: Lives,
    next_process: Cell<ProcessId>,
    /// The operations after which the next process is killed.
    doomed: Cell<Option<u64>>,
}

/// The task sets of the processes that are alive.
#[derive(Default)]
struct Lives {
    sets: RefCell<Vec<(ProcessId, Rc<Process>, LocalSet)>>,
    changed: Cell<bool>,
}

/// Lets a world run to its end, or until a law is broken.
pub async fn run(world: Rc<World>) {
    let director =
        Director { world: world.clone(), lives: Lives::default(), next_process: Cell::new(1), doomed: Cell::new(None) };
    let residents = LocalSet::new();
    for (plan, sent) in world.plan.clients.iter().zip(&world.sent) {
        residents.spawn_local(client::run(world.clone(), plan.clone(), sent.clone()));
    }
    for (plan, seen) in world.plan.followers.iter().zip(&world.seen) {
        residents.spawn_local(follower::run(world.clone(), plan.clone(), seen.clone()));
    }
    residents.spawn_local(laws::watch_limits(world.clone()));
    let mut residents = pin!(residents);
    let mut directing = pin!(async {
        if timeout(WORLD_MAX, director.direct()).await.is_err() {
            trace::violated(|| "law 4: the world does not end".into());
        }
    });
    poll_fn(|context| {
        if trace::violation().is_some() {
            return Poll::Ready(());
        }
        let _ = residents.as_mut().poll(context);
        director.lives.poll(context);
        if directing.as_mut().poll(context).is_ready() || trace::violation().is_some() {
            return Poll::Ready(());
        }
        if director.lives.changed.take() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    director.lives.sets.borrow_mut().clear();
}

impl Director {
    /// Starts a server process in place of another one, or alone. It may fail to start.
    async fn start(&self, shards: usize, predecessor: Option<Rc<Process>>) -> Option<Rc<Process>> {
        let id = self.next_process.get();
        self.next_process.set(id + 1);
        kernel::start_process(id, self.world.plan.descriptors);
        if let Some(operations) = self.doomed.take() {
            kernel::kill_after(id, operations);
        }
        let process = Process::new(id, shards);
        let set = LocalSet::new();
        set.spawn_local(serving::run(self.world.clone(), process.clone(), predecessor));
        self.world.processes.borrow_mut().push(process.clone());
        self.lives.sets.borrow_mut().push((id, process.clone(), set));
        self.lives.changed.set(true);
        process.wait(|process| process.has_started() || process.end().is_some()).await;
        if process.end().is_none() {
            return Some(process);
        }
        self.world.count("failed starts", 1);
        self.bury(&process);
        None
    }

    /// Ends a process whose main task has ended, or that was killed.
    fn bury(&self, process: &Process) {
        if process.has_started() {
            let totals = process.totals();
            self.world.count("memory waits", totals.memory_waits.get());
            self.world.count("connections moved", totals.connections_moved.get());
            self.world.count("segments", totals.journal_segments.get());
            self.world.count("segments recycled", totals.journal_segments_recycled.get());
            self.world.count("failures", totals.acks.of(AckResult::Failure).get());
            self.world.count("connections cut", totals.connections_closed.of(CloseReason::Cut).get());
        }
        kernel::kill(process.id, false);
        process.set_end(End::Killed);
        self.world.disk.borrow_mut().kill(process.id);
        let dead: Vec<_> = {
            let mut sets = self.lives.sets.borrow_mut();
            let (dead, alive) = sets.drain(..).partition(|(id, ..)| *id == process.id);
            *sets = alive;
            dead
        };
        drop(dead);
        dir::exit_simulated(&self.world.data_dir);
        for writer in layout::writers(&self.world.data_dir).unwrap_or_default() {
            let path = self.world.data_dir.join(writer.to_string());
            if !dir::is_live(&path).is_ok_and(|is_live| is_live) {
                let published = position::read(&path).unwrap_or_default().sequence;
                self.world.durable_at_kill.borrow_mut().entry(writer).or_insert(published);
            }
        }
    }

    /// Lets the events of the plan happen, then waits for everything that should end.
    async fn direct(&self) {
        let mut server = self.start(self.world.plan.server.options.shards.get(), None).await;
        if server.is_none() {
            server = self.revive(None).await;
        }
        self.world.is_disturbed.set(server.is_none());
        let mut events = self.world.plan.events.clone().into_iter().peekable();
        loop {
            let next = events.peek().map_or(self.world.plan.calm, |(at, _)| *at).min(self.world.plan.calm);
            let died = async {
                match &server {
                    Some(server) => server.wait(|server| server.end().is_some()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = sleep_until((self.world.began + next).into()) => {}
                () = died => {
                    server = self.revive(server).await;
                    continue;
                }
            }
            let Some((_, event)) = events.next_if(|(at, _)| *at <= next) else { break };
            server = self.happen(event, server).await;
            if trace::violation().is_some() {
                return;
            }
        }
        self.calm_down(&server);
        if let Some(stalled) = server.as_ref().filter(|server| !server.stalls.get().is_zero()) {
            // It may be about to end.
            let _ = timeout(STALL_NOTICED, stalled.wait(|server| server.end().is_some())).await;
        }
        let server = match server {
            Some(server) if server.end().is_none() => server,
            dead => match self.start_surely(dead).await {
                Some(server) => server,
                None => return,
            },
        };
        laws::judge_end(&self.world, &server).await;
        self.see_off(&server).await;
        laws::judge_past(&self.world);
    }

    /// Lets the faults stop.
    fn calm_down(&self, server: &Option<Rc<Process>>) {
        trace::add("calm", 0, 0);
        {
            let mut disk = self.world.disk.borrow_mut();
            disk.set_faults(self.world.plan.sound_disk.clone());
            // The administrator has made room.
            disk.capacity = 1 << 40;
            disk.stall_until(tokio::time::Instant::now());
        }
        if let Some(server) = server {
            kernel::limit_descriptors(server.id, 10_000);
        }
        clock::simulated::set_ahead(0);
        self.world.become_calm();
    }

    /// Starts a server after the faults have stopped.
    async fn start_surely(&self, dead: Option<Rc<Process>>) -> Option<Rc<Process>> {
        if dead.is_some() {
            self.revive(dead).await;
        }
        let started = timeout(START_MAX, self.start(self.world.plan.server.options.shards.get(), None)).await;
        let server = started.ok().flatten();
        if server.is_none() {
            trace::violated(|| "law 4: a server does not start, though nothing is wrong any longer".into());
        }
        server
    }

    /// Buries a server that has ended, and starts another one after a while.
    async fn revive(&self, server: Option<Rc<Process>>) -> Option<Rc<Process>> {
        if let Some(server) = server {
            self.world.disturbances.set(self.world.disturbances.get() + 1);
            if server.end() == Some(End::Killed) {
                self.bury(&server);
            } else {
                if server.end() == Some(End::Stalled) {
                    laws::judge_stalled(&self.world, &server);
                }
                self.see_off(&server).await;
            }
            laws::check_journal(&self.world);
        }
        self.world.is_disturbed.set(true);
        while clock::now() < self.world.began + self.world.plan.calm {
            sleep(START_PAUSE).await;
            let started = self.start(self.world.plan.server.options.shards.get(), None).await;
            if started.is_some() {
                self.world.is_disturbed.set(false);
                return started;
            }
        }
        None
    }

    /// Waits until a process that has ended in good order has no task left, and ends it.
    async fn see_off(&self, process: &Rc<Process>) {
        // A server does not wait for a shard that stands still.
        if process.end() == Some(End::Drained) && process.stalls.get().is_zero() {
            // Law 6.
            let gone = timeout(TASKS_END_MAX, self.lives.gone(process.id)).await;
            if gone.is_err() {
                trace::violated(|| format!("law 6: process {} has drained, and tasks are left", process.id));
            }
        }
        self.bury(process);
    }

    /// Lets one event happen. Returns the server afterwards.
    async fn happen(&self, event: Event, server: Option<Rc<Process>>) -> Option<Rc<Process>> {
        self.world.count(event.name(), 1);
        trace::add(event.name(), 0, 0);
        let now = tokio::time::Instant::now();
        match event {
            Event::SetClock(ahead) => clock::simulated::set_ahead(ahead),
            Event::DiskStall(time) => {
                self.world.disk.borrow_mut().stall_until(now + time);
            }
            _ => {}
        }
        let server = server?;
        match event {
            Event::SetClock(_) | Event::DiskStall(_) => return Some(server),
            Event::FewDescriptors(more, time) => {
                let id = server.id;
                kernel::limit_descriptors(id, kernel::descriptors(id) + more);
                self.world.disturbances.set(self.world.disturbances.get() + 1);
                self.world.is_disturbed.set(true);
                sleep(time).await;
                self.world.is_disturbed.set(false);
                kernel::limit_descriptors(id, self.world.plan.descriptors);
                return Some(server);
            }
            Event::ShardStall(shard, time) => {
                // If the server does not end because of it, its clients only wait.
                if !self.world.plan.server.options.stall_timeout.is_zero() {
                    self.world.disturbances.set(self.world.disturbances.get() + 1);
                }
                server.stalls.set(server.stalls.get().max(time));
                server.ends_by.set(laws::noticed_by(&self.world, time));
                kernel::stall(server.id, shard % server.shards, clock::now() + time);
                return Some(server);
            }
            _ => {}
        }
        self.world.disturbances.set(self.world.disturbances.get() + 1);
        self.world.is_disturbed.set(true);
        let next = match event {
            Event::Kill(operations) => {
                kernel::kill_after(server.id, operations);
                // A server that does nothing any longer is killed all the same.
                let _ = timeout(KILL_MAX, kernel::killed(server.id)).await;
                server.set_end(End::Killed);
                self.revive(Some(server)).await
            }
            Event::PowerCut => {
                self.cut_power(&server).await;
                self.revive(None).await
            }
            Event::Drain => {
                server.drain();
                laws::judge_drain(&self.world, &server).await;
                self.revive(Some(server)).await
            }
            Event::SecondSignal(after) => {
                server.drain();
                let _ = timeout(after, server.wait(|server| server.end().is_some())).await;
                if server.end().is_none() {
                    server.set_end(End::Killed);
                }
                self.revive(Some(server)).await
            }
            Event::FailedTakeOver(shards, operations) => {
                self.doomed.set(Some(operations));
                let successor = self.start(shards, Some(server.clone())).await;
                if let Some(successor) = successor {
                    let _ = timeout(KILL_MAX, kernel::killed(successor.id)).await;
                    successor.set_end(End::Killed);
                    self.bury(&successor);
                }
                if server.is_ordered() {
                    laws::judge_drain(&self.world, &server).await;
                    self.revive(Some(server)).await
                } else {
                    Some(server)
                }
            }
            Event::TakeOver(shards) => match self.start(shards, Some(server.clone())).await {
                Some(successor) => {
                    laws::judge_drain(&self.world, &server).await;
                    self.see_off(&server).await;
                    Some(successor)
                }
                None => Some(server),
            },
            _ => unreachable!("handled above"),
        };
        self.world.is_disturbed.set(next.is_none());
        next
    }

    async fn cut_power(&self, server: &Rc<Process>) {
        self.world.power_cuts.set(self.world.power_cuts.get() + 1);
        kernel::kill(server.id, true);
        self.world.disk.borrow_mut().power_cut();
        self.bury(server);
        clock::simulated::reboot();
        laws::check_journal(&self.world);
        sleep(START_PAUSE).await;
    }
}

impl Lives {
    /// Lets the tasks of all processes run.
    fn poll(&self, context: &mut Context<'_>) {
        let ids: Vec<ProcessId> = self.sets.borrow().iter().map(|(id, ..)| *id).collect();
        for id in ids {
            let taken = {
                let mut sets = self.sets.borrow_mut();
                let at = sets.iter().position(|(other, ..)| *other == id);
                at.map(|at| sets.remove(at))
            };
            let Some((id, process, mut set)) = taken else { continue };
            let done = Pin::new(&mut set).poll(context).is_ready();
            if !kernel::is_alive(id) {
                process.set_end(End::Killed);
            } else if done {
                process.set_gone();
            }
            self.sets.borrow_mut().push((id, process, set));
        }
    }

    /// Waits until a process has no task left.
    async fn gone(&self, id: ProcessId) {
        let process = self.sets.borrow().iter().find(|(other, ..)| *other == id).map(|(_, process, _)| process.clone());
        if let Some(process) = process {
            process.wait(Process::is_gone).await;
        }
    }
}

/// How long a world may last.
const WORLD_MAX: Duration = Duration::from_secs(3600);
/// How long a server that has ended is missing.
const START_PAUSE: Duration = Duration::from_millis(100);
/// How long a start may take once nothing is wrong.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a server that should be killed at one of its operations may do nothing.
const KILL_MAX: Duration = Duration::from_millis(500);
/// How long it may take until a stalled server has ended.
const STALL_NOTICED: Duration = Duration::from_secs(10);
/// How long the tasks of a server that has drained may take to end.
const TASKS_END_MAX: Duration = Duration::from_secs(5);
