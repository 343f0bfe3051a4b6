//! A server that is stopped for a second in the middle of an open-loop run can't hide it. The load generator reports a
//! maximum of about a second, and a p99.9 to match.

use std::thread::sleep;
use std::time::Duration;

use crate::common::{Server, ringpost, run};

#[test]
fn a_stopped_second_is_the_maximum_and_in_p999() {
    let _alone = crate::common::alone();
    let server = Server::start(&["--workers", "1"]);
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("report.json");
    let address = server.address().to_string();
    let load = {
        let mut command = ringpost(&["bench", "--addr", &address, "--rate", "4000", "--connections", "16"]);
        command.args(["--duration", "4s", "--warmup", "500ms", "--json"]).arg(&json);
        std::thread::spawn(move || run(command))
    };
    sleep(Duration::from_secs(2));
    server.signal(libc::SIGSTOP);
    sleep(Duration::from_secs(1));
    server.signal(libc::SIGCONT);
    let ended = load.join().unwrap();
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.log);
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let millis = |key: &str| report["latency"][key].as_f64().unwrap() / 1000.0;
    assert!((950.0..3000.0).contains(&millis("max_us")), "max {} ms", millis("max_us"));
    assert!(millis("p999_us") > 800.0, "p99.9 {} ms", millis("p999_us"));
    // A quarter of the requests were due while the server was stopped. The median request was not affected.
    assert!(millis("p50_us") < 100.0, "p50 {} ms", millis("p50_us"));
}
