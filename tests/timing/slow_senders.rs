//! Five hundred clients that send a byte every 200 ms are each closed soon after the frame timeout. A good load beside
//! them is not affected.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::admin::Metrics;
use crate::common::good_load::{expect_unharmed, measure};
use crate::common::{Server, submit};

const DRIPPERS: usize = 500;
const DRIP_INTERVAL: Duration = Duration::from_millis(200);
/// How often a client checks whether it has been closed.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const ROUNDS: usize = 3;

struct Dripper {
    stream: TcpStream,
    began: Instant,
    cut_after: Option<Duration>,
}

impl Dripper {
    fn new(server: &Server, first: u8) -> Dripper {
        let mut stream = server.connect();
        stream.write_all(&[first]).unwrap();
        stream.set_nonblocking(true).unwrap();
        Dripper { stream, began: Instant::now(), cut_after: None }
    }

    fn look(&mut self) {
        match self.stream.read(&mut [0; 16]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) => self.cut_after = Some(self.began.elapsed()),
            other => panic!("a slow sender is closed cleanly, without further bytes: {other:?}"),
        }
    }
}

/// Sends byte by byte until every client is closed. Returns how long each took.
fn drip(mut drippers: Vec<Dripper>, frame: &[u8]) -> Vec<Duration> {
    let looks_per_drip = (DRIP_INTERVAL.as_millis() / LOOK_INTERVAL.as_millis()) as usize;
    for look in 1..frame.len() * looks_per_drip {
        thread::sleep(LOOK_INTERVAL);
        let mut left = 0;
        for dripper in drippers.iter_mut().filter(|dripper| dripper.cut_after.is_none()) {
            if look % looks_per_drip == 0 {
                // A write may fail just after the close. The check after it notices.
                let _ = dripper.stream.write_all(&frame[look / looks_per_drip..][..1]);
            }
            dripper.look();
            left += 1;
        }
        if left == 0 {
            break;
        }
    }
    drippers.iter().map(|dripper| dripper.cut_after.expect("every slow sender is closed")).collect()
}

#[test]
fn slow_senders_are_closed_and_a_good_load_is_not_affected() {
    let _alone = crate::common::alone();
    crate::common::raise_descriptor_limit();
    let server = Server::start(&["--frame-timeout", "2s", "--admin", "127.0.0.1:0"]);
    let frame = submit(1, &[7; 60]);
    let (mut without, mut with, mut cut_after) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(measure(server.address(), Duration::from_millis(1200)));
        let drippers: Vec<_> = (0..DRIPPERS).map(|_| Dripper::new(&server, frame[0])).collect();
        thread::scope(|scope| {
            let dripping = scope.spawn(|| drip(drippers, &frame));
            with.push(measure(server.address(), Duration::from_millis(1200)));
            cut_after.extend(dripping.join().unwrap());
        });
    }
    cut_after.sort();
    println!(
        "{} slow senders were closed after {:?} to {:?}",
        cut_after.len(),
        cut_after[0],
        cut_after[cut_after.len() - 1]
    );
    for took in cut_after {
        assert!((2.0..4.0).contains(&took.as_secs_f64()), "a slow sender was closed after {took:?}");
    }
    // The server counts a close at the end of its linger, which the client does not see.
    let closed = "ringpost_connections_closed_total{reason=\"frame_timeout\"}";
    let all = (ROUNDS * DRIPPERS) as f64;
    crate::common::wait_until("each close is counted by its reason", || Metrics::scrape(&server).get(closed) == all);
    expect_unharmed(&without, &with);
}
