//! TLS connections of a running server, with clients that misbehave, stall or end anywhere.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, HandshakeKind, ProtocolVersion};

use crate::common::admin::{Metrics, wait_for};
use crate::common::authority::Authority;
use crate::common::{Server, expect_acks, expect_clean_end, round_trip, submit, wait_until};
use crate::manual_client::{Ending, ManualClient, engines, presenting, serve, serve_journal, trusting, with_version};

/// Waits until these are the failures of TLS, by reason.
fn expect_failures(server: &Server, expected: &[&str]) {
    let mut expected: Vec<String> = expected.iter().map(|failure| failure.to_string()).collect();
    expected.sort();
    let count = || Metrics::scrape(server).counted("ringpost_tls_failures_total");
    let deadline = Instant::now() + Duration::from_secs(10);
    while count() != expected {
        assert!(Instant::now() < deadline, "{expected:?} is not {:?}; {}", count(), server.log());
        sleep(Duration::from_millis(5));
    }
}

/// Checks that nothing is left of other connections, and that the server still serves.
fn expect_health(server: &Server, config: &Arc<ClientConfig>) {
    wait_for(server, "ringpost_connections_open{shard=\"0\"}", 0.0);
    let mut client = ManualClient::open(server, config);
    client.round_trip(7);
    client.close();
    assert_eq!(client.end(), Ending::Closed);
}

#[test]
fn a_handshake_may_arrive_in_any_pieces() {
    let ca = Authority::new("servers");
    for engine in engines() {
        let server = serve(engine, &ca, &["--tls-min", "1.2"]);
        for (version, piece) in [(&TLS13, 1), (&TLS13, 700), (&TLS12, 1), (&TLS12, 100)] {
            let mut client = ManualClient::connect(&server, &Arc::new(with_version(&ca, version)));
            while client.session.is_handshaking() {
                let records = client.records();
                assert!(!records.is_empty() || version == &TLS12, "{version:?}: the server waits for nothing");
                for bytes in records.chunks(piece) {
                    client.stream.write_all(bytes).unwrap();
                    thread::yield_now();
                }
                if client.session.is_handshaking() {
                    client.receive().unwrap();
                }
            }
            for bytes in client.records().chunks(piece) {
                client.stream.write_all(bytes).unwrap();
            }
            client.round_trip(1);
            client.close();
            assert_eq!(client.end(), Ending::Closed);
        }
        let metrics = Metrics::scrape(&server);
        assert_eq!(
            metrics.counted("ringpost_tls_handshakes_total"),
            ["{version=\"1.2\"} 2", "{version=\"1.3\"} 2"],
            "{engine}"
        );
        expect_failures(&server, &[]);
    }
}

/// rustls itself would send the answer only with the next ack.
#[test]
fn new_keys_are_answered_when_there_is_nothing_else_to_send() {
    let ca = Authority::new("servers");
    for engine in engines() {
        let server = serve(engine, &ca, &[]);
        let mut client = ManualClient::open(&server, &Arc::new(trusting(&ca)));
        for id in 0..5 {
            client.session.refresh_traffic_keys().unwrap();
            client.flush();
            assert!(client.receive().unwrap() > 0, "{engine}: no answer");
            client.round_trip(id);
        }
        client.close();
        assert_eq!(client.end(), Ending::Closed);
        expect_failures(&server, &[]);
    }
}

/// Returns the ClientHello of a session, with cipher suites that no server has.
fn hello_without_a_known_cipher(client: &mut ManualClient) -> Vec<u8> {
    let mut hello = client.records();
    // The headers of the record and of the message, the version and the random bytes, and then the session ID.
    let at = 5 + 4 + 2 + 32;
    let at = at + 1 + usize::from(hello[at]);
    let len = usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    hello[at + 2..at + 2 + len].chunks_mut(2).for_each(|suite| suite.copy_from_slice(&[0x13, 0x77]));
    hello
}

