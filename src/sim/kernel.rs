//! The simulated kernel of this thread: processes, their descriptors, and the moment of a crash.
//!
//! It owns who is alive. Each operation of a process passes here, so a process can be killed between any two of them:
//! from then on, none of its operations has an effect or ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Instant;

use tokio::sync::Notify;

use super::backlog::Backlog;
use super::link::{Link, Side, SilenceOptions};
use super::random::Random;
use super::trace;
use crate::clock;

/// The number of a simulated process.
pub type ProcessId = u32;

/// The simulated kernel.
#[derive(Default)]
struct Kernel {
    processes: BTreeMap<ProcessId, Process>,
    backlogs: BTreeMap<u64, Rc<Backlog>>,
    /// The connections that a process has open.
    links: BTreeMap<u64, Rc<Link>>,
    next: u64,
}

#[derive(Default)]
struct Process {
    alive: bool,
    /// The most descriptors that it may have open.
    descriptors_max: usize,
    descriptors: usize,
    /// The number of operations after which it is killed.
    operations_left: Option<u64>,
    /// Notified when it is killed.
    killed: Rc<Notify>,
    /// By shard, the time until which its event loop stands still.
    stalls: BTreeMap<usize, Instant>,
    links: BTreeMap<u64, Weak<Link>>,
    backlogs: BTreeMap<u64, Weak<Backlog>>,
}

thread_local! {
    static KERNEL: RefCell<Option<Kernel>> = const { RefCell::new(None) };
}

/// A descriptor of a process, which belongs to no event loop yet. Dropping it closes it. It may cross threads as a real
/// one does, though a simulation has only one thread.
#[derive(Debug)]
pub struct Descriptor {
    pub(crate) process: ProcessId,
    pub(crate) number: u64,
    pub(crate) is_listener: bool,
}

/// A descriptor that is open for its own sake, until it is dropped.
#[derive(Debug)]
pub struct Held(ProcessId);

/// Begins a simulation on this thread, within a runtime whose clock is paused.
pub fn begin() {
    clock::simulated::begin();
    trace::begin();
    KERNEL.set(Some(Kernel::default()));
}

/// Ends the simulation.
pub fn end() {
    drop(KERNEL.take());
    trace::end();
    clock::simulated::end();
}

fn with<T>(access: impl FnOnce(&mut Kernel) -> T) -> T {
    KERNEL.with_borrow_mut(|kernel| access(kernel.as_mut().expect("a simulation runs on this thread")))
}

/// Starts a process that may have so many descriptors open.
pub fn start_process(id: ProcessId, descriptors_max: usize) {
    let process = Process { alive: true, descriptors_max, ..Process::default() };
    with(|kernel| kernel.processes.insert(id, process));
}

/// Kills a process after so many more of its operations.
pub fn kill_after(id: ProcessId, operations: u64) {
    with(|kernel| kernel.process(id).operations_left = Some(operations));
}

/// Waits until the process is killed.
pub async fn killed(id: ProcessId) {
    let killed = with(|kernel| {
        let process = kernel.process(id);
        process.alive.then(|| process.killed.clone())
    });
    if let Some(killed) = killed {
        killed.notified().await;
    }
}

/// Kills a process: the kernel closes its sockets. If the host lost its power, it only falls silent.
pub fn kill(id: ProcessId, power_cut: bool) {
    trace::add(if power_cut { "power cut" } else { "killed" }, id.into(), 0);
    let Some((links, backlogs, killed)) = with(|kernel| {
        let process = kernel.process(id);
        if !std::mem::replace(&mut process.alive, false) {
            return None;
        }
        let links: Vec<_> = std::mem::take(&mut process.links).into_values().collect();
        let backlogs: Vec<_> = std::mem::take(&mut process.backlogs).into_values().collect();
        Some((links, backlogs, process.killed.clone()))
    }) else {
        return;
    };
    for link in links.iter().filter_map(Weak::upgrade) {
        if power_cut { link.lose_server() } else { link.close_server() }
    }
    for backlog in backlogs.iter().filter_map(Weak::upgrade) {
        release(&backlog);
    }
    killed.notify_one();
}

