//! Attempts to reach files, for the tests of confinement.
//!
//! `RINGPOST_TEST_REACH` names directories, separated by colons, each with a file `there`. Before a shard accepts, it
//! tries each directory with calls on its own thread, with calls on a blocking thread, and with ops on its ring. The
//! log has a line for each attempt.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use tokio::task::spawn_blocking;
use tracing::info;

use super::ring_ops;
use crate::engine::Engine;

/// Each attempt, and what the kernel answered.
type Attempts = Vec<(&'static str, io::Result<()>)>;

/// Tries the directories that the variable names.
pub async fn reach(engine: Engine, shard: usize) {
    let dirs = std::env::var_os(VARIABLE).unwrap_or_default();
    for dir in std::env::split_paths(&dirs).filter(|dir| !dir.as_os_str().is_empty()) {
        log("thread", &dir, calls(&dir, &format!("shard-{shard}-")));
        let (there, prefix) = (dir.clone(), format!("blocking-{shard}-"));
        log("blocking", &dir, spawn_blocking(move || calls(&there, &prefix)).await.expect("calls do not panic"));
        if engine == Engine::Uring {
            log("ring", &dir, ring_ops::reach(&dir, &format!("ring-{shard}-")).await);
        }
    }
    if !dirs.is_empty() {
        info!(shard, "reached: all was tried");
    }
}

fn log(way: &str, dir: &Path, attempts: Attempts) {
    for (attempt, result) in attempts {
        let result = result.map_or_else(|error| error.to_string(), |()| "done".into());
        info!("reached: {way}: {attempt}: {}: {result}", dir.display());
    }
}

/// Makes one call of every kind that accepts a path.
fn calls(dir: &Path, prefix: &str) -> Attempts {
    let there = dir.join("there");
    let path = |name: &str| -> PathBuf { dir.join(format!("{prefix}{name}")) };
    let (made, moved) = (path("made"), path("moved"));
    let beneath = || openat2(CWD, &there, OFlags::RDONLY, Mode::empty(), ResolveFlags::empty());
    let mut attempts: Attempts = vec![
        ("open to read", File::open(&there).map(drop)),
        ("open to write", File::options().write(true).open(&there).map(drop)),
        ("open to truncate", File::options().write(true).truncate(true).open(&there).map(drop)),
        ("open the directory", fs::read_dir(dir).map(drop)),
        ("openat2", beneath().map(drop).map_err(io::Error::from)),
        ("open to make", File::create_new(&made).map(drop)),
        ("link", fs::hard_link(&there, path("link"))),
        ("make a directory", fs::create_dir(path("folder"))),
        ("bind a socket", UnixListener::bind(path("socket")).map(drop)),
    ];
    // If no file could be created, the existing one would be renamed and removed.
    let source = if made.exists() { &made } else { &there };
    attempts.push(("rename", fs::rename(source, &moved)));
    attempts.push(("remove", fs::remove_file(if source == &made { &moved } else { &there })));
    // The server has no symbolic links in its data directory, and must not be able to create one.
    attempts.push(("make a symbolic link", symlink(&there, path("symlink"))));
    attempts
}

const VARIABLE: &str = "RINGPOST_TEST_REACH";
