//! The state that handles, tickets and the driver share: the queue, the unacked requests, and how much of them is
//! written. It does no I/O.
//!
//! Invariant: `pending` holds consecutive IDs in the order of the stream. A comparison of a request's end with
//! `written` therefore shows whether it is written, partly written or not begun.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::select;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, TryAcquireError, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::client::error::{Cause, Error, Ids, PartlyWritten, ProtocolError, Unacked};
use crate::client::options::Options;
use crate::proto::{Ack, AckResult, HEADER_LEN, Id, Kind};

/// The outcome of one request: the result in its ack, or the reason why no ack will arrive. The request was withdrawn,
/// or the connection ended.
pub(super) type Answer = Result<AckResult, Arc<Error>>;
type Deadline = watch::Sender<Option<Instant>>;

/// The state of one connection, which its handles, its tickets and its driver share.
pub(super) struct Shared {
    state: Mutex<State>,
    frame_len_max: u32,
    /// Permits for requests that may be sent before the next ack arrives.
    pub(super) window: Semaphore,
    /// Permits for bytes that may be queued before some are written.
    pub(super) room: Semaphore,
    /// Wakes the driver when there is work.
    pub(super) work: Notify,
    pub(super) read_deadline: Deadline,
    pub(super) write_deadline: Deadline,
    ended: watch::Sender<bool>,
}

/// The part of [`Shared`] that its mutex protects.
pub(super) struct State {
    pub(super) phase: Phase,
    /// The error that ended the connection. Only the driver ends it, so the report in this error is exact.
    pub(super) ended: Option<Arc<Error>>,
    /// Reports the requests that were withdrawn after `finish` was called. `finish` returns it.
    pub(super) finish_error: Option<Arc<Error>>,
    /// Whole frames that the driver has not fetched yet.
    pub(super) queue: Vec<u8>,
    /// The unacked requests, oldest first.
    pub(super) pending: VecDeque<Pending>,
    /// The end of the last queued frame, in bytes from the start of the stream.
    queued: u64,
    /// The bytes of the stream that the kernel has accepted.
    pub(super) written: u64,
    id_next: u64,
}

/// The phase of a connection's life. A later phase never returns to an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Requests are accepted.
    Open,
    /// No request is accepted. The driver writes the queue, half-closes the connection and waits for every ack.
    Finishing,
    /// No request is accepted, and the driver closes the connection without waiting.
    Closing,
}

/// A request that is queued or written, and unacked.
pub(super) struct Pending {
    id: u64,
    kind: Kind,
    frame_len: usize,
    /// The end of its frame in the stream.
    end: u64,
    answer: oneshot::Sender<Answer>,
}

impl Shared {
    /// Creates the state of a connection without requests. `options` set its window and its largest frame.
    pub(super) fn new(options: &Options) -> Self {
        let queue_len_max = QUEUE_LEN_MAX.max(options.frame_len_max as usize);
        Shared {
            state: Mutex::new(State::new()),
            frame_len_max: options.frame_len_max,
            window: Semaphore::new(options.window),
            room: Semaphore::new(queue_len_max),
            work: Notify::new(),
            read_deadline: watch::Sender::new(None),
            write_deadline: watch::Sender::new(None),
            ended: watch::Sender::new(false),
        }
    }

    /// Locks the state.
    ///
    /// # Panics
    /// Another thread panicked while it held the lock.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    /// Waits for room and queues a request. Nothing is awaited after the queueing, so a future that is dropped has
    /// queued either the whole frame or nothing.
    pub(super) async fn send(&self, kind: Kind, payload: &[u8]) -> Result<(Id, oneshot::Receiver<Answer>), Error> {
        let frame_len_max = self.frame_len_max;
        let frame_len = u32::try_from(HEADER_LEN + payload.len()).ok().filter(|len| *len <= frame_len_max);
        let Some(frame_len) = frame_len else {
            return Err(Error::TooLarge { payload_len: payload.len(), frame_len_max });
        };
        if self.write_deadline.borrow().is_some_and(|at| at <= Instant::now()) {
            return Err(self.write_deadline_error());
        }
        let window = self.acquire(&self.window, 1).await?;
        let room = self.acquire(&self.room, frame_len).await?;
        let mut state = self.state();
        if let Some(error) = &state.ended {
            return Err(Error::clone(error));
        }
        if state.phase != Phase::Open {
            return Err(Error::Closing);
        }
        // The driver returns the permits: the window's with the ack, the room's with the write.
        window.forget();
        room.forget();
        let (id, answer) = state.queue(kind, payload);
        drop(state);
        self.work.notify_one();
        Ok((id, answer))
    }

