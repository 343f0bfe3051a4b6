//! Checks the clocks: whether the time of day can be right, and what reading the time costs.
//!
//! Owns the findings about clocks. It must not know other subjects. Invariant: the time of day is passed in, so that
//! tests choose it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::finding::Finding;
use crate::host::Host;
use crate::journal::layout;
use crate::serve::Options;

/// Returns the findings about clocks. `now` is the host's time of day.
pub fn findings(host: &Host, config: &Options, now: SystemTime) -> Vec<Finding> {
    vec![time_of_day(config, now), source(host)]
}

fn time_of_day(config: &Options, now: SystemTime) -> Finding {
    const CHECK: &str = "time of day";
    let found = humantime::format_rfc3339_seconds(now).to_string();
    let fix = || {
        vec!["timedatectl set-ntp true  # as root".to_owned(), "chronyc makestep  # as root, if chrony runs".to_owned()]
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if now < EARLIEST {
        let means = "The clock is not set: messages get wrong times, and --retain-age deletes segments by these times";
        return Finding::advice(CHECK, found, means, fix());
    }
    let newest = match config.server.journal() {
        Some(journal) => layout::writers(&journal.data_dir).unwrap_or_default().last().copied(),
        None => None,
    };
    match newest.map(|writer| Duration::from_nanos(writer.started_nanos())) {
        Some(started) if started > now + BACK_MAX => Finding::advice(
            CHECK,
            found,
            format!(
                "The journal's newest writer was started at {}: the clock was set back, so reading by time finds \
                 messages out of order",
                humantime::format_rfc3339_seconds(UNIX_EPOCH + started)
            ),
            fix(),
        ),
        _ => {
            Finding::ok(CHECK, found, "The time is later than Ringpost's first release and every writer of the journal")
        }
    }
}

fn source(host: &Host) -> Finding {
    const CHECK: &str = "clock source";
    const DIR: &str = "/sys/devices/system/clocksource/clocksource0";
    let read = |file| host.read(format!("{DIR}/{file}")).unwrap_or_default();
    let (current, available) = (read("current_clocksource"), read("available_clocksource"));
    match current.as_str() {
        "" => Finding::ok(CHECK, "Not known", "/sys does not name it; the time is read a few times per batch"),
        "hpet" | "acpi_pm" | "jiffies" | "refined-jiffies" | "pit" => {
            let better = ["tsc", "kvm-clock"].into_iter().find(|name| available.split(' ').any(|word| word == *name));
            let fix = match better {
                Some(name) => format!("echo {name} > {DIR}/current_clocksource  # as root"),
                None => {
                    "# boot the kernel with `tsc=reliable clocksource=tsc`, if the CPU's time-stamp counter is reliable"
                        .into()
                }
            };
            let means = "Each reading of the time is a system call and costs a microsecond or more";
            Finding::advice(CHECK, current, means, vec![fix])
        }
        _ => Finding::ok(CHECK, current, "Reading the time costs next to nothing"),
    }
}

/// Ringpost did not exist before this time, 2024-01-01.
const EARLIEST: Duration = Duration::from_secs(1_704_067_200);

/// The largest difference to a writer's start that is tolerated. Writers are named by microseconds, and two clocks of
/// one network may differ by this much.
const BACK_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use crate::host::tests::host;
    use crate::server::{self, JournalOptions, SinkOptions};

    #[test]
    fn a_slow_source_is_reported_with_a_faster_one() {
        let with = |current, available| {
            let (_root, host) = host(&[
                ("/sys/devices/system/clocksource/clocksource0/current_clocksource", current),
                ("/sys/devices/system/clocksource/clocksource0/available_clocksource", available),
            ]);
            source(&host)
        };
        let slow = with("hpet\n", "tsc hpet acpi_pm \n");
        assert_eq!(slow.level, Level::Advice);
        assert!(slow.fix[0].starts_with("echo tsc > /sys/devices/"), "{slow:?}");
        assert!(with("acpi_pm", "acpi_pm").fix[0].contains("tsc=reliable"));
        assert_eq!((with("tsc", "").level, with("kvm-clock", "").level), (Level::Ok, Level::Ok));
    }

    #[test]
    fn a_clock_that_is_not_set_is_reported() {
        let config = Options { server: server::Options::default().sink(SinkOptions::Discard), ..Options::default() };
        assert_eq!(time_of_day(&config, UNIX_EPOCH).level, Level::Advice);
        assert_eq!(time_of_day(&config, SystemTime::now()).level, Level::Ok);
    }

    #[test]
    fn a_clock_that_was_set_back_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let config = Options {
            server: server::Options::default().sink(SinkOptions::Journal(JournalOptions::new(dir.path()))),
            ..Options::default()
        };
        drop(crate::journal::dir::claim(dir.path(), 1, false).unwrap());
        let now = SystemTime::now();
        assert_eq!(time_of_day(&config, now).level, Level::Ok);
        assert!(time_of_day(&config, now - Duration::from_secs(60)).means.contains("set back"));
    }
}
