//! `ringpost journal` on journals that were closed, torn, or damaged.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::journal::{journal, write};
use crate::common::kept::Line;
use crate::common::{BINARY, Ended, run};

fn message(number: u64) -> (u64, Vec<u8>) {
    (number % 3, format!("message {number}").into_bytes())
}

/// Returns six commits of two messages each.
fn batches() -> Vec<Vec<(u64, Vec<u8>)>> {
    (0..6).map(|batch| vec![message(2 * batch), message(2 * batch + 1)]).collect()
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| format!("message {number}\n")).collect()
}

fn outcome(words: &str, data_dir: &Path) -> (Option<i32>, Ended) {
    let ended = run(journal(words, data_dir));
    (ended.status.code(), ended)
}

/// Changes one byte of the first segment's commit `number`, from 1 on.
fn damage(writer: &Path, number: usize) {
    let segment = writer.join("0000000000.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[4096 * number + 130] ^= 0x10;
    fs::write(segment, bytes).unwrap();
}

#[test]
fn each_format_shows_every_message_in_order() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &batches(), true);
    write(dir.path(), &[vec![(9, b"later".to_vec())]], false);
    let (code, raw) = outcome("cat", dir.path());
    assert_eq!((code, raw.stdout, raw.log), (Some(0), lines(0..12) + "later\n", String::new()));
    let (_, hex) = outcome("cat --format hex", dir.path());
    assert_eq!(hex.stdout.lines().last(), Some("6c61746572"));
    let (_, json) = outcome("cat --format json", dir.path());
    let records: Vec<serde_json::Value> = json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 13);
    assert_eq!((&records[0]["payload"], &records[0]["peer"]), (&"bWVzc2FnZSAw".into(), &"192.0.2.1:80".into()));
    assert_eq!((&records[0]["id"], &records[4]["connection"]), (&"0000000000000001".into(), &1.into()));

    // A consumer continues after its last line.
    let position = records[10]["position"].as_str().unwrap();
    let (_, rest) = outcome(&format!("cat --from {position}"), dir.path());
    assert_eq!(rest.stdout, lines(10..12) + "later\n");
    let time = records[12]["time"].as_str().unwrap();
    assert_eq!(outcome(&format!("cat --from {time}"), dir.path()).1.stdout, "later\n");
    assert_eq!(outcome("cat --from 1h", dir.path()).1.stdout, raw_again(dir.path()));
    let (code, verify) = outcome("verify", dir.path());
    assert_eq!((code, verify.stdout.starts_with("sound: 13 records")), (Some(0), true), "{}", verify.stdout);
    let (code, stats) = outcome("stats", dir.path());
    assert_eq!(code, Some(0));
    // The second writer was not closed, so it may have had its next segment ready.
    assert!(stats.stdout.contains("\n13 records, "), "{}", stats.stdout);
    let first = stats.stdout.lines().nth(1).unwrap().split_whitespace().skip(2);
    assert_eq!(first.collect::<Vec<_>>(), ["ended", "1", "32768", "1", "12"]);
}

#[test]
fn the_documented_consumer_resumes_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let document = include_str!("../../docs/journal.md");
    let script = document.split("```sh\n").find_map(|rest| {
        let script = rest.split("```").next()?;
        script.contains("mv target/positions.new").then(|| script.replace("target/release/ringpost", BINARY))
    });
    let script = script.expect("README.md contains the script");
    fs::create_dir(dir.path().join("target")).unwrap();
    let consume = || {
        let mut command = Command::new("sh");
        // jq may not be installed, and the test does not need it.
        command.args(["-ec", &script.replace("jq -r", ": jq")]).current_dir(dir.path());
        let ended = run({
            command.env("RINGPOST_DATA_DIR", &data);
            command
        });
        assert!(ended.status.success() && ended.log.is_empty(), "{}", ended.log);
        let batch = fs::read_to_string(dir.path().join("target/batch")).unwrap();
        batch.lines().map(|line| Line::parse(line).payload).collect::<Vec<_>>()
    };
    let payloads = |batches: &[Vec<(u64, Vec<u8>)>]| batches.concat().into_iter().map(|m| m.1).collect::<Vec<_>>();
    write(&data, &batches(), true);
    assert_eq!(consume(), payloads(&batches()));
    assert!(consume().is_empty());
    // Adds two writers that the positions don't name.
    write(&data, &batches()[..2], true);
    write(&data, &batches()[2..], false);
    assert_eq!(consume(), payloads(&batches()));
    assert!(consume().is_empty());
}

