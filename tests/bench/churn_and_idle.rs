//! Churn opens a connection for each request. Idle connections carry one request at the beginning and one at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::peer_load::{Request, bench, peer};

/// A peer that counts the first and the later requests of its connections.
fn counting_peer() -> (String, Arc<[AtomicU64; 2]>) {
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let counted = Arc::clone(&counts);
    let addr = peer(move |request: &Request| {
        counted[request.number.min(1)].fetch_add(1, Ordering::Relaxed);
        Some(request.ack())
    });
    (addr.to_string(), counts)
}

#[test]
fn churn_opens_a_connection_for_each_request() {
    let (addr, counts) = counting_peer();
    let outcome = bench(&addr, "--churn --connections 4 --duration 300ms --warmup 0s");
    assert_eq!(outcome.code, 0, "{}", outcome.stdout);
    let first = counts[0].load(Ordering::Relaxed);
    assert_eq!(counts[1].load(Ordering::Relaxed), 0);
    assert_eq!(outcome.json["latency"]["count"].as_u64(), Some(first));
    assert!(first > 20, "{first}");
}

#[test]
fn idle_connections_carry_a_request_at_both_ends_and_their_memory_is_reported() {
    let (addr, counts) = counting_peer();
    let outcome = bench(&addr, &format!("--idle 50 --duration 200ms --threads 2 --pid {}", std::process::id()));
    assert_eq!(outcome.code, 0, "{}", outcome.stdout);
    assert_eq!([0, 1].map(|index: usize| counts[index].load(Ordering::Relaxed)), [50, 50]);
    assert_eq!(outcome.number("/idle/connections"), 50.0);
    assert!(
        outcome.number("/idle/resident_per_connection") > 0.0,
        "each connection has a thread here: {}",
        outcome.stdout
    );
    assert!(outcome.words().contains("50 connections opened"), "{}", outcome.stdout);
}
