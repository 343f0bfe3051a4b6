//! A good load beside the attack of a test. `ringpost bench` generates it and checks every ack. The load shows whether
//! the attack affects other clients.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use super::{ringpost, run};

/// Requests a second: few enough that a machine which also runs the attack keeps up.
pub const RATE: f64 = 1000.0;
/// The p99 latency may be this many times that of rounds without an attack,
const P99_FACTOR: f64 = 3.0;
/// and this much more, because other processes may use the machine too.
const P99_SLACK_US: f64 = 50_000.0;

/// The result of one run.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub rate: f64,
    pub p99_us: f64,
}

/// Runs for `duration`. Fails on any ack that is wrong or missing.
pub fn measure(address: SocketAddr, duration: Duration) -> Load {
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = format!("--rate {RATE} --connections 20 --warmup 200ms --duration {}ms", duration.as_millis());
    let mut command = ringpost(&["bench", "--addr", &address.to_string(), "--json", file.path().to_str().unwrap()]);
    command.args(options.split(' '));
    let ended = run(command);
    assert!(ended.status.success(), "the good load: {}{}", ended.stdout, ended.log);
    let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(file.path()).unwrap()).unwrap();
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    Load { rate: number(&report["requests_per_second"]), p99_us: number(&report["latency"]["p99_us"]) }
}

/// Fails if the medians of the rounds with an attack are worse than those of the rounds without.
pub fn expect_unharmed(without: &[Load], with: &[Load]) {
    let [rate_without, rate_with] =
        [without, with].map(|rounds| best_median(rounds.iter().map(|round| -round.rate)).abs());
    let [p99_without, p99_with] = [without, with].map(|rounds| best_median(rounds.iter().map(|round| round.p99_us)));
    println!(
        "good load: {rate_without:.0}/s, p99 {p99_without:.0} us without; {rate_with:.0}/s, p99 {p99_with:.0} us with"
    );
    assert!(rate_with >= 0.95 * rate_without, "its rate: {with:?} against {without:?}");
    assert!(p99_with <= P99_FACTOR * p99_without + P99_SLACK_US, "its p99: {with:?} against {without:?}");
}

/// Returns the lower one of the middle two. With two rounds, this is the one that was disturbed less.
fn best_median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}