#[test]
fn every_refusal_is_an_alert_is_counted_and_is_logged_once() {
    let (ca, clients, others) = (Authority::new("servers"), Authority::new("clients"), Authority::new("others"));
    for engine in engines() {
        let server = serve(engine, &ca, &["--tls-client-ca", &clients.text("ca.pem")]);
        let valid = Arc::new(presenting(&ca, &clients));
        ManualClient::open(&server, &valid).round_trip(1);

        let refusal = |config: ClientConfig| {
            let mut client = ManualClient::connect(&server, &Arc::new(config));
            match client.shake_hands() {
                Err(rustls::Error::AlertReceived(alert)) => {
                    assert_eq!(client.stream.read_to_end(&mut Vec::new()).unwrap(), 0, "a clean end");
                    Ending::Alert(alert)
                }
                Err(error) => panic!("{error}"),
                // With TLS 1.3, a client has completed its handshake before the server sees its certificate.
                Ok(()) => {
                    client.send(&submit(1, &[7; 100_000]));
                    client.end()
                }
            }
        };
        assert_eq!(refusal(with_version(&ca, &TLS12)), Ending::Alert(AlertDescription::ProtocolVersion));
        let mut other_protocol = presenting(&ca, &clients);
        other_protocol.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        assert_eq!(refusal(other_protocol), Ending::Alert(AlertDescription::NoApplicationProtocol));
        assert_eq!(refusal(trusting(&ca)), Ending::Alert(AlertDescription::CertificateRequired));
        assert_eq!(refusal(presenting(&ca, &others)), Ending::Alert(AlertDescription::UnknownCA));

        let mut client = ManualClient::connect(&server, &valid);
        let hello = hello_without_a_known_cipher(&mut client);
        client.stream.write_all(&hello).unwrap();
        assert_eq!(client.end(), Ending::Alert(AlertDescription::HandshakeFailure));

        // A plain client.
        let mut plain = server.connect();
        plain.write_all(&submit(1, b"payload")).unwrap();
        let mut answer = Vec::new();
        plain.read_to_end(&mut answer).expect("a clean end");
        assert_eq!((answer[0], answer.len()), (21, 7), "an alert: {answer:?}");

        // A client that refuses the server.
        let mut client = ManualClient::connect(&server, &Arc::new(presenting(&others, &clients)));
        client.shake_hands().unwrap_err();
        client.flush();
        client.stream.read_to_end(&mut Vec::new()).expect("a clean end");

        expect_failures(
            &server,
            &[
                "{reason=\"version\"} 1",
                "{reason=\"protocol\"} 1",
                "{reason=\"certificate\"} 2",
                "{reason=\"cipher\"} 1",
                "{reason=\"not_tls\"} 1",
                "{reason=\"alert\"} 1",
            ],
        );
        expect_health(&server, &valid);
        let ended = server.stop();
        for (reason, lines) in
            [("version", 1), ("protocol", 1), ("certificate", 2), ("cipher", 1), ("not_tls", 1), ("alert", 1)]
        {
            let text = format!("reason=\"{reason}\"");
            assert_eq!(ended.log.matches(&text).count(), lines, "{engine}: {reason}: {}", ended.log);
        }
    }
}

/// Sends bytes of a handshake, and then ends the connection.
fn cut(mut client: ManualClient, bytes: &[u8], with_reset: bool) {
    client.stream.write_all(bytes).unwrap();
    if with_reset {
        return client.reset();
    }
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.stream.read_to_end(&mut Vec::new()).expect("a clean end");
}

#[test]
fn a_connection_may_end_at_every_byte_of_its_handshake() {
    let ca = Authority::new("servers");
    for engine in engines() {
        let server = serve(engine, &ca, &[]);
        let config = Arc::new(trusting(&ca));
        expect_health(&server, &config);
        let files = server.open_files();
        let mut cut_in_handshake = 0;
        for with_reset in [false, true] {
            // The ends in the first flight, and after it.
            let hello_len = ManualClient::connect(&server, &config).records().len();
            for len in 0..=hello_len {
                let mut client = ManualClient::connect(&server, &config);
                let hello = client.records();
                cut(client, &hello[..len], with_reset);
                cut_in_handshake += u32::from(!with_reset && len > 0);
            }
            for len in 0.. {
                let mut client = ManualClient::connect(&server, &config);
                client.flush();
                while client.session.is_handshaking() {
                    client.receive().unwrap();
                }
                let finished = client.records();
                cut(client, &finished[..len], with_reset);
                if len == finished.len() {
                    break;
                }
                cut_in_handshake += u32::from(!with_reset);
            }
        }
        wait_for(&server, "ringpost_connections_open{shard=\"0\"}", 0.0);
        let metrics = Metrics::scrape(&server);
        // A reset may be seen as an end, if it comes before the server reads the bytes before it.
        assert!(
            metrics.get("ringpost_tls_failures_total{reason=\"ended\"}") >= f64::from(cut_in_handshake),
            "{engine}: {cut_in_handshake}; {:?}",
            metrics.counted("ringpost_tls_failures_total")
        );
        assert_eq!(metrics.get("ringpost_tls_truncated_total"), 1.0, "{engine}");
        expect_health(&server, &config);
        wait_until("all sockets are closed", || server.open_files() <= files);
    }
}

