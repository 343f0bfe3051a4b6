//! Checks every ack of one connection: its length, command, ID, order and result.
//!
//! [`AckChecker`] does no I/O. Its invariant: each ack ends at most one request in flight, so that a window never opens
//! by more than the server has answered.

use std::fmt;

use super::faults::{Fault, Faults};
use crate::ledger::{LedgerPen, LedgerResult};
use crate::proto::{ACK_LEN, AckCodes, Id, Kind, LENGTH_LEN};

/// The requests of one connection, and which of them were acked.
#[derive(Debug)]
pub struct AckChecker {
    /// The connection's number in the run, for descriptions of faults.
    connection: u64,
    /// The ID of the first request. Each other request has the ID of its predecessor plus 1.
    first: u64,
    /// The first eight bytes of a good ack, with zeros for the bytes of the ID.
    head: u64,
    /// The ID of the request that is sent next.
    next: u64,
    /// The ID whose ack is due next.
    due: u64,
    /// The beginning of an ack whose end has not arrived yet.
    part: [u8; ACK_LEN],
    part_len: usize,
    /// IDs that the server has skipped so far.
    skipped: Vec<u64>,
    /// In a run with a ledger, the requests that are no longer in flight and had no good ack: their IDs, and whether
    /// they were refused.
    exceptions: Option<Vec<(u64, bool)>>,
}

/// The length of an ack was wrong, so that the beginning of the next one is unknown.
#[derive(Debug, PartialEq, Eq)]
pub struct StreamLost;

impl fmt::Display for StreamLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its stream can't be parsed after an ack of a wrong length")
    }
}

impl AckChecker {
    /// Returns a checker for connection number `connection`, whose IDs count from `first`. If the connections have
    /// different IDs, an ack that went to the wrong connection is detected too.
    pub fn new(connection: u64, first: u64, codes: AckCodes) -> Self {
        let command = Kind::Submit as u8 + (codes.commands().start() - Kind::Conn as u8);
        let head = (ACK_LEN as u64) << 32 | u64::from(command) << 24;
        let (part, part_len, skipped) = ([0; ACK_LEN], 0, Vec::new());
        AckChecker { connection, first, head, next: first, due: first, part, part_len, skipped, exceptions: None }
    }

    /// Remembers, from now on, which requests had no good ack.
    pub fn keep_exceptions(&mut self) {
        self.exceptions = Some(Vec::new());
    }

    /// Records in a ledger the outcome of the requests from number `from` on that are no longer in flight, if they were
    /// acked or refused. Requests without an ack are not recorded.
    pub fn enter(&mut self, from: u64, pen: &mut LedgerPen) {
        let Some(exceptions) = &mut self.exceptions else { return };
        let mut from = self.first + from;
        exceptions.sort_unstable();
        for (id, refused) in exceptions.drain(..) {
            // The late ack of a request that was skipped before changes nothing.
            if id < from {
                continue;
            }
            pen.answered(self.connection, from - self.first, id - from, LedgerResult::Acked);
            if refused {
                pen.answered(self.connection, id - self.first, 1, LedgerResult::Failed);
            }
            from = id + 1;
        }
        pen.answered(self.connection, from - self.first, self.due - from, LedgerResult::Acked);
    }

    fn except(&mut self, id: u64, refused: bool) {
        if let Some(exceptions) = &mut self.exceptions {
            exceptions.push((id, refused));
        }
    }

    /// Returns the ID of the request that is sent next.
    #[inline]
    pub fn next_id(&self) -> u64 {
        self.next
    }

    /// Returns the number of requests that were sent so far.
    #[inline]
    pub fn sent(&self) -> u64 {
        self.next - self.first
    }

    /// Returns the number of requests that are no longer in flight. All of them were acked, except the skipped ones.
    #[inline]
    pub fn answered(&self) -> u64 {
        self.due - self.first
    }

    /// Returns the number of requests that await their acks.
    #[inline]
    pub fn in_flight(&self) -> u64 {
        self.next - self.due
    }

    /// Counts `count` more requests as sent.
    #[inline]
    pub fn send(&mut self, count: u64) {
        self.next += count;
    }

    /// Checks the acks in the bytes that the server sent.
    ///
    /// # Errors
    /// The rest of the stream can't be parsed.
    #[inline]
    pub fn receive(&mut self, mut input: &[u8], faults: &mut Faults) -> Result<(), StreamLost> {
        if self.part_len > 0 {
            let (missing, rest) = input.split_at(input.len().min(ACK_LEN - self.part_len));
            self.keep_part(missing, faults)?;
            input = rest;
            if self.part_len < ACK_LEN {
                return Ok(());
            }
            self.part_len = 0;
            self.check(self.part, faults)?;
        }
        let (acks, rest) = input.as_chunks::<ACK_LEN>();
        for ack in acks {
            self.check(*ack, faults)?;
        }
        self.keep_part(rest, faults)
    }

