//! What a server can reach, for the tests of confinement: in the dev profile alone, and only where the variable
//! `RINGPOST_TEST_REACH` names directories, with colons between them, that each hold a file `there`.
//!
//! A shard tries each directory before it accepts: by calls on its own thread, by calls on a blocking thread, and
//! by the ops of its ring. The log says what came of each attempt.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use tokio::task::spawn_blocking;
use tracing::info;

use crate::engine::Engine;
use crate::ring;

const VARIABLE: &str = "RINGPOST_TEST_REACH";

type Attempts = Vec<(&'static str, io::Result<()>)>;

/// Tries what was asked for, if anything was.
pub async fn reach(engine: Engine, shard: usize) {
    let dirs = std::env::var_os(VARIABLE).unwrap_or_default();
    for dir in std::env::split_paths(&dirs).filter(|dir| !dir.as_os_str().is_empty()) {
        say("thread", &dir, calls(&dir, &format!("shard-{shard}-")));
        let (there, prefix) = (dir.clone(), format!("blocking-{shard}-"));
        say("blocking", &dir, spawn_blocking(move || calls(&there, &prefix)).await.expect("calls do not panic"));
        if engine == Engine::Uring {
            say("ring", &dir, ring::reach(&dir, &format!("ring-{shard}-")).await);
        }
    }
    if !dirs.is_empty() {
        info!(shard, "reached: all was tried");
    }
}

fn say(way: &str, dir: &Path, attempts: Attempts) {
    for (attempt, result) in attempts {
        let result = result.map_or_else(|error| error.to_string(), |()| "done".into());
        info!("reached: {way}: {attempt}: {}: {result}", dir.display());
    }
}

/// Calls that take a path, each by itself.
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
    // Where none was made, what is there would be moved and removed.
    let source = if made.exists() { &made } else { &there };
    attempts.push(("rename", fs::rename(source, &moved)));
    attempts.push(("remove", fs::remove_file(if source == &made { &moved } else { &there })));
    // The data directory holds no link of the server's own, and may hold none.
    attempts.push(("make a symbolic link", symlink(&there, path("symlink"))));
    attempts
}
