//! Payloads have the requested sizes, even if the kernel has no room for a whole frame.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::common::peer_load::{bench, peer};

#[test]
fn a_mix_of_payload_sizes_is_spread_over_its_range() {
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sizes);
    let addr = peer(move |request| {
        seen.lock().unwrap().push(request.payload_len);
        Some(request.ack())
    });
    let outcome = bench(&addr.to_string(), "--payload 16..1039 --connections 2 --window 8 --duration 1s --warmup 0s");
    assert_eq!(outcome.code, 0, "{}", outcome.stdout);
    let sizes = sizes.lock().unwrap();
    assert!(sizes.iter().all(|size| (16..=1039).contains(size)));
    assert!(sizes.len() > 400, "{}", sizes.len());
    assert!(sizes.iter().collect::<BTreeSet<_>>().len() > 100, "the sizes differ");
    let small = sizes.iter().filter(|size| **size < 16 + 512).count() as f64 / sizes.len() as f64;
    assert!((0.35..0.65).contains(&small), "{small} of them are in the lower half");
}

#[test]
fn frames_arrive_whole_if_the_kernel_accepts_them_in_parts() {
    // A socket has no room for eight requests of a megabyte.
    for io in ["auto", "epoll"] {
        for payload in ["1MiB", "900KiB..1MiB", "0"] {
            let addr = peer(|request| Some(request.ack())).to_string();
            let words = format!("--payload {payload} --connections 3 --window 8 --duration 1s --warmup 0s --io {io}");
            let outcome = bench(&addr, &words);
            assert_eq!(outcome.code, 0, "{words}: {}{}", outcome.stdout, outcome.stderr);
            assert!(outcome.number("/requests") > 10.0, "{words}: {}", outcome.stdout);
        }
    }
}
