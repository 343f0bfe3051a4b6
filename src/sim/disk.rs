//! The simulated disk of a host: the files of all writers in one data directory, and what survives a crash.
//!
//! The files are real, in a real directory, which should be in memory (`/dev/shm`). They are what programs see: the
//! page cache. So readers, retention and starts work on them unchanged, and also find what a crash leaves. The disk
//! knows in addition what the medium has: a block whose content on the medium may differ is kept aside (`kept`), and
//! so are the durable names of each directory, and the changes of names since. The seed decides how long an operation
//! takes, whether it fails, and how much of each write that was not synced reaches the medium: all, nothing, some
//! sectors, or the first bytes, in any order.
//!
//! Retention and starts change files without this module. It notices removed and truncated files later, before
//! anything depends on them: a removed name may come back after a power cut unless its directory was synced.
//!
//! Two things are simpler than on a real disk: a writer's lock file and its directory survive every power cut, and
//! recycling a segment makes all changes of names durable, as a commit of the file system's log does.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::kernel;
use super::random::Random;
use crate::journal::layout::{self, LOCK, POSITION, remove_if_there};
use crate::journal::moment::{BootTime, Moment};
use crate::journal::position::{Durable, PositionFile};
use crate::journal::retention::Retention;
use crate::journal::{BLOCK_LEN, Buffer, Prealloc, Storage};

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
    /// A resource runs out temporarily when a segment is made or removed, a file is truncated, or a directory is
    /// synced.
    pub temporary_error: u64,
    /// Publishing the position fails.
    pub publish_error: u64,
    /// A rename or the sync of the directory fails.
    pub dir_error: u64,
    /// A segment is recycled, if retention releases one.
    pub recycle: u64,
    /// Each write is durable when it returns.
    pub writes_are_durable: bool,
    /// The longest that most operations take. Some take twenty times as long.
    pub delay_max_us: u64,
}

/// Returns a guard that stands for one descriptor of a process, or an error if no descriptor is left.
pub type Descriptors = Rc<dyn Fn() -> io::Result<Box<dyn Any>>>;

/// A simulated disk with the files of all writers of a data directory.
#[derive(Debug, Default)]
pub struct Disk {
    /// The faults from now on.
    pub faults: Faults,
    /// The size of the disk in bytes.
    pub capacity: u64,
    /// The number of writes that were begun.
    pub writes: u64,
    /// The results of the next writes of commits, in the order in which they end.
    pub refusals: VecDeque<ErrorKind>,
    /// How each file was preallocated.
    pub prealloc: Vec<Prealloc>,
    /// A file was truncated while a write to it was in flight, which would reach the file after the new end.
    pub cut_under_writes: bool,
    random: Random,
    data_dir: PathBuf,
    /// No operation ends before.
    stalled_until: Option<Instant>,
    alive: BTreeSet<u32>,
    files: BTreeMap<u64, SimFile>,
    dirs: BTreeMap<PathBuf, Dir>,
    next_file: u64,
}

/// A file, with or without a name.
#[derive(Debug)]
struct SimFile {
    /// The content as programs see it. The descriptor keeps the content of a removed file.
    file: File,
    /// The length as programs see it, unless another module has truncated the file.
    len: u64,
    durable_len: u64,
    /// The durable content of blocks, by their numbers, wherever it may differ from the file.
    kept: BTreeMap<u64, Vec<u8>>,
    /// Writes that are not durable. Completed ones come in the order in which they changed the file.
    pending: Vec<Write>,
    /// A sync has failed, and the medium lacks data that no later sync writes.
    is_damaged: bool,
}

#[derive(Debug)]
struct Write {
    number: u64,
    process: u32,
    offset: u64,
    bytes: Vec<u8>,
    /// The write has returned, and the file has its bytes. A sync that starts now covers it.
    completed: bool,
}

