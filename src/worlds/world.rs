//! A world while it runs: its host, and what is known of its clients, followers and servers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Notify;

use super::plan::Plan;
use super::process::Process;
use super::records::{Seen, Sent};
use crate::clock;
use crate::journal::WriterId;
use crate::sim::disk::Disk;

/// A world.
pub struct World {
    /// Its plan.
    pub plan: Plan,
    /// When it began.
    pub began: Instant,
    /// The address of its servers.
    pub address: SocketAddr,
    /// The journal.
    pub data_dir: PathBuf,
    /// The host's disk.
    pub disk: Rc<RefCell<Disk>>,
    /// Whether the faults have stopped.
    pub calm: Cell<bool>,
    calmed: Notify,
    /// The number of events that may end a connection.
    pub disturbances: Cell<u64>,
    /// Whether such an event is happening now.
    pub is_disturbed: Cell<bool>,
    /// The requests of each client.
    pub sent: Vec<Rc<RefCell<Sent>>>,
    /// The records that each follower has seen.
    pub seen: Vec<Rc<RefCell<Seen>>>,
    /// The number of crashes in which the host lost its power.
    pub power_cuts: Cell<u64>,
    /// The last record of each killed writer that was known to be durable. Later ones are in the page cache, and are
    /// lost if the host loses its power.
    pub durable_at_kill: RefCell<BTreeMap<WriterId, u64>>,
    /// Counts for the report.
    pub tally: RefCell<BTreeMap<&'static str, u64>>,
    /// All server processes so far.
    pub processes: RefCell<Vec<Rc<Process>>>,
}

impl World {
    /// Returns a world that has not begun.
    pub fn new(plan: Plan, data_dir: PathBuf, disk: Rc<RefCell<Disk>>) -> Rc<World> {
        Rc::new(World {
            began: clock::now(),
            address: SocketAddr::from(([10, 0, 0, 1], 8888)),
            data_dir,
            disk,
            calm: Cell::new(false),
            calmed: Notify::new(),
            disturbances: Cell::new(0),
            // Until the first server accepts.
            is_disturbed: Cell::new(true),
            sent: plan.clients.iter().map(|client| Rc::new(RefCell::new(Sent::new(client)))).collect(),
            seen: plan.followers.iter().map(|_| Rc::default()).collect(),
            power_cuts: Cell::new(0),
            durable_at_kill: RefCell::default(),
            tally: RefCell::default(),
            processes: RefCell::default(),
            plan,
        })
    }

    /// Returns the servers that are alive and accept.
    pub fn servers(&self) -> Vec<Rc<Process>> {
        let processes = self.processes.borrow();
        processes.iter().filter(|process| process.has_started() && process.end().is_none()).cloned().collect()
    }

    /// Returns the requests of the client with this number.
    pub fn sent_of(&self, client: u32) -> Option<&RefCell<Sent>> {
        let at = self.plan.clients.binary_search_by_key(&client, |plan| plan.number).ok()?;
        Some(&self.sent[at])
    }

    /// Returns whether any server has accepted so far.
    pub fn has_served(&self) -> bool {
        self.processes.borrow().iter().any(|process| process.has_started())
    }

    /// Waits until the faults stop.
    pub async fn calmed(&self) {
        let calmed = self.calmed.notified();
        if !self.calm.get() {
            calmed.await;
        }
    }

    /// Records that the faults have stopped.
    pub fn become_calm(&self) {
        self.calm.set(true);
        self.calmed.notify_waiters();
    }

    /// Counts something for the report.
    pub fn count(&self, what: &'static str, number: u64) {
        *self.tally.borrow_mut().entry(what).or_default() += number;
    }
}
