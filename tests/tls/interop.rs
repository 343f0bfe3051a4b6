//! Other implementations of TLS with a running server: OpenSSL's command, Python's `ssl`, curl and Go.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

use crate::common::admin::Metrics;
use crate::common::authority::Authority;
use crate::common::requirement::{CURL, GO, OPENSSL, PYTHON, Requirement, tried};
use crate::common::{Server, submit, submit_ack, wait_until};
use crate::manual_client::{engines, serve, serve_journal};

/// Returns whether a command can be run here.
fn has(requirement: &Requirement, program: &str, version: &str) -> bool {
    requirement.check(tried(Command::new(program).arg(version))).is_some()
}

/// Returns `openssl s_client` that connects to the server and trusts its CA.
fn s_client(server: &Server, ca: &Authority, words: &str) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &server.address().to_string(), "-alpn", "ringpost"]);
    command.args(["-CAfile", &ca.text("ca.pem"), "-verify_return_error", "-servername", "localhost"]);
    command.args(words.split_whitespace());
    command
}

/// Runs a command with this text on stdin, and returns all that it has written.
fn output(mut command: Command, input: &[u8]) -> (Output, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that is refused does not read it.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, text)
}

#[test]
fn openssl_sends_frames_and_receives_acks() {
    if !has(&OPENSSL, "openssl", "version") {
        return;
    }
    let ca = Authority::new("servers");
    for engine in engines() {
        let server = serve(engine, &ca, &["--tls-min", "1.2"]);
        for version in ["-tls1_3", "-tls1_2"] {
            let mut command = s_client(&server, &ca, version);
            command.args(["-quiet", "-no_ign_eof"]);
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            for id in 0..10 {
                stdin.write_all(&submit(id, b"payload")).unwrap();
                let mut ack = [0; 14];
                stdout.read_exact(&mut ack).unwrap();
                assert_eq!(ack, submit_ack(id, 0), "{engine} {version}");
            }
            // The end of its input makes it send a close_notify.
            drop(stdin);
            let ended = child.wait_with_output().unwrap();
            assert!(ended.status.success(), "{engine} {version}: {}", String::from_utf8_lossy(&ended.stderr));
        }
        wait_until("both connections are closed", || {
            Metrics::scrape(&server).get("ringpost_connections_closed_total{reason=\"client_closed\"}") == 2.0
        });
        let metrics = Metrics::scrape(&server);
        let handshakes = metrics.counted("ringpost_tls_handshakes_total");
        assert_eq!(handshakes, ["{version=\"1.2\"} 1", "{version=\"1.3\"} 1"], "{engine}");
        assert_eq!(metrics.get("ringpost_tls_truncated_total"), 0.0, "{engine}");
    }
}

