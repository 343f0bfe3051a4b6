//! `ringpost journal stats`: prints what a journal holds, by writer. It reads headers only, so it proves nothing about
//! the records.

use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::journal::summary::{self, Summary};
use crate::output;

/// Prints a line for each writer, and the totals. Returns whether everything could be read.
pub fn stats(data_dir: &Path) -> anyhow::Result<bool> {
    let (summaries, unreadable) = summary::summarize(data_dir)?;
    let mut table = format!(
        "{:<16}  {:<20}  {:<5}  {:>8}  {:>15}  {:>12}  {:>12}\n",
        "writer", "started", "state", "segments", "bytes", "first", "last"
    );
    let (mut segments, mut bytes, mut records) = (0, 0, 0);
    for Summary { writer, live, segments: of_writer, bytes: on_disk, first, last } in summaries {
        let started = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(writer.started_nanos()));
        let state = if live { "live" } else { "ended" };
        let numbers = format_args!("{of_writer:>8}  {on_disk:>15}  {first:>12}  {last:>12}");
        writeln!(table, "{writer}  {started}  {state:<5}  {numbers}")?;
        segments += of_writer;
        bytes += on_disk;
        records += (last + 1).saturating_sub(first);
    }
    writeln!(table, "{records} records, {segments} segments, {bytes} bytes on disk")?;
    output::print_whole(table)?;
    for error in &unreadable {
        let _ = writeln!(std::io::stderr(), "{error}");
    }
    Ok(unreadable.is_empty())
}
