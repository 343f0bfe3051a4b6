//! `ringpost journal verify`: reads everything, and says whether all of it is sound.

use std::collections::BTreeSet;
use std::path::Path;

use super::out;
use crate::journal::{Reader, ReaderOptions};

/// Reads the whole journal. Says whether every record that was durable is there.
pub fn verify(data_dir: &Path) -> anyhow::Result<bool> {
    // Behind damage it goes on, so that all of it is told.
    let mut reader = Reader::open(data_dir, ReaderOptions { salvage: true, ..ReaderOptions::default() })?;
    let (mut records, mut bytes, mut writers) = (0u64, 0u64, BTreeSet::new());
    for record in reader.by_ref() {
        let record = record?;
        records += 1;
        bytes += record.payload.len() as u64;
        writers.insert(record.position.writer);
    }
    let damaged = super::tell(reader.take_notes());
    let verdict = if damaged == 0 { "sound" } else { "NOT sound" };
    let (writers, commits) = (writers.len(), reader.commits());
    let summary =
        format!("{verdict}: {records} records, {bytes} bytes of payload, {commits} commits, {writers} writers\n");
    out::print(&summary)?;
    Ok(damaged == 0)
}
