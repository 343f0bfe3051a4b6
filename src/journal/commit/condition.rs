//! The condition of a writer: whether it accepts records, and if it doesn't, what must happen first.
//!
//! [`Service`] is the only place that decides this. It knows no files: `C` is what must be cut back after a commit ran
//! out of space. Events may come in any order, and every pair of a state and an event has a defined result.
//!
//! | event \ state             | `Ready`         | `Short`         | `OutOfSegments` | `CommitRefused` | `CutDue`        | `Failed` |
//! |---------------------------|-----------------|-----------------|-----------------|-----------------|-----------------|----------|
//! | `segment_made`            | keep it         | `Ready`         | `Ready`         | discard it      | discard it      | keep it  |
//! | `segment_refused`         | `Short`         | new reason      | new reason      | new reason      | new reason      | -        |
//! | `segment_missing`         | -               | `OutOfSegments` | -               | -               | -               | -        |
//! | `commit_refused`          | `CommitRefused` | `CommitRefused` | `CommitRefused` | -               | -               | -        |
//! | `refused_commits_dropped` | panics          | panics          | panics          | `CutDue`        | panics          | panics   |
//! | `cut_back`                | panics          | panics          | panics          | panics          | `OutOfSegments` | -        |
//! | `write_failed`            | `Failed`        | `Failed`        | `Failed`        | `Failed`        | `Failed`        | -        |
//!
//! "-" means that nothing changes. The first reason why there is no segment is kept by `commit_refused`. Whether free
//! space is low (`space_low`, `space_returned`) and whether the writer is closing (`close`) are independent of the
//! state.
//!
//! | state | records | commits are started | segments are made |
//! |-------|---------|---------------------|-------------------|
//! | `Ready`, `Short` | accepted, unless space is low | yes | yes |
//! | `OutOfSegments`  | refused | yes, but no commit is open | yes |
//! | `CommitRefused`, `CutDue` | refused | no | only after the cut |
//! | `Failed`         | refused until a restart | no | no |

/// Whether a writer accepts records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The writer accepts records.
    Serving,
    /// The writer refuses records until there is room again. The text is the reason.
    Full(String),
    /// The writer refuses records permanently. The text is the reason.
    Failed(String),
}

/// The state machine of a writer's condition.
#[derive(Debug)]
pub struct Service<C> {
    state: State<C>,
    /// Why free space is too low.
    low: Option<String>,
    closing: bool,
    /// The condition that follows from the fields above. It is kept because every staged record asks for it.
    condition: Condition,
    /// The condition has changed since [`Self::take_change`].
    changed: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State<C> {
    /// Nothing is wrong with the segments.
    Ready,
    /// The last attempt to make a segment failed. The active segment may still have room.
    Short { why: String },
    /// A commit needed a segment and no segment had room, or the journal was cut back.
    OutOfSegments { why: String },
    /// A commit ran out of space. Earlier commits have no outcome yet.
    CommitRefused { why: String },
    /// All commits that failed for lack of space are known. Their segments must be cut back.
    CutDue { why: String, cut: C },
    /// An error that is final.
    Failed { why: String },
}

impl<C> Service<C> {
    /// Returns the condition of a new writer, which serves.
    pub fn new() -> Self {
        Service { state: State::Ready, low: None, closing: false, condition: Condition::Serving, changed: false }
    }

    /// Returns the present condition.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Returns whether records are accepted.
    #[inline]
    pub fn accepts(&self) -> bool {
        matches!(self.condition, Condition::Serving)
    }

    /// Returns whether the writer has failed.
    pub fn is_failed(&self) -> bool {
        matches!(self.state, State::Failed { .. })
    }

    /// Returns whether commits may be started.
    pub fn starts_commits(&self) -> bool {
        matches!(self.state, State::Ready | State::Short { .. } | State::OutOfSegments { .. })
    }

    /// Returns whether the last attempt to make a segment, or the last commit, found no room.
    pub fn lacks_room(&self) -> bool {
        !matches!(self.state, State::Ready | State::Failed { .. })
    }

    /// Returns whether a commit ran out of space, and the journal was not cut back yet.
    pub fn needs_cut(&self) -> bool {
        matches!(self.state, State::CommitRefused { .. } | State::CutDue { .. })
    }

    /// Returns what must be cut back, if that is known.
    pub fn cut(&self) -> Option<&C> {
        match &self.state {
            State::CutDue { cut, .. } => Some(cut),
            _ => None,
        }
    }

    /// Returns whether the writer is closing.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Returns the condition if it has changed since the last call.
    pub fn take_change(&mut self) -> Option<&Condition> {
        std::mem::take(&mut self.changed).then_some(&self.condition)
    }

