//! A thousand connections that arrive together, each with a request, are all answered soon, because accepts continue
//! while requests are served.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::common::{Server, connect, submit, submit_ack};

#[test]
fn the_last_of_a_thousand_first_acks_arrives_soon() {
    let _alone = crate::common::alone();
    let server = Server::start(&["--workers", "1"]);
    let address = server.address();
    // The shard is already busy. New connections must not wait until all requests have been served.
    let busy: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = connect(address);
            std::thread::spawn(move || {
                let frames: Vec<u8> = (0..64).flat_map(|id| submit(id, b"busy")).collect();
                let mut acks = vec![0; 64 * 14];
                let end = Instant::now() + Duration::from_secs(2);
                while Instant::now() < end {
                    stream.write_all(&frames).unwrap();
                    stream.read_exact(&mut acks).unwrap();
                }
            })
        })
        .collect();
    let start = Instant::now();
    let mut streams: Vec<_> = (0..1000).map(|_| connect(address)).collect();
    for (stream, id) in streams.iter_mut().zip(0..) {
        stream.write_all(&submit(id, b"first")).unwrap();
    }
    for (stream, id) in streams.iter_mut().zip(0..) {
        let mut ack = [0; 14];
        stream.read_exact(&mut ack).unwrap();
        assert_eq!(ack, submit_ack(id, 0));
    }
    let took = start.elapsed();
    println!("the last first ack arrived after {took:?}");
    // An optimized build on an idle machine takes 30 to 60 ms. This limit also holds for a debug build on a busy
    // machine.
    assert!(took < Duration::from_secs(1), "{took:?}");
    for thread in busy {
        thread.join().unwrap();
    }
}
