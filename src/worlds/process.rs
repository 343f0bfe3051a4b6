//! A server process as the world sees it: its metrics, its orders, and its end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::metrics::ShardMetrics;
use crate::server::{Group, Listeners, Server};
use crate::sim::kernel::{self, ProcessId};

/// A server process.
pub struct Process {
    /// Its number.
    pub id: ProcessId,
    /// Its shards.
    pub shards: usize,
    /// The longest stall of one of its shards.
    pub stalls: Cell<Duration>,
    /// When the server should have ended because of a stall.
    pub ends_by: Cell<Option<Instant>>,
    running: RefCell<Option<Running>>,
    end: Cell<Option<End>>,
    gone: Cell<bool>,
    order: Cell<Option<Order>>,
    ordered: Cell<bool>,
    changed: Notify,
}

/// The parts of a server that others may look at.
struct Running {
    metrics: Vec<Arc<ShardMetrics>>,
    listeners: Listeners,
    /// Descriptors that were open when it began to accept.
    descriptors: usize,
}

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It could not start.
    NotStarted,
    /// It drained.
    Drained,
    /// It ended because a shard stalled.
    Stalled,
    /// It ended because of another fault of its own.
    Faulty,
    /// It was killed.
    Killed,
}

/// An order to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// To drain.
    Drain,
    /// To drain while its successor accepts.
    HandOver,
}

impl Process {
    /// Returns a process that has not started.
    pub fn new(id: ProcessId, shards: usize) -> Rc<Process> {
        Rc::new(Process {
            id,
            shards,
            stalls: Cell::default(),
            ends_by: Cell::default(),
            running: RefCell::default(),
            end: Cell::new(None),
            gone: Cell::new(false),
            order: Cell::new(None),
            ordered: Cell::new(false),
            changed: Notify::new(),
        })
    }

    /// Returns whether it has accepted connections.
    pub fn has_started(&self) -> bool {
        self.running.borrow().is_some()
    }

    /// Records that it accepts.
    pub fn set_started(&self, server: &Server) {
        *self.running.borrow_mut() = Some(Running {
            metrics: server.metrics().to_vec(),
            listeners: server.listeners(),
            descriptors: kernel::descriptors(self.id),
        });
        self.changed.notify_waiters();
    }

    /// Waits for an order. Cancel-safe.
    pub async fn ordered(&self) -> Order {
        loop {
            if let Some(order) = self.order.take() {
                return order;
            }
            self.changed.notified().await;
        }
    }

    /// Returns how it has ended, if it has.
    pub fn end(&self) -> Option<End> {
        self.end.get()
    }

    /// Records how it has ended, unless it has ended before.
    pub fn set_end(&self, end: End) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            self.changed.notify_waiters();
        }
    }

    /// Returns whether all of its tasks have ended.
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Records that all of its tasks have ended.
    pub fn set_gone(&self) {
        if !self.gone.replace(true) {
            self.changed.notify_waiters();
        }
    }

    /// Waits until the condition holds.
    pub async fn wait(&self, condition: impl Fn(&Process) -> bool) {
        while !condition(self) {
            self.changed.notified().await;
        }
    }

    /// Returns the sums of its shards' metrics.
    ///
    /// # Panics
    /// It has not started.
    pub fn totals(&self) -> ShardMetrics {
        ShardMetrics::sum(&self.running.borrow().as_ref().expect("it has started").metrics)
    }

    /// Returns how many descriptors were open when it began to accept.
    ///
    /// # Panics
    /// It has not started.
    pub fn descriptors_at_start(&self) -> usize {
        self.running.borrow().as_ref().expect("it has started").descriptors
    }

    /// Makes it drain.
    pub fn drain(&self) {
        self.give(Order::Drain);
    }

    /// Returns whether it was ordered to drain.
    pub fn is_ordered(&self) -> bool {
        self.ordered.get()
    }

    /// Makes it drain while its successor accepts.
    pub fn hand_over(&self) {
        self.give(Order::HandOver);
    }

    fn give(&self, order: Order) {
        self.ordered.set(true);
        self.order.set(Some(order));
        self.changed.notify_waiters();
    }

    /// Returns copies of its listeners for another process. There are none if it drains.
    pub fn pass_listeners(&self, to: ProcessId) -> Option<Vec<Group>> {
        let groups = self.running.borrow().as_ref()?.listeners.pass_to(to).ok()?;
        (!groups.is_empty()).then_some(groups)
    }
}
