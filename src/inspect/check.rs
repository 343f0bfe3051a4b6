//! `ringpost journal check`: compares a journal with the ledger of a load run.
//!
//! Every acked send must be in the journal exactly as it was sent, once, and in the order of its connection. A send
//! that was not acked may or may not be in the journal. If it is, the same rules apply to it.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::path::Path;

use super::notes;
use crate::journal::{Reader, ReaderOptions};
use crate::ledger::{Entry, LedgerReader, LedgerResult, Stamp};
use crate::output;

/// One send, as the ledger records it, and whether the journal has it.
#[derive(Debug, Clone, Copy)]
struct Send {
    crc: u32,
    result: Option<LedgerResult>,
    seen: bool,
}

/// One connection's sends, by their numbers.
#[derive(Debug, Default)]
struct Connection {
    sends: Vec<Send>,
    /// The number after the highest one that the journal has returned.
    next: u64,
}

/// The faults that a check has found: their counts, and descriptions of the first few.
#[derive(Debug, Default)]
struct Faults {
    counts: [u64; KINDS.len()],
    described: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Missing,
    Doubled,
    Different,
    Disordered,
    Unknown,
}

const KINDS: [&str; 5] = ["missing", "doubled", "different", "out of order", "never sent"];
/// The number of faults that are described.
const DESCRIBED_MAX: usize = 10;

impl Faults {
    fn add(&mut self, kind: Kind, what: impl fmt::Display) {
        self.counts[kind as usize] += 1;
        if self.described.len() < DESCRIBED_MAX {
            self.described.push(format!("{}: {what}", KINDS[kind as usize]));
        }
    }
}

/// Compares a journal with a ledger, and prints the result. Returns whether the journal is sound.
pub fn check(ledger: &Path, data_dir: &Path) -> anyhow::Result<bool> {
    let mut reader = LedgerReader::open(ledger)?;
    let (run, mut whole) = (reader.run, false);
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    while let Some(entry) = reader.next_entry()? {
        whole = entry == Entry::End;
        if !add(&mut connections, entry) {
            anyhow::bail!("{} is damaged: its entries are out of order; repeat the bench run", ledger.display());
        }
    }

    let mut faults = Faults::default();
    // Damage is reported, and the records that it destroyed count as missing.
    let mut journal = Reader::open(data_dir, ReaderOptions::default().salvage(true))?;
    let (mut records, mut foreign) = (0u64, 0u64);
    for record in journal.by_ref() {
        let record = record?;
        let Some(stamp) = Stamp::decode(&record.payload).filter(|stamp| stamp.run == run) else {
            foreign += 1;
            continue;
        };
        records += 1;
        let Stamp { connection, number, .. } = stamp;
        let place = format_args!("connection {connection}, send {number}, at {}", record.position);
        let known = connections.get_mut(&connection);
        let Some((known, next)) =
            known.and_then(|c| Some((c.sends.get_mut(usize::try_from(number).ok()?)?, &mut c.next)))
        else {
            // An incomplete ledger lacks the last sends.
            if whole {
                faults.add(Kind::Unknown, place);
            }
            continue;
        };
        if known.seen {
            faults.add(Kind::Doubled, place);
        } else if number < *next {
            faults.add(Kind::Disordered, place);
        }
        if crc32c::crc32c(&record.payload) != known.crc {
            faults.add(Kind::Different, place);
        }
        known.seen = true;
        *next = (*next).max(number + 1);
    }
    let damaged = notes::print(journal.take_notes());

    let mut counts = [0u64; 4];
    let mut numbers: Vec<_> = connections.keys().copied().collect();
    numbers.sort_unstable();
    for connection in numbers {
        for (number, send) in connections[&connection].sends.iter().enumerate() {
            let [sent, acked, failed, unacked_found] = &mut counts;
            *sent += 1;
            match send.result {
                Some(LedgerResult::Acked) => {
                    *acked += 1;
                    if !send.seen {
                        faults.add(Kind::Missing, format_args!("connection {connection}, send {number}"));
                    }
                }
                Some(LedgerResult::Failed) => *failed += 1,
                None => {}
            }
            *unacked_found += u64::from(send.seen && send.result != Some(LedgerResult::Acked));
        }
    }
    let sound = damaged == 0 && faults.counts.iter().all(|count| *count == 0);
    let mut text = String::new();
    report(&mut text, &faults, sound, whole, counts, records, foreign)?;
    output::print_whole(text)?;
    Ok(sound)
}

/// Adds one entry. Returns whether it fits the entries before it.
fn add(connections: &mut HashMap<u64, Connection>, entry: Entry) -> bool {
    match entry {
        Entry::Sent { connection, first, crcs } => {
            let sends = &mut connections.entry(connection).or_default().sends;
            if first != sends.len() as u64 {
                return false;
            }
            sends.extend(crcs.into_iter().map(|crc| Send { crc, result: None, seen: false }));
        }
        Entry::Result { connection, first, count, result } => {
            let sends = connections.get_mut(&connection).map(|connection| &mut connection.sends);
            let range = usize::try_from(first).ok().and_then(|first| Some(first..first.checked_add(count as usize)?));
            let Some(answered) = sends.zip(range).and_then(|(sends, range)| sends.get_mut(range)) else { return false };
            for send in answered {
                send.result = Some(result);
            }
        }
        Entry::End => {}
    }
    true
}

fn report(
    out: &mut String,
    faults: &Faults,
    sound: bool,
    whole: bool,
    counts: [u64; 4],
    records: u64,
    foreign: u64,
) -> fmt::Result {
    let [sent, acked, failed, unacked_found] = counts;
    if !whole {
        writeln!(out, "the ledger was cut short: records that are not in it are not judged")?;
    }
    writeln!(
        out,
        "{sent} sent, {acked} acked, {failed} failed; the journal has {records} records of this run, \
         {unacked_found} of them not acked, and {foreign} other records"
    )?;
    if sound {
        return writeln!(out, "sound: every acked message is in the journal, as it was sent, once, and in order");
    }
    for (kind, count) in KINDS.iter().zip(faults.counts).filter(|(_, count)| *count > 0) {
        writeln!(out, "{kind}: {count}")?;
    }
    for fault in &faults.described {
        writeln!(out, "  {fault}")?;
    }
    writeln!(out, "NOT sound")
}
