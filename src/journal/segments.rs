//! Making segments: the first before the writer opens, the next before it is needed.
//!
//! A segment is made under a temporary name: one that retention lets go is recycled, whose blocks were
//! written before, or a new file takes its room. Then it is given its header, synced, renamed, and its
//! name synced. So a crash at any moment leaves a whole segment or none, and a commit is never in a
//! segment whose name may be lost.
//!
//! A segment is left before it is full where its first record is old ([`WriterOptions::roll_age`]), since retention
//! removes whole segments, and never the one that is written to.
//!
//! [`WriterOptions::roll_age`]: super::WriterOptions::roll_age

use std::io;
use std::rc::Rc;
use std::time::Instant;

use tracing::warn;

use super::buffer::Buffer;
use super::commit::{Shared, write_all};
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
    /// When its first record came, once it has one.
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

/// Why a segment was not made.
enum MakeError {
    /// It may work another time.
    Retry(String),
    /// The directory's own sync failed: whether a later one would tell the truth is not known.
    Final(String),
}

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
            (state.segments, state.recycled) = (1, segment.recycled.into());
            state.active = Some(segment);
            Ok(())
        }
        Err((error, MakeError::Retry(why))) if is_no_space(&error) => {
            let mut state = shared.state.borrow_mut();
            state.next = Next::Wanted;
            state.no_room = Some(why);
            state.out_of_segments = true;
            shared.update_condition(&mut state);
            Ok(())
        }
        Err((error, MakeError::Retry(why) | MakeError::Final(why))) => Err(io::Error::new(error.kind(), why)),
    }
}

/// Makes segments when they are wanted, and looks at free space every while.
pub async fn task<S: Storage>(shared: Rc<Shared<S>>) {
    let interval = shared.options.space_interval;
    loop {
        let failing = shared.state.borrow().no_room.is_some();
        tokio::select! {
            () = shared.want.notified(), if !failing => {}
            () = tokio::time::sleep(interval) => {}
        }
        look_at_space(&shared).await;
        shared.roll_if_old();
        shorten_rolled(&shared).await;
        let (wanted, number) = {
            let state = shared.state.borrow();
            if state.closing {
                return;
            }
            (matches!(state.next, Next::Wanted) && state.failed.is_none(), state.segments)
        };
        if wanted {
            let made = make(&shared, number).await;
            take(&shared, made);
            shared.work.notify_one();
        }
    }
}

fn take<S: Storage>(shared: &Shared<S>, made: Result<Segment<S::File>, (io::Error, MakeError)>) {
    match made {
        Ok(segment) => {
            let mut state = shared.state.borrow_mut();
            state.segments = segment.number + 1;
            state.recycled += u32::from(segment.recycled);
            state.next = Next::Ready(segment);
            state.no_room = None;
            state.out_of_segments = false;
            shared.update_condition(&mut state);
        }
        Err((_, MakeError::Retry(why))) => {
            let mut state = shared.state.borrow_mut();
            if state.no_room.is_none() {
                warn!(writer = %shared.id, "can't make the next segment, and will try again: {why}");
            }
            state.no_room = Some(why);
            shared.update_condition(&mut state);
        }
        Err((_, MakeError::Final(why))) => shared.fail(&why),
    }
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

async fn make<S: Storage>(shared: &Shared<S>, number: u32) -> Result<Segment<S::File>, (io::Error, MakeError)> {
    let (storage, len) = (&shared.storage, shared.options.segment_len);
    let (temporary, name) = (temporary_name(number), segment_name(number));
    let retry = |what: &str, error: io::Error| {
        let why = format!("{what} {name}: {error}");
        (error, MakeError::Retry(why))
    };
    let made = async {
        let (file, recycled) = match storage.recycle(&temporary, len).await {
            Some(file) => (file, true),
            None => {
                expect_room(shared)?;
                let zeros = shared.state.borrow().zeros;
                (storage.create(&temporary, len, zeros).await.map_err(|error| retry("making", error))?, false)
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
        write_all(storage, &file, 0, buffer).await.0.map_err(|error| retry("writing the header of", error))?;
        storage.sync(&file).await.map_err(|error| retry("syncing", error))?;
        storage.rename(&temporary, &name).await.map_err(|error| retry("naming", error))?;
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
        let why = format!("syncing the directory of {name}: {error}");
        return Err((error, MakeError::Final(why)));
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
fn expect_room<S: Storage>(shared: &Shared<S>) -> Result<(), (io::Error, MakeError)> {
    let (len, min_free) = (shared.options.segment_len, shared.options.min_free);
    match shared.state.borrow().free_space {
        Some(free) if free < len.saturating_add(min_free) => {
            let why = format!("{free} bytes are free; a segment takes {len}, and --min-free keeps {min_free}");
            Err((io::ErrorKind::StorageFull.into(), MakeError::Retry(why)))
        }
        _ => Ok(()),
    }
}

/// Gives back the rest of a segment that was left before it was full, if there is one.
async fn shorten_rolled<S: Storage>(shared: &Shared<S>) {
    let Some(rolled) = shared.state.borrow_mut().rolled.take() else { return };
    if let Err(error) = shared.storage.truncate(&rolled.file, rolled.used).await {
        let segment = segment_name(rolled.number);
        warn!(writer = %shared.id, segment, "can't give back the unused rest of a segment; it keeps its size: {error}");
    }
}

/// Gives back what a closed writer does not need: the next segment, and the rest of the active one.
pub async fn give_back<S: Storage>(shared: &Shared<S>) -> io::Result<()> {
    shorten_rolled(shared).await;
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

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
