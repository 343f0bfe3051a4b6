//! `journal backup`: the copy has every message that was acked before the command began, is sound whatever the server
//! does at the same time, and can be served again.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::kept::{cat, expect_sound, ids_by_peer, journal, serve, text};
use crate::common::requirement::BIRTH_TIMES;
use crate::common::{Ended, PATIENCE, connect, expect_acks, ringpost, run, submit};

fn backup(data_dir: &Path, target: &Path) -> Ended {
    run(ringpost(&["journal", "backup", text(target), "--data-dir", text(data_dir)]))
}

/// Connections that send all the time, with IDs from 0 on, and the number of acked messages of each.
struct Load {
    stop: Arc<AtomicBool>,
    senders: Vec<(SocketAddr, Arc<AtomicU64>, JoinHandle<()>)>,
}

impl Load {
    fn start(address: SocketAddr, connections: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let sender = |_| {
            let (stop, acked) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
            let mut stream = connect(address);
            let (peer, counted) = (stream.local_addr().unwrap(), Arc::clone(&acked));
            let send = move || {
                // The test may kill the server.
                while !stop.load(Ordering::Relaxed) && send_window(&mut stream, &counted).is_ok() {
                    thread::sleep(PACE);
                }
            };
            (peer, acked, thread::spawn(send))
        };
        Load { stop: Arc::clone(&stop), senders: (0..connections).map(sender).collect() }
    }

    fn acked(&self) -> Vec<(SocketAddr, u64)> {
        self.senders.iter().map(|(peer, acked, _)| (*peer, acked.load(Ordering::Acquire))).collect()
    }

    /// Waits until this many more messages have been acked.
    fn pass(&self, messages: u64) {
        let sum = || self.acked().iter().map(|(_, acked)| acked).sum::<u64>();
        let (before, deadline) = (sum(), Instant::now() + PATIENCE);
        while sum() < before + messages {
            assert!(Instant::now() < deadline, "more messages are acked");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_, _, thread) in self.senders {
            thread.join().unwrap();
        }
    }
}

const WINDOW: u64 = 32;
/// The pause between two windows of a connection: `cat` and `verify` of a debug build must keep up with the load.
const PACE: Duration = Duration::from_millis(40);
const PAYLOAD_LEN: usize = 400;

fn send_window(stream: &mut TcpStream, acked: &AtomicU64) -> std::io::Result<()> {
    let first = acked.load(Ordering::Relaxed);
    let window: Vec<u8> = (first..first + WINDOW).flat_map(|id| submit(id, &payload(id))).collect();
    stream.write_all(&window)?;
    let mut acks = vec![0; 14 * WINDOW as usize];
    stream.read_exact(&mut acks)?;
    assert!(acks.chunks(14).all(|ack| ack[13] == 0), "every message is acked with 0");
    acked.store(first + WINDOW, Ordering::Release);
    Ok(())
}

fn payload(id: u64) -> Vec<u8> {
    format!("{id:0width$}", width = PAYLOAD_LEN).into_bytes()
}

/// Checks that the copy is sound and has no gap, and that it has at least the messages of each connection that were
/// acked before.
fn expect_backed_up(target: &Path, acked_before: &[(SocketAddr, u64)], from_the_beginning: bool) {
    expect_sound(target);
    let lines = cat(target);
    assert!(lines.iter().all(|line| line.payload == payload(line.id)), "payloads differ from those that were sent");
    let kept = ids_by_peer(&lines);
    for (peer, acked) in acked_before.iter().filter(|(_, acked)| *acked > 0) {
        let ids = kept.get(peer).unwrap_or_else(|| panic!("no message of {peer} is kept, and {acked} were acked"));
        assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{peer} has a gap");
        assert!(*ids.last().unwrap() + 1 >= *acked, "{peer}: up to {:?}, {acked} were acked", ids.last());
        assert!(!from_the_beginning || ids[0] == 0, "{peer} begins with {}", ids[0]);
    }
}

#[test]
fn a_backup_under_load_has_every_message_acked_before() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = serve(&data, "--workers 2 --segment-size 2MiB --min-free 0");
    let load = Load::start(server.address(), 6);
    for round in 0..4 {
        load.pass(6000);
        let (before, target) = (load.acked(), dir.path().join(format!("copy{round}")));
        let ended = backup(&data, &target);
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.log);
        assert!(ended.stdout.starts_with("sound: "), "{}", ended.stdout);
        assert_eq!(ended.log, "", "a report about a sound copy");
        expect_backed_up(&target, &before, true);
    }
    load.stop();
    assert!(server.stop().status.success());
}

