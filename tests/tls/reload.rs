//! Files of TLS that change while the server runs. The servers are confined, so the kernel judges whether they can read
//! the new files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use crate::certificates::{Client, Pair, one_line, presented};
use crate::common::admin::Metrics;
use crate::common::{Server, ringpost, wait_until};

/// A server and the directory of its files.
struct Watched {
    dir: TempDir,
    server: Server,
}

/// How often the servers look at their files.
const INTERVAL: Duration = Duration::from_millis(100);

/// An interval that no test waits for.
const DAY: Duration = Duration::from_secs(86_400);

/// How long a server waits before it tries files again that it could not use.
const SETTLING_TIME: Duration = Duration::from_secs(2);

fn start(dir: &Path, certificate: &str, key: &str, interval: Duration) -> Server {
    let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--confine", "on"]);
    command.arg("--tls-cert").arg(dir.join(certificate)).arg("--tls-key").arg(dir.join(key));
    command.env("RINGPOST_TEST_TLS_INTERVAL_MS", interval.as_millis().to_string());
    let server = Server::spawn(command, 1);
    server.wait_for_log("admin address: ");
    server
}

/// Starts a server whose files are in one directory.
fn watched(pair: &Pair) -> Watched {
    let dir = tempfile::tempdir().unwrap();
    pair.write_to(dir.path());
    Watched { server: start(dir.path(), "cert.pem", "key.pem", INTERVAL), dir }
}

fn reloads(server: &Server, result: &str) -> f64 {
    Metrics::scrape(server).get(&format!("ringpost_tls_reloads_total{{result=\"{result}\"}}"))
}

fn wait_for_reloads(server: &Server, result: &str, count: f64) {
    wait_until(&format!("{count} reloads with {result}"), || reloads(server, result) == count);
}

/// Replaces a symbolic link as certbot and Kubernetes do.
fn relink(target: impl AsRef<Path>, link: PathBuf) {
    let new = link.parent().unwrap().join("new");
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[test]
fn a_hangup_reloads_what_certbot_has_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let (live, archive) = (dir.path().join("live/localhost"), dir.path().join("archive/localhost"));
    fs::create_dir_all(&live).unwrap();
    fs::create_dir_all(&archive).unwrap();
    let renew = |number: u32| {
        let pair = Pair::new();
        for (name, text) in [("fullchain", &pair.certificate), ("privkey", &pair.key)] {
            fs::write(archive.join(format!("{name}{number}.pem")), text).unwrap();
            relink(format!("../../archive/localhost/{name}{number}.pem"), live.join(format!("{name}.pem")));
        }
        pair
    };
    let first = renew(1);
    let server = start(dir.path(), "live/localhost/fullchain.pem", "live/localhost/privkey.pem", DAY);
    assert_eq!(presented(&server), one_line(&first.certificate));
    for number in 2..5 {
        let pair = renew(number);
        server.signal(libc::SIGHUP);
        wait_for_reloads(&server, "success", f64::from(number - 1));
        assert_eq!(presented(&server), one_line(&pair.certificate));
    }
    assert_eq!(reloads(&server, "failure"), 0.0);
    let ended = server.stop();
    assert!(ended.log.contains("confined by landlock") && ended.status.success(), "{}", ended.log);
}

#[test]
fn a_swap_by_kubernetes_is_noticed_without_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let renew = |number: u32| {
        let pair = Pair::new();
        let made = dir.path().join(format!("..2026_11_27_{number}"));
        fs::create_dir(&made).unwrap();
        pair.write(&made.join("tls.crt"), &made.join("tls.key"));
        relink(made.file_name().unwrap(), dir.path().join("..data"));
        let _ = fs::remove_dir_all(dir.path().join(format!("..2026_11_27_{}", number - 1)));
        pair
    };
    renew(1);
    symlink("..data/tls.crt", dir.path().join("tls.crt")).unwrap();
    symlink("..data/tls.key", dir.path().join("tls.key")).unwrap();
    let server = start(dir.path(), "tls.crt", "tls.key", INTERVAL);
    for number in 2..5 {
        let pair = renew(number);
        wait_for_reloads(&server, "success", f64::from(number - 1));
        assert_eq!(presented(&server), one_line(&pair.certificate));
    }
    assert_eq!(reloads(&server, "failure"), 0.0);
}

