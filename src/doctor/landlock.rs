//! Checks Landlock by using it on a thread that ends immediately.
//!
//! Owns the finding about Landlock. `confine` knows how the sandbox works.

use super::finding::Finding;
use crate::confine::{self, Confine, Unavailable};
use crate::serve::Options;

/// Returns the finding about Landlock.
pub fn finding(config: &Options) -> Finding {
    judge(confine::try_out(), config.confine)
}

fn judge(tried: Result<i32, Unavailable>, asked: Confine) -> Finding {
    const CHECK: &str = "landlock";
    match (tried, asked) {
        (Ok(abi), Confine::Off) => {
            let found = format!("ABI {abi}, unused because of --confine off");
            Finding::ok(CHECK, found, "The server can open every file that its user can open")
        }
        (Ok(abi), _) => {
            let found = format!("ABI {abi}");
            Finding::ok(CHECK, found, "The server can open only the files that it needs")
        }
        (Err(why), Confine::On) => {
            let means = "With --confine on the server does not start";
            Finding::problem(CHECK, sentence(why), means, fix(why))
        }
        (Err(why), Confine::Auto) => {
            let means = "The server runs without a sandbox: it can open every file that its user can open";
            Finding::advice(CHECK, sentence(why), means, fix(why))
        }
        (Err(why), Confine::Off) => Finding::ok(CHECK, sentence(why), "Landlock is not needed with --confine off"),
    }
}

fn sentence(why: Unavailable) -> String {
    match why {
        Unavailable::SwitchedOff => "The kernel has Landlock, but it is switched off".into(),
        Unavailable::Missing => "The kernel has no Landlock, or a seccomp filter refuses it".into(),
    }
}

fn fix(why: Unavailable) -> Vec<String> {
    vec![format!("# {}", why.remedy()), "ringpost serve --confine off  # without a sandbox".into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn missing_landlock_stops_the_server_only_with_confine_on() {
        let level = |tried, asked| judge(tried, asked).level;
        assert_eq!(level(Ok(1), Confine::Auto), Level::Ok);
        assert_eq!(level(Ok(1), Confine::Off), Level::Ok);
        for why in [Unavailable::Missing, Unavailable::SwitchedOff] {
            assert_eq!(level(Err(why), Confine::Auto), Level::Advice);
            assert_eq!(level(Err(why), Confine::Off), Level::Ok);
            let finding = judge(Err(why), Confine::On);
            assert!(finding.stops_serve && finding.fix[0].contains(why.remedy()), "{finding:?}");
        }
    }
}