/// Returns whether the process is alive.
pub fn is_alive(id: ProcessId) -> bool {
    KERNEL.with_borrow(|kernel| {
        kernel.as_ref().is_some_and(|kernel| kernel.processes.get(&id).is_some_and(|process| process.alive))
    })
}

/// Lets an operation of the process begin or end. Returns `false` if the process is dead.
pub fn step(id: ProcessId, what: &'static str, number: u64) -> bool {
    trace::add(what, id.into(), number);
    let (alive, dies) = with(|kernel| {
        let process = kernel.process(id);
        let dies = process.alive && process.operations_left == Some(0);
        if let Some(left) = &mut process.operations_left {
            *left = left.saturating_sub(1);
        }
        (process.alive, dies)
    });
    if dies {
        kill(id, false);
    }
    alive && !dies
}

/// As [`step`], but never returns in a dead process. Without a simulation, everything is alive.
pub async fn live(id: ProcessId, what: &'static str, number: u64) {
    if KERNEL.with_borrow(Option::is_some) && !step(id, what, number) {
        pending::<()>().await;
    }
}

/// Makes a shard's event loop stand still until this time.
pub fn stall(id: ProcessId, shard: usize, until: Instant) {
    with(|kernel| {
        let stalled = kernel.process(id).stalls.entry(shard).or_insert(until);
        *stalled = until.max(*stalled);
    });
}

/// Returns the time until which a shard's event loop stands still.
pub fn stalled_until(id: ProcessId, shard: usize) -> Option<Instant> {
    with(|kernel| kernel.process(id).stalls.get(&shard).copied())
}

/// Opens a descriptor for its own sake.
///
/// # Errors
/// The process has no free descriptor.
pub fn hold_descriptor(id: ProcessId) -> io::Result<Held> {
    with(|kernel| kernel.process(id).open())?;
    Ok(Held(id))
}

/// Returns a number that is different for each process.
pub fn random(id: ProcessId) -> u64 {
    Random(id.into()).next()
}

/// Changes how many descriptors a process may have open.
pub fn limit_descriptors(id: ProcessId, max: usize) {
    with(|kernel| kernel.process(id).descriptors_max = max);
}

/// Returns how many descriptors the process has open.
pub fn descriptors(id: ProcessId) -> usize {
    with(|kernel| kernel.process(id).descriptors)
}

/// Returns a new number for a listener or a connection.
pub(crate) fn next_number() -> u64 {
    with(|kernel| {
        kernel.next += 1;
        kernel.next
    })
}

/// Returns the listener with this number.
pub(crate) fn backlog(number: u64) -> Rc<Backlog> {
    with(|kernel| kernel.backlogs[&number].clone())
}

/// Returns the listeners of an address.
pub(crate) fn backlogs_of(address: SocketAddr) -> Vec<Rc<Backlog>> {
    with(|kernel| kernel.backlogs.values().filter(|backlog| backlog.address == address).cloned().collect())
}

/// Opens a listener of this address, beside those that have the address already. It queues at most `backlog`
/// connections, which get `silence`.
///
/// # Errors
/// The process has no free descriptor.
pub fn listen(
    process: ProcessId,
    address: SocketAddr,
    backlog: usize,
    silence: SilenceOptions,
) -> io::Result<Descriptor> {
    let backlog = Rc::new(Backlog::new(next_number(), address, backlog, silence));
    let descriptor = open_listener(process, backlog.number, &backlog)?;
    with(|kernel| kernel.backlogs.insert(backlog.number, backlog));
    Ok(descriptor)
}

