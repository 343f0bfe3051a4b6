//! A takeover that is not possible is refused with a clear message, and the running server continues as before. A
//! new server that is too slow is refused too. Only the server's user may use the control socket, and a socket that is
//! left over does not prevent a start.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::common::kept::text;
use crate::common::{Ended, Server, has_rings, ringpost, round_trip, run};

fn take_over(control: &Path, options: &[&str]) -> Ended {
    let mut command = ringpost(&["serve", "--takeover", "--control", text(control), "--workers", "1"]);
    command.args(options);
    let ended = run(command);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{}", ended.log);
    ended
}

fn server(control: &Path, options: &[&str]) -> Server {
    Server::start(&[&["--workers", "1", "--control", text(control)], options].concat())
}

#[test]
fn options_that_do_not_fit_are_refused_and_the_old_server_continues() {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("control");
    let server = server(&control, &[]);
    let mut open = server.connect();
    let ended = take_over(&control, &["--listen", "127.0.0.1:1"]);
    assert!(ended.log.contains(&format!("the running server listens on [{}]", server.address())), "{}", ended.log);
    if has_rings() {
        let ended = take_over(&control, &["--engine", "epoll"]);
        assert!(ended.log.contains("the running server is on uring and this one on epoll"), "{}", ended.log);
    }
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    take_over(&control, &["--sink", "journal", "--data-dir", text(&file)]);
    // A plain start on the same directory finds the socket in use.
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0", "--control", text(&control)]);
    command.args(["--workers", "1"]);
    let ended = run(command);
    assert!(ended.log.contains("a server answers there. Take over from it with --takeover"), "{}", ended.log);
    round_trip(&mut open, 1);
    round_trip(&mut server.connect(), 2);
    assert!(server.stop().status.success());
    assert!(!control.exists(), "the control socket is removed");
}

#[test]
fn a_journal_is_shared_only_in_a_takeover() {
    let dir = tempfile::tempdir().unwrap();
    let [ours, another] = ["ours", "another"].map(|name| dir.path().join(name));
    let journalling = |data: &Path| Server::start(&["--workers", "1", "--data-dir", text(data)]);
    let (server, other) = (journalling(&ours), journalling(&another));
    let address = server.address().to_string();
    let control = ours.join("control.sock");
    let ended = take_over(&control, &["--listen", &address, "--sink", "journal", "--data-dir", text(&another)]);
    assert!(ended.log.contains("is in use: writer"), "{}", ended.log);
    for server in [server, other] {
        round_trip(&mut server.connect(), 1);
        assert!(server.stop().status.success());
    }
}

#[test]
fn a_takeover_without_a_running_server_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("control");
    let ended = take_over(&control, &[]);
    assert!(ended.log.contains("no server answers") && ended.log.contains("start without --takeover"), "{}", ended.log);
    let ended = run(ringpost(&["serve", "--takeover", "--sink", "discard"]));
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.log.contains("--control"), "{}", ended.log);
}

#[test]
fn a_control_socket_left_by_a_killed_server_does_not_prevent_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("control");
    let mut killed = server(&control, &[]);
    let mode = std::fs::metadata(&control).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    killed.signal(libc::SIGKILL);
    killed.reap();
    assert!(control.exists());
    let ended = take_over(&control, &[]);
    assert!(ended.log.contains("no server answers"), "{}", ended.log);
    let server = server(&control, &[]);
    let mut command = ringpost(&["serve", "--takeover", "--control", text(&control), "--workers", "2"]);
    command.args(["--listen", &server.address().to_string()]);
    let next = Server::spawn(command, 1);
    assert!(server.ended().status.success());
    assert!(control.exists(), "the control socket is that of the new server");
    round_trip(&mut next.connect(), 1);
}

/// Sends one message of the protocol, encoded by hand.
fn say(stream: &mut UnixStream, body: &str) {
    let head = [b"RPTK\0\x01", &(body.len() as u16).to_be_bytes()[..]].concat();
    stream.write_all(&[&head, body.as_bytes()].concat()).unwrap();
}

/// Reads the body of one message.
fn hear(stream: &mut UnixStream) -> String {
    let mut head = [0; 8];
    stream.read_exact(&mut head).unwrap();
    let mut body = vec![0; u16::from_be_bytes([head[6], head[7]]).into()];
    stream.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

#[test]
fn a_slow_or_second_takeover_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("control");
    let server = server(&control, &["--takeover-timeout", "2s"]);
    let mut late = UnixStream::connect(&control).unwrap();
    say(&mut late, r#"{"message":"take_over","process":1}"#);
    let offer = hear(&mut late);
    assert!(offer.contains("\"offer\"") && offer.contains("\"sockets\":2"), "{offer}");
    let second = take_over(&control, &["--listen", &server.address().to_string()]);
    assert!(second.log.contains("refuses: another takeover is in progress"), "{}", second.log);
    // The sockets arrive in messages of their own. A read without room for descriptors discards the descriptors.
    assert!(hear(&mut late).contains("\"socket\""));
    assert!(hear(&mut late).contains("\"socket\""));
    let refused = hear(&mut late);
    assert!(refused.contains("refused") && refused.contains("--takeover-timeout"), "{refused}");
    server.wait_for_log("process 1: it sent nothing within --takeover-timeout");
    for (body, words) in [(r#"{"message":"accepting"}"#, "instead of a request"), ("what?", "not a message")] {
        let mut stream = UnixStream::connect(&control).unwrap();
        say(&mut stream, body);
        let refused = hear(&mut stream);
        assert!(refused.contains(words), "{refused}");
        server.wait_for_log(words);
    }
    round_trip(&mut server.connect(), 1);
    let next = {
        let mut command = ringpost(&["serve", "--takeover", "--control", text(&control), "--workers", "1"]);
        command.args(["--listen", &server.address().to_string()]);
        Server::spawn(command, 1)
    };
    assert!(server.ended().status.success());
    round_trip(&mut next.connect(), 1);
}
