//! 9,000 simultaneous connections are held and each is answered, round after round, without growth.

use std::io::Write;

use crate::common::{Server, expect_acks, submit, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn memory_does_not_grow_over_rounds_of_9000_connections() {
    let _alone = crate::common::alone();
    const CONNECTIONS: u64 = 9_000;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    assert!(maximum.is_none_or(|most| most > CONNECTIONS + 100), "raise RLIMIT_NOFILE above 9,100 to run this test");
    let server = Server::start(&["--workers", "2"]);
    let open_at_start = server.open_files();
    let mut memory = Vec::new();
    for round in 0..5 {
        let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
        for (stream, id) in streams.iter_mut().zip(0..) {
            stream.write_all(&submit(id, b"one of many")).unwrap();
        }
        for (stream, id) in streams.iter_mut().zip(0..) {
            expect_acks(stream, [id]);
        }
        assert_eq!(server.open_files(), open_at_start + CONNECTIONS as usize, "round {round}");
        drop(streams);
        wait_until("every connection is closed", || server.open_files() == open_at_start);
        memory.push(server.memory());
    }
    // The memory that the allocator keeps for the next burst is stable by the second round, within 1.3 MB. A
    // leak of 128 bytes a connection would amount to 3.4 MB.
    let grown = memory[4].saturating_sub(memory[1]);
    assert!(grown < 3 << 20, "resident memory after each round: {memory:?}");
    assert!(server.stop().status.success());
}