/// The names in a writer's directory.
#[derive(Debug, Default)]
struct Dir {
    /// The names as programs see them, unless another module has removed some.
    names: Names,
    durable: Names,
    pending: Vec<NameChange>,
    /// Positions that were published since the boot, of which any may be in the position file after a power cut.
    published: Vec<Durable>,
}

type Names = BTreeMap<String, u64>;

/// A name that is removed, and a name that a file gets.
#[derive(Debug)]
struct NameChange(Option<String>, Option<(String, u64)>);

impl NameChange {
    fn apply(&self, names: &mut Names) {
        self.0.as_ref().map(|name| names.remove(name));
        names.extend(self.1.clone());
    }
}

impl Dir {
    fn change(&mut self, removed: Option<&str>, added: Option<(&str, u64)>) {
        let change = NameChange(removed.map(str::to_owned), added.map(|(name, file)| (name.to_owned(), file)));
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    /// Makes the first `count` pending changes durable.
    fn sync(&mut self, count: usize) {
        self.pending.drain(..count).for_each(|change| change.apply(&mut self.durable));
    }
}

impl Write {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    fn blocks(&self) -> Range<u64> {
        self.offset / BLOCK..self.end().div_ceil(BLOCK)
    }

    /// Returns the part of this write that reaches the file or the medium if it is interrupted, in pieces.
    fn partial(&self, random: &mut Random) -> Vec<Write> {
        let bytes = &self.bytes[..];
        let piece = |at: usize, bytes: &[u8]| Write { offset: self.offset + at as u64, bytes: bytes.to_vec(), ..*self };
        match random.below(4) {
            0 => Vec::new(),
            1 => vec![piece(0, bytes)],
            2 => {
                let sectors = bytes.chunks(SECTOR_LEN).enumerate().filter(|_| random.one_in(2));
                sectors.map(|(at, sector)| piece(at * SECTOR_LEN, sector)).collect()
            }
            _ => vec![piece(0, &bytes[..random.below(bytes.len() as u64 + 1) as usize])],
        }
    }
}

impl SimFile {
    /// Returns a file whose content is durable.
    fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let (kept, pending) = (BTreeMap::new(), Vec::new());
        Ok(SimFile { file, len, durable_len: len, kept, pending, is_damaged: false })
    }

    /// Changes the file, and the medium too if the write is durable.
    fn complete(&mut self, mut write: Write, is_durable: bool) -> io::Result<()> {
        let differing = if is_durable { 0..0 } else { write.blocks() };
        for block in differing.filter(|block| !self.kept.contains_key(block)).collect::<Vec<_>>() {
            let mut content = vec![0; BLOCK_LEN];
            self.file.read_at(&mut content, block * BLOCK)?;
            self.kept.insert(block, content);
        }
        self.file.write_all_at(&write.bytes, write.offset)?;
        self.len = self.len.max(write.end());
        if is_durable {
            self.reach_medium(&write);
        } else {
            write.completed = true;
            self.pending.push(write);
        }
        Ok(())
    }

    /// Executes a part of a write, which may be durable or not.
    fn interrupt(&mut self, write: &Write, random: &mut Random) -> io::Result<()> {
        let is_durable = random.one_in(2);
        write.partial(random).into_iter().try_for_each(|piece| self.complete(piece, is_durable))
    }

    /// Changes the medium by a write that the file already has.
    fn reach_medium(&mut self, write: &Write) {
        self.durable_len = self.durable_len.max(write.end());
        for (block, content) in self.kept.range_mut(write.blocks()) {
            let (from, to) = (write.offset.max(block * BLOCK), write.end().min((block + 1) * BLOCK));
            let bytes = &write.bytes[(from - write.offset) as usize..(to - write.offset) as usize];
            content[(from - block * BLOCK) as usize..(to - block * BLOCK) as usize].copy_from_slice(bytes);
        }
    }

    /// Makes the length durable, and drops the blocks that no longer differ.
    fn synced(&mut self) {
        self.durable_len = self.len;
        if !self.is_damaged {
            let pending = &self.pending;
            let differs = |block: &u64| pending.iter().any(|write| write.completed && write.blocks().contains(block));
            self.kept.retain(|block, _| differs(block));
        }
    }

