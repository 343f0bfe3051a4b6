//! Making segments: the first before the writer opens, the next before it is needed.
//!
//! A segment is made under a temporary name: one that retention lets go is recycled, whose blocks were
//! written before, or a new file takes its room. Then it is given its header, synced, renamed, and its
//! name synced. So a crash at any moment leaves a whole segment or none, and a commit is never in a
//! segment whose name may be lost.
//!
//! A writer leaves a segment before it is full if its first record is old ([`WriterOptions::roll_age`]), since
//! retention removes only whole segments, and never the one that is being written to.
//!
//! No failure on the way is final, and everything is tried again soon, since descriptors, memory and space become
//! available again. That also holds for the sync of the directory. If it fails, the name may be lost, now or later,
//! and another sync might not report it. Nothing was written to that segment yet, so it is made again under the same
//! name: that changes the directory again, and the next sync reports the outcome of that change.
//!
//! [`WriterOptions::roll_age`]: super::WriterOptions::roll_age

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::buffer::Buffer;
use super::commit::{Shared, is_no_space, is_passing, write_all};
use super::dir::{segment_name, temporary_name};
use super::format::{BLOCK_LEN, SegmentHeader};
use super::storage::{Storage, Zeros};

/// A segment that is or will be written to.
pub struct Segment<F> {
    pub number: u32,
    pub file: Rc<F>,
    /// Where the next commit goes.
    pub used: u64,
    /// The number of its first commit, once it has one.
    pub first_commit: Option<u64>,
    /// When its first record was received, once it has one.
    pub first_record: Option<Instant>,
    pub recycled: bool,
}

impl<F> Segment<F> {
    /// What would have been the better way to make it; `next_commit` is the number behind its last one.
    pub fn better_zeros(&self, next_commit: u64) -> Zeros {
        let commits = self.first_commit.map_or(0, |first| next_commit - first).max(1);
        if (self.used - BLOCK_LEN as u64) / commits < PROMISED_FROM { Zeros::Written } else { Zeros::Promised }
    }
}

/// Bytes of a mean commit from which its metadata cost less than writing its blocks twice. Measured on ext4:
/// commits of 70 KiB are slower by a tenth without zeros, those of 230 KiB as fast, those of 1 MiB faster by
/// half.
const PROMISED_FROM: u64 = 128 << 10;

/// The segment behind the active one.
pub enum Next<F> {
    None,
    /// It was asked for, or is being made.
    Wanted,
    Ready(Segment<F>),
}

/// How soon making a segment is tried again. The delay doubles each time, up to [`WriterOptions::space_interval`].
///
/// [`WriterOptions::space_interval`]: super::WriterOptions::space_interval
const RETRY_MIN: Duration = Duration::from_millis(50);

/// Asks for the next segment, unless there is one.
pub fn want_next<S: Storage>(shared: &Shared<S>, next: &mut Next<S::File>) {
    if let Next::None = next {
        *next = Next::Wanted;
        shared.want.notify_one();
    }
}