#[test]
fn acks_and_a_close_follow_each_end_of_the_clients_stream() {
    const REQUESTS: u64 = 1000;
    let ca = Authority::new("servers");
    let config = Arc::new(trusting(&ca));
    let requests: Vec<u8> = (0..REQUESTS).flat_map(|id| submit(id, b"payload")).collect();
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let server = serve_journal(engine, &ca, &dir, &[]);
        // A close_notify ends one direction only.
        let mut client = ManualClient::open(&server, &config);
        client.send(&requests);
        client.close();
        client.expect_acks(0..REQUESTS);
        assert_eq!(client.end(), Ending::Closed, "{engine}");

        // With a FIN right after it.
        let mut client = ManualClient::open(&server, &config);
        client.send(&requests);
        client.close();
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.expect_acks(0..REQUESTS);
        assert_eq!(client.end(), Ending::Closed, "{engine}");

        // With bytes after it, some of which the server has not read when it closes.
        let mut client = ManualClient::open(&server, &config);
        client.send(&requests);
        client.session.send_close_notify();
        let mut records = client.records();
        records.resize(300_000, b'?');
        client.stream.write_all(&records).unwrap();
        client.expect_acks(0..REQUESTS);
        client.stream.write_all(b"more").unwrap();
        assert_eq!(client.end(), Ending::Closed, "{engine}");

        // In the middle of a frame, with bytes after that.
        let mut client = ManualClient::open(&server, &config);
        client.session.writer().write_all(&requests).unwrap();
        client.session.writer().write_all(&requests[..10]).unwrap();
        client.session.send_close_notify();
        let mut records = client.records();
        records.resize(300_000, b'?');
        client.stream.write_all(&records).unwrap();
        client.expect_acks(0..REQUESTS);
        assert_eq!(client.end(), Ending::Closed, "{engine}");

        let metrics = Metrics::scrape(&server);
        assert_eq!(metrics.get("ringpost_tls_truncated_total"), 0.0, "{engine}");

        // A FIN alone.
        let mut client = ManualClient::open(&server, &config);
        client.send(&requests);
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.expect_acks(0..REQUESTS);
        assert_eq!(client.end(), Ending::Closed, "{engine}");
        wait_for(&server, "ringpost_connections_open{shard=\"0\"}", 0.0);
        let metrics = Metrics::scrape(&server);
        assert_eq!(metrics.get("ringpost_tls_truncated_total"), 1.0, "{engine}");
        assert_eq!(metrics.get("ringpost_connections_closed_total{reason=\"client_closed\"}"), 4.0, "{engine}");
        expect_failures(&server, &[]);
        expect_health(&server, &config);
        assert!(server.stop().status.success());
    }
}

#[test]
fn a_slow_handshake_is_ended_and_delays_nobody() {
    let ca = Authority::new("servers");
    let config = Arc::new(trusting(&ca));
    for engine in engines() {
        let server = serve(engine, &ca, &["--tls-handshake-timeout", "1s"]);
        let mut open = ManualClient::open(&server, &config);
        let start = Instant::now();
        let mut silent = server.connect();
        let mut slow = ManualClient::connect(&server, &config);
        let hello = slow.records();
        let mut stalled = ManualClient::connect(&server, &config);
        stalled.flush();
        let sender = thread::spawn(move || {
            for byte in hello.chunks(1) {
                if slow.stream.write_all(byte).is_err() {
                    break;
                }
                sleep(Duration::from_millis(100));
            }
            start.elapsed()
        });
        for id in 0..20 {
            let before = Instant::now();
            open.round_trip(id);
            ManualClient::open(&server, &config).round_trip(id);
            assert!(before.elapsed() < Duration::from_millis(500), "{engine}: {:?}", before.elapsed());
            sleep(Duration::from_millis(5));
        }
        expect_clean_end(&mut silent);
        let silent_for = start.elapsed();
        assert!(silent_for > Duration::from_secs(1) && silent_for < Duration::from_secs(4), "{engine}: {silent_for:?}");
        expect_failures(&server, &["{reason=\"timeout\"} 3"]);
        drop((silent, stalled));
        let slow_for = sender.join().unwrap();
        assert!(slow_for < Duration::from_secs(15), "{engine}: {slow_for:?}");
        let metrics = Metrics::scrape(&server);
        assert_eq!(metrics.get("ringpost_connections_closed_total{reason=\"handshake_timeout\"}"), 3.0);
        assert_eq!(server.log().matches("the TLS handshake took longer than").count(), 3, "{}", server.log());
        // A connection that is open has no such limit.
        open.round_trip(21);
    }
}

