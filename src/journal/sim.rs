//! A simulated disk whose failures are chosen by a seed, for tests of the writer.
//!
//! The page cache, which writes change, and the medium, which syncs change, are separate. After a crash the medium has
//! everything that was synced. The seed chooses how much of each other write the medium has: all, nothing, some
//! sectors, or the first bytes, in any order.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::buffer::Buffer;
use super::clock::now_nanos;
use super::moment::{BootTime, Moment};
use super::position::Durable;
use super::storage::{Prealloc, Storage};

/// A generator of pseudorandom numbers (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// Returns the next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Returns `true` once in `times`, and never if `times` is 0.
    pub fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }
}

/// The faults of a disk. Each number means "once in so many operations", and 0 means never.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// A write returns early.
    pub short_write: u64,
    /// A write fails.
    pub write_error: u64,
    /// A sync fails.
    pub sync_error: u64,
    /// Creating a file runs out of space.
    pub no_space: u64,
    /// A commit's write runs out of space, and leaves arbitrary bytes in the file.
    pub write_no_space: u64,
    /// A resource runs out temporarily when a segment is made or a file is truncated.
    pub temporary_error: u64,
    /// Publishing the position fails.
    pub publish_error: u64,
    /// A rename or the sync of the directory fails.
    pub dir_error: u64,
    /// A segment is recycled.
    pub recycle: u64,
    /// Each write is durable when it returns, and a sync does nothing.
    pub writes_are_durable: bool,
    /// If not 0: when this many writes to a file have completed, the oldest may be lost. The first sync then fails,
    /// and returns late. Other syncs of that file succeed.
    pub errors_come_once: usize,
    /// Syncs, and writes that should be durable, report success and change nothing on the medium.
    pub syncs_lie: bool,
    /// The longest that an operation takes.
    pub delay_max_us: u64,
}

/// A simulated disk with the files of one writer.
#[derive(Debug)]
pub struct Disk {
    /// The source of all decisions.
    pub random: Random,
    /// The faults from now on.
    pub faults: Faults,
    /// The free bytes.
    pub free: u64,
    files: HashMap<usize, SimFile>,
    /// Names as programs see them, and as they are on the medium.
    names: BTreeMap<String, usize>,
    names_durable: BTreeMap<String, usize>,
    names_pending: Vec<NameChange>,
    next_file: usize,
    next_write: u64,
    /// The last published position.
    pub published: Durable,
    /// The number of writes.
    pub writes: u64,
    /// How often files were truncated.
    pub truncated: u64,
    /// A file was truncated while a write to it was in flight, which would reach the file after the new end.
    pub cut_under_writes: bool,
    /// The results of the next writes of commits, in the order in which they end.
    pub refusals: VecDeque<ErrorKind>,
    /// Commits were written after a file was truncated.
    pub written_since: bool,
    /// How each file was preallocated.
    pub prealloc: Vec<Prealloc>,
    /// The clocks for segment headers. Without them, there is only the real wall clock.
    pub clock: Option<Hook<dyn Fn() -> Moment>>,
    /// Returns the content of an earlier writer's segment that will get this name.
    pub earlier: Option<Hook<TakeEarlier>>,
    /// A segment of this writer has expired: it was removed or recycled, as retention does it.
    pub has_expired: bool,
}

/// Returns the content of a segment of an earlier writer, given the name and the length in bytes of the new segment.
type TakeEarlier = dyn Fn(&str, u64) -> Option<Vec<u8>>;

/// A function to be called.
pub struct Hook<F: ?Sized>(pub Rc<F>);

impl<F: ?Sized> Clone for Hook<F> {
    fn clone(&self) -> Self {
        Hook(self.0.clone())
    }
}

impl<F: ?Sized> std::fmt::Debug for Hook<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

#[derive(Debug, Default)]
struct SimFile {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Write>,
}

#[derive(Debug, Clone)]
struct Write {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
    /// The write has returned: a sync that starts now covers it.
    completed: bool,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Create(name, file) => drop(names.insert(name.clone(), *file)),
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Remove(name) => drop(names.remove(name)),
        }
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Write {
    /// Changes the content by a part of this write that the seed chooses.
    fn land(&self, content: &mut Vec<u8>, random: &mut Random) {
        let bytes = &self.bytes[..];
        match random.below(4) {
            0 => {}
            1 => put(content, self.offset, bytes),
            2 => {
                for (at, sector) in bytes.chunks(SECTOR_LEN).enumerate() {
                    if random.one_in(2) {
                        put(content, self.offset + at * SECTOR_LEN, sector);
                    }
                }
            }
            _ => {
                let len = random.below(bytes.len() as u64 + 1) as usize;
                put(content, self.offset, &bytes[..len]);
            }
        }
    }
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed. Everything that it wrote is in the files.
    Process,
    /// The machine loses power.
    Power,
}

