//! An address in use is refused with a clear message and exit code 1, even if another ringpost holds it with
//! SO_REUSEPORT. The running server is not disturbed.

use std::net::TcpListener;

use crate::common::{Server, ringpost, round_trip, run};

fn refused_on(address: &str) -> String {
    for workers in ["1", "2"] {
        let ended = run(ringpost(&["serve", "--listen", address, "--workers", workers]));
        assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
        assert_eq!(ended.stdout, "");
        let log = ended.log;
        assert!(log.contains(&format!("can't listen on {address}: Address already in use")), "{log}");
        assert!(log.contains("--listen") && log.contains("ss -ltnp"), "the error says what to do: {log}");
    }
    address.to_owned()
}

#[test]
fn an_address_of_another_program_is_refused() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    refused_on(&holder.local_addr().unwrap().to_string());
}

#[test]
fn an_address_of_another_ringpost_is_refused() {
    for workers in ["1", "2"] {
        let server = Server::start(&["--workers", workers]);
        refused_on(&server.address().to_string());
        for id in 0..40 {
            round_trip(&mut server.connect(), id);
        }
    }
}

#[test]
fn a_killed_servers_address_is_free_immediately() {
    let mut address = "127.0.0.1:0".to_owned();
    for _ in 0..20 {
        let server = Server::spawn(ringpost(&["serve", "--workers", "2", "--listen", &address]), 1);
        address = server.address().to_string();
        let mut stream = server.connect();
        round_trip(&mut stream, 1);
        server.signal(libc::SIGKILL);
        assert!(!server.ended().status.success());
    }
}
