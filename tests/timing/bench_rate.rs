//! An open loop sends at the requested rate, and reports if it could not.

use std::thread;
use std::time::Duration;

use crate::common::peer_load::{bench, peer};

#[test]
fn a_rate_that_can_be_met_is_met() {
    let _alone = crate::common::alone();
    let addr = peer(|request| Some(request.ack())).to_string();
    for words in ["--threads 1", "--threads 2", "--io epoll"] {
        let words = format!("--connections 6 --rate 3000 --duration 1s --warmup 200ms {words}");
        let outcome = bench(&addr, &words);
        assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
        let rate = outcome.number("/requests_per_second");
        assert!((2_900.0..3_100.0).contains(&rate), "{words}: {rate}");
        assert!(outcome.json["schedule"]["met"].as_bool().unwrap(), "{}", outcome.stdout);
    }
}

#[test]
fn a_rate_that_cannot_be_met_is_reported() {
    let _alone = crate::common::alone();
    let addr = peer(|request| {
        thread::sleep(Duration::from_millis(10));
        Some(request.ack())
    });
    let outcome = bench(&addr.to_string(), "--connections 2 --rate 1000 --duration 600ms --warmup 0s");
    assert_eq!(outcome.code, 0, "every request that was sent was acked: {}", outcome.stdout);
    let words = outcome.words();
    assert!(words.contains("NOT MET") && words.contains(" of 1,000 requests a second"), "{}", outcome.stdout);
    assert!(outcome.number("/schedule/unsent") > 400.0, "{}", outcome.stdout);
    assert!(outcome.number("/schedule/achieved_per_second") < 220.0, "{}", outcome.stdout);
    // The latencies include the wait of late requests. The peer needs 10 ms for a request.
    assert!(outcome.number("/latency/p99_us") > 200_000.0, "{}", outcome.stdout);
}
