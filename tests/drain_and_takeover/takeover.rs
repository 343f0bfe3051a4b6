//! A server is replaced while clients connect and pipeline. No connect is refused or reset, and the message of every
//! ack is in the journal, where the writers of the old and the new server exist side by side.
//!
//! `RINGPOST_TEST_TAKEOVERS=20` repeats the takeover more often.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::common::kept::{expect_sound, journal, text};
use crate::common::restless::Restless;
use crate::common::{Server, ringpost};

/// Returns `serve` with a journal in this directory.
fn serve(data: &Path, address: SocketAddr, options: &str) -> Command {
    let mut command = ringpost(&["serve", "--listen", &address.to_string(), "--data-dir", text(data)]);
    command.args(["--segment-size", "4MiB"]).args(options.split_whitespace());
    command
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn expect_all_kept(ledger: &Path, data: &Path) {
    let check = journal(&format!("check --ledger {}", text(ledger)), data);
    assert!(check.status.success(), "{}{}", check.stdout, check.log);
    expect_sound(data);
}

/// The kernel's setting that moves the queued connections of a closed socket to another one of its group. A takeover
/// must not need it.
fn expect_no_migration() {
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").unwrap().trim(), "0");
}

#[test]
fn clients_do_not_notice_takeovers_by_more_or_fewer_shards() {
    expect_no_migration();
    crate::common::raise_descriptor_limit();
    let takeovers: usize = env::var("RINGPOST_TEST_TAKEOVERS").map_or(4, |count| count.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (data, ledger) = (dir.path().join("data"), dir.path().join("ledger"));
    let mut server = Server::spawn(serve(&data, any_port(), "--workers 2 --admin 127.0.0.1:0"), 1);
    let (address, admin) = (server.address(), crate::common::admin::address(&server));
    let (clients, start) = (Restless::start(address, &ledger, 1000, 100), Instant::now());
    for (takeover, workers) in (0..takeovers).zip([4, 1, 3, 2].into_iter().cycle()) {
        clients.wait_for_acks(2000);
        let options = format!("--workers {workers} --admin {admin} --takeover");
        let next = Server::spawn(serve(&data, address, &options), 1);
        assert_eq!(next.address(), address);
        let ended = std::mem::replace(&mut server, next).ended();
        assert!(ended.status.success(), "takeover {takeover}: {}", ended.log);
        assert!(ended.log.contains(" reset=0 ") && ended.log.contains(" cut=0 "), "takeover {takeover}: {}", ended.log);
        for bad in ["not closed properly", "can't accept"] {
            assert!(!ended.log.contains(bad), "takeover {takeover}: {}", ended.log);
        }
        assert_eq!(crate::common::admin::get(&server, "/readyz").status, 200, "the new server answers");
    }
    clients.wait_for_acks(2000);
    let seen = clients.finish();
    let seconds = start.elapsed().as_secs_f64();
    assert!(server.stop().status.success());
    let [connects, acked, drained] =
        [&seen.connects, &seen.acked, &seen.drained].map(|count| count.load(Ordering::Relaxed));
    println!(
        "{takeovers} takeovers in {seconds:.1} s: {connects} connects, {acked} acked, {drained} connections drained"
    );
    assert!(drained >= 100 * takeovers as u64, "only {drained} connections were drained");
    expect_all_kept(&ledger, &data);
}

#[test]
fn a_new_server_that_dies_during_the_takeover_affects_no_client() {
    let dir = tempfile::tempdir().unwrap();
    let (data, ledger) = (dir.path().join("data"), dir.path().join("ledger"));
    let server = Server::spawn(serve(&data, any_port(), "--workers 2"), 1);
    let address = server.address();
    let clients = Restless::start(address, &ledger, 300, 20);
    for (deaths, step) in ["Offered", "Prepared", "Bound", "Going"].into_iter().enumerate() {
        clients.wait_for_acks(200);
        let mut command = serve(&data, address, "--workers 4 --takeover");
        command.env("RINGPOST_TEST_TAKEOVER_DIES", step);
        let died = crate::common::run(command);
        assert_eq!((died.status.success(), died.stdout.as_str()), (false, ""), "{step}: {}", died.log);
        crate::common::wait_until("the old server reports it", || {
            server.log().matches("takeover failed; still serving").count() == deaths + 1
        });
        clients.wait_for_acks(200);
    }
    assert_eq!(clients.seen.drained.load(Ordering::Relaxed), 0, "no client was drained");
    let next = Server::spawn(serve(&data, address, "--workers 1 --takeover"), 1);
    assert!(server.ended().status.success());
    clients.wait_for_acks(200);
    clients.finish();
    assert!(next.stop().status.success());
    expect_all_kept(&ledger, &data);
}
