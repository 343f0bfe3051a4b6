//! `bench --ledger` and `journal check` find each message that was acked and is not in the journal as it was sent, once
//! and in order.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::journal::{journal, write};
use crate::common::{ringpost, run};

/// Connection and payload of every message that a server has accepted.
type Accepted = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// Changes the messages before they are checked.
type Change = fn(&mut Vec<(u64, Vec<u8>)>);

/// Starts a server that keeps messages in memory. It refuses every `refuse`th message.
fn server(refuse: usize) -> (SocketAddr, Accepted) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, accepted) = (listener.local_addr().unwrap(), Accepted::default());
    let all = accepted.clone();
    thread::spawn(move || {
        for (connection, stream) in listener.incoming().enumerate() {
            let accepted = accepted.clone();
            thread::spawn(move || serve(stream.unwrap(), connection as u64, refuse, &accepted));
        }
    });
    (address, all)
}

fn serve(mut stream: TcpStream, connection: u64, refuse: usize, accepted: &Accepted) -> Option<()> {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    for number in 1.. {
        let mut head = [0; 13];
        input.read_exact(&mut head).ok()?;
        let len = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        let mut payload = vec![0; len - 13];
        input.read_exact(&mut payload).ok()?;
        let refused = refuse > 0 && number % refuse == 0;
        let mut ack = [0; 14];
        ack[3] = 14;
        ack[4] = 0x82;
        ack[5..13].copy_from_slice(&head[5..]);
        ack[13] = u8::from(refused);
        if !refused {
            accepted.lock().unwrap().push((connection, payload));
        }
        stream.write_all(&ack).ok()?;
    }
    Some(())
}

/// Puts load on such a server, and returns what it accepted.
fn load(ledger: &Path, words: &str, refuse: usize) -> Vec<(u64, Vec<u8>)> {
    let (address, accepted) = server(refuse);
    let mut command = ringpost(&["bench", "--addr", &address.to_string(), "--duration", "300ms", "--warmup", "50ms"]);
    command.args(words.split_whitespace()).arg("--ledger").arg(ledger);
    let ended = run(command);
    assert_eq!(ended.status.code(), Some(i32::from(refuse > 0)), "{}{}", ended.stdout, ended.log);
    let accepted = accepted.lock().unwrap();
    accepted.clone()
}

/// Returns the result of `journal check` for a journal with these messages.
fn check(ledger: &Path, messages: &[(u64, Vec<u8>)]) -> (i32, String) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &messages.chunks(50).map(<[_]>::to_vec).collect::<Vec<_>>(), true);
    let mut command = journal("check", dir.path());
    command.arg("--ledger").arg(ledger);
    let ended = run(command);
    (ended.status.code().unwrap(), ended.stdout + &ended.log)
}

#[test]
fn every_difference_between_ledger_and_journal_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    let accepted = load(&ledger, "--connections 3 --window 4 --payload 24..300 --rate 4000", 0);
    assert!(accepted.len() > 100, "{}", accepted.len());
    let (code, said) = check(&ledger, &accepted);
    assert_eq!((code, said.contains("sound: every acked")), (0, true), "{said}");
    assert!(said.contains(&format!("{0} sent, {0} acked, 0 failed", accepted.len())), "{said}");

    let changed = |change: Change| {
        let mut messages = accepted.clone();
        change(&mut messages);
        check(&ledger, &messages)
    };
    let breaks: [(&str, Change); 5] = [
        ("missing: 1\n", |m| drop(m.remove(40))),
        ("doubled: 1\n", |m| m.push(m[40].clone())),
        ("different: 1\n", |m| *m[40].1.last_mut().unwrap() ^= 1),
        ("out of order: 1\n", |m| {
            let later = (41..m.len()).find(|at| m[*at].0 == m[40].0).unwrap();
            m.swap(40, later);
        }),
        ("never sent: 1\n", |m| {
            let mut unknown = m[40].clone();
            unknown.1[16..24].fill(7);
            m.push(unknown);
        }),
    ];
    for (what, change) in breaks {
        let (code, said) = changed(change);
        assert_eq!(
            (code, said.contains(what), said.contains("  connection") || said.contains(": connection")),
            (1, true, true),
            "{what}: {said}"
        );
    }
    // The check ignores messages of other clients.
    let (code, said) = changed(|m| m.push((9, b"another client".to_vec())));
    assert_eq!((code, said.contains("and 1 other records")), (0, true), "{said}");
}

#[test]
fn a_refused_message_may_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    for (number, words) in
        ["--connections 2 --window 8 --payload 24", "--connections 2 --window 3 --payload 40 --io epoll"]
            .iter()
            .enumerate()
    {
        let ledger = dir.path().join(number.to_string());
        let accepted = load(&ledger, words, 10);
        let (code, said) = check(&ledger, &accepted);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains(&format!(" {} acked, ", accepted.len())) && !said.contains(" 0 failed"), "{said}");
    }
}

#[test]
fn a_run_of_single_requests_has_a_ledger_too() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    let accepted = load(&ledger, "--churn --connections 4 --payload 30", 0);
    let (code, said) = check(&ledger, &accepted);
    assert_eq!((code, said.contains(&format!("{0} sent, {0} acked", accepted.len()))), (0, true), "{said}");
    assert_eq!(check(&ledger, &accepted[1..]).0, 1);
}

#[test]
fn a_truncated_ledger_is_checked_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    let accepted = load(&ledger, "--connections 2 --rate 500 --payload 24", 0);
    let bytes = std::fs::read(&ledger).unwrap();
    std::fs::write(&ledger, &bytes[..bytes.len() / 2]).unwrap();
    let (code, said) = check(&ledger, &accepted);
    assert_eq!((code, said.contains("cut short")), (0, true), "{said}");
    std::fs::write(&ledger, b"no ledger, but more than twenty bytes").unwrap();
    assert_eq!(check(&ledger, &accepted).0, 1);
}

#[test]
fn payloads_too_short_for_the_stamp_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for payload in ["23", "0..100"] {
        let mut command = ringpost(&["bench", "--payload", payload]);
        let ended = run({
            command.arg("--ledger").arg(dir.path().join("ledger"));
            command
        });
        assert_eq!((ended.status.code(), ended.log.contains("24 bytes")), (Some(2), true), "{}", ended.log);
    }
}