#[test]
fn a_handshake_waits_until_another_one_has_ended() {
    let ca = Authority::new("servers");
    let config = Arc::new(trusting(&ca));
    for engine in engines() {
        let server = serve(engine, &ca, &["--tls-handshakes-max", "1", "--tls-handshake-timeout", "2s"]);
        let mut open = ManualClient::open(&server, &config);
        let start = Instant::now();
        let mut stuck = ManualClient::connect(&server, &config);
        stuck.flush();
        stuck.receive().unwrap();
        // This one waits until its time is over, as that of the first one is.
        let mut waiting = ManualClient::connect(&server, &config);
        waiting.flush();
        sleep(Duration::from_millis(1200));
        open.round_trip(1);
        waiting.stream.set_nonblocking(true).unwrap();
        let answer = waiting.stream.peek(&mut [0]).unwrap_err();
        assert_eq!(answer.kind(), ErrorKind::WouldBlock, "{engine}: the limit does not hold");
        let mut late = ManualClient::open(&server, &config);
        late.round_trip(2);
        let waited = start.elapsed();
        assert!(waited > Duration::from_secs(2), "{engine}: the limit does not hold: {waited:?}");
        open.round_trip(3);
        let failures = Metrics::scrape(&server).counted("ringpost_tls_failures_total");
        assert!(failures == ["{reason=\"timeout\"} 1"] || failures == ["{reason=\"timeout\"} 2"], "{failures:?}");
    }
}

#[test]
fn bad_records_end_the_connection_and_are_counted() {
    let ca = Authority::new("servers");
    let config = Arc::new(trusting(&ca));
    for engine in engines() {
        let server = serve(engine, &ca, &[]);
        // A flood of new keys.
        let mut client = ManualClient::open(&server, &config);
        for _ in 0..1000 {
            client.session.refresh_traffic_keys().unwrap();
            let records = client.records();
            if client.stream.write_all(&records).is_err() {
                break;
            }
        }
        // rustls has no alert for it.
        assert_eq!(client.end(), Ending::Bare, "{engine}");
        expect_failures(&server, &["{reason=\"misbehaved\"} 1"]);

        // A record that is too long.
        let mut client = ManualClient::open(&server, &config);
        client.round_trip(1);
        let mut record = vec![23, 3, 3, 0xff, 0xff];
        record.resize(70_000, 0);
        client.stream.write_all(&record).unwrap();
        assert_eq!(client.end(), Ending::Alert(AlertDescription::DecodeError), "{engine}");
        expect_failures(&server, &["{reason=\"misbehaved\"} 1", "{reason=\"record\"} 1"]);

        // A record that was changed on its way.
        let mut client = ManualClient::open(&server, &config);
        client.session.writer().write_all(&submit(1, b"payload")).unwrap();
        let mut record = client.records();
        *record.last_mut().unwrap() ^= 1;
        client.stream.write_all(&record).unwrap();
        assert_eq!(client.end(), Ending::Alert(AlertDescription::BadRecordMac), "{engine}");
        expect_failures(&server, &["{reason=\"misbehaved\"} 1", "{reason=\"record\"} 2"]);

        // Part of a record, and then the end.
        let mut client = ManualClient::open(&server, &config);
        client.round_trip(1);
        client.session.writer().write_all(&submit(2, b"payload")).unwrap();
        let record = client.records();
        client.stream.write_all(&record[..record.len() - 1]).unwrap();
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.end(), Ending::Closed, "{engine}");
        wait_for(&server, "ringpost_tls_truncated_total", 1.0);

        // A handshake message of 16 MB, and one that comes in records of one byte.
        for len in [0xff_ffff, 60_000_u32] {
            let mut client = ManualClient::connect(&server, &config);
            let [_, high, middle, low] = len.to_be_bytes();
            client.stream.write_all(&[22, 3, 1, 0, 4, 1, high, middle, low]).unwrap();
            let records = [22, 3, 1, 0, 1, 7].repeat(60_000);
            let sent = records.chunks(1000).map_while(|part| client.stream.write_all(part).ok()).count();
            assert_ne!(client.end(), Ending::Broken, "{engine}: {len}, {sent}");
        }
        expect_failures(
            &server,
            &["{reason=\"misbehaved\"} 1", "{reason=\"record\"} 2", "{reason=\"handshake_too_large\"} 2"],
        );
        expect_health(&server, &config);
    }
}