    /// Counts the acks that never arrived, for the reason `why`.
    pub fn finish(&mut self, why: &str, faults: &mut Faults) {
        let connection = self.connection;
        for (id, count) in self.skipped.drain(..).map(|id| (id, 1)).chain([(self.due, self.next - self.due)]) {
            let id = Id::from_number(id);
            match count {
                1 => faults.add(Fault::Missing, format_args!("connection {connection}, ID {id}: {why}")),
                _ => faults.add_many(
                    Fault::Missing,
                    count,
                    format_args!("connection {connection}, {count} acks from ID {id} on: {why}"),
                ),
            }
        }
        self.due = self.next;
    }

    /// Recognises a good ack by two comparisons of numbers: its first and its last eight bytes, which overlap. Reading
    /// an ack field by field costs more than everything else that is done for it.
    #[inline]
    fn check(&mut self, ack: [u8; ACK_LEN], faults: &mut Faults) -> Result<(), StreamLost> {
        let first = u64::from_be_bytes(*ack.first_chunk().expect("an ack has 14 bytes"));
        let last = u64::from_be_bytes(*ack.last_chunk().expect("an ack has 14 bytes"));
        if first == self.head | self.due >> 40 && last == self.due << 8 && self.due < self.next {
            self.due += 1;
            return Ok(());
        }
        self.judge(ack, faults)
    }

    /// Counts what is wrong with an ack, and decides which request it answers.
    #[cold]
    fn judge(&mut self, ack: [u8; ACK_LEN], faults: &mut Faults) -> Result<(), StreamLost> {
        self.judge_length(ack, faults)?;
        let connection = self.connection;
        let (command, result) = (ack[4], ack[13]);
        let number = u64::from_be_bytes(ack[5..13].try_into().expect("an ID has 8 bytes"));
        let (id, due) = (Id::from_number(number), Id::from_number(self.due));

        let expected = (self.head >> 24) as u8;
        if command != expected {
            let what =
                format_args!("connection {connection}, ID {id}: command {command:#04x} instead of {expected:#04x}");
            faults.add(Fault::Command, what);
        }
        if result != 0 {
            let what = format_args!("connection {connection}, ID {id}: result {result} instead of 0");
            faults.add(Fault::Result, what);
        }
        if let Some(index) = self.skipped.iter().position(|skipped| *skipped == number) {
            self.skipped.swap_remove(index);
            let what = format_args!("connection {connection}, ID {id}: acked after a later request");
            faults.add(Fault::Order, what);
        } else if (self.due..self.next).contains(&number) {
            for id in self.due..number {
                self.except(id, false);
                if self.skipped.len() < SKIPPED_MAX {
                    self.skipped.push(id);
                } else {
                    let what =
                        format_args!("connection {connection}, ID {}: skipped by the server", Id::from_number(id));
                    faults.add(Fault::Missing, what);
                }
            }
            if command != expected || result != 0 {
                self.except(number, result != 0);
            }
            self.due = number + 1;
        } else if number < self.due {
            faults.add(Fault::Doubled, format_args!("connection {connection}, ID {id}: acked a second time"));
        } else if self.due < self.next {
            // This ack counts as the answer to the expected ID, so that one wrong ID is one fault.
            let what = format_args!("connection {connection}: {id} instead of {due}");
            faults.add(Fault::Id, what);
            self.except(self.due, false);
            self.due += 1;
        } else {
            faults.add(Fault::Id, format_args!("connection {connection}: {id}, although no request was in flight"));
        }
        Ok(())
    }

    /// Keeps the beginning of an ack. A wrong length is detected as soon as it has arrived, because a server that sends
    /// 13 bytes for an ack would never send the 14th.
    fn keep_part(&mut self, bytes: &[u8], faults: &mut Faults) -> Result<(), StreamLost> {
        let len = self.part_len + bytes.len();
        self.part[self.part_len..len].copy_from_slice(bytes);
        self.part_len = len;
        if len >= LENGTH_LEN { self.judge_length(self.part, faults) } else { Ok(()) }
    }

