//! More submissions than the submission queue has entries: no request is sent with the ID of another one.

use crate::common::peer_load::{bench, peer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn each_of_many_connections_keeps_its_ids() {
    let _alone = crate::common::alone();
    // The peer is in this process, and has as many descriptors as the generator.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let addr = peer(|request| Some(request.ack())).to_string();
    // A ring of 1,024 entries is full after 1,000 receives and 24 sends.
    for io in ["auto", "epoll"] {
        let words = format!("--connections 1000 --duration 300ms --warmup 0s --io {io}");
        let outcome = bench(&addr, &words);
        assert_eq!(outcome.code, 0, "{io}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.number("/requests") >= 1000.0, "{io}: {}", outcome.stdout);
    }
}