/// Makes the first segment.
pub async fn open_first<S: Storage>(shared: &Rc<Shared<S>>) -> io::Result<()> {
    look_at_space(shared).await;
    match make(shared, 0).await {
        Ok(segment) => {
            let mut state = shared.state.borrow_mut();
            (state.next_segment, state.segments, state.recycled) = (1, 1, segment.recycled.into());
            state.active = Some(segment);
            Ok(())
        }
        Err(error) if is_no_space(&error) => {
            let mut state = shared.state.borrow_mut();
            state.next = Next::Wanted;
            state.no_room = Some(error.to_string());
            state.out_of_segments = true;
            shared.update_condition(&mut state);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Makes segments when they are needed, cuts the journal back when a commit ran out of space, and regularly checks
/// the free space.
pub async fn task<S: Storage>(shared: Rc<Shared<S>>) {
    let interval = shared.options.space_interval;
    let retry_min = RETRY_MIN.min(interval);
    let (mut retry, mut durable_at_cut, mut told) = (retry_min, 0, false);
    loop {
        let failing = shared.state.borrow().no_room.is_some();
        tokio::select! {
            () = shared.want.notified(), if !failing => {}
            () = tokio::time::sleep(if failing { retry } else { interval }) => {}
        }
        look_at_space(&shared).await;
        if shared.state.borrow().closing {
            return;
        }
        shared.roll_if_old();
        shorten_rolled(&shared).await;
        if failing {
            retry = (retry * 2).min(interval);
        } else if shared.state.borrow().durable.commit > durable_at_cut {
            // If commits run out of space in a segment that was made, each new try also waits twice as long.
            retry = retry_min;
        }
        match cut_back(&shared).await {
            Ok(true) => told = false,
            // A write is still in flight.
            Ok(false) => continue,
            Err(error) if is_passing(&error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(writer = %shared.id, "can't remove commits that ran out of space, and will try again: {error}");
                }
                continue;
            }
            Err(error) => {
                shared.fail(&format!("removing commits that ran out of space: {error}"));
                continue;
            }
        }
        let (wanted, number) = {
            let state = shared.state.borrow();
            if state.no_room.is_some() && state.active.is_none() {
                durable_at_cut = state.durable.commit;
            }
            (matches!(state.next, Next::Wanted) && state.failed.is_none(), state.next_segment)
        };
        if wanted {
            let made = make(&shared, number).await;
            take(&shared, made).await;
            shared.work.notify_one();
        }
    }
}

async fn take<S: Storage>(shared: &Shared<S>, made: io::Result<Segment<S::File>>) {
    let made = match made {
        Ok(segment) if shared.state.borrow().cut.is_some() => {
            // A commit ran out of space meanwhile, so the segment that was just made is not the one that is needed
            // now.
            let _ = shared.storage.remove(&segment_name(segment.number)).await;
            return;
        }
        made => made,
    };
    let mut state = shared.state.borrow_mut();
    match made {
        Ok(segment) => {
            state.next_segment = segment.number + 1;
            state.segments += 1;
            state.recycled += u32::from(segment.recycled);
            state.next = Next::Ready(segment);
            state.no_room = None;
            state.out_of_segments = false;
        }
        Err(error) => {
            if state.no_room.is_none() {
                warn!(writer = %shared.id, "can't make the next segment, and will try again: {error}");
            }
            state.no_room = Some(error.to_string());
        }
    }
    shared.update_condition(&mut state);
}

/// Cuts the journal back to what is durable, if a commit ran out of space and no write is in flight any longer: see
/// [`commit`](super::commit). Returns whether segments may be made. After an error it must be tried again.
pub async fn cut_back<S: Storage>(shared: &Shared<S>) -> io::Result<bool> {
    let (segments, durable) = {
        let state = shared.state.borrow();
        match &state.cut {
            Some(_) if state.writing > 0 => return Ok(false),
            Some(segments) => (segments.clone(), state.durable),
            None => return Ok(true),
        }
    };
    let mut removed = false;
    // Newest first, so that there is never a gap.
    for (number, file) in segments.iter().rev() {
        if durable.commit > 0 && *number == durable.segment {
            shared.storage.truncate(file, durable.end).await?;
            continue;
        }
        match shared.storage.remove(&segment_name(*number)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => removed = true,
        }
    }
    if removed {
        shared.storage.sync_dir().await?;
    }
    shared.cut_back();
    Ok(true)
}

/// Learns how much room there is, and whether that is too little.
async fn look_at_space<S: Storage>(shared: &Shared<S>) {
    let free = shared.storage.free_space().await.ok();
    let mut state = shared.state.borrow_mut();
    state.free_space = free;
    let min_free = shared.options.min_free;
    // The text is that of the first look, or each would be a change worth a log line.
    state.low = match free {
        Some(free) if free < min_free => {
            state.low.take().or(Some(format!("{free} bytes are free, below --min-free {min_free}")))
        }
        _ => None,
    };
    shared.update_condition(&mut state);
}

/// Makes a segment. An error says which operation was refused, and keeps its kind.
async fn make<S: Storage>(shared: &Shared<S>, number: u32) -> io::Result<Segment<S::File>> {
    let (storage, len) = (&shared.storage, shared.options.segment_len);
    let (temporary, name) = (temporary_name(number), segment_name(number));
    let failed = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what} {name}: {error}"));
    // An old segment has its blocks, which doesn't help if a file system needs new ones for each write.
    let (zeros, recycles) = {
        let state = shared.state.borrow();
        (state.zeros, !state.copies_on_write)
    };
    let made = async {
        let recycled = if recycles { storage.recycle(&temporary, len).await } else { None };
        let (file, recycled) = match recycled {
            Some(file) => (file, true),
            None => {
                expect_room(shared)?;
                (storage.create(&temporary, len, zeros).await.map_err(|error| failed("making", error))?, false)
            }
        };
        let header = SegmentHeader {
            segment: number,
            writer: shared.id,
            salt: shared.salt,
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
        storage.rename(&temporary, &name).await.map_err(|error| failed("naming", error))?;
        Ok((file, recycled))
    };
    let (file, recycled) = match made.await {
        Ok(made) => made,
        Err(error) => {
            // A part of a segment takes the room that is missing.
            let _ = storage.remove(&temporary).await;
            return Err(error);
        }
    };
    if let Err(error) = storage.sync_dir().await {
        // The next try replaces the segment, if it still exists.
        let _ = storage.remove(&name).await;
        return Err(failed("syncing the directory of", error));
    }
    Ok(Segment {
        number,
        file: Rc::new(file),
        used: BLOCK_LEN as u64,
        first_commit: None,
        first_record: None,
        recycled,
    })
}

/// An error where a new segment would leave less than is to be kept free.
fn expect_room<S: Storage>(shared: &Shared<S>) -> io::Result<()> {
    let (len, min_free) = (shared.options.segment_len, shared.options.min_free);
    match shared.state.borrow().free_space {
        Some(free) if free < len.saturating_add(min_free) => {
            let why = format!("{free} bytes are free; a segment takes {len}, and --min-free keeps {min_free}");
            Err(io::Error::new(io::ErrorKind::StorageFull, why))
        }
        _ => Ok(()),
    }
}

/// Truncates a segment that was left before it was full, if there is one.
async fn shorten_rolled<S: Storage>(shared: &Shared<S>) {
    let Some(rolled) = shared.state.borrow_mut().rolled.take() else { return };
    if let Err(error) = shared.storage.truncate(&rolled.file, rolled.used).await {
        let segment = segment_name(rolled.number);
        warn!(writer = %shared.id, segment, "can't free the unused rest of a segment; it keeps its size: {error}");
    }
}

/// Frees what a closed writer does not need: the next segment, and the rest of the active one. Also cuts the journal
/// back if that is still to be done.
pub async fn give_back<S: Storage>(shared: &Shared<S>) -> io::Result<()> {
    shorten_rolled(shared).await;
    cut_back(shared).await?;
    let (active, next) = {
        let mut state = shared.state.borrow_mut();
        (state.active.take(), std::mem::replace(&mut state.next, Next::None))
    };
    if let Next::Ready(next) = next {
        shared.storage.remove(&segment_name(next.number)).await?;
    }
    if let Some(active) = active {
        shared.storage.truncate(&active.file, active.used).await?;
    }
    Ok(())
}
