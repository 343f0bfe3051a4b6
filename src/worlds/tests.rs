//! Worlds in which a law was once broken, and the promise that a seed gives the same world each time. `.ci/run` runs
//! many more worlds with the program `simulate`.

use std::num::NonZeroUsize;

use super::plan::{ClientPlan, Ending, Event, FollowerPlan, Garbage, Payloads, Reading, Sending, ServerPlan};
use super::*;
use crate::server::{JournalOptions, Options, SinkOptions};
use crate::sim::disk::Faults;
use crate::sim::link::LinkOptions;

/// Returns a plan in which nothing happens, with one shard.
fn quiet() -> Plan {
    let mut journal = JournalOptions::default();
    (journal.commit_len_max, journal.segment_len, journal.min_free) = (8192, 32 << 10, 0);
    let mut options = Options::default().sink(SinkOptions::Journal(journal)).shards(NonZeroUsize::MIN);
    options.frame_len_max = 1000;
    let sound_disk = Faults { writes_are_durable: true, ..Faults::default() };
    Plan {
        seed: 1,
        server: ServerPlan { options, retention_interval: Duration::from_secs(1) },
        clients: Vec::new(),
        events: Vec::new(),
        followers: Vec::new(),
        calm: Duration::from_secs(1),
        disk_faults: sound_disk.clone(),
        sound_disk,
        capacity: 1 << 40,
        descriptors: 10_000,
    }
}

/// Returns a client that sends requests and waits for their acks.
fn client(number: u32, requests: u32) -> ClientPlan {
    ClientPlan {
        number,
        seed: number.into(),
        start: Duration::from_millis(10),
        link: LinkOptions {
            latency_max: Duration::from_millis(1),
            send_buffer: 64 << 10,
            peer_window: 64 << 10,
            server_window: 64 << 10,
            cut_one_in: 0,
            late_one_in: 0,
        },
        requests,
        payloads: Payloads::UpTo(100),
        conn_one_in: 0,
        window: 10,
        burst: 10,
        sending: Sending::Fast,
        reading: Reading::Prompt,
        ending: Ending::HalfClose,
        shares_address: false,
        tls: None,
    }
}

/// Runs a world in a directory of its own.
fn simulate(plan: Plan) -> Report {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    run_plan(plan, dir.path())
}

fn holds(plan: Plan) {
    let report = simulate(plan);
    assert_eq!(report.violation, None, "{}", report.last_events);
}

#[test]
fn a_seed_gives_the_same_world_each_time() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for seed in 0..30 {
        let (first, second) = (run(seed, &Without::default(), dir.path()), run(seed, &Without::default(), dir.path()));
        assert_eq!(first.violation, None, "seed {seed}:\n{}", first.last_events);
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}

#[test]
fn a_plan_without_faults_gives_every_client_everything() {
    let endings = [Ending::HalfClose, Ending::Close, Ending::Garbage(Garbage::LongLength)];
    let mut plan = quiet();
    plan.clients =
        endings.iter().zip(0..).map(|(ending, number)| ClientPlan { ending: *ending, ..client(number, 100) }).collect();
    plan.followers = vec![FollowerPlan { seed: 1, start: Duration::ZERO, resumes_one_in: 3 }];
    let report = simulate(plan);
    assert_eq!(report.violation, None, "{}", report.last_events);
    assert_eq!((report.tally["sound clients"], report.tally["acks"]), (3, 301));
}

/// A shard that waits for its journal's last write once was taken for one whose event loop had stalled.
#[test]
fn a_drain_on_a_stalled_disk_is_no_stall_of_the_event_loop() {
    let mut plan = quiet();
    (plan.server.options.stall_timeout, plan.server.options.drain_timeout) =
        (Duration::from_secs(1), Duration::from_secs(3));
    plan.events = vec![
        (Duration::from_millis(100), Event::DiskStall(Duration::from_secs(3))),
        (Duration::from_millis(200), Event::Drain),
    ];
    holds(plan);
}

/// A shard gives up closing its journal if the disk does not respond. The journal's tasks once stayed.
#[test]
fn a_shard_that_gives_up_a_stalled_disk_leaves_no_task() {
    let mut plan = quiet();
    plan.server.options.drain_timeout = Duration::ZERO;
    plan.clients = vec![client(0, 100)];
    plan.events = vec![
        (Duration::from_millis(11), Event::DiskStall(Duration::from_secs(4))),
        (Duration::from_millis(100), Event::Drain),
    ];
    holds(plan);
}

/// A follower once kept the file of a segment that was removed and made anew because its first commit had found no
/// space, and showed that commit.
#[test]
fn a_follower_does_not_show_a_commit_that_found_no_space() {
    let mut plan = quiet();
    // No commit finds space until the faults stop.
    plan.disk_faults.write_no_space = 1;
    let sending = Sending::Paced(Duration::from_millis(20));
    plan.clients = vec![ClientPlan { sending, window: 1, burst: 1, ..client(0, 200) }];
    plan.followers = vec![FollowerPlan { seed: 1, start: Duration::ZERO, resumes_one_in: 0 }];
    holds(plan);
}

/// A connection that read on while the disk was slow once held the acks of four reads, and was charged for one.
#[test]
fn acks_that_wait_for_the_disk_stay_within_the_limit_of_memory() {
    let mut plan = quiet();
    (plan.server.options.frame_len_max, plan.server.options.read_buffer_max) = (13, 4096);
    plan.server.options.memory_max = Some(16 << 10);
    (plan.disk_faults.delay_max_us, plan.calm) = (20_000, Duration::from_secs(5));
    let start = Duration::from_secs(2);
    plan.clients =
        vec![ClientPlan { start, payloads: Payloads::UpTo(0), window: 5000, burst: 5000, ..client(0, 20_000) }];
    let report = simulate(plan);
    assert_eq!(report.violation, None, "{}", report.last_events);
    assert_eq!(report.tally["acks"], 20_000);
}
