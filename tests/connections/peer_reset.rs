//! A client that resets in the middle of a frame affects no other client, and leaks nothing.

use std::io::Write;
use std::time::Duration;

use crate::common::{Server, round_trip, submit, wait_until};

#[test]
fn resets_in_the_middle_of_a_frame_leak_nothing() {
    let server = Server::start(&["--workers", "1"]);
    let mut bystander = server.connect();
    round_trip(&mut bystander, 0);
    let open_before = server.open_files();
    for round in 0..200 {
        let mut stream = server.connect();
        let mut bytes = submit(1, b"whole");
        bytes.extend_from_slice(&submit(2, &[0; 1000])[..round * 5 % 900]);
        stream.write_all(&bytes).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
    }
    round_trip(&mut bystander, 1);
    wait_until("every reset connection is closed", || server.open_files() == open_before);
    drop(bystander);
    assert!(server.stop().status.success());
}
