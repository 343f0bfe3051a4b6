//! The admin address of a running server, over a plain socket.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;

use super::{Server, connect, wait_until};

/// Returns the address that the log of a server with `--admin` names.
pub fn address(server: &Server) -> SocketAddr {
    server.wait_for_log("admin address: ");
    let log = server.log();
    let line = log.lines().find(|line| line.contains("admin address: ")).unwrap();
    line.rsplit("address=").next().unwrap().parse().expect("an address")
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn get(server: &Server, path: &str) -> Answer {
    request(server, &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
}

/// Sends a whole request, and reads the answer to the end.
pub fn request(server: &Server, request: &str) -> Answer {
    let mut stream = connect(address(server));
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// One scrape.
pub struct Metrics {
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    pub fn scrape(server: &Server) -> Metrics {
        let answer = get(server, "/metrics");
        assert_eq!(answer.status, 200);
        let samples = answer.body.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
        });
        Metrics { samples: samples.collect() }
    }

    /// Returns the value of a series, written as in the text format.
    pub fn get(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples))
    }

    /// Returns the series of a family that are not 0, as `labels value`.
    pub fn counted(&self, family: &str) -> Vec<String> {
        let of_family = |series: &String| series.split('{').next() == Some(family);
        let counted = self.samples.iter().filter(|(series, value)| of_family(series) && **value != 0.0);
        counted.map(|(series, value)| format!("{} {value}", &series[family.len()..])).collect()
    }
}

/// Scrapes until a series has this value.
pub fn wait_for(server: &Server, series: &str, value: f64) {
    wait_until(&format!("{series} is {value}"), || Metrics::scrape(server).get(series) == value);
}
