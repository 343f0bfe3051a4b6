//! A server that answers a single request wrongly, in any way, is detected and reported, and makes the exit code 1.

use crate::common::peer_load::{Outcome, Request, bench, peer_that_spoils_one};

/// Runs both engines against a peer with one wrong answer. Each run must count `kind` `count` times.
fn assert_caught(kind: &str, count: u64, spoil: fn(&Request) -> Option<Vec<u8>>) {
    for io in ["auto", "epoll"] {
        let addr = peer_that_spoils_one(spoil).to_string();
        let words = "--connections 2 --window 4 --duration 300ms --warmup 0s --ack-timeout 1s --io";
        let outcome = bench(&addr, &format!("{words} {io}"));
        let fault = fault_of(&outcome, kind);
        assert_eq!((outcome.code, fault.0), (1, count), "{io}: {}{}", outcome.stdout, outcome.stderr);
        assert!(fault.1, "{io}: the fault is not named: {}", outcome.stdout);
    }
}

/// Returns how often this kind was counted, and whether one of them is reported with its connection.
fn fault_of(outcome: &Outcome, kind: &str) -> (u64, bool) {
    let count = outcome.json["faults"]["kinds"][kind].as_u64().unwrap_or(0);
    let is_named = outcome.stdout.lines().any(|line| line.contains(&format!("{kind}: connection ")));
    (count, is_named)
}

fn spoiled(request: &Request, change: impl Fn(&mut Vec<u8>)) -> Option<Vec<u8>> {
    let mut ack = request.ack();
    change(&mut ack);
    Some(ack)
}

#[test]
fn an_ack_with_a_wrong_id_is_detected() {
    assert_caught("wrong ID", 1, |request| spoiled(request, |ack| ack[5] ^= 0x80));
}

#[test]
fn an_ack_with_a_wrong_result_is_detected() {
    assert_caught("refused", 1, |request| spoiled(request, |ack| ack[13] = 1));
}

#[test]
fn an_ack_with_a_wrong_command_is_detected() {
    assert_caught("wrong command", 1, |request| spoiled(request, |ack| ack[4] = 0x81));
}

#[test]
fn an_ack_with_a_wrong_length_is_detected() {
    assert_caught("wrong length", 1, |request| {
        spoiled(request, |ack| {
            ack[3] = 15;
            ack.push(0);
        })
    });
}

#[test]
fn a_missing_ack_is_detected() {
    assert_caught("missing", 1, |_| Some(Vec::new()));
}

#[test]
fn a_duplicate_ack_is_detected() {
    assert_caught("doubled", 1, |request| Some(request.ack().repeat(2)));
}

#[test]
fn a_closed_connection_is_detected() {
    assert_caught("connection lost", 1, |_| None);
}

#[test]
fn an_ack_that_never_arrives_is_detected() {
    let addr =
        crate::common::peer_load::peer(|request| Some(if request.number < 20 { request.ack() } else { Vec::new() }));
    let words = "--connections 2 --window 4 --duration 200ms --warmup 0s --ack-timeout 1s";
    let outcome = bench(&addr.to_string(), words);
    assert_eq!((outcome.code, outcome.json["faults"]["kinds"]["missing"].as_u64()), (1, Some(8)), "{}", outcome.stdout);
    assert!(outcome.words().contains("--ack-timeout"), "{}", outcome.stdout);
}

#[test]
fn wrong_acks_are_detected_in_churn_and_on_idle_connections() {
    for words in ["--churn --connections 4 --duration 300ms --warmup 0s", "--idle 5 --duration 100ms"] {
        let addr = crate::common::peer_load::peer(|request| spoiled(request, |ack| ack[13] = 1)).to_string();
        let outcome = bench(&addr, words);
        assert_eq!(outcome.code, 1, "{words}: {}", outcome.stdout);
        assert!(fault_of(&outcome, "refused").0 >= 5, "{words}: {}", outcome.stdout);
    }
}

#[test]
fn correct_acks_are_not_a_fault() {
    let addr = crate::common::peer_load::peer(|request| Some(request.ack())).to_string();
    for words in ["--io auto", "--io epoll", "--threads 2", "--churn"] {
        let outcome = bench(&addr, &format!("--connections 4 --duration 200ms --warmup 50ms {words}"));
        assert_eq!((outcome.code, outcome.number("/faults/total")), (0, 0.0), "{words}: {}", outcome.stdout);
    }
}

#[test]
fn published_ack_codes_are_correct_if_configured() {
    let addr = crate::common::peer_load::peer(|request| spoiled(request, |ack| ack[4] = 0x81)).to_string();
    let words = "--connections 2 --duration 100ms --warmup 0s --ack-codes";
    assert_eq!(bench(&addr, &format!("{words} published")).code, 0);
    assert_eq!(bench(&addr, &format!("{words} spec")).code, 1);
}
