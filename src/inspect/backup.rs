//! `ringpost journal backup`: makes a consistent copy of a journal, and checks it before it gets its name.

use std::io::Write;
use std::path::Path;

use super::notes;
use crate::journal::backup;
use crate::journal::{Reader, ReaderOptions};

/// Copies a journal, reads the copy, and prints a verdict. Returns whether the copy contains everything that was
/// durable. Damage in the journal is also in the copy.
pub fn back_up(data_dir: &Path, target: &Path) -> anyhow::Result<bool> {
    let backup = backup::back_up(data_dir, target)?;
    for writer in &backup.overtaken {
        let _ = writeln!(
            std::io::stderr(),
            "writer {writer}: retention removed its oldest segments before they were copied"
        );
    }
    for unreadable in &backup.unreadable {
        let backup::Unreadable { file, offset, error } = unreadable;
        let _ = writeln!(
            std::io::stderr(),
            "{}, offset {offset}: a block could not be read: {error}. The copy has zeros there",
            file.display()
        );
    }
    // Reading continues after damage, so that all of it is reported.
    let mut reader = Reader::open(backup.incomplete(), ReaderOptions::default().salvage(true))?;
    let mut records = 0u64;
    for record in reader.by_ref() {
        record?;
        records += 1;
    }
    let is_sound = notes::print(reader.take_notes()) == 0;
    backup.finish()?;
    let verdict = if is_sound { "sound" } else { "NOT sound" };
    let backup::Backup { writers, segments, cloned, bytes, .. } = backup;
    // The copy exists whether or not this line can be written.
    let _ = writeln!(
        std::io::stdout(),
        "{verdict}: {} has {records} records of {writers} writers in {segments} segments, {bytes} bytes; {cloned} \
         segments share their blocks with the original",
        target.display()
    );
    Ok(is_sound && backup.unreadable.is_empty())
}