#[test]
fn a_broken_file_changes_nothing() {
    let pair = Pair::new();
    let Watched { dir, server } = watched(&pair);
    let path = dir.path().join("cert.pem");
    for (number, broken) in (1..).zip(["", "junk", &Pair::new().certificate]) {
        fs::write(&path, broken).unwrap();
        wait_for_reloads(&server, "failure", f64::from(number));
        assert_eq!(Metrics::scrape(&server).get("ringpost_tls_reload_failing"), 1.0);
        assert_eq!(presented(&server), one_line(&pair.certificate));
    }
    // The files are tried again meanwhile.
    sleep(INTERVAL * 2 + SETTLING_TIME);
    assert_eq!(reloads(&server, "failure"), 3.0);
    fs::remove_file(&path).unwrap();
    wait_for_reloads(&server, "failure", 4.0);
    server.signal(libc::SIGHUP);
    wait_for_reloads(&server, "failure", 5.0);
    assert!(server.log().contains("cert.pem: there is no such file"), "{}", server.log());
    pair.write_to(dir.path());
    wait_until("the files are valid", || Metrics::scrape(&server).get("ringpost_tls_reload_failing") == 0.0);
    server.wait_for_log("the TLS files are again those in use");
    assert_eq!((reloads(&server, "success"), reloads(&server, "failure")), (0.0, 5.0));
    let errors = server.log().lines().filter(|line| line.contains("can't reload the TLS files")).count();
    assert_eq!(errors, 5, "each error is logged once: {}", server.log());
}

#[test]
fn a_certificate_may_be_replaced_before_its_key() {
    let Watched { dir, server } = watched(&Pair::new());
    let next = Pair::new();
    fs::write(dir.path().join("cert.pem"), &next.certificate).unwrap();
    sleep(INTERVAL * 5);
    fs::write(dir.path().join("key.pem"), &next.key).unwrap();
    wait_for_reloads(&server, "success", 1.0);
    assert_eq!((reloads(&server, "failure"), presented(&server)), (0.0, one_line(&next.certificate)));
}

#[test]
fn an_open_connection_outlives_all_reloads() {
    let first = Pair::new();
    let dir = tempfile::tempdir().unwrap();
    first.write_to(dir.path());
    let server = start(dir.path(), "cert.pem", "key.pem", DAY);
    let mut open = Client::connect(&server, &first);
    for number in 1..=20 {
        open.round_trip(number);
        let next = Pair::new();
        next.write_to(dir.path());
        server.signal(libc::SIGHUP);
        wait_until("the next certificate is presented", || presented(&server) == one_line(&next.certificate));
        Client::connect(&server, &next).round_trip(1000 + number);
    }
    open.round_trip(21);
    assert_eq!((reloads(&server, "success"), reloads(&server, "failure")), (20.0, 0.0));
}

#[test]
fn a_takeover_uses_the_files_of_the_new_server() {
    let (old_dir, new_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let control = old_dir.path().join("control.sock");
    let start = |dir: &Path, pair: &Pair, takeover: &[&str]| {
        let (certificate, key) = pair.write_to(dir);
        let mut command = ringpost(&["serve", "--listen", "127.0.0.1:0", "--confine", "on"]);
        command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key).arg("--control").arg(&control);
        command.args(takeover);
        Server::spawn(command, 1)
    };
    let (first, second) = (Pair::new(), Pair::new());
    let old = start(old_dir.path(), &first, &[]);
    let mut open = Client::connect(&old, &first);
    let new = start(new_dir.path(), &second, &["--takeover"]);
    assert_eq!((presented(&new), new.address()), (one_line(&second.certificate), old.address()));
    open.round_trip(1);
    drop(open);
    assert!(old.ended().status.success());
}

#[test]
fn the_end_of_the_certificate_is_a_metric() {
    let until = |year| Pair::with(|params| params.not_after = rcgen::date_time_ymd(year, 1, 1));
    let Watched { dir, server } = watched(&until(2040));
    let end = |server: &Server| Metrics::scrape(server).get("ringpost_tls_certificate_expiry_time_seconds");
    assert_eq!(end(&server), 2_208_988_800.0);
    until(2041).write_to(dir.path());
    wait_until("the new end is shown", || end(&server) == 2_240_611_200.0);
    let soon = Pair::with(|params| {
        let now = std::time::SystemTime::now();
        params.not_after = (now + Duration::from_secs(13 * 86_400)).into();
    });
    assert!(!server.log().contains("expires soon"));
    soon.write_to(dir.path());
    server.wait_for_log("the TLS certificate expires soon");
}
