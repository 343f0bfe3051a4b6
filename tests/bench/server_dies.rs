//! A server that dies while `bench` runs ends the run, whatever was in flight.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::BINARY;
use socket2::SockRef;

#[test]
fn a_run_ends_when_all_connections_are_reset_at_the_same_time() {
    for io in ["uring", "epoll"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut load = Command::new(BINARY)
            .args(["bench", "--addr", &listener.local_addr().unwrap().to_string(), "--io", io, "--rate", "100000"])
            .args([
                "--connections",
                "100",
                "--window",
                "100000",
                "--payload",
                "16",
                "--warmup",
                "0",
                "--duration",
                "30s",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The first connection only checks that a server listens.
        let sockets: Vec<TcpStream> = (0..101).map(|_| listener.accept().unwrap().0).collect();
        // The peer does not read, and there is room for what is sent.
        thread::sleep(Duration::from_millis(500));
        // All resets arrive together. When bench looks again, a send is due on each connection.
        signal(load.id(), libc::SIGSTOP);
        for socket in sockets {
            SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
        }
        signal(load.id(), libc::SIGCONT);
        let before = Instant::now();
        let mut output = String::new();
        load.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert!(!load.wait().unwrap().success(), "{io}: bench succeeded although its server died: {output}");
        assert!(before.elapsed() < Duration::from_secs(5), "{io}: ended after {:?}", before.elapsed());
        println!("{io}: ended after {:?}: {output}", before.elapsed());
    }
}

fn signal(process: u32, signal: i32) {
    // SAFETY: plain kill(2) on a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(process as i32, signal) }, 0);
}
