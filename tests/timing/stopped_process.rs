//! A process that was stopped, as by a debugger, a freezer or a suspended host, has not stalled.

use std::thread::sleep;
use std::time::Duration;

use crate::common::admin::get;
use crate::common::{Server, round_trip};

#[test]
fn time_in_which_the_process_was_stopped_is_not_a_stall() {
    let _alone = crate::common::alone();
    let server = Server::start(&["--workers", "4", "--stall-timeout", "1s", "--admin", "127.0.0.1:0"]);
    let mut stream = server.connect();
    round_trip(&mut stream, 0);
    // It is random which thread runs first when the process continues, so there is more than one round.
    for id in [2500, 1200, 1200, 1200, 1200, 1200] {
        server.signal(libc::SIGSTOP);
        sleep(Duration::from_millis(id));
        server.signal(libc::SIGCONT);
        for _ in 0..10 {
            let health = get(&server, "/healthz");
            assert_eq!(health.status, 200, "{}", health.body);
            sleep(Duration::from_millis(10));
        }
        round_trip(&mut stream, id);
    }
    drop(stream);
    let ended = server.stop();
    assert!(ended.status.success(), "{}", ended.log);
    assert!(!ended.log.contains("stalled"), "{}", ended.log);
}
