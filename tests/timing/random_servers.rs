//! Servers with random options under random loads. No connection hangs, every ack is correct, a drain ends in time and
//! with exit code 0, and the journal holds every message that was acked with 0, once and in order.
//!
//! A seed decides everything except the timing. The seeds are printed, and a failure names its seed:
//!
//! | variable                                        | what runs                  |
//! |-------------------------------------------------|----------------------------|
//! | none                                            | a few fresh seeds          |
//! | `RINGPOST_TEST_SEEDS=2000`                      | the seeds 1 to 2,000       |
//! | `RINGPOST_TEST_SEED=7`                          | seed 7 alone               |
//! | `RINGPOST_TEST_SEED=7 RINGPOST_TEST_SEEDS=100`  | 100 seeds from 7 on        |
//! | `RINGPOST_TEST_PARALLEL=4`                      | 4 servers at a time        |

use crate::common::shapes::{World, number, run_all, seeds};

/// The number of seeds if no variable is set.
const SEEDS: u64 = 60;

#[test]
fn no_combination_of_options_and_load_hangs_a_server_or_loses_an_ack() {
    let _alone = crate::common::alone();
    let seeds = seeds(SEEDS, number("RINGPOST_TEST_SEEDS"));
    let tally = run_all(seeds, World::new);
    // Without enough variety the worlds would prove less than they claim.
    if seeds.1 >= SEEDS {
        tally.expect_variety();
    }
}
