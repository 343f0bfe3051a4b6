//! Clones of a client share one connection. Frames are never mixed, each caller gets its own ack, and a call that is
//! dropped leaves a whole frame or nothing.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use crate::common::peer::{Connection, Peer};
use ringpost::client::{Client, Options};
use ringpost::proto::AckResult;
use tokio::task::JoinSet;
use tokio::time::timeout;

const TASKS: u64 = 20;
const REQUESTS: u64 = 100;

/// A payload that identifies its task in every byte and in its length.
fn payload(task: u64, number: u64) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.extend(vec![task as u8; (task * 37 + number) as usize]);
    payload
}

/// Acks the requests of odd tasks with 1, so that an ack for the wrong task is noticed. Checks that each task's
/// requests are whole and in order.
fn judge(mut peer: Connection) -> HashMap<u8, u64> {
    let mut next: HashMap<u8, u64> = HashMap::new();
    let mut number = 0;
    while let Some(request) = peer.request() {
        number += 1;
        assert_eq!(request.number(), number);
        let task = *request.payload.last().unwrap();
        let expected = next.entry(task).or_default();
        assert_eq!(request.payload, payload(task.into(), *expected));
        *expected += 1;
        peer.ack(&request, task % 2);
    }
    next
}

fn expected_ack(task: u64) -> AckResult {
    if task % 2 == 1 { AckResult::Failure } else { AckResult::Success }
}

async fn send_all(client: Client, task: u64) {
    let mut tickets = Vec::new();
    for number in 0..REQUESTS {
        tickets.push(client.send(&payload(task, number)).await.unwrap());
    }
    for mut ticket in tickets {
        assert_eq!(ticket.wait().await.unwrap(), expected_ack(task));
    }
}

#[tokio::test]
async fn each_task_of_one_runtime_gets_its_own_acks() {
    let peer = Peer::start(judge);
    let client = Client::connect(peer.addr, &Options::default().window(7)).await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 1..=TASKS {
        tasks.spawn(send_all(client.clone(), task));
    }
    tasks.join_all().await;
    client.finish().await.unwrap();
    assert!(peer.join().values().copied().eq([REQUESTS; TASKS as usize]));
}

#[tokio::test]
async fn each_thread_with_its_own_runtime_gets_its_own_acks() {
    let peer = Peer::start(judge);
    let client = Client::connect(peer.addr, &Options::default()).await.unwrap();
    let threads: Vec<_> = (1..=4)
        .map(|task| {
            let client = client.clone();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(send_all(client, task));
            })
        })
        .collect();
    // The driver runs on this thread, so the join must not block the thread.
    tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| thread.join().unwrap())).await.unwrap();
    client.finish().await.unwrap();
    assert!(peer.join().values().copied().eq([REQUESTS; 4]));
}

/// The window is full, so a send waits. When it is dropped, neither bytes nor a place in the window may
/// remain.
#[tokio::test]
async fn a_dropped_send_leaves_nothing() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let peer = Peer::start(move |mut peer| {
        released.recv().unwrap();
        peer.ack_all()
    });
    let client = Client::connect(peer.addr, &Options::default().window(2)).await.unwrap();
    let mut tickets = [client.send(b"1").await.unwrap(), client.send(b"2").await.unwrap()];
    for _ in 0..5 {
        let dropped = timeout(Duration::from_millis(1), client.send(b"dropped")).await;
        assert!(dropped.is_err(), "the window is full");
    }
    release.send(()).unwrap();
    for ticket in &mut tickets {
        ticket.wait().await.unwrap();
    }
    let mut tickets = [client.send(b"3").await.unwrap(), client.send(b"4").await.unwrap()];
    for ticket in &mut tickets {
        ticket.wait().await.unwrap();
    }
    client.finish().await.unwrap();
    let payloads: Vec<_> = peer.join().into_iter().map(|request| request.payload).collect();
    assert_eq!(payloads, [b"1", b"2", b"3", b"4"]);
}

/// A submit that is dropped while it waits for its ack has sent its request. The ack is matched, and frees its place in
/// the window.
#[tokio::test]
async fn a_dropped_submit_is_still_acked() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let peer = Peer::start(move |mut peer| {
        released.recv().unwrap();
        peer.ack_all().len()
    });
    let client = Client::connect(peer.addr, &Options::default().window(1)).await.unwrap();
    assert!(timeout(Duration::from_millis(20), client.submit(b"dropped")).await.is_err());
    assert_eq!(client.unacked().written.count(), 1);
    release.send(()).unwrap();
    assert_eq!(client.submit(b"next").await.unwrap(), AckResult::Success);
    client.finish().await.unwrap();
    assert_eq!(peer.join(), 2);
}