impl Disk {
    /// Returns the length of a file in bytes.
    pub fn len(&self, name: &str) -> usize {
        self.files[&self.names[name]].current.len()
    }

    /// Returns an empty disk with `free` bytes.
    pub fn new(seed: u64, faults: Faults, free: u64) -> Rc<RefCell<Disk>> {
        Rc::new(RefCell::new(Disk {
            random: Random(seed),
            faults,
            free,
            files: HashMap::new(),
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            names_pending: Vec::new(),
            next_file: 0,
            next_write: 0,
            published: Durable::default(),
            writes: 0,
            truncated: 0,
            cut_under_writes: false,
            refusals: VecDeque::new(),
            written_since: false,
            prealloc: Vec::new(),
            clock: None,
            earlier: None,
            has_expired: false,
        }))
    }

    /// Removes the oldest segment if it is before the segment of the last commit that was published as durable.
    pub fn expire_oldest(&mut self) -> bool {
        let Some(name) = self.expendable() else { return false };
        self.has_expired = true;
        self.names_change(NameChange::Remove(name));
        true
    }

    /// Returns the oldest segment, if it may be removed.
    fn expendable(&self) -> Option<String> {
        let name = self.names.keys().find(|name| name.ends_with(".seg"))?;
        let number: u32 = name.split('.').next()?.parse().ok()?;
        (number < self.published.segment).then(|| name.clone())
    }

    /// Crashes, and writes the files that are left to a directory.
    pub fn crash(&mut self, how: Crash, into: &Path) {
        fs::create_dir_all(into).unwrap();
        let mut names = self.names_durable.clone();
        match how {
            Crash::Process => names = self.names.clone(),
            // A journaling file system keeps changes of names in their order.
            Crash::Power => {
                let count = self.random.below(self.names_pending.len() as u64 + 1) as usize;
                self.names_pending[..count].iter().for_each(|change| change.apply(&mut names));
            }
        }
        for (name, file) in names {
            let SimFile { current, durable, pending } = &self.files[&file];
            let mut pending: Vec<&Write> =
                pending.iter().filter(|write| how == Crash::Power || !write.completed).collect();
            let mut content = if how == Crash::Power { durable.clone() } else { current.clone() };
            while !pending.is_empty() {
                let at = self.random.below(pending.len() as u64) as usize;
                pending.swap_remove(at).land(&mut content, &mut self.random);
            }
            fs::write(into.join(name), content).unwrap();
        }
    }

    /// Recycles a segment of an earlier writer, or the oldest one of this writer, under a new name. The change is
    /// durable immediately.
    fn recycle_expired(&mut self, earlier: &Hook<TakeEarlier>, name: &str, len: u64) -> Option<usize> {
        if let Some(content) = (earlier.0)(name, len) {
            let file = self.next_file;
            self.next_file += 1;
            self.names_change(NameChange::Create(name.to_owned(), file));
            self.files.insert(file, SimFile { current: content.clone(), durable: content, pending: Vec::new() });
            return Some(file);
        }
        let oldest = self.expendable()?;
        let file = self.names[&oldest];
        if self.files[&file].current.len() as u64 != len {
            return None;
        }
        self.has_expired = true;
        self.names_change(NameChange::Rename(oldest, name.to_owned()));
        for change in std::mem::take(&mut self.names_pending) {
            change.apply(&mut self.names_durable);
        }
        Some(file)
    }

    fn names_change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.names_pending.push(change);
    }
}

/// A writer's storage on such a disk.
#[derive(Debug, Clone)]
pub struct SimStorage(pub Rc<RefCell<Disk>>);