fn raw_again(dir: &Path) -> String {
    outcome("cat", dir).1.stdout
}

#[test]
fn a_torn_tail_is_reported_and_is_not_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let writer = write(dir.path(), &batches(), false);
    damage(&writer, 6);
    for (words, stdout) in [("cat", lines(0..10)), ("cat --salvage", lines(0..10))] {
        let (code, cat) = outcome(words, dir.path());
        assert_eq!((code, cat.stdout), (Some(0), stdout), "{}", cat.log);
        assert!(cat.log.contains("0000000000.seg, offset 24576") && cat.log.contains("torn tail"), "{}", cat.log);
    }
    let (code, verify) = outcome("verify", dir.path());
    assert_eq!((code, verify.stdout.starts_with("sound: 10 records")), (Some(0), true), "{}", verify.stdout);
    assert!(verify.log.contains("torn tail"), "{}", verify.log);
}

#[test]
fn damage_in_the_middle_is_a_fault_reported_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let writer = write(dir.path(), &batches(), false);
    damage(&writer, 3);
    let place = "0000000000.seg, offset 12288: commit 3";
    let (code, cat) = outcome("cat", dir.path());
    assert_eq!((code, cat.stdout, cat.log.contains(place)), (Some(1), lines(0..4), true), "{}", cat.log);
    let (code, cat) = outcome("cat --salvage", dir.path());
    assert_eq!(
        (code, cat.stdout, cat.log.contains(place)),
        (Some(1), lines(0..4) + &lines(6..12), true),
        "{}",
        cat.log
    );
    let (code, verify) = outcome("verify", dir.path());
    assert_eq!((code, verify.stdout.starts_with("NOT sound: 10 records")), (Some(1), true), "{}", verify.stdout);
    assert!(verify.log.contains(place), "{}", verify.log);
}

#[test]
fn damage_to_the_end_of_a_closed_writer_is_not_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let writer = write(dir.path(), &batches(), true);
    damage(&writer, 6);
    assert_eq!(outcome("verify", dir.path()).0, Some(1));
}

#[test]
fn a_later_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let segment = write(dir.path(), &batches(), true).join("0000000000.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[11] = 3;
    fs::write(&segment, bytes).unwrap();
    for words in ["cat", "cat --salvage", "verify"] {
        let (code, refused) = outcome(words, dir.path());
        assert_eq!((code, refused.stdout), (Some(1), String::new()));
        assert!(refused.log.contains("format version 3; this build reads up to 2"), "{}", refused.log);
    }
}

#[test]
fn invalid_arguments_of_journal_commands_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &batches(), true);
    assert_eq!(outcome("cat --from yesterday", dir.path()).0, Some(2));
    assert_eq!(outcome("cat --from 10m,20m", dir.path()).0, Some(2));
    let (code, gone) = outcome("cat --from 00069d3c5f3a1000:7", dir.path());
    assert_eq!((code, gone.log.contains("there is no writer")), (Some(0), true), "{}", gone.log);
}

#[test]
fn a_path_without_a_journal_is_refused_with_a_fix() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let writer = write(&journal, &batches(), true);
    fs::write(dir.path().join("file"), "text").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let ledger = dir.path().join("ledger");
    let wrong = [
        (dir.path().join("none"), "does not exist"),
        (dir.path().join("file"), "is not a directory"),
        (dir.path().join("file/below"), "is not a directory"),
        (dir.path().join("empty"), "has no journal: no server has ever started with it"),
        (writer, "is a single writer of a journal; the journal is the directory above it"),
    ];
    // The ledger of a run that sent nothing.
    fs::write(&ledger, empty_ledger()).unwrap();
    let check = format!("check --ledger {}", ledger.display());
    for words in ["cat", "cat --salvage", "verify", "stats", &check] {
        for (path, why) in &wrong {
            let (code, ended) = outcome(words, path);
            assert_eq!((code, &ended.stdout[..]), (Some(1), ""), "{words} {}", path.display());
            let named = ended.log.contains(&format!("{} {why}", path.display()));
            assert!(named && ended.log.contains("--data-dir"), "{words}: {}", ended.log);
        }
    }
    for (path, _) in &wrong[1..3] {
        assert_eq!(outcome("cat --follow", path).0, Some(1), "no server makes {} a journal", path.display());
    }
}

