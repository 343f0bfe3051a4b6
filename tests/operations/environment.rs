//! Options from the environment work in every way that people write them, and an error names the variable.

use std::process::{Command, Output, Stdio};

use crate::common::requirement::IPV6;
use crate::common::{Server, ringpost, round_trip};

/// Runs a command until it ends.
fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that a server starts and serves with each way to write these variables.
#[test]
fn a_server_starts_with_values_as_people_write_them() {
    let data = tempfile::tempdir().unwrap();
    let settings = [
        ("PIN", &["1", "YES", "on", "True", "0", "no", "off", "", " "][..]),
        ("BALANCE", &["0", "off", "N", "1", "t"]),
        ("TAKEOVER", &["0", "false", "No"]),
        ("LOG_LEVEL", &["INFO", "Warning", " debug ", ""]),
        ("LOG_FORMAT", &["JSON", "Text"]),
        ("ENGINE", &["Auto", "EPOLL"]),
        ("SINK", &["Discard", "discard\r"]),
        ("ACK_CODES", &["Published"]),
        ("CONFINE", &["OFF", "0", "no", "true", "1"]),
        ("WORKERS", &["", " 2 ", "\"1\""]),
        ("ADMIN", &["", "\"127.0.0.1:0\"", " 127.0.0.1:0", "localhost:0", ":0"]),
        ("RETAIN_BYTES", &["", "1GiB", "1gib", "1 GiB"]),
        ("RETAIN_AGE", &["", "7d", "3600", "30 s", "30S"]),
        ("IDLE_TIMEOUT", &["30", "1 m", "0"]),
        ("LISTEN", &["127.0.0.1:0, 127.0.0.1:0", "127.0.0.1:0 ,127.0.0.1:0,"]),
        ("CONTROL", &[""]),
        ("USER", &[""]),
    ];
    for (name, values) in settings {
        for value in values {
            let mut command = ringpost(&["serve", "--data-dir", data.path().to_str().unwrap()]);
            command.env("RINGPOST_SINK", "discard").env("RINGPOST_WORKERS", "1");
            let addresses = if name == "LISTEN" {
                2
            } else {
                command.args(["--listen", "127.0.0.1:0"]);
                1
            };
            command.env(format!("RINGPOST_{name}"), value);
            let server = Server::spawn(command, addresses);
            if name != "ACK_CODES" {
                round_trip(&mut server.connect(), 1);
            }
            assert_eq!(server.stop().status.code(), Some(0), "RINGPOST_{name}={value:?}");
        }
    }
}

#[test]
fn an_error_names_the_variable_and_not_an_option_that_was_not_typed() {
    let cases: &[(&[&str], &str, &str)] = &[
        (&["serve"], "PIN", "perhaps"),
        (&["serve"], "LISTEN", "8888"),
        (&["serve"], "LOG_LEVEL", "loud"),
        (&["serve"], "MAX_FRAME", "much"),
        (&["serve"], "IDLE_TIMEOUT", "long"),
        (&["serve"], "BACKLOG", "0"),
        (&["serve"], "RING_ENTRIES", "1000"),
        (&["doctor"], "WORKERS", "0"),
        (&["submit"], "ADDR", "8888"),
        (&["submit"], "WINDOW", "0"),
        (&["bench"], "PAYLOAD", "x"),
        (&["bench"], "WINDOW", "0"),
        (&["bench", "--churn"], "RATE", "5"),
        (&["health"], "ADMIN", "8889"),
        (&["health"], "HEALTH_TIMEOUT", "x"),
        (&["journal", "cat"], "FORMAT", "xml"),
        (&["journal", "cat"], "FROM", "yesterday"),
    ];
    for (arguments, name, value) in cases {
        let variable = format!("RINGPOST_{name}");
        let output = run(ringpost(arguments).env(&variable, value));
        assert_eq!(output.status.code(), Some(2), "{variable}={value}: {}", stderr(&output));
        assert!(stderr(&output).contains(&variable), "{}", stderr(&output));
    }
    // An option on the command line overrides the variable, and the error names the option.
    let output = run(ringpost(&["serve", "--backlog", "0"]).env("RINGPOST_BACKLOG", "5"));
    assert_eq!(output.status.code(), Some(2));
    assert!(!stderr(&output).contains("RINGPOST_"), "{}", stderr(&output));
}

#[test]
fn a_flag_that_is_off_conflicts_with_no_option() {
    let mut command = ringpost(&["bench", "--addr", "127.0.0.1:1", "--rate", "5"]);
    let output = run(command.env("RINGPOST_CHURN", "0").env("RINGPOST_FIND_KNEE", "false").env("RINGPOST_IDLE", ""));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("could not connect"), "{}", stderr(&output));
}

#[test]
fn values_on_the_command_line_may_be_in_any_case() {
    let server = Server::start(&["--log-level", "DEBUG", "--engine", "Auto", "--log-format", "Json"]);
    round_trip(&mut server.connect(), 1);
    assert!(server.stop().log.contains("{\"timestamp\""));
}

#[test]
fn a_port_alone_and_localhost_are_addresses_of_every_command() {
    for listen in ["localhost:0", ":0"] {
        let command = ringpost(&["serve", "--workers", "2", "--admin", "localhost:0", "--listen", listen]);
        let families = if listen == ":0" || std::net::TcpListener::bind("[::1]:0").is_err() { 1 } else { 2 };
        let server = Server::spawn(command, families);
        let admin = crate::common::admin::address(&server);
        // If there are two addresses, the first one is IPv6. A port alone accepts IPv4 too.
        let port = server.addresses.last().unwrap().port();
        for target in [format!("localhost:{port}"), format!(":{port}"), format!("127.0.0.1:{port}")] {
            let sent =
                run(&mut ringpost(&["submit", "--addr", &target, concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]));
            assert_eq!(sent.status.code(), Some(0), "{target}: {}", stderr(&sent));
            let bench = ["bench", "--connections", "1", "--warmup", "0s", "--duration", "50ms", "--addr", &target];
            assert_eq!(run(&mut ringpost(&bench)).status.code(), Some(0), "{target}");
        }
        if families == 2 {
            round_trip(&mut server.connect(), 1);
        }
        for target in [format!(":{}", admin.port()), format!("localhost:{}", admin.port())] {
            let health = run(&mut ringpost(&["health", "--admin", &target]));
            assert_eq!(health.status.code(), Some(0), "{target}: {}", stderr(&health));
        }
        assert_eq!(server.stop().status.code(), Some(0));
    }
}

#[test]
fn an_explicit_ipv6_wildcard_logs_that_it_accepts_no_ipv4() {
    if IPV6.check(std::net::TcpListener::bind("[::1]:0")).is_none() {
        return;
    }
    let log = |listen: &[&str]| {
        let mut command = ringpost(&["serve", "--workers", "1"]);
        for listen in listen {
            command.args(["--listen", listen]);
        }
        Server::spawn(command, listen.len()).stop().log
    };
    let alone = log(&["[::]:0"]);
    assert!(alone.contains("accepts only IPv6") && alone.contains("--listen 0.0.0.0:0"), "{alone}");
    assert!(!log(&["[::]:0", "0.0.0.0:0"]).contains("accepts only IPv6"));
    assert!(!log(&[":0"]).contains("accepts only IPv6"));
}
