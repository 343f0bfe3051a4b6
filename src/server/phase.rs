//! The phases of a server's life, and the channel on which its shards learn of them.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// The phase that a server is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The server accepts and serves connections.
    Accepting,
    /// The server accepts no new connections. Connections that remain at `deadline` are cut.
    Draining {
        deadline: Instant,
        /// Whether connections that the listeners have queued are left to another process, which accepts from the same
        /// sockets.
        leaves_queue: bool,
    },
}

/// The server's end of the phase. If it is dropped, the shards drain.
#[derive(Debug)]
pub struct PhaseSender(Arc<Shared>);

/// A shard's end of the phase.
#[derive(Debug, Clone)]
pub struct PhaseReceiver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when the drain begins or the sender is dropped. Receivers are woken in the order in which they wait,
    /// which tokio's own channel for values (`watch`) does not promise.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    sender_is_gone: bool,
}

/// Returns both ends of the phase of a server that accepts.
pub fn channel() -> (PhaseSender, PhaseReceiver) {
    let state = Mutex::new(State { phase: Phase::Accepting, sender_is_gone: false });
    let shared = Arc::new(Shared { state, changed: Notify::new() });
    (PhaseSender(shared.clone()), PhaseReceiver(shared))
}

impl PhaseSender {
    /// Begins the drain, unless it has begun.
    pub fn drain(&self, deadline: Instant, leaves_queue: bool) {
        let mut state = self.0.state();
        if state.phase == Phase::Accepting {
            state.phase = Phase::Draining { deadline, leaves_queue };
            drop(state);
            self.0.changed.notify_waiters();
        }
    }

    /// Returns the present phase.
    pub fn get(&self) -> Phase {
        self.0.state().phase
    }

    /// Returns another receiver.
    pub fn subscribe(&self) -> PhaseReceiver {
        PhaseReceiver(self.0.clone())
    }
}

impl Drop for PhaseSender {
    fn drop(&mut self) {
        self.0.state().sender_is_gone = true;
        self.0.changed.notify_waiters();
    }
}

impl PhaseReceiver {
    /// Returns the present phase.
    pub fn get(&self) -> Phase {
        self.0.state().phase
    }

    /// Waits until the drain begins or the sender is dropped, and returns the phase. Cancel-safe.
    pub async fn accepting_ends(&self) -> Phase {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // From here on, a change wakes this task.
            changed.as_mut().enable();
            {
                let state = self.0.state();
                if state.phase != Phase::Accepting || state.sender_is_gone {
                    return state.phase;
                }
            }
            changed.await;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