#[test]
fn retention_and_recycling_do_not_disturb_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = serve(&data, "--workers 2 --segment-size 2MiB --min-free 0 --retain-bytes 12MiB");
    let load = Load::start(server.address(), 6);
    for round in 0..12 {
        load.pass(6000);
        let (before, target) = (load.acked(), dir.path().join(format!("copy{round}")));
        let ended = backup(&data, &target);
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.log);
        expect_backed_up(&target, &before, false);
        fs::remove_dir_all(&target).unwrap();
    }
    load.stop();
    assert!(server.stop().status.success());
}

#[test]
fn a_server_killed_during_a_backup_does_not_spoil_the_copy() {
    for round in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let (data, target) = (dir.path().join("data"), dir.path().join("copy"));
        let mut server = serve(&data, "--workers 2 --segment-size 2MiB --min-free 0");
        let load = Load::start(server.address(), 6);
        load.pass(10_000);
        let before = load.acked();
        let mut command = ringpost(&["journal", "backup", text(&target), "--data-dir", text(&data)]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(40 * round));
        server.signal(libc::SIGKILL);
        server.reap();
        assert!(child.wait().unwrap().success(), "round {round}");
        load.stop();
        expect_backed_up(&target, &before, true);
    }
}

#[test]
fn a_killed_backup_leaves_a_directory_that_is_called_incomplete() {
    let dir = tempfile::tempdir().unwrap();
    let (data, target) = (dir.path().join("data"), dir.path().join("copy"));
    let server = serve(&data, "--workers 2 --segment-size 2MiB --min-free 0");
    let load = Load::start(server.address(), 6);
    load.pass(40_000);
    let incomplete = dir.path().join("copy.incomplete");
    let caught = (0..50).any(|_| {
        let mut command = ringpost(&["journal", "backup", text(&target), "--data-dir", text(&data)]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !incomplete.exists() && !target.exists() && Instant::now() < deadline {
            thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let caught = !target.exists();
        if !caught {
            fs::remove_dir_all(&target).unwrap();
        }
        caught
    });
    assert!(caught && incomplete.exists(), "every backup ended before it was killed");
    let ended = backup(&data, &target);
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.log.contains("copy.incomplete exists") && ended.log.contains("interrupted"), "{}", ended.log);
    assert!(!target.exists());
    fs::remove_dir_all(&incomplete).unwrap();
    let before = load.acked();
    assert!(backup(&data, &target).status.success());
    expect_backed_up(&target, &before, true);
    load.stop();
}

#[test]
fn a_backup_is_served_again_with_its_messages_and_positions() {
    let dir = tempfile::tempdir().unwrap();
    let (data, target) = (dir.path().join("data"), dir.path().join("copy"));
    let mut server = serve(&data, "--workers 2 --segment-size 2MiB --min-free 0");
    let load = Load::start(server.address(), 4);
    load.pass(8000);
    let before = load.acked();
    assert!(backup(&data, &target).status.success());
    load.pass(2000);
    server.signal(libc::SIGKILL);
    server.reap();
    load.stop();
    let copied = cat(&target);

    fs::rename(&data, dir.path().join("lost")).unwrap();
    fs::rename(&target, &data).unwrap();
    let server = serve(&data, "--workers 2 --segment-size 2MiB --min-free 0 --retain-bytes 1GiB");
    let mut stream = connect(server.address());
    stream.write_all(&[submit(0, b"after"), submit(1, b"the restore")].concat()).unwrap();
    expect_acks(&mut stream, 0..2);
    assert!(server.stop().status.success());
    expect_backed_up_with(&data, &before, stream.local_addr().unwrap());
    let all = cat(&data);
    assert_eq!(all[..copied.len()], copied[..], "the copied messages and their positions changed");
    assert_eq!(all.len(), copied.len() + 2);
}

fn expect_backed_up_with(data_dir: &Path, before: &[(SocketAddr, u64)], later: SocketAddr) {
    expect_sound(data_dir);
    let kept = ids_by_peer(&cat(data_dir));
    assert_eq!(kept[&later], [0, 1]);
    assert!(before.iter().all(|(peer, acked)| kept[peer].len() as u64 >= *acked));
}

#[test]
fn a_backup_copies_the_journal_of_a_stopped_or_killed_server_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for (round, signal) in [libc::SIGTERM, libc::SIGKILL].into_iter().enumerate() {
        let mut server = serve(&data, "--workers 2 --segment-size 2MiB --min-free 0");
        let load = Load::start(server.address(), 4);
        load.pass(5000);
        server.signal(signal);
        server.reap();
        load.stop();
        let target = dir.path().join(format!("copy{round}"));
        let ended = backup(&data, &target);
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.log);
        assert_eq!(cat(&target), cat(&data));
    }
}