    /// Handles a new segment. Returns whether the writer keeps it: after a commit ran out of space, another segment is
    /// needed than the one that was being made.
    pub fn segment_made(&mut self) -> bool {
        match self.state {
            State::CommitRefused { .. } | State::CutDue { .. } => return false,
            State::Short { .. } | State::OutOfSegments { .. } => self.enter(State::Ready),
            State::Ready | State::Failed { .. } => {}
        }
        true
    }

    /// Handles a failed attempt to make a segment. Returns whether it is the first one since a segment was made.
    pub fn segment_refused(&mut self, reason: String) -> bool {
        match &mut self.state {
            State::Ready => {
                self.enter(State::Short { why: reason });
                return true;
            }
            State::Short { why }
            | State::OutOfSegments { why }
            | State::CommitRefused { why }
            | State::CutDue { why, .. } => *why = reason,
            State::Failed { .. } => {}
        }
        self.update();
        false
    }

    /// Handles a commit that needs a segment when no segment has room. Returns whether open commits fail because of
    /// that; otherwise they wait for the segment that is being made.
    pub fn segment_missing(&mut self) -> bool {
        if let State::Short { why } = &mut self.state {
            let why = std::mem::take(why);
            self.enter(State::OutOfSegments { why });
        }
        matches!(self.state, State::OutOfSegments { .. })
    }

    /// Handles a commit whose write ran out of space.
    pub fn commit_refused(&mut self, reason: String) {
        match &mut self.state {
            State::Ready => self.enter(State::CommitRefused { why: reason }),
            State::Short { why } | State::OutOfSegments { why } => {
                let why = std::mem::take(why);
                self.enter(State::CommitRefused { why });
            }
            State::CommitRefused { .. } | State::CutDue { .. } | State::Failed { .. } => {}
        }
    }

    /// Handles the end of all commits from the refused one on. `cut` is what must be cut back.
    ///
    /// # Panics
    /// No commit was refused.
    pub fn refused_commits_dropped(&mut self, cut: C) {
        let State::CommitRefused { why } = &mut self.state else { panic!("no commit was refused") };
        let why = std::mem::take(why);
        self.enter(State::CutDue { why, cut });
    }

    /// Handles the end of the cut: the journal holds nothing but what is durable. If the writer has failed meanwhile,
    /// nothing changes.
    ///
    /// # Panics
    /// No cut was due.
    pub fn cut_back(&mut self) {
        match &mut self.state {
            State::CutDue { why, .. } => {
                let why = std::mem::take(why);
                self.enter(State::OutOfSegments { why });
            }
            State::Failed { .. } => {}
            _ => panic!("no cut was due"),
        }
    }

    /// Handles an error that is final. Returns whether it is the first one.
    pub fn write_failed(&mut self, why: &str) -> bool {
        if self.is_failed() {
            return false;
        }
        self.enter(State::Failed { why: why.to_owned() });
        true
    }

    /// Handles a check that found too little free space. The first reason is kept, since every change of the reason is
    /// reported.
    pub fn space_low(&mut self, why: impl FnOnce() -> String) {
        self.low.get_or_insert_with(why);
        self.update();
    }

    /// Handles a check that found enough free space.
    pub fn space_returned(&mut self) {
        self.low = None;
        self.update();
    }

    /// Makes all tasks of the writer end.
    pub fn close(&mut self) {
        self.closing = true;
    }

    fn enter(&mut self, state: State<C>) {
        self.state = state;
        self.update();
    }