/// These are the findings that scanners of TLS report.
#[test]
fn nothing_old_is_offered() {
    if !has(&OPENSSL, "openssl", "version") {
        return;
    }
    let ca = Authority::new("servers");
    for engine in engines() {
        let (newest, old) = (serve(engine, &ca, &[]), serve(engine, &ca, &["--tls-min", "1.2"]));
        for (server, words, alert) in [
            (&newest, "-tls1_2", "alert protocol version"),
            // These hellos lack an extension that rustls demands before it looks at the version.
            (&old, "-tls1_1 -cipher DEFAULT:@SECLEVEL=0", "alert handshake failure"),
            (&old, "-tls1 -cipher DEFAULT:@SECLEVEL=0", "alert handshake failure"),
            (&old, "-tls1_2 -cipher AES128-SHA", "alert handshake failure"),
            (&old, "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA", "alert handshake failure"),
            (&newest, "-groups P-521", "alert handshake failure"),
            (&newest, "-alpn h2", "alert no application protocol"),
        ] {
            let (ended, text) = output(s_client(server, &ca, words), b"");
            assert!(!ended.status.success() && text.contains(alert), "{engine} {words}: {text}");
        }
        let failures = |server| Metrics::scrape(server).counted("ringpost_tls_failures_total");
        assert_eq!(failures(&old), ["{reason=\"cipher\"} 2", "{reason=\"version\"} 2"], "{engine}");
        let expected = ["{reason=\"cipher\"} 1", "{reason=\"protocol\"} 1", "{reason=\"version\"} 1"];
        assert_eq!(failures(&newest), expected, "{engine}");

        // Five connections after the first one, each of which offers the session of the one before.
        let dir = tempfile::tempdir().unwrap();
        let session = dir.path().join("session.pem");
        let session = session.to_str().unwrap();
        for (server, version) in [(&newest, "-tls1_3"), (&old, "-tls1_2")] {
            let (ended, text) = output(s_client(server, &ca, &format!("{version} -reconnect")), b"");
            assert!(ended.status.success(), "{engine} {version}: {text}");
            assert!(text.matches("New, TLSv1.").count() >= 6, "{engine} {version}: {text}");
            assert!(!text.contains("Reused, "), "{engine} {version}: {text}");
            let (_, text) = output(s_client(server, &ca, &format!("{version} -comp -sess_out {session}")), b"");
            assert!(text.contains(NO_COMPRESSION), "{engine} {version}: {text}");
            assert!(!text.contains("TLS session ticket"), "{engine} {version}: {text}");
            // With TLS 1.3, a session is written when a ticket comes.
            if fs::exists(session).unwrap() {
                let (_, text) = output(s_client(server, &ca, &format!("{version} -sess_in {session}")), b"");
                assert!(text.contains("New, TLSv1."), "{engine} {version}: {text}");
                fs::remove_file(session).unwrap();
            }
        }
        // `R` asks for a renegotiation.
        let mut command = s_client(&old, &ca, "-tls1_2");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"R\n").unwrap();
        let ended = child.wait_with_output().unwrap();
        drop(stdin);
        let text = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && text.contains("no renegotiation"), "{engine}: {text}");
    }
}

/// The words of OpenSSL for a connection without compression.
const NO_COMPRESSION: &str = concat!("Compression: ", "NONE");

const PYTHON_CLIENT: &str = r#"
import socket, ssl, struct, sys
port, ca = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=ca)
context.set_alpn_protocols(["ringpost"])

def connect():
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    return context.wrap_socket(plain, server_hostname="localhost")

def submit(number):
    return struct.pack(">IBQ", 20, 2, number) + b"payload"

def acks(client, numbers):
    expected = b"".join(struct.pack(">IBQB", 14, 0x82, number, 0) for number in numbers)
    received = b""
    while len(received) < len(expected):
        part = client.recv(65536)
        assert part, f"an end after {len(received)} bytes"
        received += part
    assert received == expected

client = connect()
assert client.version() == "TLSv1.3" and client.selected_alpn_protocol() == "ringpost", client.version()
assert not client.session_reused
for number in range(100):
    client.sendall(submit(number))
    acks(client, [number])
client.sendall(b"".join(submit(number) for number in range(5000)))
acks(client, range(5000))
# Sends a close_notify, and waits for that of the server.
client.unwrap().close()

# The close_notify leaves before the acks have arrived.
client = connect()
client.sendall(b"".join(submit(number) for number in range(1000)))
client.setblocking(False)
try:
    client.unwrap()
    raise SystemExit("the server has closed before its acks")
except ssl.SSLWantReadError:
    pass
client.settimeout(20)
acks(client, range(1000))
try:
    raise SystemExit(f"this follows the acks: {client.recv(1)}")
except ssl.SSLZeroReturnError:
    pass
"#;

#[test]
fn python_half_closes_and_gets_its_acks() {
    if !has(&PYTHON, "python3", "--version") {
        return;
    }
    let ca = Authority::new("servers");
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let server = serve_journal(engine, &ca, &dir, &[]);
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON_CLIENT, &server.address().port().to_string(), &ca.text("ca.pem")]);
        let (ended, text) = output(command, b"");
        assert!(ended.status.success(), "{engine}: {text}");
        let metrics = Metrics::scrape(&server);
        assert_eq!(metrics.get("ringpost_tls_truncated_total"), 0.0, "{engine}");
        assert!(server.stop().log.contains("requests=6100 failures=0"), "{engine}");
    }
}

