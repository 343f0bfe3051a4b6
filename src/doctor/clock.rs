//! The clocks: whether the time of day can be right, and what reading the time costs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::finding::Finding;
use crate::host::Host;
use crate::journal::layout;
use crate::serve::Options;

/// Ringpost is younger than that: 2024-01-01.
const EARLIEST: Duration = Duration::from_secs(1_704_067_200);
/// Writers are named by microseconds; two clocks of one network may differ by that.
const BACK_MAX: Duration = Duration::from_secs(1);

pub fn findings(host: &Host, config: &Options, now: SystemTime) -> Vec<Finding> {
    vec![time_of_day(config, now), source(host)]
}

fn time_of_day(config: &Options, now: SystemTime) -> Finding {
    const CHECK: &str = "time of day";
    let found = humantime::format_rfc3339_seconds(now).to_string();
    let mend = || {
        vec![
            "timedatectl set-ntp true  # as root".to_owned(),
            "chronyc makestep  # as root, where chrony runs".to_owned(),
        ]
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if now < EARLIEST {
        let means = "The clock is not set: messages are kept with wrong times, and --retain-age goes by them";
        return Finding::advice(CHECK, found, means, mend());
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
                "The newest writer of the journal was started at {}: the clock was set back, and reading by time finds \
                 messages out of order",
                humantime::format_rfc3339_seconds(UNIX_EPOCH + started)
            ),
            mend(),
        ),
        _ => Finding::ok(CHECK, found, "It is later than Ringpost and than every writer of the journal"),
    }
}

fn source(host: &Host) -> Finding {
    const CHECK: &str = "clock source";
    const DIR: &str = "/sys/devices/system/clocksource/clocksource0";
    let read = |file| host.read(format!("{DIR}/{file}")).unwrap_or_default();
    let (current, available) = (read("current_clocksource"), read("available_clocksource"));
    match current.as_str() {
        "" => Finding::ok(CHECK, "Not known", "/sys does not say; time is read a few times for each batch"),
        "hpet" | "acpi_pm" | "jiffies" | "refined-jiffies" | "pit" => {
            let better = ["tsc", "kvm-clock"].into_iter().find(|name| available.split(' ').any(|word| word == *name));
            let mend = match better {
                Some(name) => format!("echo {name} > {DIR}/current_clocksource  # as root"),
                None => "# start the kernel with `tsc=reliable clocksource=tsc`, if the CPU's counter can be relied on"
                    .into(),
            };
            let means = "Each look at the time is a call into the kernel and takes a microsecond or more";
            Finding::advice(CHECK, current, means, vec![mend])
        }
        _ => Finding::ok(CHECK, current, "Looking at the time costs next to nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use crate::host::tests::host;
    use crate::server::{self, JournalOptions, SinkOptions};

    #[test]
    fn a_slow_source_is_told_with_the_way_out() {
        let with = |current, available| {
            let (_root, host) = host(&[
                ("/sys/devices/system/clocksource/clocksource0/current_clocksource", current),
                ("/sys/devices/system/clocksource/clocksource0/available_clocksource", available),
            ]);
            source(&host)
        };
        let slow = with("hpet\n", "tsc hpet acpi_pm \n");
        assert_eq!(slow.level, Level::Advice);
        assert!(slow.mend[0].starts_with("echo tsc > /sys/devices/"), "{slow:?}");
        assert!(with("acpi_pm", "acpi_pm").mend[0].contains("tsc=reliable"));
        assert_eq!((with("tsc", "").level, with("kvm-clock", "").level), (Level::Ok, Level::Ok));
    }

    #[test]
    fn a_clock_that_is_not_set_is_told() {
        let config = Options { server: server::Options::default().sink(SinkOptions::Discard), ..Options::default() };
        assert_eq!(time_of_day(&config, UNIX_EPOCH).level, Level::Advice);
        assert_eq!(time_of_day(&config, SystemTime::now()).level, Level::Ok);
    }

    #[test]
    fn a_clock_that_was_set_back_is_told() {
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
