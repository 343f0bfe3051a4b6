//! A server with a journal, and what `ringpost journal` reads from it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Ended, Server, ringpost, run};

/// Starts a server with a journal in this directory, on a free port.
pub fn serve(data_dir: &Path, options: &str) -> Server {
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0", "--data-dir", text(data_dir)]);
    command.args(options.split_whitespace());
    Server::spawn(command, 1)
}

/// Runs `ringpost journal WORDS --data-dir DIR` until it ends.
pub fn journal(words: &str, data_dir: &Path) -> Ended {
    let mut command = ringpost(&["journal"]);
    command.args(words.split_whitespace()).arg("--data-dir").arg(data_dir);
    run(command)
}

/// Fails unless the whole journal is sound.
pub fn expect_sound(data_dir: &Path) {
    let ended = journal("verify", data_dir);
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.log);
}

/// A record, as `journal cat --format json` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub writer: String,
    pub sequence: u64,
    pub time: String,
    pub id: u64,
    pub connection: u64,
    pub peer: SocketAddr,
    pub payload: Vec<u8>,
}

impl Line {
    pub fn parse(line: &str) -> Line {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}")).to_owned();
        let position = text("position");
        let (writer, sequence) = position.split_once(':').expect("a position");
        Line {
            writer: writer.to_owned(),
            sequence: sequence.parse().unwrap(),
            time: text("time"),
            id: u64::from_str_radix(&text("id"), 16).unwrap(),
            connection: line["connection"].as_u64().unwrap(),
            peer: text("peer").parse().unwrap(),
            payload: STANDARD.decode(text("payload")).unwrap(),
        }
    }
}

/// Returns every record of the journal.
pub fn cat(data_dir: &Path) -> Vec<Line> {
    let ended = journal("cat --format json", data_dir);
    assert!(ended.status.success(), "{}", ended.log);
    ended.stdout.lines().map(Line::parse).collect()
}

/// Returns every record of a running server's journal. A server reports its position a moment after an ack.
pub fn cat_live(data_dir: &Path) -> Vec<Line> {
    thread::sleep(Duration::from_millis(50));
    cat(data_dir)
}

/// Returns the IDs of each peer's records, in the order of the journal.
pub fn ids_by_peer(lines: &[Line]) -> BTreeMap<SocketAddr, Vec<u64>> {
    let mut by_peer = BTreeMap::<_, Vec<_>>::new();
    for line in lines {
        by_peer.entry(line.peer).or_default().push(line.id);
    }
    by_peer
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
