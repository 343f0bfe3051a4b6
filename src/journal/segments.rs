//! The segment task: makes the first segment before the writer opens, and the next one before it is needed.
//!
//! A segment is made under a temporary name: either an expired segment is renamed (its blocks are already allocated and
//! written), or a new file is preallocated. Then the header is written, and the file is synced and renamed, and the
//! directory is synced. So a crash at any moment leaves a whole segment or none, and a commit is never in a segment
//! whose name may be lost.
//!
//! A writer leaves a segment before it is full if its first record is old ([`WriterOptions::roll_age`]), since
//! retention removes only whole segments, and never the one that is being written to.
//!
//! No failure on the way is final. Everything is tried again soon, since descriptors, memory and space become available
//! again. That also holds for the sync of the directory. If it fails, the name may be lost, now or later, and another
//! sync might not report it. Nothing was written to that segment yet, so it is made again under the same name: that
//! changes the directory again, and the next sync reports the outcome of that change.
//!
//! [`WriterOptions::roll_age`]: super::WriterOptions::roll_age

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tracing::warn;

use super::buffer::Buffer;
use super::commit::segment::WriterSegment;
use super::commit::write::{is_no_space, is_temporary, write_all};
use super::commit::writer_core::{CutWork, WriterCore};
use super::format::{BLOCK_LEN, SegmentHeader};
use super::layout::{segment_name, temporary_name};
use super::storage::Storage;

