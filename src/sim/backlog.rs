//! A listening socket: the connections that nobody has accepted yet.
//!
//! It exists for as long as any process has a descriptor of it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::sync::Notify;

use super::link::{Link, SilenceOptions};

/// A listening socket.
pub struct Backlog {
    /// Its number in the trace.
    pub number: u64,
    /// Its address, which other listeners may have too.
    pub address: SocketAddr,
    /// The options of its connections.
    pub silence: SilenceOptions,
    most: usize,
    queue: RefCell<VecDeque<Rc<Link>>>,
    /// The number of descriptors of it.
    open: Cell<usize>,
    /// Wakes those that wait for a connection.
    pub changed: Notify,
}

impl Backlog {
    /// Returns a listener without connections, which queues at most `most`.
    pub fn new(number: u64, address: SocketAddr, most: usize, silence: SilenceOptions) -> Self {
        let (queue, open, changed) = (RefCell::default(), Cell::new(0), Notify::new());
        Backlog { number, address, silence, most, queue, open, changed }
    }

    /// Queues a connection. Returns `false` if the backlog is full.
    pub fn queue(&self, link: Rc<Link>) -> bool {
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= self.most {
            return false;
        }
        queue.push_back(link);
        drop(queue);
        self.changed.notify_waiters();
        true
    }

    /// Returns the oldest connection.
    pub fn oldest(&self) -> Option<Rc<Link>> {
        self.queue.borrow().front().cloned()
    }

    /// Removes the oldest connection.
    pub fn remove_oldest(&self) {
        self.queue.borrow_mut().pop_front();
    }

    /// Removes all connections.
    pub fn take_all(&self) -> VecDeque<Rc<Link>> {
        self.queue.take()
    }

    /// Counts another descriptor.
    pub fn retain(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// Counts a descriptor as closed. Returns whether it was the last one.
    pub fn release(&self) -> bool {
        self.open.set(self.open.get() - 1);
        self.open.get() == 0
    }
}