    /// Handles a truncation, which is durable. Data that was dropped from the page cache is never written.
    fn truncated(&mut self, len: u64) {
        (self.len, self.durable_len) = (len, len);
        self.kept.split_off(&len.div_ceil(BLOCK));
        self.pending.retain_mut(|write| {
            write.bytes.truncate(len.saturating_sub(write.offset) as usize);
            !write.bytes.is_empty()
        });
    }

    /// Changes the file to what the medium has after a power cut.
    fn lose_power(&mut self, random: &mut Random) -> io::Result<()> {
        for (block, content) in &self.kept {
            self.file.write_all_at(content, block * BLOCK)?;
        }
        let grown = self.len - self.durable_len;
        self.file.set_len(self.durable_len + [0, grown, random.below(grown + 1)][random.below(3) as usize])?;
        while !self.pending.is_empty() {
            let at = random.below(self.pending.len() as u64) as usize;
            for piece in self.pending.swap_remove(at).partial(random) {
                self.file.write_all_at(&piece.bytes, piece.offset)?;
            }
        }
        Ok(())
    }
}

impl Disk {
    /// Returns a disk of `capacity` bytes for the files in `data_dir`, which need not exist. Files that exist are
    /// durable.
    ///
    /// # Panics
    /// The directory can't be read.
    pub fn new(seed: u64, data_dir: &Path, faults: Faults, capacity: u64) -> Rc<RefCell<Disk>> {
        let (random, data_dir) = (Random(seed), data_dir.to_owned());
        let mut disk = Disk { faults, capacity, random, data_dir, ..Disk::default() };
        disk.list().expect("the files of a data directory can be opened");
        Rc::new(RefCell::new(disk))
    }

    /// Changes the faults from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Stalls the disk: no operation ends before this moment, whether it is in flight or begins later.
    pub fn stall_until(&mut self, until: Instant) {
        self.stalled_until = Some(until);
    }

    /// Returns how many bytes are free.
    pub fn free(&self) -> u64 {
        let named = self.dirs.values().flat_map(|dir| dir.names.values()).filter_map(|id| self.files.get(id));
        let metadata = named.filter_map(|file| file.file.metadata().ok());
        self.capacity.saturating_sub(metadata.filter(|file| file.nlink() > 0).map(|file| file.len()).sum())
    }

    /// Kills a process: its writes in flight reach their files in part or not at all, and nothing that it does later
    /// has an effect. Also call it for a process that has exited.
    ///
    /// # Panics
    /// A file can't be written.
    pub fn kill(&mut self, process: u32) {
        self.alive.remove(&process);
        for file in self.files.values_mut() {
            let is_in_flight = |write: &mut Write| write.process == process && !write.completed;
            for write in file.pending.extract_if(.., is_in_flight).collect::<Vec<_>>() {
                file.interrupt(&write, &mut self.random).expect("a file can be written");
            }
        }
    }

    /// Cuts the power: all processes are killed, and the files become what the medium has. Names change as the seed
    /// decides: each directory has its durable names, and the first of the changes since. Position files have any value
    /// that was published since the boot, are empty, or are missing.
    ///
    /// # Panics
    /// The files can't be changed.
    pub fn power_cut(&mut self) {
        self.alive.clear();
        self.stalled_until = None;
        self.lose_power().expect("the files can be changed");
        (self.files, self.dirs) = Default::default();
        self.list().expect("the files of a data directory can be opened");
    }