/// Accepts the oldest connection of a listener, if there is one.
///
/// # Errors
/// The process has no free descriptor. The connection remains queued.
pub(crate) fn accept(process: ProcessId, backlog: &Backlog) -> Option<io::Result<(Descriptor, SocketAddr)>> {
    let link = backlog.oldest()?;
    let peer = link.peer;
    let accepted = open_link(process, link).map(|descriptor| (descriptor, peer));
    if accepted.is_ok() {
        backlog.remove_oldest();
    }
    Some(accepted)
}

/// Opens a process's descriptor of a listener.
fn open_listener(process: ProcessId, number: u64, backlog: &Rc<Backlog>) -> io::Result<Descriptor> {
    with(|kernel| {
        kernel.process(process).open()?;
        kernel.next += 1;
        let key = kernel.next;
        kernel.process(process).backlogs.insert(key, Rc::downgrade(backlog));
        Ok::<_, io::Error>(())
    })?;
    backlog.retain();
    Ok(Descriptor { process, number, is_listener: true })
}

/// Opens a process's descriptor of a connection.
fn open_link(process: ProcessId, link: Rc<Link>) -> io::Result<Descriptor> {
    with(|kernel| {
        kernel.process(process).open()?;
        kernel.process(process).links.insert(link.number, Rc::downgrade(&link));
        let number = link.number;
        kernel.links.insert(number, link);
        Ok(Descriptor { process, number, is_listener: false })
    })
}

/// Returns the connection that a process has open.
pub(crate) fn link(number: u64) -> Rc<Link> {
    with(|kernel| kernel.links[&number].clone())
}

impl Descriptor {
    /// Returns another descriptor of the same listener.
    ///
    /// # Errors
    /// The process has no free descriptor.
    ///
    /// # Panics
    /// It is not a listener's.
    pub fn try_clone(&self) -> io::Result<Descriptor> {
        self.pass_to(self.process)
    }

    /// Returns a descriptor of the same listener for another process.
    ///
    /// # Errors
    /// That process has no free descriptor.
    ///
    /// # Panics
    /// It is not a listener's.
    pub fn pass_to(&self, process: ProcessId) -> io::Result<Descriptor> {
        assert!(self.is_listener, "only listeners are shared");
        open_listener(process, self.number, &backlog(self.number))
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.is_listener {
            if is_alive(self.process) {
                close_listener(self.process, &backlog(self.number));
            }
            return;
        }
        let closed = KERNEL.with_borrow_mut(|kernel| kernel.as_mut()?.links.remove(&self.number));
        if let Some(link) = closed.filter(|_| is_alive(self.process)) {
            with(|kernel| kernel.process(self.process).close(self.number));
            link.close_server();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if is_alive(self.0) {
            with(|kernel| kernel.process(self.0).descriptors -= 1);
        }
    }
}

fn close_listener(process: ProcessId, backlog: &Rc<Backlog>) {
    with(|kernel| {
        kernel.process(process).descriptors -= 1;
        let of_process = &mut kernel.process(process).backlogs;
        let key = of_process.iter().find(|(_, open)| open.as_ptr() == Rc::as_ptr(backlog)).map(|(key, _)| *key);
        key.map(|key| of_process.remove(&key))
    });
    release(backlog);
}

/// Counts a listener's descriptor as closed. The last one ends the listener, and resets what it has queued.
fn release(backlog: &Backlog) {
    if backlog.release() {
        drop(with(|kernel| kernel.backlogs.remove(&backlog.number)));
        for link in backlog.take_all() {
            trace::add("reset in the backlog", link.number, 0);
            link.reset(Side::Server);
        }
    }
}

impl Kernel {
    fn process(&mut self, id: ProcessId) -> &mut Process {
        self.processes.get_mut(&id).expect("the process was started")
    }
}

impl Process {
    fn close(&mut self, link: u64) {
        self.descriptors -= 1;
        self.links.remove(&link);
    }

    fn open(&mut self) -> io::Result<()> {
        if self.descriptors >= self.descriptors_max {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        self.descriptors += 1;
        Ok(())
    }
}
