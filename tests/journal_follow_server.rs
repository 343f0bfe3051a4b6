//! `journal cat --follow` beside a server under load: all that is acked, in order, nothing before it
//! is durable; it ends when it is told to, or when nobody reads.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::kept::{Line, cat, journal, serve, text};
use common::{BINARY, PATIENCE, ringpost, run, submit};
use ringpost::journal::position;

/// A follower; killed when dropped.
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

/// The lines of a follower, each checked as it comes: durable, and the next one of its writer.
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
fn a_follower_sees_all_that_is_acked_in_order_and_nothing_before_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (data, ledger) = (dir.path().join("data"), dir.path().join("ledger"));
    let server = serve(&data, "--workers 2 --segment-size 4MiB");
    let mut follower = follow(&data);
    let shown = lines(&mut follower, &data);
    let mut load = Command::new(BINARY);
    // So much that a commit is always under way, and the follower of the dev profile keeps up.
    load.args(["bench", "--addr", &server.address().to_string(), "--connections", "30", "--rate", "4000"]);
    load.args(["--payload", "24..400", "--warmup", "0", "--duration", "3s", "--ledger", text(&ledger)]);
    let load = thread::spawn(|| run(load));
    // While the server stands still, what it was writing reaches the disk and is not known to be durable.
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

    // All was acked: the follower has to show it all, and as much as `cat` does.
    let kept = cat(&data);
    assert!(kept.len() > 1000 && check.stdout.contains(&format!(" {} acked", kept.len())), "{}", check.stdout);
    let seen: Vec<Line> = kept
        .iter()
        .map(|_| shown.recv_timeout(PATIENCE).expect("a follower that shows everything and finds it good"))
        .collect();
    println!("{} messages, all shown {:?} after the load", seen.len(), ended.elapsed());
    let in_order = |lines: &[Line]| {
        let mut by_connection = BTreeMap::<_, Vec<_>>::new();
        for line in lines {
            by_connection.entry((line.writer.clone(), line.connection)).or_default().push(line.clone());
        }
        by_connection
    };
    assert!(in_order(&seen) == in_order(&kept), "each connection as `cat` shows it");
    assert!(shown.recv_timeout(Duration::from_millis(200)).is_err(), "nothing twice");

    assert!(follower.0.try_wait().unwrap().is_none(), "it waits for more");
    // SAFETY: plain kill(2) on a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(follower.0.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(wait(&mut follower).signal(), Some(libc::SIGTERM));
    assert!(server.stop().status.success());
}

#[test]
fn a_follower_ends_when_nobody_reads() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "--workers 1");
    let mut follower = follow(dir.path());
    let mut stream = server.connect();
    common::round_trip(&mut stream, 1);
    let mut out = BufReader::new(follower.0.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(Line::parse(&line).id, 1);
    drop(out);
    stream.write_all(&submit(2, b"for nobody")).unwrap();
    common::expect_acks(&mut stream, [2]);
    wait(&mut follower);
}

fn wait(follower: &mut Follower) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = follower.0.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        thread::sleep(Duration::from_millis(5));
    }
}