impl SimStorage {
    async fn delay(&self) {
        let micros = {
            let mut disk = self.0.borrow_mut();
            let max = disk.faults.delay_max_us;
            // Some operations take much longer, so that later ones overtake them.
            disk.random.below(max + 1) * if disk.random.one_in(10) { 20 } else { 1 }
        };
        if micros > 0 {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::other(format!("{what} fails as planned"))
}

/// The error that a process gets when it has no descriptors left.
fn temporary() -> io::Error {
    io::Error::from_raw_os_error(libc::EMFILE)
}

impl Storage for SimStorage {
    type File = usize;

    async fn create(&self, name: &str, len: u64, prealloc: Prealloc) -> io::Result<usize> {
        self.delay().await;
        let disk = &mut *self.0.borrow_mut();
        if disk.random.one_in(disk.faults.temporary_error) {
            return Err(temporary());
        }
        disk.prealloc.push(prealloc);
        let file = disk.next_file;
        disk.next_file += 1;
        disk.names_change(NameChange::Create(name.to_owned(), file));
        let no_space = disk.free < len || disk.random.one_in(disk.faults.no_space);
        let room = if no_space { disk.random.below(disk.free.min(len) + 1) } else { len };
        disk.free -= room;
        let bytes = vec![0; room as usize];
        let number = disk.next_write;
        disk.next_write += 1;
        let filled = Write { number, offset: 0, bytes: bytes.clone(), completed: true };
        let is_durable = disk.faults.writes_are_durable && !disk.faults.syncs_lie;
        let (durable, pending) = if is_durable { (bytes.clone(), Vec::new()) } else { (Vec::new(), vec![filled]) };
        disk.files.insert(file, SimFile { current: bytes, durable, pending });
        if no_space { Err(ErrorKind::StorageFull.into()) } else { Ok(file) }
    }

    /// Returns a copy of any earlier segment, because the checks still need the segment itself.
    async fn recycle(&self, name: &str, len: u64) -> Option<usize> {
        self.delay().await;
        let disk = &mut *self.0.borrow_mut();
        if !disk.random.one_in(disk.faults.recycle) {
            return None;
        }
        if let Some(earlier) = disk.earlier.clone() {
            return disk.recycle_expired(&earlier, name, len);
        }
        let earlier: Vec<usize> =
            disk.names.iter().filter(|(name, _)| name.ends_with(".seg")).map(|(_, file)| *file).collect();
        let from = *earlier.get(disk.random.below(earlier.len().max(1) as u64) as usize)?;
        let content = disk.files[&from].current.clone();
        if content.len() as u64 != len {
            return None;
        }
        let file = disk.next_file;
        disk.next_file += 1;
        disk.names_change(NameChange::Create(name.to_owned(), file));
        disk.files.insert(file, SimFile { current: content.clone(), durable: content, pending: Vec::new() });
        Some(file)
    }

    async fn write_at(&self, file: &usize, offset: u64, buffer: Buffer, from: usize) -> (io::Result<usize>, Buffer) {
        let number = {
            let disk = &mut *self.0.borrow_mut();
            disk.writes += 1;
            let number = disk.next_write;
            disk.next_write += 1;
            let bytes = buffer.as_slice()[from..].to_vec();
            let write = Write { number, offset: offset as usize, bytes, completed: false };
            disk.files.get_mut(file).unwrap().pending.push(write);
            number
        };
        self.delay().await;
        let Disk { random, faults, files, truncated, written_since, refusals, .. } = &mut *self.0.borrow_mut();
        let SimFile { current, durable, pending } = files.get_mut(file).unwrap();
        let at = pending.iter().position(|write| write.number == number).unwrap();
        if offset > 0
            && let Some(refusal) = refusals.pop_front()
        {
            pending.remove(at).land(current, random);
            return (Err(refusal.into()), buffer);
        }
        if offset > 0 && random.one_in(faults.write_no_space) {
            let write = &mut pending[at];
            write.completed = true;
            write.land(current, random);
            // Data that is left in the page cache may reach the disk later.
            if random.one_in(2) {
                pending.remove(at).land(durable, random);
            }
            return (Err(ErrorKind::StorageFull.into()), buffer);
        }
        if random.one_in(faults.write_error) {
            pending.remove(at).land(current, random);
            return (Err(broken("a write")), buffer);
        }
        let write = &mut pending[at];
        if random.one_in(faults.short_write) {
            let len = random.below(write.bytes.len() as u64) as usize;
            write.bytes.truncate(len);
        }
        let len = write.bytes.len();
        write.completed = true;
        *written_since |= *truncated > 0 && offset > 0;
        put(current, write.offset, &write.bytes);
        if faults.writes_are_durable && !faults.syncs_lie {
            let write = pending.remove(at);
            put(durable, write.offset, &write.bytes);
        }
        (Ok(len), buffer)
    }

    async fn sync(&self, file: &usize) -> io::Result<()> {
        let covered: Vec<u64> = {
            let disk = self.0.borrow();
            disk.files[file].pending.iter().filter(|write| write.completed).map(|write| write.number).collect()
        };
        self.delay().await;
        let (fails, late) = {
            let Disk { random, faults, files, .. } = &mut *self.0.borrow_mut();
            if faults.syncs_lie {
                return Ok(());
            }
            let SimFile { durable, pending, .. } = files.get_mut(file).unwrap();
            let mut fails = random.one_in(faults.sync_error);
            let once = faults.errors_come_once > 0;
            if once {
                // The write-back loses the oldest of several writes, even if it is another commit's.
                let oldest = pending.iter().position(|write| write.completed);
                fails &= pending.iter().filter(|write| write.completed).count() >= faults.errors_come_once;
                if let (true, Some(oldest)) = (fails, oldest) {
                    pending.remove(oldest).land(durable, random);
                }
            }
            pending.retain(|write| {
                if !covered.contains(&write.number) {
                    return true;
                }
                // A failed sync drops the data that it could not write, and the next sync succeeds.
                if fails && !once {
                    write.land(durable, random)
                } else {
                    put(durable, write.offset, &write.bytes)
                }
                false
            });
            (fails, fails && once)
        };
        if late {
            // The delay is that of the longest operation, so other operations end meanwhile.
            let longest = self.0.borrow().faults.delay_max_us * 20;
            tokio::time::sleep(Duration::from_micros(longest)).await;
        }
        if fails { Err(broken("a sync")) } else { Ok(()) }
    }

    async fn truncate(&self, file: &usize, len: u64) -> io::Result<()> {
        self.delay().await;
        let disk = &mut *self.0.borrow_mut();
        let file = disk.files.get_mut(file).unwrap();
        let len = len as usize;
        disk.cut_under_writes |= file.pending.iter().any(|write| !write.completed);
        file.current.truncate(len);
        // The sync may fail, but data that was dropped from the page cache is never written.
        file.pending.retain_mut(|write| {
            write.bytes.truncate(len.saturating_sub(write.offset));
            !write.bytes.is_empty()
        });
        if disk.random.one_in(disk.faults.temporary_error) {
            return Err(temporary());
        }
        disk.truncated += 1;
        if !disk.faults.syncs_lie {
            file.durable.truncate(len);
        }
        Ok(())
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.delay().await;
        let disk = &mut *self.0.borrow_mut();
        if disk.random.one_in(disk.faults.dir_error) {
            return Err(broken("a rename"));
        }
        disk.names_change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.delay().await;
        let disk = &mut *self.0.borrow_mut();
        if disk.random.one_in(disk.faults.temporary_error) {
            return Err(temporary());
        }
        let Some(file) = disk.names.get(name) else { return Err(ErrorKind::NotFound.into()) };
        disk.free += disk.files[file].current.len() as u64;
        disk.names_change(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    async fn sync_dir(&self) -> io::Result<()> {
        let count = self.0.borrow().names_pending.len();
        self.delay().await;
        let disk = &mut *self.0.borrow_mut();
        if disk.random.one_in(disk.faults.temporary_error) {
            return Err(temporary());
        }
        if disk.faults.syncs_lie {
            return Ok(());
        }
        let fails = disk.random.one_in(disk.faults.dir_error);
        let changes: Vec<_> = disk.names_pending.drain(..count.min(disk.names_pending.len())).collect();
        // A failed sync drops the changes that it could not write.
        let kept = if fails { disk.random.below(changes.len() as u64 + 1) as usize } else { changes.len() };
        for change in &changes[..kept] {
            change.apply(&mut disk.names_durable);
        }
        // Removals are not dropped: a later removal is never durable without the earlier ones.
        let removals = changes.into_iter().skip(kept).filter(|change| matches!(change, NameChange::Remove(_)));
        disk.names_pending.splice(0..0, removals);
        if fails { Err(broken("a directory's sync")) } else { Ok(()) }
    }

    async fn free_space(&self) -> io::Result<u64> {
        Ok(self.0.borrow().free)
    }

    async fn publish(&self, durable: Durable) -> io::Result<()> {
        let disk = &mut *self.0.borrow_mut();
        if disk.random.one_in(disk.faults.publish_error) {
            return Err(broken("publishing"));
        }
        assert!(durable.commit > disk.published.commit && durable.sequence >= disk.published.sequence);
        disk.published = durable;
        Ok(())
    }

    fn now(&self) -> u64 {
        self.0.borrow().clock.as_ref().map_or_else(now_nanos, |clock| (clock.0)().wall)
    }

    fn boot_time(&self) -> Option<BootTime> {
        self.0.borrow().clock.as_ref().and_then(|clock| (clock.0)().boot)
    }
}

/// The bytes that a disk writes atomically.
const SECTOR_LEN: usize = 512;
