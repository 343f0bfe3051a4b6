//! The search for the knee names a rate that the server sustains, and stops at one that it does not sustain.

use std::thread;
use std::time::Duration;

use crate::common::peer_load::{bench, peer};

#[test]
fn the_knee_is_below_the_servers_highest_rate() {
    let _alone = crate::common::alone();
    // Four connections with 5 ms for a request: at most 800 a second.
    let addr = peer(|request| {
        thread::sleep(Duration::from_millis(5));
        Some(request.ack())
    });
    let words = "--find-knee --rate 100 --slo 60ms --connections 4 --duration 250ms --warmup 50ms";
    let outcome = bench(&addr.to_string(), words);
    assert_eq!(outcome.code, 0, "{}", outcome.stdout);
    let knee = outcome.number("/knee/rate");
    assert!((100.0..=850.0).contains(&knee), "{knee}: {}", outcome.stdout);
    let steps = outcome.json["knee"]["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| !step["good"].as_bool().unwrap() && step["rate"].as_f64().unwrap() > knee));
    assert_eq!(outcome.number("/settings/rate"), knee, "the report is that of the last good run");
    assert!(outcome.words().contains("is the last rate that was met"), "{}", outcome.stdout);
}
