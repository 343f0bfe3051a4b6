//! `journal cat --follow` beside a server under load. It shows every acked message, in order, and none before it is
//! durable. It ends on a signal, or when nobody reads its output.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::kept::{Line, cat, journal, serve, text};
use crate::common::requirement::{PROCESS_NAMESPACE, tried};
use crate::common::{BINARY, PATIENCE, ringpost, run, submit};
use ringpost::journal::position::{self, PositionFile};

/// A follower. It is killed on drop.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn follow(data_dir: &Path) -> Follower {
    let mut command = ringpost(&["journal", "cat", "--follow", "--format", "json", "--data-dir", text(data_dir)]);
    Follower(command.stdout(Stdio::piped()).spawn().unwrap())
}

/// Reads the lines of a follower. Each message must be durable, and the next one of its writer.
fn lines(follower: &mut Follower, data_dir: &Path) -> Receiver<Line> {
    let (sender, lines) = channel();
    let (out, data_dir) = (BufReader::new(follower.0.stdout.take().unwrap()), data_dir.to_owned());
    thread::spawn(move || {
        let mut next = BTreeMap::new();
        for line in out.lines().map_while(Result::ok) {
            let line = Line::parse(&line);
            let durable = position::read(&data_dir.join(&line.writer)).unwrap().sequence;
            assert!(line.sequence <= durable, "{}:{} shown, {durable} durable", line.writer, line.sequence);
            let next = next.entry(line.writer.clone()).or_insert(1);
            assert_eq!(line.sequence, *next, "of writer {}", line.writer);
            *next += 1;
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

#[test]
fn a_follower_shows_every_acked_message_in_order_and_none_before_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (data, ledger) = (dir.path().join("data"), dir.path().join("ledger"));
    let server = serve(&data, "--workers 2 --segment-size 4MiB");
    let mut follower = follow(&data);
    let shown = lines(&mut follower, &data);
    let mut load = Command::new(BINARY);
    // So much load that a commit is always in progress, and a follower of the dev profile keeps up.
    load.args(["bench", "--addr", &server.address().to_string(), "--connections", "30", "--rate", "4000"]);
    load.args(["--payload", "24..400", "--warmup", "0", "--duration", "3s", "--ledger", text(&ledger)]);
    let load = thread::spawn(|| run(load));
    // While the server is stopped, its writes reach the disk, and are not known to be durable.
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(60));
        server.signal(libc::SIGSTOP);
        thread::sleep(Duration::from_millis(60));
        server.signal(libc::SIGCONT);
    }
    let load = load.join().unwrap();
    assert!(load.status.success(), "{}{}", load.stdout, load.log);
    let ended = Instant::now();
    let check = journal(&format!("check --ledger {}", text(&ledger)), &data);
    assert!(check.status.success(), "{}{}", check.stdout, check.log);

    // Everything was acked, so the follower must show all of it, as `cat` does.
    let kept = cat(&data);
    assert!(kept.len() > 1000 && check.stdout.contains(&format!(" {} acked", kept.len())), "{}", check.stdout);
    let seen: Vec<Line> = kept
        .iter()
        .map(|_| shown.recv_timeout(PATIENCE).expect("the follower shows every message and succeeds"))
        .collect();
    println!("{} messages, all shown {:?} after the load", seen.len(), ended.elapsed());
    let in_order = |lines: &[Line]| {
        let mut by_connection = BTreeMap::<_, Vec<_>>::new();
        for line in lines {
            by_connection.entry((line.writer.clone(), line.connection)).or_default().push(line.clone());
        }
        by_connection
    };
    assert!(in_order(&seen) == in_order(&kept), "each connection's messages as `cat` shows them");
    assert!(shown.recv_timeout(Duration::from_millis(200)).is_err(), "a message was shown twice");

    assert!(follower.0.try_wait().unwrap().is_none(), "the follower waits for more");
    // SAFETY: plain kill(2) on a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(follower.0.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(wait(&mut follower).code(), Some(128 + libc::SIGTERM));
    assert!(server.stop().status.success());
}

#[test]
fn a_follower_ends_when_nobody_reads() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1");
    let mut follower = follow(dir.path());
    let mut stream = server.connect();
    crate::common::round_trip(&mut stream, 1);
    let mut out = BufReader::new(follower.0.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(Line::parse(&line).id, 1);
    drop(out);
    stream.write_all(&submit(2, b"for nobody")).unwrap();
    crate::common::expect_acks(&mut stream, [2]);
    wait(&mut follower);
}

#[test]
fn a_follower_ends_with_its_reader_even_without_messages() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1");
    crate::common::round_trip(&mut server.connect(), 1);
    let mut follower = follow(dir.path());
    let mut out = BufReader::new(follower.0.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    // Waits until the follower polls at its longest interval.
    thread::sleep(Duration::from_millis(1500));
    drop(out);
    let begun = Instant::now();
    assert_eq!(wait(&mut follower).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn a_follower_waits_for_its_journal_and_for_a_replacement() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("not/yet");
    let mut command = ringpost(&["journal", "cat", "--follow", "--format", "json", "--data-dir", text(&data)]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut follower = Follower(child);
    let mut said = String::new();
    for round in 0..3 {
        log.read_line(&mut said).unwrap();
        assert!(said.ends_with("has no journal yet; waiting for a server that starts with it\n"), "{said}");
        said.clear();
        thread::sleep(Duration::from_millis(300));
        let server = serve(&data, "--workers 1");
        crate::common::round_trip(&mut server.connect(), round);
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(Line::parse(&line).id, round);
        // The follower now sees that writer's end.
        assert!(server.stop().status.success());
        thread::sleep(Duration::from_millis(1500));
        std::fs::remove_dir_all(&data).unwrap();
    }
    log.read_line(&mut said).unwrap();
    thread::sleep(Duration::from_millis(500));
    follower.0.kill().unwrap();
    log.read_to_string(&mut said).unwrap();
    assert_eq!(said.lines().count(), 1, "one line each time the journal disappears: {said}");
}

#[test]
fn an_idle_follower_of_64_writers_uses_less_than_a_hundredth_of_a_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let writers = ringpost::journal::dir::claim(dir.path(), 64, false).unwrap();
    let positions: Vec<_> = writers.iter().map(|writer| PositionFile::create(&writer.path).unwrap()).collect();
    let mut follower = follow(dir.path());
    thread::sleep(Duration::from_secs(2));
    let (before, begun) = (cpu_time(follower.0.id()), Instant::now());
    thread::sleep(Duration::from_secs(5));
    let (used, passed) = (cpu_time(follower.0.id()) - before, begun.elapsed());
    assert!(follower.0.try_wait().unwrap().is_none());
    println!("{used:?} in {passed:?}");
    assert!(used * 100 < passed, "{used:?} in {passed:?}");
    drop(positions);
}

/// Returns the CPU time that all threads of a process have used.
fn cpu_time(process: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let of_thread = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).unwrap();
        stat.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    Duration::from_nanos(threads.map(of_thread).sum())
}

#[test]
fn a_follower_that_is_process_1_ends_on_a_signal() {
    if PROCESS_NAMESPACE.check(tried(Command::new("unshare").args(["-Urpf", "true"]))).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1");
    crate::common::round_trip(&mut server.connect(), 1);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut command = Command::new("unshare");
        command.args(["-Urpf", "--kill-child", BINARY, "journal", "cat", "--follow", "--data-dir", text(dir.path())]);
        let mut follower = Follower(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(follower.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the follower shows the message");
        let children = format!("/proc/{0}/task/{0}/children", follower.0.id());
        let child: i32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        // SAFETY: plain kill(2) on the child of a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(child, signal) }, 0);
        assert_eq!(wait(&mut follower).code(), Some(128 + signal));
    }
}

#[test]
fn a_follower_that_was_started_with_interrupts_ignored_ignores_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1");
    crate::common::round_trip(&mut server.connect(), 1);
    // A shell ignores SIGINT in this way for background jobs.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' INT; exec \"$0\" journal cat --follow --data-dir \"$1\"", BINARY, text(dir.path())]);
    let mut follower = Follower(command.stdout(Stdio::piped()).spawn().unwrap());
    BufReader::new(follower.0.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    // SAFETY: plain kill(2) on a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(follower.0.id() as i32, libc::SIGINT) }, 0);
    thread::sleep(Duration::from_millis(300));
    assert!(follower.0.try_wait().unwrap().is_none(), "the follower continues");
}

fn wait(follower: &mut Follower) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = follower.0.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "the follower does not end");
        thread::sleep(Duration::from_millis(5));
    }
}