#[test]
fn plain_and_tls_clients_share_a_port_where_both_are_allowed() {
    let ca = Authority::new("servers");
    let config = Arc::new(trusting(&ca));
    for engine in engines() {
        let server = serve(engine, &ca, &["--tls", "allow", "--tls-handshake-timeout", "1s"]);
        let mut silent = server.connect();
        let mut stalled = ManualClient::connect(&server, &config);
        let hello = stalled.records();
        stalled.stream.write_all(&hello[..1]).unwrap();
        let mut plain = server.connect();
        let mut with_tls = ManualClient::open(&server, &config);
        for id in 0..100 {
            round_trip(&mut plain, id);
            with_tls.round_trip(id);
        }
        assert_eq!(stalled.end(), Ending::Bare, "{engine}");
        sleep(Duration::from_millis(500));
        // The first byte of the first frame in a receive of its own.
        let frame = submit(1, b"payload");
        silent.write_all(&frame[..1]).unwrap();
        sleep(Duration::from_millis(20));
        silent.write_all(&frame[1..]).unwrap();
        expect_acks(&mut silent, [1]);
        round_trip(&mut plain, 101);
        plain.shutdown(Shutdown::Write).unwrap();
        expect_clean_end(&mut plain);
        with_tls.close();
        assert_eq!(with_tls.end(), Ending::Closed);
        expect_failures(&server, &["{reason=\"timeout\"} 1"]);
        let metrics = Metrics::scrape(&server);
        assert_eq!(metrics.counted("ringpost_tls_handshakes_total"), ["{version=\"1.3\"} 1"]);
        assert_eq!(metrics.get("ringpost_tls_truncated_total"), 0.0);
    }
}