    fn lose_power(&mut self) -> io::Result<()> {
        self.notice()?;
        let Disk { random, files, dirs, .. } = self;
        for (path, dir) in dirs {
            dir.sync(random.below(dir.pending.len() as u64 + 1) as usize);
            let mut restored = Vec::new();
            for (name, id) in &dir.durable {
                let file = files.get_mut(id).expect("a file with a name is known");
                file.lose_power(random)?;
                if dir.names.get(name) != Some(id) {
                    let mut content = vec![0; file.file.metadata()?.len() as usize];
                    file.file.read_exact_at(&mut content, 0)?;
                    restored.push((path.join(name), content));
                }
            }
            for (name, _) in dir.names.iter().filter(|(name, id)| dir.durable.get(*name) != Some(id)) {
                remove_if_there(&path.join(name))?;
            }
            if !path.is_dir() {
                // A writer's directory is synced before it is removed, so at most the empty directory could come back.
                continue;
            }
            restored.into_iter().try_for_each(|(path, content)| fs::write(path, content))?;
            if !dir.published.is_empty() && path.is_dir() {
                let position = PositionFile::create(path)?;
                match random.below(8) {
                    0 => drop(remove_if_there(&path.join(POSITION))?),
                    1 => File::options().write(true).open(path.join(POSITION))?.set_len(0)?,
                    _ => position.publish(dir.published[random.below(dir.published.len() as u64) as usize])?,
                }
            }
        }
        Ok(())
    }

    /// Lists all files, as durable ones.
    fn list(&mut self) -> io::Result<()> {
        if !self.data_dir.is_dir() {
            return Ok(());
        }
        for writer in layout::writers(&self.data_dir)? {
            let path = self.data_dir.join(writer.to_string());
            let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
            let sorted: BTreeSet<String> = fs::read_dir(&path)?.map(name).collect::<io::Result<_>>()?;
            let mut names = Names::new();
            for name in sorted.into_iter().filter(|name| name != LOCK && name != POSITION) {
                let file = SimFile::new(File::options().read(true).write(true).open(path.join(&name))?)?;
                names.insert(name, self.add(file));
            }
            self.dirs.insert(path, Dir { durable: names.clone(), names, ..Dir::default() });
        }
        Ok(())
    }

    fn add(&mut self, file: SimFile) -> u64 {
        self.next_file += 1;
        self.files.insert(self.next_file, file);
        self.next_file
    }

    fn file(&mut self, id: u64) -> &mut SimFile {
        self.files.get_mut(&id).expect("an open file is known")
    }

    fn dir(&mut self, path: &Path) -> &mut Dir {
        self.dirs.get_mut(path).expect("the directory of an open storage is known")
    }

    /// Notices which files other modules have removed, and which ones they have truncated and synced.
    fn notice(&mut self) -> io::Result<()> {
        for dir in self.dirs.values_mut() {
            for (name, id) in dir.names.clone() {
                let file = self.files.get_mut(&id).expect("a file with a name is known");
                let metadata = file.file.metadata()?;
                if metadata.len() < file.len {
                    file.pending.retain(|write| !write.completed);
                    file.truncated(metadata.len());
                    file.synced();
                }
                if metadata.nlink() == 0 {
                    dir.change(Some(&name), None);
                }
            }
        }
        Ok(())
    }

    /// Returns an error once in so many times.
    fn fail_one_in(&mut self, times: u64, what: &str) -> io::Result<()> {
        if self.random.one_in(times) { Err(broken(what)) } else { Ok(()) }
    }

    /// Returns the error of a resource that has run out, if that happens now.
    fn need_resources(&mut self) -> io::Result<()> {
        if !self.random.one_in(self.faults.temporary_error) {
            return Ok(());
        }
        let errors = [libc::EMFILE, libc::ENOMEM, libc::EINTR];
        Err(io::Error::from_raw_os_error(errors[self.random.below(errors.len() as u64) as usize]))
    }