    /// Acquires permits. If none are free, it waits for them until a deadline passes.
    async fn acquire<'a>(&self, from: &'a Semaphore, count: u32) -> Result<SemaphorePermit<'a>, Error> {
        let acquired = match from.try_acquire_many(count) {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(self.ended().await),
            Err(TryAcquireError::NoPermits) => select! {
                biased;
                acquired = from.acquire_many(count) => acquired,
                () = passed(&self.write_deadline) => return Err(self.write_deadline_error()),
                () = passed(&self.read_deadline) => return Err(self.read_deadline_error()),
            },
        };
        match acquired {
            Ok(permit) => Ok(permit),
            Err(_closed) => Err(self.ended().await),
        }
    }

    /// Returns the error of a read deadline that has passed, with the requests that are unacked now.
    pub(super) fn read_deadline_error(&self) -> Error {
        self.error_with_report(|unacked| Error::ReadDeadline { unacked })
    }

    fn write_deadline_error(&self) -> Error {
        self.error_with_report(|unacked| Error::WriteDeadline { unacked })
    }

    /// Returns the error for a deadline, or the error that ended the connection, if it has ended.
    fn error_with_report(&self, error: impl FnOnce(Unacked) -> Error) -> Error {
        let state = self.state();
        match &state.ended {
            Some(ended) => Error::clone(ended),
            None => error(state.unacked()),
        }
    }

    /// Waits until the connection has ended, and returns the reason. Cancel-safe.
    pub(super) async fn ended(&self) -> Error {
        // The sender is in `self`, so the channel is open.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
        let state = self.state();
        Error::clone(state.ended.as_ref().expect("the error is stored before it is announced"))
    }

    /// Ends the connection and notifies everybody. Later calls have no effect.
    pub(super) fn end(&self, cause: Cause) {
        let mut state = self.state();
        if state.ended.is_some() {
            return;
        }
        let error = Arc::new(Error::Ended { cause, unacked: state.unacked() });
        state.ended = Some(error.clone());
        state.queue = Vec::new();
        let pending = mem::take(&mut state.pending);
        drop(state);
        self.window.close();
        self.room.close();
        for request in pending {
            // An error means that the ticket was dropped, which is the caller's choice.
            let _ = request.answer.send(Err(error.clone()));
        }
        self.ended.send_replace(true);
    }

    /// Withdraws every frame that is not begun, after the write deadline has passed.
    ///
    /// # Errors
    /// A frame is partly written, so the connection cannot continue.
    pub(super) fn withdraw(&self) -> Result<(), Cause> {
        let mut state = self.state();
        let unacked = state.unacked();
        if unacked.partly_written.is_some() {
            return Err(Cause::WriteDeadline);
        }
        let error = Arc::new(Error::WriteDeadline { unacked });
        if state.phase == Phase::Finishing {
            state.finish_error = Some(error.clone());
        }
        let (requests, bytes) = state.withdraw(unacked);
        drop(state);
        self.window.add_permits(requests.len());
        self.room.add_permits(bytes);
        for request in requests {
            let _ = request.answer.send(Err(error.clone()));
        }
        Ok(())
    }
}

impl State {
    fn new() -> Self {
        State {
            phase: Phase::Open,
            ended: None,
            finish_error: None,
            queue: Vec::new(),
            pending: VecDeque::new(),
            queued: 0,
            written: 0,
            id_next: 1,
        }
    }

    fn queue(&mut self, kind: Kind, payload: &[u8]) -> (Id, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();
        let (id, frame_len) = (self.id_next, HEADER_LEN + payload.len());
        self.id_next = id.wrapping_add(1);
        kind.encode(Id::from_number(id), payload, &mut self.queue);
        self.queued += frame_len as u64;
        self.pending.push_back(Pending { id, kind, frame_len, end: self.queued, answer });
        (Id::from_number(id), receiver)
    }

    /// Matches an ack with the oldest unacked request.
    pub(super) fn settle(&mut self, ack: Ack) -> Result<(), ProtocolError> {
        let written = self.written;
        let is_written = |request: &&Pending| request.end <= written;
        match self.pending.front().filter(is_written).map(|request| (request.kind, Id::from_number(request.id))) {
            Some(expected) if expected == (ack.kind, ack.id) => {
                let request = self.pending.pop_front().expect("the front was matched above");
                let _ = request.answer.send(Ok(ack.result));
                Ok(())
            }
            expected => Err(ProtocolError::Unexpected { got: ack, expected }),
        }
    }

    /// Removes the requests that are not begun. Returns them and the number of their bytes.
    fn withdraw(&mut self, unacked: Unacked) -> (VecDeque<Pending>, usize) {
        let bytes = usize::try_from(self.queued - self.written).expect("what is queued is in memory");
        self.queue.clear();
        self.queued = self.written;
        // The IDs on the wire count up by one, so the next request uses the first of the withdrawn IDs.
        self.id_next = unacked.unwritten.first;
        (self.pending.split_off(unacked.written.count), bytes)
    }

