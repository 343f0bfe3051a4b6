//! Sockets from a supervisor. The server listens on them instead of `--listen`, connections that they have queued
//! survive a restart of the server, and a descriptor that is not a listening TCP socket is refused with a clear
//! message.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::common::kept::text;
use crate::common::{BINARY, Server, connect, expect_acks, ringpost, round_trip, run, submit};

/// Returns `ringpost serve` as systemd starts it, with these descriptors from 3 on.
fn activated(descriptors: &[&dyn AsRawFd], process: &str, options: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("LISTEN_PID={process} exec \"$@\""), "sh", BINARY, "serve"]);
    command.args(["--listen", "192.0.2.1:1"]).args(options);
    command.env("LISTEN_FDS", descriptors.len().to_string()).env("LISTEN_FDNAMES", "a:b");
    let descriptors: Vec<RawFd> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    // SAFETY: between fork and exec it only makes fcntl and dup2 calls; the array is big enough.
    unsafe {
        command.pre_exec(move || {
            let mut aside = [0; 8];
            for (at, descriptor) in descriptors.iter().enumerate() {
                aside[at] = libc::fcntl(*descriptor, libc::F_DUPFD_CLOEXEC, 100);
            }
            for (at, _) in descriptors.iter().enumerate() {
                if libc::dup2(aside[at], 3 + at as RawFd) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command
}

#[test]
fn a_supervisors_sockets_are_served_and_keep_their_queue_across_restarts() {
    let [one, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = [&one, &other].map(|listener| listener.local_addr().unwrap());
    let start = || Server::spawn(activated(&[&one, &other], "$$", &["--workers", "3"]), 2);
    for round in 0..3 {
        // No server runs at this moment.
        let mut waiting = addresses.map(TcpStream::connect).map(Result::unwrap);
        for stream in &mut waiting {
            std::io::Write::write_all(stream, &submit(round, b"before the start")).unwrap();
        }
        let server = start();
        assert_eq!(server.addresses, addresses);
        for stream in &mut waiting {
            expect_acks(stream, [round]);
        }
        for address in addresses {
            let mut open: Vec<_> = (0..20).map(|_| connect(address)).collect();
            open.iter_mut().for_each(|stream| round_trip(stream, round));
        }
        drop(waiting);
        assert!(server.stop().status.success());
    }
}

#[test]
fn a_supervisors_sockets_can_be_taken_over_by_more_shards() {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("control");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let options = ["--workers", "1", "--control", text(&control)];
    let server = Server::spawn(activated(&[&listener], "$$", &options), 1);
    let next = Server::spawn(ringpost(&["serve", "--takeover", "--control", text(&control), "--workers", "3"]), 1);
    assert!(server.ended().status.success());
    assert_eq!(next.address(), address);
    for id in 0..20 {
        round_trip(&mut connect(address), id);
    }
    let both = run(activated(&[&listener], "$$", &["--takeover", "--control", text(&control)]));
    assert_eq!(both.status.code(), Some(1));
    assert!(both.log.contains("there can be only one source of sockets"), "{}", both.log);
    round_trip(&mut connect(address), 1);
}

#[test]
fn descriptors_that_can_not_be_served_are_refused_with_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    let unix = std::os::unix::net::UnixStream::pair().unwrap().0;
    let unfit: [(&dyn AsRawFd, &str); 4] = [
        (&udp, "a socket of another protocol"),
        (&connected, "that does not listen"),
        (&file, "not a socket"),
        (&unix, "a socket of another family"),
    ];
    for (descriptor, words) in unfit {
        let ended = run(activated(&[&listener, descriptor], "$$", &[]));
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{words}");
        assert!(ended.log.contains("descriptor 4 of LISTEN_FDS is") && ended.log.contains(words), "{}", ended.log);
    }
    let mut command = activated(&[], "$$", &[]);
    command.env("LISTEN_FDS", "many");
    let ended = run(command);
    assert!(ended.log.contains("LISTEN_FDS is \"many\""), "{}", ended.log);
}

#[test]
fn descriptors_for_another_process_are_ignored() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ended = run(activated(&[&listener], "1", &[]));
    assert!(ended.log.contains("192.0.2.1:1"), "--listen holds: {}", ended.log);
}