    fn judge_length(&mut self, ack: [u8; ACK_LEN], faults: &mut Faults) -> Result<(), StreamLost> {
        let len = u32::from_be_bytes(*ack.first_chunk().expect("an ack has 14 bytes"));
        if len as usize == ACK_LEN {
            return Ok(());
        }
        let (connection, due) = (self.connection, Id::from_number(self.due));
        let what = format_args!("connection {connection}, ID {due}: a frame of {len} bytes, but an ack has {ACK_LEN}");
        faults.add(Fault::Length, what);
        // This frame counts as the expected ack, so that it is one fault, not a wrong length and a missing ack.
        if self.due < self.next {
            self.except(self.due, false);
            self.due += 1;
        }
        Err(StreamLost)
    }
}

/// How many skipped IDs a connection remembers, in case their acks arrive late.
const SKIPPED_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{AckResult, Acks};

    fn ack(id: u64) -> Vec<u8> {
        let mut acks = Acks::new(AckCodes::Spec);
        acks.push(Kind::Submit, Id::from_number(id), AckResult::Success);
        acks.take()
    }

    /// Returns the faults that a checker with `sent` requests finds in this input, cut at every place.
    fn faults_of(sent: u64, input: &[u8]) -> Vec<(Fault, u64)> {
        let run = |cut: usize| {
            let (mut checker, mut faults) = (AckChecker::new(0, 0, AckCodes::Spec), Faults::default());
            checker.send(sent);
            let lost = checker
                .receive(&input[..cut], &mut faults)
                .and_then(|()| checker.receive(&input[cut..], &mut faults))
                .is_err();
            checker.finish(if lost { "lost" } else { "never arrived" }, &mut faults);
            assert_eq!(checker.in_flight(), 0);
            Fault::ALL.into_iter().map(|f| (f, faults.count(f))).filter(|(_, count)| *count > 0).collect::<Vec<_>>()
        };
        let whole = run(0);
        for cut in 1..input.len() {
            assert_eq!(run(cut), whole, "cut at {cut}");
        }
        whole
    }

    #[test]
    fn good_acks_are_recognised_however_they_are_cut() {
        assert_eq!(faults_of(3, &[ack(0), ack(1), ack(2)].concat()), []);
    }

    #[test]
    fn good_acks_are_recognised_with_ids_of_any_size() {
        for codes in [AckCodes::Spec, AckCodes::Published] {
            for id in [0, 0xff, 0xff_ffff, 0x0100_0000, 0xff_ffff_ffff, 0x0100_0000_0000, u64::MAX - 1] {
                let (mut checker, mut faults) = (AckChecker::new(0, id, codes), Faults::default());
                checker.send(1);
                let mut acks = Acks::new(codes);
                acks.push(Kind::Submit, Id::from_number(id), AckResult::Success);
                checker.receive(acks.as_bytes(), &mut faults).unwrap();
                assert_eq!((checker.in_flight(), faults.total()), (0, 0), "{id:#x}: {:?}", faults.first());
            }
        }
    }

    #[test]
    fn each_changed_byte_is_a_fault() {
        for byte in 0..ACK_LEN {
            let mut bad = ack(0);
            bad[byte] ^= 0x40;
            assert!(!faults_of(1, &bad).is_empty(), "byte {byte}");
        }
    }

    #[test]
    fn a_wrong_id_is_one_fault() {
        assert_eq!(faults_of(3, &[ack(0), ack(77), ack(2)].concat()), [(Fault::Id, 1)]);
    }

    #[test]
    fn a_refusal_is_one_fault() {
        let mut refused = ack(0);
        refused[13] = 1;
        assert_eq!(faults_of(1, &refused), [(Fault::Result, 1)]);
    }

    #[test]
    fn a_second_ack_is_doubled() {
        assert_eq!(faults_of(2, &[ack(0), ack(0), ack(1)].concat()), [(Fault::Doubled, 1)]);
        assert_eq!(faults_of(1, &[ack(0), ack(0)].concat()), [(Fault::Doubled, 1)]);
    }

    #[test]
    fn an_ack_without_a_request_is_a_wrong_id() {
        assert_eq!(faults_of(0, &ack(0)), [(Fault::Id, 1)]);
    }

    #[test]
    fn a_skipped_ack_is_missing_and_a_late_one_is_out_of_order() {
        assert_eq!(faults_of(3, &[ack(0), ack(2)].concat()), [(Fault::Missing, 1)]);
        assert_eq!(faults_of(3, &[ack(1), ack(0), ack(2)].concat()), [(Fault::Order, 1)]);
        assert_eq!(faults_of(3, &ack(0)), [(Fault::Missing, 2)]);
    }

    #[test]
    fn acks_after_a_wrong_length_are_ignored() {
        let mut short = ack(1);
        short[3] = 13;
        short.pop();
        assert_eq!(faults_of(3, &[ack(0), short].concat()), [(Fault::Length, 1), (Fault::Missing, 1)]);
    }
}
