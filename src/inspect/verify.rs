//! `ringpost journal verify`: reads everything, and prints whether it is sound. It checks checksums and numbers, not
//! what clients sent: see `check`.

use std::collections::BTreeSet;
use std::path::Path;

use super::notes;
use crate::journal::{Reader, ReaderOptions};
use crate::output;

/// Reads the whole journal and prints a verdict. Returns whether every record that was durable can be read.
pub fn verify(data_dir: &Path) -> anyhow::Result<bool> {
    // Reading continues after damage, so that all of it is reported.
    let mut reader = Reader::open(data_dir, ReaderOptions::default().salvage(true))?;
    let (mut records, mut bytes, mut writers) = (0u64, 0u64, BTreeSet::new());
    for record in reader.by_ref() {
        let record = record?;
        records += 1;
        bytes += record.payload.len() as u64;
        writers.insert(record.position.writer);
    }
    let damaged = notes::print(reader.take_notes());
    let verdict = if damaged == 0 { "sound" } else { "NOT sound" };
    let (writers, commits) = (writers.len(), reader.commits_read());
    let summary =
        format!("{verdict}: {records} records, {bytes} bytes of payload, {commits} commits, {writers} writers\n");
    output::print_whole(summary)?;
    Ok(damaged == 0)
}