/// Makes the first segment. Without space for it, the writer refuses records until there is space.
///
/// # Errors
/// The segment can't be made for another reason.
pub async fn make_first<S: Storage>(core: &WriterCore<S>) -> io::Result<()> {
    check_space(core).await;
    match make(core, 0).await {
        Ok(segment) => core.first_segment_made(segment),
        Err(error) if is_no_space(&error) => core.first_segment_refused(error.to_string()),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Makes segments when they are needed, cuts the journal back when a commit ran out of space, and regularly checks the
/// free space, until the writer closes.
pub async fn run<S: Storage>(core: Rc<WriterCore<S>>) {
    let interval = core.options().space_interval;
    let retry_min = RETRY_MIN.min(interval);
    let (mut retry, mut durable_at_cut, mut warned) = (retry_min, 0, false);
    loop {
        let lacks_room = core.lacks_room();
        tokio::select! {
            biased;
            () = core.segment_work(), if !lacks_room => {}
            () = tokio::time::sleep(if lacks_room { retry } else { interval }) => {}
        }
        check_space(&core).await;
        if core.is_closing() {
            return;
        }
        core.roll_if_old();
        shorten_left(&core).await;
        if lacks_room {
            retry = (retry * 2).min(interval);
        } else if core.durable().commit > durable_at_cut {
            // If commits run out of space in each new segment, the delay doubles each time as well.
            retry = retry_min;
        }
        match cut_back(&core).await {
            Ok(true) => warned = false,
            // A write is still in flight.
            Ok(false) => continue,
            Err(error) if is_temporary(&error) => {
                if !std::mem::replace(&mut warned, true) {
                    let writer = core.id();
                    warn!(%writer, %error, "cannot remove commits that ran out of space; trying again");
                }
                continue;
            }
            Err(error) => {
                core.fail(&format!("removing commits that ran out of space: {error}"));
                continue;
            }
        }
        if core.is_cut_off() {
            durable_at_cut = core.durable().commit;
        }
        if let Some(number) = core.wanted_segment() {
            let made = make(&core, number).await;
            report(&core, made).await;
            core.wake_commits();
        }
    }
}

async fn report<S: Storage>(core: &WriterCore<S>, made: io::Result<WriterSegment<S::File>>) {
    match made {
        Ok(segment) => {
            if let Some(unwanted) = core.segment_made(segment) {
                let _ = core.storage().remove(&segment_name(unwanted.number)).await;
            }
        }
        Err(error) => {
            if core.segment_refused(error.to_string()) {
                warn!(writer = %core.id(), %error, "cannot make the next segment; trying again");
            }
        }
    }
}

/// Cuts the journal back to what is durable, if a commit ran out of space and no write is in flight any longer: see
/// [`commit`](super::commit). Returns whether segments may be made. After an error it must be tried again.
async fn cut_back<S: Storage>(core: &WriterCore<S>) -> io::Result<bool> {
    let (cut, durable) = match core.cut_work() {
        CutWork::Nothing => return Ok(true),
        CutWork::WaitForWrites => return Ok(false),
        CutWork::Cut(cut, durable) => (cut, durable),
    };
    let mut removed = false;
    // Newest first, so that there is never a gap.
    for (number, file) in cut.iter().rev() {
        if durable.commit > 0 && *number == durable.segment {
            core.storage().truncate(file, durable.end).await?;
            continue;
        }
        match core.storage().remove(&segment_name(*number)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => removed = true,
        }
    }
    if removed {
        core.storage().sync_dir().await?;
    }
    core.cut_back();
    Ok(true)
}

/// Checks the free space.
async fn check_space<S: Storage>(core: &WriterCore<S>) {
    core.space_checked(core.storage().free_space().await.ok());
}

/// Makes a segment. An error names the operation that failed, and keeps its kind.
async fn make<S: Storage>(core: &WriterCore<S>, number: u32) -> io::Result<WriterSegment<S::File>> {
    let (storage, len) = (core.storage(), core.options().segment_len);
    let (temporary, name) = (temporary_name(number), segment_name(number));
    let failed = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what} {name}: {error}"));
    let (prealloc, may_recycle) = core.how_to_make_segment();
    let made = async {
        let recycled = if may_recycle { storage.recycle(&temporary, len).await } else { None };
        let (file, recycled) = match recycled {
            Some(file) => (file, true),
            None => {
                expect_space(core)?;
                (storage.create(&temporary, len, prealloc).await.map_err(|error| failed("creating", error))?, false)
            }
        };
        let header = SegmentHeader {
            segment: number,
            writer: core.id(),
            salt: core.salt(),
            created: storage.now(),
            len,
            recycled,
        };
        let (mut buffer, header) = (Buffer::new(BLOCK_LEN), header.encode());
        buffer.push(&header);
        if let Some(boot_time) = storage.boot_time() {
            buffer.push(&boot_time.encode(&header));
        }
        buffer.pad();
        write_all(storage, &file, 0, buffer).await.0.map_err(|error| failed("writing the header of", error))?;
        storage.sync(&file).await.map_err(|error| failed("syncing", error))?;
        storage.rename(&temporary, &name).await.map_err(|error| failed("renaming a file to", error))?;
        Ok((file, recycled))
    };
    let (file, recycled) = match made.await {
        Ok(made) => made,
        Err(error) => {
            // A partial segment would use space that is needed.
            let _ = storage.remove(&temporary).await;
            return Err(error);
        }
    };
    if let Err(error) = storage.sync_dir().await {
        // If the segment still exists, the next attempt replaces it.
        let _ = storage.remove(&name).await;
        return Err(failed("syncing the directory of", error));
    }
    Ok(WriterSegment::new(number, file, recycled))
}

/// Fails if a new segment would leave less free space than the limit.
fn expect_space<S: Storage>(core: &WriterCore<S>) -> io::Result<()> {
    let (len, min_free) = (core.options().segment_len, core.options().min_free);
    match core.free_space() {
        Some(free) if free < len.saturating_add(min_free) => {
            let why = format!("{free} bytes are free; a segment needs {len}, and --min-free keeps {min_free}");
            Err(io::Error::new(io::ErrorKind::StorageFull, why))
        }
        _ => Ok(()),
    }
}

/// Truncates a segment that was left before it was full, if there is one.
async fn shorten_left<S: Storage>(core: &WriterCore<S>) {
    let Some(left) = core.take_left_segment() else { return };
    if let Err(error) = core.storage().truncate(&left.file, left.end()).await {
        let segment = segment_name(left.number);
        warn!(writer = %core.id(), segment, %error, "cannot free the unused rest of a segment; it keeps its size");
    }
}

/// Frees what a closed writer does not need: the next segment, and the rest of the active one. Also cuts the journal
/// back if that is still necessary.
///
/// # Errors
/// The first operation that failed. Readers accept the files as they are.
pub async fn give_back<S: Storage>(core: &WriterCore<S>) -> io::Result<()> {
    shorten_left(core).await;
    cut_back(core).await?;
    let (active, next) = (core.take_active_segment(), core.take_next_segment());
    if let Some(next) = next {
        core.storage().remove(&segment_name(next.number)).await?;
    }
    if let Some(active) = active {
        core.storage().truncate(&active.file, active.end()).await?;
    }
    Ok(())
}

/// How soon making a segment is tried again. The delay doubles each time, up to [`WriterOptions::space_interval`].
///
/// [`WriterOptions::space_interval`]: super::WriterOptions::space_interval
const RETRY_MIN: Duration = Duration::from_millis(50);