#[test]
fn curl_sees_the_certificate_and_is_refused() {
    if !has(&CURL, "curl", "--version") {
        return;
    }
    let ca = Authority::new("servers");
    for engine in engines() {
        let server = serve(engine, &ca, &[]);
        let curl = |words: &str| {
            let mut command = Command::new("curl");
            command.args(["--silent", "--show-error", "--verbose", "--max-time", "20"]);
            command.args(["--resolve", &format!("localhost:{}:127.0.0.1", server.address().port())]);
            command.args(["--cacert", &ca.text("ca.pem")]).args(words.split_whitespace());
            command.arg(format!("https://localhost:{}/", server.address().port()));
            let (ended, text) = output(command, b"");
            (ended.status.code().unwrap(), text)
        };
        // 35 means that the handshake failed.
        let (code, text) = curl("");
        assert!(code == 35 && text.contains("no application protocol"), "{engine}: {code} {text}");
        let (code, text) = curl("--no-alpn --tls-max 1.2");
        assert!(code == 35 && text.contains("protocol version"), "{engine}: {code} {text}");
        // HTTP is not a frame, and gets no answer.
        let (code, text) = curl("--no-alpn");
        assert!(code == 52 && text.contains("SSL certificate verify ok"), "{engine}: {code} {text}");
        let failures = Metrics::scrape(&server).counted("ringpost_tls_failures_total");
        assert_eq!(failures, ["{reason=\"protocol\"} 1", "{reason=\"version\"} 1"], "{engine}");
    }
}

const GO_CLIENT: &str = r#"
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"log"
	"os"
	"time"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(os.Args[2])
	check(err)
	roots.AppendCertsFromPEM(pem)
	config := &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"ringpost"},
		ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	for round := 0; round < 3; round++ {
		client, err := tls.Dial("tcp", os.Args[1], config)
		check(err)
		check(client.SetDeadline(time.Now().Add(20 * time.Second)))
		var requests, acks bytes.Buffer
		for number := uint64(0); number < 1000; number++ {
			check(binary.Write(&requests, binary.BigEndian, uint32(20)))
			requests.WriteByte(2)
			check(binary.Write(&requests, binary.BigEndian, number))
			requests.WriteString("payload")
			check(binary.Write(&acks, binary.BigEndian, uint32(14)))
			acks.WriteByte(0x82)
			check(binary.Write(&acks, binary.BigEndian, number))
			acks.WriteByte(0)
		}
		_, err = client.Write(requests.Bytes())
		check(err)
		// Sends a close_notify.
		check(client.CloseWrite())
		received, err := io.ReadAll(client)
		check(err)
		if !bytes.Equal(received, acks.Bytes()) {
			log.Fatalf("%d bytes of acks", len(received))
		}
		state := client.ConnectionState()
		if state.Version != tls.VersionTLS13 || state.DidResume || state.NegotiatedProtocol != "ringpost" {
			log.Fatalf("%+v", state)
		}
		check(client.Close())
	}
}
"#;

#[test]
fn go_half_closes_and_gets_its_acks() {
    if !has(&GO, "go", "version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("main.go"), GO_CLIENT).unwrap();
    let cache = concat!(env!("CARGO_TARGET_TMPDIR"), "/go-cache");
    let mut build = Command::new("go");
    build.args(["build", "-o", "client", "main.go"]).current_dir(dir.path()).env("GOCACHE", cache);
    let (ended, text) = output(build, b"");
    assert!(ended.status.success(), "{text}");
    let ca = Authority::new("servers");
    for engine in engines() {
        let data = tempfile::tempdir().unwrap();
        let server = serve_journal(engine, &ca, &data, &[]);
        let mut command = Command::new(dir.path().join("client"));
        command.args([&server.address().to_string(), &ca.text("ca.pem")]);
        let (ended, text) = output(command, b"");
        assert!(ended.status.success(), "{engine}: {text}");
        assert!(server.stop().log.contains("requests=3000 failures=0"), "{engine}");
    }
}
