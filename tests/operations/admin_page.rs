//! The page of the admin address, as far as it can be tested without a browser. `scripts/check-page` tests it with one.

use crate::common::Server;
use crate::common::admin::{Metrics, get, request};

const PARTS: [&str; 8] =
    ["/", "/page.css", "/page.js", "/chart.js", "/figures.js", "/scrape.js", "/tables.js", "/text.js"];

fn start() -> Server {
    Server::start(&["--workers", "2", "--admin", "127.0.0.1:0"])
}

/// Returns the quoted words in a text that begin with one of these.
fn quoted<'a>(text: &'a str, beginnings: &[&str]) -> Vec<&'a str> {
    let words = text.split('"').filter(|word| beginnings.iter().any(|beginning| word.starts_with(beginning)));
    words.collect()
}

#[test]
fn each_part_of_the_page_has_its_type_and_a_strict_policy() {
    let server = start();
    let mut size = 0;
    for path in PARTS {
        let answer = get(&server, path);
        assert_eq!(answer.status, 200, "{path}");
        let kind = match path.rsplit_once('.').map(|(_, ending)| ending) {
            None => "text/html",
            Some("css") => "text/css",
            Some(_) => "text/javascript",
        };
        for header in [
            &format!("content-type: {kind}; charset=utf-8"),
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.head.contains(header), "{path}: no {header} in {}", answer.head);
        }
        let policy = answer.head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
        for rule in ["default-src 'none';", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none';"] {
            assert!(policy.contains(rule), "{path}: no {rule} in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
        size += answer.body.len();
        let head = request(&server, &format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert!(head.head.contains(&format!("content-length: {}", answer.body.len())), "{}", head.head);
        let posted = request(&server, &format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi"));
        assert_eq!(posted.status, 405, "{path}");
        assert!(posted.head.contains("allow: get, head"), "{}", posted.head);
    }
    assert!(size < 64 << 10, "{size} bytes");
}

#[test]
fn the_page_refers_only_to_its_own_parts() {
    let server = start();
    let page = get(&server, "/").body;
    for path in PARTS {
        let text = get(&server, path).body;
        // XML namespaces are not addresses, because nothing is requested from them.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for foreign in ["http:", "https:", "//cdn", "url(", "@import", "eval(", "innerHTML", " style=", " onclick="] {
            assert!(!text.contains(foreign), "{path} has {foreign}");
        }
        for imported in quoted(&text, &["./"]) {
            assert!(PARTS.contains(&&imported[1..]), "{path} imports {imported}");
        }
    }
    for named in quoted(&page, &["page."]) {
        assert!(PARTS.contains(&format!("/{named}").as_str()), "{named}");
    }
}

#[test]
fn every_metric_that_the_page_reads_exists() {
    let server = start();
    let metrics = get(&server, "/metrics").body;
    let mut read = Vec::new();
    for path in PARTS {
        let text = get(&server, path).body;
        let names = quoted(&text, &["ringpost_", "process_"]);
        read.extend(names.into_iter().map(str::to_owned));
    }
    read.sort();
    read.dedup();
    assert!(read.len() > 25, "{read:?}");
    for name in &read {
        let is_there = metrics.lines().any(|line| line.split(['{', ' ']).next() == Some(name));
        assert!(is_there, "the page reads {name}, which is not in /metrics");
    }
    // The names that the script reads from the metrics.
    let metrics = Metrics::scrape(&server);
    for series in ["ringpost_acks_total{result=\"failure\"}", "ringpost_requests_total{shard=\"0\",kind=\"conn\"}"] {
        assert_eq!(metrics.get(series), 0.0);
    }
    let figures = get(&server, "/figures.js").body;
    let limits = figures.split("LIMITS = [").nth(1).unwrap().split(']').next().unwrap();
    for reason in limits.split('"').skip(1).step_by(2) {
        metrics.get(&format!("ringpost_connections_closed_total{{reason=\"{reason}\"}}"));
    }
}

#[test]
fn every_figure_that_the_page_shows_is_computed() {
    let server = start();
    let page = get(&server, "/").body;
    let figures = get(&server, "/figures.js").body;
    let shown: Vec<_> = page.split("data-figure=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(shown.len() > 20, "{shown:?}");
    let script = get(&server, "/page.js").body;
    let drawn = script.split("line(\"").skip(1).map(|rest| rest.split('"').nth(2).unwrap());
    for figure in shown.into_iter().chain(drawn) {
        assert!(figures.contains(&format!("(\"{figure}\"")), "no script computes {figure}");
    }
}
