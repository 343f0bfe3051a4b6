//! A server that stops for one second in the middle of an open-loop run causes a maximum of about a second and a high
//! p99.9, although only a few requests were in flight when it stopped.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::peer_load::{bench, peer};

#[test]
fn a_stall_of_a_second_is_in_the_percentiles() {
    let _alone = crate::common::alone();
    for io in ["auto", "epoll"] {
        let begin = Instant::now();
        let stall = Duration::from_millis(800)..Duration::from_millis(1800);
        let addr = peer(move |request| {
            let at = begin.elapsed();
            if stall.contains(&at) {
                thread::sleep(stall.end - at);
            }
            Some(request.ack())
        });
        let words = format!("--connections 8 --rate 2000 --duration 2500ms --warmup 100ms --io {io}");
        let outcome = bench(&addr.to_string(), &words);
        assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
        let (max, p999) = (outcome.number("/latency/max_us"), outcome.number("/latency/p999_us"));
        assert!((900_000.0..2_000_000.0).contains(&max), "{io}: max {max} µs");
        assert!((900_000.0..2_000_000.0).contains(&p999), "{io}: p99.9 {p999} µs");
        // Two requests in five were due during the stall. A quarter of all requests waited half a second.
        assert!(outcome.number("/latency/p90_us") > 400_000.0, "{}", outcome.stdout);
        assert!(outcome.json["schedule"]["met"].as_bool().unwrap(), "{}", outcome.stdout);
    }
}

#[test]
fn a_stall_at_the_end_of_a_run_is_reported() {
    let _alone = crate::common::alone();
    let begin = Instant::now();
    let addr = peer(move |request| {
        let at = begin.elapsed();
        if at > Duration::from_millis(500) {
            thread::sleep(Duration::from_millis(1500).saturating_sub(at));
        }
        Some(request.ack())
    });
    let outcome = bench(&addr.to_string(), "--connections 8 --rate 2000 --duration 800ms --warmup 0s");
    assert!(outcome.number("/latency/max_us") > 700_000.0, "{}", outcome.stdout);
}