    /// Returns the unacked requests. Once the connection has ended, these are the ones that were unacked at its end.
    pub(super) fn unacked(&self) -> Unacked {
        if let Some(unacked) = self.ended.as_ref().and_then(|error| error.unacked()) {
            return *unacked;
        }
        let written_count = self.pending.partition_point(|request| request.end <= self.written);
        let partly_written = self.pending.get(written_count).and_then(|request| {
            let bytes_unwritten = usize::try_from(request.end - self.written).expect("what is queued is in memory");
            let bytes_written = request.frame_len.checked_sub(bytes_unwritten).filter(|bytes| *bytes > 0)?;
            Some(PartlyWritten { id: Id::from_number(request.id), bytes_written, frame_len: request.frame_len })
        });
        let begun_count = written_count + usize::from(partly_written.is_some());
        let first_at = |index: usize| self.pending.get(index).map_or(self.id_next, |request| request.id);
        Unacked {
            bytes_written: self.written,
            written: Ids { first: first_at(0), count: written_count },
            partly_written,
            unwritten: Ids { first: first_at(begun_count), count: self.pending.len() - begun_count },
        }
    }
}

/// Waits until the deadline has passed, even if it is changed meanwhile. Cancel-safe.
pub(super) async fn passed(deadline: &Deadline) {
    let mut deadline = deadline.subscribe();
    loop {
        let at = *deadline.borrow_and_update();
        match at {
            Some(at) if at <= Instant::now() => return,
            Some(at) => select! {
                () = sleep_until(at) => {}
                _ = deadline.changed() => {}
            },
            None => _ = deadline.changed().await,
        }
    }
}

/// Bytes that may be queued and not yet written. A single frame may be larger.
const QUEUE_LEN_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: Ids) -> Vec<u64> {
        ids.iter().map(|id| u64::from_be_bytes(id.0)).collect()
    }

    fn success(id: u64) -> Ack {
        Ack { kind: Kind::Submit, id: Id::from_number(id), result: AckResult::Success }
    }

    #[test]
    fn report_follows_every_written_byte() {
        for written in 0..=60 {
            let mut state = State::new();
            let _answers: Vec<_> = (0..3).map(|_| state.queue(Kind::Submit, b"1234567")).collect();
            state.written = written;
            let unacked = state.unacked();
            let (whole, part) = (written / 20, written as usize % 20);
            assert_eq!(ids(unacked.written), (1..=whole).collect::<Vec<_>>(), "{written} bytes");
            let partly = PartlyWritten { id: Id::from_number(whole + 1), bytes_written: part, frame_len: 20 };
            assert_eq!(unacked.partly_written, (part > 0).then_some(partly), "{written} bytes");
            assert_eq!(ids(unacked.unwritten), (whole + 1 + u64::from(part > 0)..=3).collect::<Vec<_>>());
        }
    }

    #[test]
    fn only_the_oldest_written_request_can_be_acked() {
        let mut state = State::new();
        let _answers: Vec<_> = (0..2).map(|_| state.queue(Kind::Submit, b"")).collect();
        state.written = 12;
        let unexpected = |got, expected| Err(ProtocolError::Unexpected { got, expected });
        assert_eq!(state.settle(success(1)), unexpected(success(1), None), "an ack before its request");
        state.written = 26;
        let expected = Some((Kind::Submit, Id::from_number(1)));
        assert_eq!(state.settle(success(2)), unexpected(success(2), expected));
        assert_eq!(state.settle(success(1)), Ok(()));
        assert_eq!(state.settle(success(2)), Ok(()));
        assert_eq!(state.settle(success(2)), unexpected(success(2), None));
    }

    #[tokio::test]
    async fn unwritten_requests_are_withdrawn_and_their_ids_used_again() {
        let options = Options::default().window(3);
        let shared = Shared::new(&options);
        let (_, _first) = shared.send(Kind::Submit, b"1234567").await.unwrap();
        let (_, second) = shared.send(Kind::Submit, b"1234567").await.unwrap();
        let (_, third) = shared.send(Kind::Conn, b"").await.unwrap();
        shared.state().written = 20;
        shared.room.add_permits(20);
        shared.withdraw().unwrap();
        for withdrawn in [second, third] {
            let error = withdrawn.await.unwrap().unwrap_err();
            let Error::WriteDeadline { unacked } = *error else { panic!("{error}") };
            assert_eq!((ids(unacked.written), ids(unacked.unwritten)), (vec![1], vec![2, 3]));
        }
        assert_eq!(shared.room.available_permits(), QUEUE_LEN_MAX);
        assert_eq!(shared.window.available_permits(), 2);
        let (id, _again) = shared.send(Kind::Submit, b"").await.unwrap();
        assert_eq!(id, Id::from_number(2));

        shared.state().written = 21;
        assert!(matches!(shared.withdraw(), Err(Cause::WriteDeadline)), "a partly written frame can't be withdrawn");
    }

    #[tokio::test]
    async fn ids_wrap() {
        let shared = Shared::new(&Options::default());
        shared.state().id_next = u64::MAX;
        assert_eq!(shared.send(Kind::Submit, b"").await.unwrap().0, Id::from_number(u64::MAX));
        assert_eq!(shared.send(Kind::Submit, b"").await.unwrap().0, Id::from_number(0));
    }
}
