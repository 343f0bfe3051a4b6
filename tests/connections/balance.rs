//! A few long-lived connections are spread evenly over the shards, whatever the kernel's hash returns.

use std::net::TcpStream;

use crate::common::admin::Metrics;
use crate::common::{Server, expect_acks, expect_clean_end, round_trip, submit, wait_until};
use std::io::Write;
use std::net::Shutdown;

const OPEN: [&str; 2] = ["ringpost_connections_open{shard=\"0\"}", "ringpost_connections_open{shard=\"1\"}"];

fn open_by_shard(server: &Server) -> [u32; 2] {
    let metrics = Metrics::scrape(server);
    OPEN.map(|name| metrics.get(name) as u32)
}

/// Opens eight connections repeatedly. Returns how many the shard with more connections had each time.
fn rounds(count: usize, options: &[&str]) -> Vec<u32> {
    let server = Server::start(&[&["--workers", "2", "--admin", "127.0.0.1:0"], options].concat());
    let mut most = Vec::new();
    for _ in 0..count {
        let mut streams: Vec<_> = (0..8).map(|_| server.connect()).collect();
        for (stream, id) in streams.iter_mut().zip(0..) {
            round_trip(stream, id);
        }
        let open = open_by_shard(&server);
        assert_eq!(open.iter().sum::<u32>(), 8);
        most.push(open[0].max(open[1]));
        drop(streams);
        wait_until("all connections are closed", || open_by_shard(&server) == [0, 0]);
    }
    let moved = Metrics::scrape(&server).counted("ringpost_connections_moved_total");
    println!("the shard with more connections had {most:?}; {moved:?}");
    assert!(server.stop().status.success());
    most
}

#[test]
fn eight_connections_on_two_shards_are_never_less_even_than_five_to_three() {
    let most = rounds(50, &[]);
    assert!(most.iter().all(|most| *most <= 5), "{most:?}");
    // By the hash alone, 14 of 50 rounds are less even. That no round is happens once in twenty million runs.
    let most = rounds(50, &["--balance", "false"]);
    assert!(most.iter().any(|most| *most > 5), "{most:?}");
}

/// A connection that is being moved from one shard to another when the drain begins is served too.
#[test]
fn a_drain_loses_no_connection_that_is_moving_between_shards() {
    for _ in 0..10 {
        let server = Server::start(&["--workers", "2", "--admin", "127.0.0.1:0"]);
        let frame = submit(7, b"payload");
        let connect = || {
            let mut stream = server.connect();
            stream.write_all(&frame).unwrap();
            stream
        };
        let mut streams: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
        server.signal(libc::SIGTERM);
        for stream in &mut streams {
            expect_acks(stream, [7]);
            stream.shutdown(Shutdown::Write).unwrap();
            expect_clean_end(stream);
        }
        let ended = server.ended();
        assert!(ended.status.success(), "{}", ended.log);
    }
}