    /// Works out the condition.
    fn update(&mut self) {
        let condition = match (&self.state, &self.low) {
            (State::Failed { why }, _) => Condition::Failed(why.clone()),
            (State::OutOfSegments { why } | State::CommitRefused { why } | State::CutDue { why, .. }, _) => {
                Condition::Full(why.clone())
            }
            (State::Ready | State::Short { .. }, Some(why)) => Condition::Full(why.clone()),
            (State::Ready | State::Short { .. }, None) => Condition::Serving,
        };
        if condition != self.condition {
            self.condition = condition;
            self.changed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Event {
        SegmentMade,
        SegmentRefused,
        SegmentMissing,
        CommitRefused,
        RefusedCommitsDropped,
        CutBack,
        WriteFailed,
    }

    use Event::*;

    const EVENTS: [Event; 7] =
        [SegmentMade, SegmentRefused, SegmentMissing, CommitRefused, RefusedCommitsDropped, CutBack, WriteFailed];

    type MakeService = fn() -> Service<u8>;

    fn handle(service: &mut Service<u8>, event: Event) -> Option<bool> {
        match event {
            SegmentMade => return Some(service.segment_made()),
            SegmentRefused => return Some(service.segment_refused("new".into())),
            SegmentMissing => return Some(service.segment_missing()),
            CommitRefused => service.commit_refused("new".into()),
            RefusedCommitsDropped => service.refused_commits_dropped(7),
            CutBack => service.cut_back(),
            WriteFailed => return Some(service.write_failed("new")),
        }
        None
    }

    /// Returns a service in each state, reached by events, with the reason "old".
    fn states() -> Vec<(&'static str, MakeService)> {
        fn short() -> Service<u8> {
            let mut service = Service::new();
            assert!(service.segment_refused("old".into()));
            service
        }
        fn out() -> Service<u8> {
            let mut service = short();
            assert!(service.segment_missing());
            service
        }
        fn refused() -> Service<u8> {
            let mut service = Service::new();
            service.commit_refused("old".into());
            service
        }
        fn cut_due() -> Service<u8> {
            let mut service = refused();
            service.refused_commits_dropped(1);
            service
        }
        fn failed() -> Service<u8> {
            let mut service = Service::new();
            assert!(service.write_failed("old"));
            service
        }
        vec![
            ("ready", Service::new),
            ("short", short),
            ("out", out),
            ("refused", refused),
            ("cut due", cut_due),
            ("failed", failed),
        ]
    }

    fn name(service: &Service<u8>) -> String {
        match &service.state {
            State::Ready => "ready".into(),
            State::Short { why } => format!("short, {why}"),
            State::OutOfSegments { why } => format!("out, {why}"),
            State::CommitRefused { why } => format!("refused, {why}"),
            State::CutDue { why, cut } => format!("cut due {cut}, {why}"),
            State::Failed { why } => format!("failed, {why}"),
        }
    }

    #[test]
    fn every_event_in_every_state_leads_to_the_state_of_the_table() {
        let yes = Some(true);
        let no = Some(false);
        // The rows are states and the columns are events, in the order of the lists above.
        let table: [[(&str, Option<bool>); 7]; 6] = [
            [
                ("ready", yes),
                ("short, new", yes),
                ("ready", no),
                ("refused, new", None),
                ("panic", None),
                ("panic", None),
                ("failed, new", yes),
            ],
            [
                ("ready", yes),
                ("short, new", no),
                ("out, old", yes),
                ("refused, old", None),
                ("panic", None),
                ("panic", None),
                ("failed, new", yes),
            ],
            [
                ("ready", yes),
                ("out, new", no),
                ("out, old", yes),
                ("refused, old", None),
                ("panic", None),
                ("panic", None),
                ("failed, new", yes),
            ],
            [
                ("refused, old", no),
                ("refused, new", no),
                ("refused, old", no),
                ("refused, old", None),
                ("cut due 7, old", None),
                ("panic", None),
                ("failed, new", yes),
            ],
            [
                ("cut due 1, old", no),
                ("cut due 1, new", no),
                ("cut due 1, old", no),
                ("cut due 1, old", None),
                ("panic", None),
                ("out, old", None),
                ("failed, new", yes),
            ],
            [
                ("failed, old", yes),
                ("failed, old", no),
                ("failed, old", no),
                ("failed, old", None),
                ("panic", None),
                ("failed, old", None),
                ("failed, old", no),
            ],
        ];
        for ((from, make), row) in states().into_iter().zip(table) {
            for (event, expected) in EVENTS.into_iter().zip(row) {
                let mut service = make();
                let found = match catch_unwind(AssertUnwindSafe(|| handle(&mut service, event))) {
                    Ok(answer) => (name(&service), answer),
                    Err(_) => ("panic".to_owned(), None),
                };
                assert_eq!((found.0.as_str(), found.1), expected, "{event:?} in the state {from}");
            }
        }
    }

    #[test]
    fn the_condition_follows_from_the_state_and_the_free_space() {
        for (state, make) in states() {
            for low in [false, true] {
                let mut service = make();
                service.take_change();
                let before = service.condition().clone();
                if low {
                    service.space_low(|| "low".into());
                    service.space_low(|| "lower".into());
                }
                let full = |why: &str| Condition::Full(why.into());
                let expected = match (state, low) {
                    ("failed", _) => Condition::Failed("old".into()),
                    ("out" | "refused" | "cut due", _) => full("old"),
                    (_, true) => full("low"),
                    (_, false) => Condition::Serving,
                };
                assert_eq!(*service.condition(), expected, "{state}");
                assert_eq!(service.accepts(), expected == Condition::Serving, "{state}");
                assert_eq!(service.take_change().is_some(), before != expected, "{state}");
                service.space_returned();
                assert_eq!(*service.condition(), before, "{state}");
                let (commits, segments, cut) = match state {
                    "ready" => (true, false, false),
                    "short" | "out" => (true, true, false),
                    "refused" | "cut due" => (false, true, true),
                    _ => (false, false, false),
                };
                let found = (service.starts_commits(), service.lacks_room(), service.needs_cut());
                assert_eq!(found, (commits, segments, cut), "{state}");
                assert_eq!(service.cut().is_some(), state == "cut due");
                service.close();
                assert!(service.is_closing() && name(&service).starts_with(state));
            }
        }
    }
}
