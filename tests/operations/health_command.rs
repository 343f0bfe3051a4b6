//! `ringpost health` translates the HTTP answer of a server's admin address to an exit code, as a container's health
//! check needs it.

use std::net::TcpListener;

use crate::common::{Ended, Server, ringpost, round_trip, run, wait_until};

fn health(admin: &str, options: &[&str]) -> Ended {
    run(ringpost(&[&["health", "--admin", admin], options].concat()))
}

fn admin_address(server: &Server) -> String {
    server.wait_for_log("/readyz address=");
    server.log().split("/readyz address=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[test]
fn a_running_server_is_healthy_and_ready_until_it_drains() {
    let server = Server::start(&["--workers", "1", "--admin", "0.0.0.0:0", "--drain-timeout", "15s"]);
    let admin = admin_address(&server);
    let ended = health(&admin, &[]);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(0), "healthy\n"), "{}", ended.log);
    let ended = health(&admin, &["--ready"]);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(0), "ready\n"), "{}", ended.log);

    // An open connection with a partial frame delays the end of the drain.
    let mut stream = server.connect();
    round_trip(&mut stream, 1);
    std::io::Write::write_all(&mut stream, &crate::common::submit(2, b"payload")[..15]).unwrap();
    server.signal(libc::SIGTERM);
    wait_until("the server is no longer ready", || health(&admin, &["--ready"]).status.code() == Some(1));
    let ended = health(&admin, &["--ready"]);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), "503: draining\n"), "{}", ended.log);
    assert_eq!(health(&admin, &[]).status.code(), Some(0), "a drain is not a fault");
}

#[test]
fn health_fails_in_time_without_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // The kernel accepts the connection, and no process answers.
    let ended = health(&address, &["--timeout", "300ms"]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.log.contains("no answer"), "{}", ended.log);
    drop(listener);
    let ended = health(&address, &[]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.log.contains("refused") && ended.log.contains("--admin"), "{}", ended.log);
}