    fn create(&mut self, path: &Path, name: &str, len: u64, is_allocated: bool) -> io::Result<u64> {
        let full_path = path.join(name);
        if remove_if_there(&full_path)? {
            self.dir(path).change(Some(name), None);
        }
        let free = self.free();
        let no_space = free < len || self.random.one_in(self.faults.no_space);
        let room = if no_space { self.random.below(free.min(len) + 1) } else { len };
        let file = File::options().read(true).write(true).create_new(true).open(&full_path)?;
        if is_allocated && room > 0 {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, room)?;
        }
        file.set_len(room)?;
        let mut file = SimFile::new(file)?;
        if !self.faults.writes_are_durable {
            file.durable_len = 0;
        }
        let id = self.add(file);
        self.dir(path).change(None, Some((name, id)));
        if no_space { Err(ErrorKind::StorageFull.into()) } else { Ok(id) }
    }

    fn recycle(&mut self, retention: Retention, path: &Path, name: &str, len: u64) -> io::Result<Option<u64>> {
        let to = path.join(name);
        if !retention.recycle(&self.data_dir, len, &to, Moment::now())? {
            return Ok(None);
        }
        let inode = fs::metadata(&to)?.ino();
        let is_it = |id: &u64| self.files[id].file.metadata().is_ok_and(|metadata| metadata.ino() == inode);
        let moved = self.dirs.values_mut().find_map(|dir| {
            let (old, id) = dir.names.iter().find(|(_, id)| is_it(id)).map(|(old, id)| (old.clone(), *id))?;
            dir.change(Some(&old), None);
            Some(id)
        });
        let id = moved.expect("every segment is known");
        self.dir(path).change(None, Some((name, id)));
        self.notice()?;
        self.dirs.values_mut().for_each(|dir| dir.sync(dir.pending.len()));
        Ok(Some(id))
    }

    fn end_write(&mut self, id: u64, number: u64) -> io::Result<usize> {
        let Disk { random, faults, files, refusals, .. } = self;
        let file = files.get_mut(&id).expect("an open file is known");
        // A file that was truncated meanwhile has no place for it.
        let Some(at) = file.pending.iter().position(|write| write.number == number) else { return Ok(0) };
        let mut write = file.pending.remove(at);
        let is_commit = write.offset > 0;
        let refusal = if is_commit { refusals.pop_front() } else { None };
        let error = match refusal {
            Some(refusal) => Some(refusal.into()),
            None if is_commit && random.one_in(faults.write_no_space) => Some(ErrorKind::StorageFull.into()),
            None => random.one_in(faults.write_error).then(|| broken("a write")),
        };
        if let Some(error) = error {
            return file.interrupt(&write, random).and(Err(error));
        }
        if random.one_in(faults.short_write) {
            write.bytes.truncate(random.below(write.bytes.len() as u64) as usize);
        }
        let len = write.bytes.len();
        file.complete(write, faults.writes_are_durable).map(|()| len)
    }

    /// Syncs a file. `covered` are the writes that had completed when the sync was started. Returns whether it fails.
    fn sync(&mut self, id: u64, covered: &[u64]) -> bool {
        let Disk { random, faults, files, .. } = self;
        let file = files.get_mut(&id).expect("an open file is known");
        let fails = random.one_in(faults.sync_error);
        for write in file.pending.extract_if(.., |write| covered.contains(&write.number)).collect::<Vec<_>>() {
            if fails {
                // A failed sync drops the data that it could not write, and the next sync succeeds.
                write.partial(random).iter().for_each(|piece| file.reach_medium(piece));
            } else {
                file.reach_medium(&write);
            }
        }
        file.is_damaged |= fails;
        if !fails {
            file.synced();
        }
        fails
    }

    fn truncate(&mut self, id: u64, len: u64) -> io::Result<()> {
        self.need_resources()?;
        let file = self.file(id);
        let cut_under_writes = file.pending.iter().any(|write| !write.completed);
        file.file.set_len(len)?;
        file.truncated(len);
        self.cut_under_writes |= cut_under_writes;
        Ok(())
    }

    /// Syncs a directory, whose first `count` pending changes were made before the sync was started.
    fn sync_dir(&mut self, path: &Path, count: usize) -> io::Result<()> {
        self.need_resources()?;
        let Disk { random, faults, dirs, .. } = self;
        let dir = dirs.get_mut(path).expect("the directory of an open storage is known");
        let count = count.min(dir.pending.len());
        let fails = random.one_in(faults.dir_error);
        let written = if fails { random.below(count as u64 + 1) as usize } else { count };
        dir.sync(written);
        // A failed sync drops the changes that it could not write, except removals: a later removal is never durable
        // without the earlier ones.
        let dropped = dir.pending.extract_if(..count - written, |change| change.1.is_some());
        dropped.for_each(drop);
        if fails { Err(broken("a directory's sync")) } else { Ok(()) }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::other(format!("{what} fails as planned"))
}

