//! `journal cat --follow` shows each message after it has become durable, never before, and continues with later
//! writers.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::common::journal::{journal, options, run};
use ringpost::journal::PUBLISH_INTERVAL;
use ringpost::journal::dir::claim;
use ringpost::journal::position::Durable;
use ringpost::journal::{Buffer, FileStorage, Prealloc, Storage, Writer};
use ringpost::proto::{AckResult, Id};

/// Plain files whose syncs wait for a gate.
struct Gated {
    files: FileStorage,
    open: Rc<Cell<bool>>,
}

impl Storage for Gated {
    type File = std::fs::File;

    async fn create(&self, name: &str, len: u64, prealloc: Prealloc) -> io::Result<Self::File> {
        self.files.create(name, len, prealloc).await
    }

    async fn write_at(
        &self,
        file: &Self::File,
        offset: u64,
        buffer: Buffer,
        from: usize,
    ) -> (io::Result<usize>, Buffer) {
        self.files.write_at(file, offset, buffer, from).await
    }

    async fn sync(&self, file: &Self::File) -> io::Result<()> {
        while !self.open.get() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.files.sync(file).await
    }

    async fn truncate(&self, file: &Self::File, len: u64) -> io::Result<()> {
        self.files.truncate(file, len).await
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name).await
    }

    async fn sync_dir(&self) -> io::Result<()> {
        self.files.sync_dir().await
    }

    async fn free_space(&self) -> io::Result<u64> {
        self.files.free_space().await
    }

    async fn publish(&self, durable: Durable) -> io::Result<()> {
        self.files.publish(durable).await
    }
}

/// A running `cat --follow` and its lines.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(data_dir: &std::path::Path) -> Self {
        let mut child = journal("cat --follow", data_dir).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Follower { child, lines }
    }

    fn expect(&self, line: &str) {
        assert_eq!(self.lines.recv_timeout(Duration::from_secs(20)).as_deref(), Ok(line));
    }

    fn expect_nothing(&self) {
        assert_eq!(self.lines.recv_timeout(Duration::from_millis(300)), Err(RecvTimeoutError::Timeout));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_follower_shows_durable_messages_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut follower = None;
    for round in 0..3 {
        let made = claim(dir.path(), 1, false).unwrap().pop().unwrap();
        let open = Rc::new(Cell::new(true));
        run(async {
            let storage = Gated { files: FileStorage::new(&made.path).unwrap(), open: open.clone() };
            let writer = Writer::open(storage, made.id, 5, options(), ()).await.unwrap();
            let mut appender = writer.appender(1, "192.0.2.1:80".parse().unwrap());
            for number in 0..50 {
                let payload = format!("{round}-{number}");
                open.set(number % 20 != 10);
                let mut batch = appender.ready().await;
                assert_eq!(batch.stage(Id::from_number(number), payload.as_bytes()), AckResult::Success);
                if !open.get() {
                    // The message is written, and readers may see its bytes, but no sync has ended.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let follower = follower.get_or_insert_with(|| Follower::start(dir.path()));
                    if round == 0 && number == 10 {
                        (0..10).for_each(|number| follower.expect(&format!("0-{number}")));
                    }
                    follower.expect_nothing();
                    open.set(true);
                }
                assert_eq!(appender.settle().await.durable, 1);
                // This thread waits for the follower, and the writer on it must first report its position.
                tokio::time::sleep(2 * PUBLISH_INTERVAL).await;
                if let Some(follower) = &follower {
                    follower.expect(&payload);
                }
            }
            if round == 1 {
                writer.close().await.unwrap();
            }
        });
    }
}
