//! Whether a writer takes records, and what becomes of those that it has when it does not any more.

use tracing::{error, info};

use super::{Outcome, Shared, State, Storage};

/// How a writer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Serving,
    /// Refuses records for want of room, until there is room again.
    Full(String),
    /// Refuses records for good.
    Failed(String),
}

impl<S: Storage> Shared<S> {
    pub fn condition(&self) -> Condition {
        self.state.borrow().condition.clone()
    }

    /// Ends the writer's service for good.
    pub fn fail(&self, why: &str) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.failed.is_none() {
            state.failed = Some(why.to_owned());
            self.drop_all(state);
            self.update_condition(state);
        }
    }

    /// The same without a word: nobody is served any more.
    pub fn abandon(&self) {
        let mut state = self.state.borrow_mut();
        let why = state.failed.get_or_insert_with(|| "the writer is gone".to_owned()).clone();
        state.condition = Condition::Failed(why);
        self.drop_all(&mut state);
    }

    fn drop_all(&self, state: &mut State<S::File>) {
        for commit in state.in_flight.drain(..) {
            commit.ticket.resolve(Outcome::Failed);
        }
        state.in_flight_bytes = 0;
        state.cut = None;
        self.drop_gathered(state);
    }

    pub(super) fn drop_gathered(&self, state: &mut State<S::File>) {
        for gather in state.gathered.drain(..) {
            gather.ticket().resolve(Outcome::Failed);
        }
        state.gathered_bytes = 0;
        self.room.notify();
    }

    /// Works the condition out again, and tells if it has changed.
    pub fn update_condition(&self, state: &mut State<S::File>) {
        let no_room = state.no_room.as_ref().filter(|_| state.out_of_segments);
        let condition = match (&state.failed, no_room.or(state.low.as_ref())) {
            (Some(why), _) => Condition::Failed(why.clone()),
            (_, Some(why)) => Condition::Full(why.clone()),
            (None, None) => Condition::Serving,
        };
        if condition == state.condition {
            return;
        }
        match &condition {
            Condition::Serving => info!(writer = %self.id, "the journal has room again"),
            Condition::Full(why) => {
                error!(writer = %self.id, "the journal refuses messages until there is room: {why}")
            }
            Condition::Failed(why) => error!(writer = %self.id, "the journal refuses messages until a restart: {why}"),
        }
        state.condition = condition;
        self.observer.condition(&state.condition);
        self.room.notify();
    }
}