/// A writer's storage on such a disk.
pub struct SimStorage {
    disk: Rc<RefCell<Disk>>,
    process: u32,
    dir: PathBuf,
    retention: Retention,
    descriptors: Descriptors,
    position: PositionFile,
    /// The descriptors of the position file and of the directory.
    _guards: [Box<dyn Any>; 2],
}

/// An open file. It stays usable when its name is removed.
pub struct OpenFile {
    id: u64,
    _guard: Box<dyn Any>,
}

impl SimStorage {
    /// Opens the storage of a writer's directory for a process. No number of a process is used again.
    ///
    /// # Errors
    /// The process has no descriptors left, or the position file can't be created.
    pub fn open(
        disk: &Rc<RefCell<Disk>>,
        process: u32,
        writer_dir: &Path,
        retention: Retention,
        descriptors: Descriptors,
    ) -> io::Result<Self> {
        let (guards, position) = ([descriptors()?, descriptors()?], PositionFile::create(writer_dir)?);
        let mut state = disk.borrow_mut();
        state.alive.insert(process);
        // The start of this process has removed them, and has synced the data directory.
        state.dirs.retain(|path, _| path.is_dir());
        state.dirs.entry(writer_dir.to_owned()).or_default().published.push(Durable::default());
        let (disk, dir) = (disk.clone(), writer_dir.to_owned());
        Ok(SimStorage { disk, process, dir, retention, descriptors, position, _guards: guards })
    }

    /// Waits for as long as an operation takes.
    async fn delay(&self) {
        let micros = {
            let Disk { random, faults, .. } = &mut *self.disk.borrow_mut();
            // Some operations take much longer, so that later ones overtake them.
            random.below(faults.delay_max_us + 1) * if random.one_in(10) { 20 } else { 1 }
        };
        if micros < TIMER_MICROS {
            tokio::task::yield_now().await;
        } else {
            sleep(Duration::from_micros(micros)).await;
        }
        loop {
            let until = self.disk.borrow().stalled_until;
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => return self.alive().await,
            }
        }
    }

    /// Lets an operation begin or end, and returns only if the process is alive.
    async fn alive(&self) {
        kernel::live(self.process, "disk", 0).await;
        if !self.disk.borrow().alive.contains(&self.process) {
            std::future::pending().await
        }
    }

    /// Executes an operation, at its end or at its beginning, as the seed decides.
    async fn execute<T>(&self, operation: impl FnOnce(&mut Disk) -> T) -> T {
        self.alive().await;
        let is_early = self.disk.borrow_mut().random.one_in(4);
        if !is_early {
            self.delay().await;
        }
        let result = operation(&mut self.disk.borrow_mut());
        if is_early {
            self.delay().await;
        }
        result
    }
}

impl Storage for SimStorage {
    type File = OpenFile;

    async fn create(&self, name: &str, len: u64, prealloc: Prealloc) -> io::Result<OpenFile> {
        self.execute(|disk| {
            disk.need_resources()?;
            let guard = (self.descriptors)()?;
            disk.prealloc.push(prealloc);
            // Retention recycles only files that have all of their blocks.
            let is_allocated = !self.retention.is_off() && disk.faults.recycle > 0;
            let id = disk.create(&self.dir, name, len, is_allocated)?;
            Ok(OpenFile { id, _guard: guard })
        })
        .await
    }