#[test]
fn a_drain_sends_all_acks_and_then_a_close() {
    const CLIENTS: u64 = 8;
    const WINDOW: u64 = 50;
    let ca = Authority::new("servers");
    let config = Arc::new(trusting(&ca));
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let server = serve_journal(engine, &ca, &dir, &["--tls-handshakes-max", "1"]);
        let clients = (0..CLIENTS).map(|_| ManualClient::open(&server, &config)).collect::<Vec<_>>();
        let clients = clients.into_iter().map(|mut client| {
            thread::spawn(move || {
                let mut acked = 0;
                loop {
                    let window: Vec<u8> = (acked..acked + WINDOW).flat_map(|id| submit(id, b"payload")).collect();
                    client.send(&window);
                    for _ in 0..WINDOW {
                        let Some(ack) = client.ack() else { return (acked, client.end()) };
                        assert_eq!(ack, crate::common::submit_ack(acked, 0));
                        acked += 1;
                    }
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        wait_until("there are requests", || {
            Metrics::scrape(&server).get("ringpost_requests_total{shard=\"0\",kind=\"submit\"}") > 5000.0
        });
        // Two that have begun their handshakes, the second of which waits for the first, are served like plain clients
        // that have just connected.
        let mut late = ManualClient::connect(&server, &config);
        let hello = late.records();
        late.stream.write_all(&hello[..100]).unwrap();
        wait_for(&server, "ringpost_connections_open{shard=\"0\"}", CLIENTS as f64 + 1.0);
        let mut later = ManualClient::connect(&server, &config);
        later.flush();
        wait_for(&server, "ringpost_connections_open{shard=\"0\"}", CLIENTS as f64 + 2.0);
        server.signal(libc::SIGTERM);
        server.wait_for_log("drain");
        later.shake_hands().unwrap();
        later.round_trip(1);
        late.stream.write_all(&hello[100..]).unwrap();
        late.shake_hands().unwrap();
        late.round_trip(1);
        assert_eq!((late.end(), later.end()), (Ending::Closed, Ending::Closed), "{engine}");
        let mut acked = 2;
        for client in clients {
            let (count, ending) = client.join().unwrap();
            assert_eq!(ending, Ending::Closed, "{engine}");
            acked += count;
        }
        let ended = server.ended();
        assert!(ended.status.success(), "{engine}: {}", ended.log);
        assert!(ended.log.contains(&format!("requests={acked} failures=0")), "{engine}: {acked}: {}", ended.log);
    }
}

#[test]
fn frames_of_all_sizes_pass_in_records_of_all_sizes() {
    let ca = Authority::new("servers");
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let server = serve_journal(engine, &ca, &dir, &["--tls-min", "1.2"]);
        for version in [&TLS13, &TLS12] {
            let mut client = ManualClient::open(&server, &Arc::new(with_version(&ca, version)));
            client.send(&submit(1, &vec![7; (1 << 20) - 13]));
            client.expect_acks([1]);
            // Windows in full records, and with a record for each frame.
            for window in 0..20 {
                let ids = window * 1000..(window + 1) * 1000;
                if version == &TLS13 && window % 5 == 0 {
                    client.session.refresh_traffic_keys().unwrap();
                }
                let frames: Vec<_> = ids.clone().map(|id| submit(id, &vec![7; id as usize % 100])).collect();
                if window % 2 == 0 {
                    client.send(&frames.concat());
                } else {
                    frames.iter().for_each(|frame| client.session.writer().write_all(frame).unwrap());
                    client.flush();
                }
                client.expect_acks(ids);
            }
            // Records of one byte.
            let frame = submit(2, &[7; 300]);
            for byte in frame.chunks(1) {
                client.send(byte);
            }
            client.expect_acks([2]);
            client.close();
            assert_eq!(client.end(), Ending::Closed, "{engine}");
        }
        let ended = server.stop();
        assert!(ended.log.contains("requests=40004 failures=0"), "{engine}: {}", ended.log);
    }
}

/// After a violation, the server discards what the client still sends, without opening it.
#[test]
fn a_violation_is_answered_with_a_close_and_lingering_ends() {
    let ca = Authority::new("servers");
    let config = Arc::new(trusting(&ca));
    for engine in engines() {
        let server = serve(engine, &ca, &["--linger-timeout", "1s"]);
        let mut client = ManualClient::open(&server, &config);
        let mut bytes = submit(1, b"payload");
        bytes.extend([0, 0, 0, 13, 99, 0, 0, 0, 0, 0, 0, 0, 0]);
        client.send(&bytes);
        client.send(&[7; 300_000]);
        client.expect_acks([1]);
        assert_eq!(client.end(), Ending::Closed, "{engine}");
        // One that does not close.
        let mut client = ManualClient::open(&server, &config);
        client.send(&bytes);
        client.expect_acks([1]);
        let start = Instant::now();
        wait_for(&server, "ringpost_connections_open{shard=\"0\"}", 0.0);
        assert!(start.elapsed() < Duration::from_secs(4), "{engine}: {:?}", start.elapsed());
        assert_eq!(client.end(), Ending::Closed, "{engine}");
        expect_failures(&server, &[]);
        expect_health(&server, &config);
    }
}

#[test]
fn nothing_is_resumed_and_no_early_data_is_accepted() {
    let ca = Authority::new("servers");
    for engine in engines() {
        let server = serve(engine, &ca, &["--tls-min", "1.2"]);
        for (version, name) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
            // It keeps sessions for later connections, if the server lets it.
            let mut config = with_version(&ca, version);
            config.enable_early_data = true;
            let config = Arc::new(config);
            for id in 0..3 {
                let mut client = ManualClient::connect(&server, &config);
                assert!(client.session.early_data().is_none(), "{engine}");
                client.shake_hands().unwrap();
                client.round_trip(id);
                assert_eq!(client.session.handshake_kind(), Some(HandshakeKind::Full), "{engine}");
                assert_eq!(client.session.protocol_version(), Some(name));
                assert_eq!(client.session.tls13_tickets_received(), 0, "{engine}");
                assert_eq!(client.session.alpn_protocol(), Some(&b"ringpost"[..]));
            }
        }
        // Clients that name no protocol are served.
        let mut config = trusting(&ca);
        config.alpn_protocols.clear();
        ManualClient::open(&server, &Arc::new(config)).round_trip(9);
    }
}
