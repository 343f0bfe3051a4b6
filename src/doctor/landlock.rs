//! Landlock: tried, on a thread that ends at once.

use super::finding::Finding;
use crate::confine::{self, Confine, Unavailable};
use crate::serve::Options;

pub fn finding(config: &Options) -> Finding {
    judge(confine::try_out(), config.confine)
}

fn judge(tried: Result<i32, Unavailable>, asked: Confine) -> Finding {
    const CHECK: &str = "landlock";
    match (tried, asked) {
        (Ok(abi), Confine::Off) => {
            let found = format!("ABI {abi}, not used, as --confine off asks for");
            Finding::ok(CHECK, found, "The server may open every file that its user may")
        }
        (Ok(abi), _) => {
            let found = format!("ABI {abi}");
            Finding::ok(CHECK, found, "The server is kept from every file that it has no use for")
        }
        (Err(why), Confine::On) => {
            let means = "With --confine on the server does not start";
            Finding::problem(CHECK, sentence(why), means, mend(why))
        }
        (Err(why), Confine::Auto) => {
            let means = "The server runs, and may open every file that its user may";
            Finding::advice(CHECK, sentence(why), means, mend(why))
        }
        (Err(why), Confine::Off) => Finding::ok(CHECK, sentence(why), "With --confine off it is not needed"),
    }
}

fn sentence(why: Unavailable) -> String {
    match why {
        Unavailable::SwitchedOff => "It is in the kernel, but switched off".into(),
        Unavailable::Missing => "It is not in the kernel, or a seccomp filter refuses it".into(),
    }
}

fn mend(why: Unavailable) -> Vec<String> {
    vec![format!("# {}", why.remedy()), "ringpost serve --confine off  # without".into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn what_is_missing_stops_only_who_asks_for_it() {
        let level = |tried, asked| judge(tried, asked).level;
        assert_eq!(level(Ok(1), Confine::Auto), Level::Ok);
        assert_eq!(level(Ok(1), Confine::Off), Level::Ok);
        for why in [Unavailable::Missing, Unavailable::SwitchedOff] {
            assert_eq!(level(Err(why), Confine::Auto), Level::Advice);
            assert_eq!(level(Err(why), Confine::Off), Level::Ok);
            let finding = judge(Err(why), Confine::On);
            assert!(finding.stops_serve && finding.mend[0].contains(why.remedy()), "{finding:?}");
        }
    }
}