    async fn recycle(&self, name: &str, len: u64) -> Option<OpenFile> {
        self.execute(|disk| {
            if self.retention.is_off() || !disk.random.one_in(disk.faults.recycle) {
                return None;
            }
            // Without a descriptor, the file is renamed nevertheless.
            let id = disk.recycle(self.retention, &self.dir, name, len).ok()??;
            let guard = (self.descriptors)().ok()?;
            Some(OpenFile { id, _guard: guard })
        })
        .await
    }

    async fn write_at(&self, file: &OpenFile, offset: u64, buffer: Buffer, from: usize) -> (io::Result<usize>, Buffer) {
        self.alive().await;
        let number = {
            let disk = &mut *self.disk.borrow_mut();
            disk.writes += 1;
            let (number, bytes) = (disk.writes, buffer.as_slice()[from..].to_vec());
            let write = Write { number, process: self.process, offset, bytes, completed: false };
            disk.file(file.id).pending.push(write);
            number
        };
        self.delay().await;
        (self.disk.borrow_mut().end_write(file.id, number), buffer)
    }

    async fn sync(&self, file: &OpenFile) -> io::Result<()> {
        self.alive().await;
        let covered: Vec<u64> = {
            let disk = &mut *self.disk.borrow_mut();
            disk.file(file.id).pending.iter().filter(|write| write.completed).map(|write| write.number).collect()
        };
        let fails = self.execute(|disk| disk.sync(file.id, &covered)).await;
        if fails { Err(broken("a sync")) } else { Ok(()) }
    }

    async fn truncate(&self, file: &OpenFile, len: u64) -> io::Result<()> {
        self.execute(|disk| disk.truncate(file.id, len)).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.execute(|disk| {
            disk.fail_one_in(disk.faults.dir_error, "a rename")?;
            fs::rename(self.dir.join(from), self.dir.join(to))?;
            let dir = disk.dir(&self.dir);
            dir.change(Some(from), Some((to, dir.names[from])));
            Ok(())
        })
        .await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.execute(|disk| {
            disk.need_resources()?;
            fs::remove_file(self.dir.join(name))?;
            disk.dir(&self.dir).change(Some(name), None);
            Ok(())
        })
        .await
    }

    async fn sync_dir(&self) -> io::Result<()> {
        self.alive().await;
        let count = {
            let disk = &mut *self.disk.borrow_mut();
            disk.notice()?;
            disk.dir(&self.dir).pending.len()
        };
        self.execute(|disk| disk.sync_dir(&self.dir, count)).await
    }

    async fn free_space(&self) -> io::Result<u64> {
        self.execute(|disk| Ok(disk.free())).await
    }

    async fn publish(&self, durable: Durable) -> io::Result<()> {
        self.execute(|disk| {
            disk.fail_one_in(disk.faults.publish_error, "publishing")?;
            self.position.publish(durable)?;
            let forgotten = disk.random.below(PUBLISHED_MAX as u64 - 1) as usize;
            let published = &mut disk.dir(&self.dir).published;
            let last = *published.last().expect("a position is published when the storage is opened");
            assert!(durable.commit > last.commit && durable.sequence >= last.sequence, "{durable:?} after {last:?}");
            if published.len() == PUBLISHED_MAX {
                published.remove(forgotten);
            }
            published.push(durable);
            Ok(())
        })
        .await
    }

    fn boot_time(&self) -> Option<BootTime> {
        BootTime::now()
    }
}

/// The length of a block, in bytes.
const BLOCK: u64 = BLOCK_LEN as u64;
/// The bytes that a disk writes atomically.
const SECTOR_LEN: usize = 512;
/// Shorter times than tokio's timers can measure, in microseconds, are a single yield.
const TIMER_MICROS: u64 = 1000;
/// How many published positions are remembered for each writer.
const PUBLISHED_MAX: usize = 16;
