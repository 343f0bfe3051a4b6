//! `ringpost journal check`: holds a journal against the ledger of a load run.
//!
//! Every acked send must be in the journal exactly as it was sent, once, and in the order of its
//! connection; what was not acked may be there or not, but if it is, the same holds for it.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::path::Path;

use super::out;
use crate::journal::{Reader, ReaderOptions};
use crate::ledger::{Entry, LedgerReader, LedgerResult, Stamp};

/// What a ledger says of one send, and what the journal has shown of it.
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
    /// The number behind the last one seen.
    next: u64,
}

/// What is wrong, counted, with the first few told.
#[derive(Debug, Default)]
struct Faults {
    counts: [u64; KINDS.len()],
    told: Vec<String>,
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
/// Faults that are told in full.
const TOLD_MAX: usize = 10;

impl Faults {
    fn add(&mut self, kind: Kind, what: impl fmt::Display) {
        self.counts[kind as usize] += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(format!("{}: {what}", KINDS[kind as usize]));
        }
    }
}

/// Checks, and prints what came of it. Says whether all is as it must be.
pub fn check(ledger: &Path, data_dir: &Path) -> anyhow::Result<bool> {
    let mut reader = LedgerReader::open(ledger)?;
    let (run, mut whole) = (reader.run, false);
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    while let Some(entry) = reader.next_entry()? {
        whole = entry == Entry::End;
        if !take(&mut connections, entry) {
            anyhow::bail!("{} is damaged: its entries don't follow each other", ledger.display());
        }
    }

    let mut faults = Faults::default();
    // Damage is told, and what it costs shows as missing.
    let mut journal = Reader::open(data_dir, ReaderOptions { salvage: true, ..ReaderOptions::default() })?;
    let (mut records, mut strangers) = (0u64, 0u64);
    for record in journal.by_ref() {
        let record = record?;
        let Some(stamp) = Stamp::decode(&record.payload).filter(|stamp| stamp.run == run) else {
            strangers += 1;
            continue;
        };
        records += 1;
        let Stamp { connection, number, .. } = stamp;
        let place = format_args!("connection {connection}, send {number}, at {}", record.position);
        let known = connections.get_mut(&connection);
        let Some((known, next)) =
            known.and_then(|c| Some((c.sends.get_mut(usize::try_from(number).ok()?)?, &mut c.next)))
        else {
            // A ledger that was cut short does not have the last sends.
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
    let damaged = super::tell(journal.take_notes());

    let mut counts = [0u64; 4];
    let mut numbers: Vec<_> = connections.keys().copied().collect();
    numbers.sort_unstable();
    for connection in numbers {
        for (number, send) in connections[&connection].sends.iter().enumerate() {
            let [sent, acked, failed, unacked_there] = &mut counts;
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
            *unacked_there += u64::from(send.seen && send.result != Some(LedgerResult::Acked));
        }
    }
    let sound = damaged == 0 && faults.counts.iter().all(|count| *count == 0);
    let mut text = String::new();
    report(&mut text, &faults, sound, whole, counts, records, strangers)?;
    out::print(&text)?;
    Ok(sound)
}

/// Enters one entry. Says whether it makes sense behind those before it.
fn take(connections: &mut HashMap<u64, Connection>, entry: Entry) -> bool {
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
    strangers: u64,
) -> fmt::Result {
    let [sent, acked, failed, unacked_there] = counts;
    if !whole {
        writeln!(out, "the ledger was cut short: records that it does not have are not judged")?;
    }
    writeln!(
        out,
        "{sent} sent, {acked} acked, {failed} failed; in the journal {records} of this run, {unacked_there} of them not acked; {strangers} of others"
    )?;
    if sound {
        return writeln!(out, "sound: every acked message is there, as it was sent, once, and in order");
    }
    for (kind, count) in KINDS.iter().zip(faults.counts).filter(|(_, count)| *count > 0) {
        writeln!(out, "{kind}: {count}")?;
    }
    for told in &faults.told {
        writeln!(out, "  {told}")?;
    }
    writeln!(out, "NOT sound")
}