/// Returns the ledger that `bench --ledger` writes if it ends before its first send.
fn empty_ledger() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let server = crate::common::kept::serve(&dir.path().join("data"), "--workers 1");
    let mut bench = Command::new(BINARY);
    bench.args(["bench", "--addr", &server.address().to_string(), "--connections", "1", "--rate", "1"]);
    bench.args(["--warmup", "0", "--duration", "1s", "--ledger"]).arg(&path);
    assert!(run(bench).status.success());
    fs::read(path).unwrap()
}

#[test]
fn an_empty_journal_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = crate::common::kept::serve(&data, "--workers 1");
    for words in ["cat", "verify", "stats"] {
        let (code, ended) = outcome(words, &data);
        assert_eq!((code, &ended.log[..]), (Some(0), ""), "{words} while it runs");
    }
    assert!(server.stop().status.success());
    for words in ["cat", "verify", "stats"] {
        let (code, ended) = outcome(words, &data);
        assert_eq!((code, &ended.log[..]), (Some(0), ""), "{words} after it has run");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &batches(), true);
    let ledger = dir.path().join("ledger");
    fs::write(&ledger, empty_ledger()).unwrap();
    let check = format!("check --ledger {}", ledger.display());
    for words in ["cat", "verify", "stats", &check] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let ended = journal(words, dir.path()).stdout(full).output().unwrap();
        let log = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{words}");
        assert!(log.contains("can't write to stdout: No space left on device"), "{words}: {log}");
    }
}

#[test]
fn a_result_that_nobody_reads_is_a_silent_failure() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &batches(), true);
    for words in ["verify", "stats"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = journal(words, dir.path()).stdout(writer).output().unwrap();
        assert_eq!((ended.status.code(), ended.stderr.len()), (Some(1), 0), "{words}");
    }
}

#[test]
fn a_signal_ends_cat_at_a_whole_line_however_slow_its_reader_is() {
    let dir = tempfile::tempdir().unwrap();
    let big: Vec<_> = (0..400).map(|number| vec![(0, vec![b'x'; 10_000 + number])]).collect();
    write(dir.path(), &big, true);
    for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGINT, 130)] {
        let mut cat = journal("cat", dir.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = cat.stdout.take().unwrap();
        let mut shown = vec![0; 20_000];
        out.read_exact(&mut shown).unwrap();
        // By now `cat` waits for its reader, in the middle of a line.
        thread::sleep(Duration::from_millis(300));
        // SAFETY: plain kill(2) on a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(cat.id() as i32, signal) }, 0);
        // On a busy machine the signal is handled late.
        thread::sleep(Duration::from_secs(1));
        assert!(cat.try_wait().unwrap().is_none(), "it may still write its line");
        out.read_to_end(&mut shown).unwrap();
        assert_eq!(cat.wait().unwrap().code(), Some(code));
        let lines: Vec<_> = shown.split(|byte| *byte == b'\n').collect();
        let (last, whole) = lines.split_last().unwrap();
        assert!(last.is_empty() && whole.len() < 400, "{} lines, then {} bytes", whole.len(), last.len());
        assert!(whole.iter().zip(0..).all(|(line, number)| line.len() == 10_000 + number));
    }
}

#[test]
fn a_signal_ends_cat_even_if_its_reader_has_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let big: Vec<_> = (0..400).map(|number| vec![(0, vec![b'x'; 10_000 + number])]).collect();
    write(dir.path(), &big, true);
    let mut cat = journal("cat", dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_millis(300));
    for _ in 0..2 {
        // SAFETY: plain kill(2) on a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(cat.id() as i32, libc::SIGTERM) }, 0);
        thread::sleep(Duration::from_millis(100));
    }
    let begun = Instant::now();
    assert_eq!(cat.wait().unwrap().code(), Some(143), "at the second signal");
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_reader_that_closes_early_is_not_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let big: Vec<_> = (0..400).map(|number| vec![(0, vec![b'x'; 10_000 + number])]).collect();
    write(dir.path(), &big, true);
    let mut command = journal("cat", dir.path());
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