/// Returns the directory of a journal's only writer.
fn writer_of(data_dir: &Path) -> PathBuf {
    let mut paths = fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path());
    paths.find(|path| path.is_dir()).unwrap()
}

/// In a copy of a live writer, the last message is known to have been durable as well.
#[test]
fn damage_to_the_end_of_a_backup_is_not_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (data, target) = (dir.path().join("data"), dir.path().join("copy"));
    let server = serve(&data, "--workers 1 --segment-size 2MiB --min-free 0");
    let mut stream = connect(server.address());
    stream.write_all(&submit(0, b"the last message")).unwrap();
    expect_acks(&mut stream, 0..1);
    assert!(backup(&data, &target).status.success());
    assert_eq!(cat(&target).len(), 1);
    let writer = writer_of(&target);
    let segment = writer.join("0000000000.seg");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(16).position(|window| window == b"the last message").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    assert_eq!(journal("verify", &target).status.code(), Some(1), "damage to a durable message is reported");
    let ended = backup(&target, &dir.path().join("copy of it"));
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.stdout.starts_with("NOT sound: ") && ended.log.contains("was durable and is damaged"),
        "{}",
        ended.log
    );
}

#[test]
fn only_its_owner_can_read_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (data, target) = (dir.path().join("data"), dir.path().join("copy"));
    let server = serve(&data, "--workers 1 --segment-size 2MiB --min-free 0");
    let mut stream = connect(server.address());
    stream.write_all(&submit(0, b"private")).unwrap();
    expect_acks(&mut stream, 0..1);
    let mut command = ringpost(&["journal", "backup", text(&target), "--data-dir", text(&data)]);
    // SAFETY: umask(2) is async-signal-safe.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            libc::umask(0);
            Ok(())
        })
    };
    assert!(run(command).status.success());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let writer = writer_of(&target);
    assert_eq!((mode(&target), mode(&writer)), (0o700, 0o700));
    let files: Vec<_> = fs::read_dir(&writer).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "lock, position and a segment: {files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
}

#[test]
fn an_invalid_backup_target_is_refused_and_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let _server = serve(&data, "--workers 1 --segment-size 2MiB --min-free 0");
    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "mine").unwrap();
    std::os::unix::fs::symlink(&data, dir.path().join("link")).unwrap();
    for (target, expected) in [
        (data.join("copy"), "inside the journal"),
        (dir.path().join("link/copy"), "inside the journal"),
        (data.clone(), "inside the journal"),
        (full.clone(), "is not an empty directory"),
        (full.join("file"), "is not an empty directory"),
        (dir.path().join("none/copy"), "No such file"),
        ("/proc".into(), "is not an empty directory"),
    ] {
        let ended = backup(&data, &target);
        assert_eq!(ended.status.code(), Some(1), "{}", target.display());
        assert!(ended.log.contains(expected), "{}: {}", target.display(), ended.log);
    }
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    let nowhere = backup(&dir.path().join("nowhere"), &dir.path().join("copy"));
    assert!(nowhere.status.code() == Some(1) && nowhere.log.contains("no journal"), "{}", nowhere.log);
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(backup(&data, &empty).status.success(), "an empty directory is a valid target");
    assert!(!fs::read_dir(dir.path()).unwrap().any(|entry| text(&entry.unwrap().path()).ends_with(".incomplete")));
}

