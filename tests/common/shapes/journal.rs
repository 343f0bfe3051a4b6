//! Compares the messages that the clients of a journal have sent with those that the library's reader returns.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use ringpost::journal::{Reader, ReaderOptions, WriterId, layout};

use super::client::{Plan, Request, Sent};

/// All messages that were sent to the servers of one data directory.
#[derive(Default)]
pub struct Ledger {
    lives: Vec<Vec<Sent>>,
    /// The life of each writer.
    writers: HashMap<WriterId, usize>,
    /// The highest sequence number that was seen of each writer.
    last: HashMap<WriterId, u64>,
}

/// The result of a check.
#[derive(Debug, Default)]
pub struct Kept {
    pub records: u64,
    /// Records that retention has removed.
    pub removed: u64,
}

/// The records that are kept of one connection.
struct Found {
    writer: WriterId,
    connection: u64,
    /// Among the SUBMITs that were sent, the index of the first one that is kept, and of the one after the last.
    first: usize,
    next: usize,
}

impl Ledger {
    /// Adds what the clients of a server have sent, after the server has ended.
    pub fn add(&mut self, data_dir: &Path, sent: Vec<Sent>) -> Result<(), String> {
        let life = self.lives.len();
        for writer in layout::writers(data_dir).map_err(|error| format!("listing writers: {error}"))? {
            self.writers.entry(writer).or_insert(life);
        }
        self.lives.push(sent);
        Ok(())
    }

    /// Checks that every message that was acked with 0 is there, once, in order and intact. If `removes` is set,
    /// retention may have removed the oldest ones.
    pub fn check(&mut self, data_dir: &Path, removes: bool) -> Result<Kept, String> {
        let mut submits = Vec::new();
        for sent in &self.lives {
            let mut by_peer = HashMap::new();
            for (number, sent) in sent.iter().enumerate() {
                if let Some(peer) = sent.peer
                    && by_peer.insert(peer, (number, submits_of(&sent.plan))).is_some()
                {
                    return Err(format!("two clients had the address {peer}: the records don't distinguish them"));
                }
            }
            submits.push(by_peer);
        }
        let mut kept = Kept::default();
        let mut found: HashMap<(usize, SocketAddr), Found> = HashMap::new();
        let mut last: HashMap<WriterId, u64> = HashMap::new();
        let mut removed: HashMap<WriterId, u64> = HashMap::new();
        let reader = Reader::open(data_dir, ReaderOptions::default()).map_err(|error| error.to_string())?;
        for record in reader {
            let record = record.map_err(|error| format!("the reader: {error}"))?;
            kept.records += 1;
            let (position, writer) = (record.position, record.position.writer);
            let expected = match last.get(&writer) {
                Some(last) => last + 1,
                None => {
                    removed.insert(writer, position.sequence - 1);
                    position.sequence
                }
            };
            if position.sequence != expected || (!removes && !last.contains_key(&writer) && expected != 1) {
                return Err(format!("{position}: expected sequence number {expected}"));
            }
            last.insert(writer, position.sequence);
            let life = *self.writers.get(&writer).ok_or_else(|| format!("{position}: an unknown writer"))?;
            let (client, of_client) = submits[life]
                .get(&record.peer)
                .ok_or_else(|| format!("{position}: an unknown peer {}", record.peer))?;
            let sent = &self.lives[life][*client];
            let found = found.entry((life, record.peer)).or_insert_with(|| {
                let is_first = |number: &usize| sent.plan.requests[*number].id == record.id.0;
                let first = if removes { of_client.iter().position(is_first).unwrap_or(0) } else { 0 };
                Found { writer, connection: record.connection, first, next: first }
            });
            if (found.writer, found.connection) != (writer, record.connection) {
                return Err(format!("{position}: client {client} has records of two connections"));
            }
            let number = *of_client.get(found.next).ok_or_else(|| format!("{position}: client {client} sent less"))?;
            let Request { id, .. } = sent.plan.requests[number];
            if number >= sent.begun || id != record.id.0 || !sent.plan.is_payload(number, &record.payload) {
                return Err(format!(
                    "{position}: {:?} with {} bytes is not request {number} of client {client}, {:x?}, which had begun \
                     {}",
                    record.id,
                    record.payload.len(),
                    sent.plan.requests[number],
                    sent.begun
                ));
            }
            found.next += 1;
        }
        // The missing messages must have been removed by retention.
        let mut missing = 0;
        for (life, clients) in self.lives.iter().enumerate() {
            for (number, sent) in clients.iter().enumerate() {
                let acked = sent.plan.requests[..sent.acked.min(sent.plan.requests.len())].iter();
                let acked = if sent.plan.refuses { 0 } else { acked.filter(|request| request.is_submit).count() };
                let found = sent.peer.and_then(|peer| found.get(&(life, peer)));
                let (first, next) = found.map_or((0, 0), |found| (found.first, found.next));
                match found {
                    Some(_) if acked > next => {
                        return Err(format!(
                            "{acked} messages of client {number} were acked; kept are {first} to {next}"
                        ));
                    }
                    Some(_) => missing += first,
                    None => missing += acked,
                }
                if missing > 0 && !removes {
                    return Err(format!("{acked} messages of client {number} were acked, and none is kept"));
                }
                if sent.plan.refuses && next > 0 {
                    return Err(format!("{next} messages of client {number} were acked with 1, and are kept"));
                }
            }
        }
        for (writer, before) in &self.last {
            if !last.contains_key(writer) {
                removed.insert(*writer, *before);
            } else if last[writer] < *before {
                return Err(format!("writer {writer} had {before} records, and now {}", last[writer]));
            }
        }
        // If all records of a writer were removed before this check, nobody knows how many there were.
        let unknown = self.writers.keys().any(|writer| !last.contains_key(writer) && !self.last.contains_key(writer));
        let removed: u64 = removed.values().sum();
        if missing as u64 > removed && !(unknown && removes) {
            return Err(format!("{missing} acked messages are missing, and retention has removed only {removed}"));
        }
        kept.removed = removed;
        self.last.extend(last);
        Ok(kept)
    }
}

/// The indexes of the SUBMITs among a plan's requests.
fn submits_of(plan: &Plan) -> Vec<usize> {
    (0..plan.requests.len()).filter(|number| plan.requests[*number].is_submit).collect()
}