/// Copies a journal as `cp -r` does, file by file in the order of names. Calls `pause` before the last segment of each
/// writer.
fn copy_file_by_file(data_dir: &Path, target: &Path, pause: impl Fn()) {
    fs::create_dir(target).unwrap();
    let names = |dir: &Path| {
        let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    for writer in names(data_dir).into_iter().filter(|path| path.is_dir()) {
        let to = target.join(writer.file_name().unwrap());
        fs::create_dir(&to).unwrap();
        let files = names(&writer);
        let is_segment = |file: &Path| file.extension().is_some_and(|extension| extension == "seg");
        let last = files.iter().rposition(|file| is_segment(file));
        for (at, file) in files.iter().enumerate() {
            if Some(at) == last {
                pause();
            }
            // A segment that is being created may get its name in this moment.
            let _ = fs::copy(file, to.join(file.file_name().unwrap()));
        }
    }
}

fn has_birth_times(dir: &Path) -> bool {
    BIRTH_TIMES.check(fs::metadata(dir).unwrap().created()).is_some()
}

#[test]
fn a_copy_made_file_by_file_under_load_ends_where_its_files_differ() {
    let dir = tempfile::tempdir().unwrap();
    if !has_birth_times(dir.path()) {
        return;
    }
    let data = dir.path().join("data");
    let server = serve(&data, "--workers 2 --segment-size 2MiB --min-free 0");
    let load = Load::start(server.address(), 6);
    load.pass(12_000);
    let mut ended_early = 0;
    for round in 0..3 {
        let (before, target) = (load.acked(), dir.path().join(format!("copy{round}")));
        // This many messages fill a segment of each writer.
        copy_file_by_file(&data, &target, || load.pass(16_000));
        let verified = journal("verify", &target);
        assert!(verified.status.success(), "{}{}", verified.stdout, verified.log);
        ended_early += verified.log.matches("this copy of writer").count();
        expect_backed_up(&target, &before, true);
    }
    assert!(ended_early > 0, "the files of each copy were from one moment");
    load.stop();
}

/// Changes a block of the first segment of a journal's only writer.
fn damage(data_dir: &Path, change: impl Fn(&mut [u8])) {
    let segment = writer_of(data_dir).join("0000000000.seg");
    let mut bytes = fs::read(&segment).unwrap();
    change(&mut bytes[5 * 4096..6 * 4096]);
    fs::write(segment, bytes).unwrap();
}

#[test]
fn a_journal_that_is_not_such_a_copy_is_checked_as_before() {
    let dir = tempfile::tempdir().unwrap();
    if !has_birth_times(dir.path()) {
        return;
    }
    let zero: fn(&mut [u8]) = |block| block.fill(0);
    let flip: fn(&mut [u8]) = |block| block[10] ^= 1;
    for (name, signal, is_copied, change, sound) in [
        ("a lost block of a killed server's journal", libc::SIGKILL, false, zero, false),
        ("a lost block of a stopped server's journal", libc::SIGTERM, false, zero, false),
        ("a lost block in a copy of a stopped server's journal", libc::SIGTERM, true, zero, false),
        ("a changed block in a copy of a killed server's journal", libc::SIGKILL, true, flip, false),
        // In this case a reader can't know that no server was writing when the journal was copied.
        ("a lost block in a copy of a killed server's journal", libc::SIGKILL, true, zero, true),
    ] {
        let (data, copy) = (dir.path().join(name), dir.path().join(format!("{name}, copied")));
        let mut server = serve(&data, "--workers 1 --segment-size 2MiB --min-free 0");
        let mut stream = connect(server.address());
        for id in 0..20 {
            stream.write_all(&submit(id, &payload(id))).unwrap();
            expect_acks(&mut stream, id..=id);
        }
        let backed_up = dir.path().join(format!("{name}, backed up"));
        assert!(backup(&data, &backed_up).status.success());
        server.signal(signal);
        server.reap();
        let looked_at = if is_copied { &copy } else { &data };
        if is_copied {
            copy_file_by_file(&data, &copy, || {});
        }
        expect_sound(looked_at);
        damage(looked_at, change);
        let verified = journal("verify", looked_at);
        assert_eq!(verified.status.success(), sound, "{name}: {}{}", verified.stdout, verified.log);
        damage(&backed_up, change);
        assert_eq!(journal("verify", &backed_up).status.code(), Some(1), "{name}: in a backup");
    }
}
