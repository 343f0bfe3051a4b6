//! Tests of a writer at its limits and after failures of its disk, on a clock that the test controls.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;

use super::appender::{Appender, Settled};
use super::commit::condition::Condition;
use super::commit::observer::Observer;
use super::id::WriterId;
use super::options::WriterOptions;
use super::position::Durable;
use super::retention::Retention;
use super::storage::Prealloc;
use super::writer::Writer;
use super::{layout, position};
use crate::proto::{AckResult, Id};
use crate::sim::disk::{Faults, SimStorage};
use crate::sim::test_disk::{TestDisk, run};

const WRITER: WriterId = WriterId(1 << 20);

fn options() -> WriterOptions {
    WriterOptions {
        segment_len: 1 << 20,
        commit_len_max: 16 << 10,
        commits_in_flight: 2,
        bytes_max: 20 << 10,
        min_free: 0,
        space_interval: Duration::from_millis(10),
        roll_age: None,
    }
}

/// Returns a disk on which every operation needs up to a millisecond.
fn disk(faults: Faults, free: u64) -> TestDisk {
    TestDisk::new(1, Faults { delay_max_us: 1000, ..faults }, free)
}

async fn open(disk: &TestDisk, options: WriterOptions) -> Writer<SimStorage> {
    Writer::open(storage(disk), WRITER, 9, options, ()).await.unwrap()
}

fn storage(disk: &TestDisk) -> SimStorage {
    disk.open(1, WRITER, Retention::default())
}

fn appender(writer: &Writer<SimStorage>) -> Appender<SimStorage> {
    writer.appender(1, "[::1]:1".parse().unwrap())
}

fn stage(appender: &mut Appender<SimStorage>, len: usize) -> bool {
    let mut batch = appender.try_ready().expect("nothing has to be waited for");
    batch.stage(Id::from_number(1), &vec![7; len]) == AckResult::Success
}

#[test]
fn records_that_arrive_during_a_commit_are_the_next_commit() {
    run(async {
        let disk = disk(Faults::default(), 1 << 30);
        let writer = open(&disk, options()).await;
        let writes = disk.borrow().writes;
        let clients: Vec<_> = (0..50)
            .map(|_| {
                let mut appender = appender(&writer);
                spawn_local(async move {
                    for _ in 0..4 {
                        assert!(stage(&mut appender, 32));
                        assert_eq!(appender.settle().await, Settled { durable: 1, failed: 0 });
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        let commits = disk.borrow().writes - writes;
        assert!((4..=12).contains(&commits), "{commits} commits for 200 records of 50 clients");
        assert_eq!(writer.stats().durable.sequence, 200);
    });
}

#[test]
fn a_segment_with_an_old_record_is_left_and_truncated_and_one_without_records_is_kept() {
    run(async {
        let disk = disk(Faults::default(), 1 << 30);
        let writer = open(&disk, WriterOptions { roll_age: Some(Duration::ZERO), ..options() }).await;
        let mut appender = appender(&writer);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(writer.stats().durable, Durable::default(), "nothing was written");
        assert!(stage(&mut appender, 10));
        assert_eq!(appender.settle().await.durable, 1);
        assert_eq!(writer.stats().durable.segment, 0);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let Durable { commit, sequence, segment, .. } = writer.stats().durable;
        assert_eq!((commit, sequence, segment), (2, 1, 1), "an empty commit, and no other commit after it");
        assert_eq!(writer.stats().segments, 3, "and the next segment is ready");
        let len = |number| std::fs::metadata(layout::segment_path(&disk.writer_dir(WRITER), number)).unwrap().len();
        assert_eq!((len(0), len(1)), (2 * 4096, 1 << 20));
        writer.close().await.unwrap();
    });
}

#[test]
fn the_first_error_is_final_and_nothing_is_tried_again() {
    for faults in [Faults { sync_error: 1, ..Faults::default() }, Faults { write_error: 1, ..Faults::default() }] {
        run(async {
            let disk = disk(Faults::default(), 1 << 30);
            let writer = open(&disk, options()).await;
            let (mut first, mut second) = (appender(&writer), appender(&writer));
            assert!(stage(&mut first, 10));
            assert_eq!(first.settle().await.durable, 1);
            // The next segment has been made by then: the faults are for commits.
            tokio::time::sleep(Duration::from_millis(50)).await;
            disk.borrow_mut().faults = Faults { delay_max_us: 1000, ..faults.clone() };
            assert!(stage(&mut first, 10) && stage(&mut first, 12_000) && stage(&mut second, 12_000));
            assert_eq!(first.settle().await, Settled { durable: 0, failed: 2 });
            assert_eq!(second.settle().await, Settled { durable: 0, failed: 1 });
            // The disk works again, but the writer can't know that.
            disk.borrow_mut().faults = Faults::default();
            let writes = disk.borrow().writes;
            for _ in 0..10 {
                first.ready().await;
                assert!(!stage(&mut first, 10));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(disk.borrow().writes, writes, "no write was tried again");
            assert!(matches!(writer.condition(), Condition::Failed(why) if why.contains("commit ")));
            assert!(writer.close().await.is_err());
        });
    }
}

#[test]
fn records_fail_on_a_full_disk_and_are_accepted_again_once_there_is_space() {
    run(async {
        let changes = Rc::new(RefCell::new(Vec::new()));
        struct Watch(Rc<RefCell<Vec<Condition>>>);
        impl Observer for Watch {
            fn condition(&self, condition: &Condition) {
                self.0.borrow_mut().push(condition.clone());
            }
        }
        let small = WriterOptions { segment_len: 64 << 10, ..options() };
        let disk = disk(Faults::default(), 130 << 10);
        let writer = Writer::open(storage(&disk), WRITER, 9, small, Watch(changes.clone())).await.unwrap();
        let mut appender = appender(&writer);
        let (mut durable, mut failed) = (0, 0);
        while failed == 0 {
            appender.ready().await;
            failed += u64::from(!stage(&mut appender, 3000));
            let settled = appender.settle().await;
            (durable, failed) = (durable + settled.durable, failed + settled.failed);
        }
        assert_eq!(durable, 30, "two segments of 15 commits");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!stage(&mut appender, 3000));
        disk.borrow_mut().capacity += 1 << 20;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(stage(&mut appender, 3000));
        assert_eq!(appender.settle().await.durable, 1);
        assert!(matches!(changes.borrow()[..], [Condition::Full(_), Condition::Serving]), "{:?}", changes.borrow());
        assert_eq!(writer.stats().durable.sequence, 31, "failed records have no number");
    });
}

#[test]
fn records_are_refused_below_the_minimum_of_free_space() {
    run(async {
        let disk = disk(Faults::default(), 10 << 20);
        let writer = open(&disk, WriterOptions { min_free: 4 << 20, ..options() }).await;
        let mut appender = appender(&writer);
        assert!(stage(&mut appender, 10));
        disk.set_free(3 << 20);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!stage(&mut appender, 10));
        assert_eq!(appender.settle().await.durable, 1, "records that were staged before are kept");
        disk.set_free(5 << 20);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(stage(&mut appender, 10));
    });
}

#[test]
fn a_writer_that_is_opened_on_a_full_disk_serves_once_there_is_space() {
    run(async {
        let disk = disk(Faults::default(), 1 << 10);
        let writer = open(&disk, options()).await;
        assert!(matches!(writer.condition(), Condition::Full(_)));
        let mut appender = appender(&writer);
        appender.ready().await;
        assert!(!stage(&mut appender, 10));
        disk.set_free(1 << 30);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(stage(&mut appender, 10));
        assert_eq!(appender.settle().await.durable, 1);
    });
}

#[test]
fn staged_bytes_are_bounded_and_waiting_appenders_are_served_in_order() {
    run(async {
        let disk = disk(Faults::default(), 1 << 30);
        let writer = open(&disk, options()).await;
        let most = Rc::new(RefCell::new(0));
        let turns: Rc<RefCell<Vec<u64>>> = Rc::default();
        let clients: Vec<_> = (0..40)
            .map(|number| {
                let (mut appender, most, turns) = (appender(&writer), most.clone(), turns.clone());
                let core = writer.core.clone();
                spawn_local(async move {
                    for _ in 0..5 {
                        let mut batch = appender.ready().await;
                        for number in 0..2 {
                            assert_eq!(batch.stage(Id::from_number(number), &[7; 2000]), AckResult::Success);
                        }
                        turns.borrow_mut().push(number);
                        let bytes = core.staged_bytes();
                        most.replace_with(|most| bytes.max(*most));
                        assert_eq!(appender.settle().await.durable, 2);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        let most = *most.borrow();
        assert!((20 << 10..25 << 10).contains(&most), "{most} bytes: the limit, and one batch more");
        let mut first_turns = turns.borrow()[..40].to_vec();
        first_turns.sort_unstable();
        assert_eq!(first_turns, (0..40).collect::<Vec<_>>(), "no appender is served twice before all were served once");
    });
}

#[test]
fn segments_are_zero_filled_only_for_small_commits() {
    run(async {
        let disk = disk(Faults::default(), 1 << 30);
        let large = WriterOptions { commit_len_max: 256 << 10, bytes_max: 1 << 20, ..options() };
        let writer = open(&disk, large).await;
        let mut appender = appender(&writer);
        let mut made = Vec::new();
        // Segments of 1 MiB: the commits fill two of them, then two and a part of another.
        for (len, commits) in [(200 << 10, 10), (100 << 10, 20)] {
            for _ in 0..commits {
                appender.ready().await;
                assert!(stage(&mut appender, len));
                assert_eq!(appender.settle().await.durable, 1);
            }
            made.push(disk.borrow().prealloc.clone());
        }
        use Prealloc::{Unwritten, ZeroFilled};
        assert_eq!(made[0], [ZeroFilled, ZeroFilled, Unwritten]);
        assert_eq!(made[1], [ZeroFilled, ZeroFilled, Unwritten, Unwritten, ZeroFilled, ZeroFilled]);
    });
}

#[test]
fn a_record_that_does_not_fit_in_a_commit_fails_alone() {
    run(async {
        let disk = disk(Faults::default(), 1 << 30);
        let writer = open(&disk, options()).await;
        let mut appender = appender(&writer);
        let len_max = options().commit_len_max - WriterOptions::commit_len_for(0) + 4096 - 72 - 40 - 12;
        assert!(stage(&mut appender, 10) && stage(&mut appender, len_max));
        assert!(!stage(&mut appender, len_max + 1));
        assert!(stage(&mut appender, 10));
        let mut settled = Settled::default();
        while !appender.is_settled() {
            let Settled { durable, failed } = appender.settle().await;
            settled = Settled { durable: settled.durable + durable, failed: settled.failed + failed };
        }
        assert_eq!(settled, Settled { durable: 3, failed: 0 });
    });
}

#[test]
fn no_appender_waits_for_a_writer_that_was_dropped() {
    run(async {
        let disk = disk(Faults::default(), 1 << 30);
        let writer = open(&disk, options()).await;
        let mut appender = appender(&writer);
        assert!(stage(&mut appender, 10));
        drop(writer);
        assert_eq!(appender.settle().await, Settled { durable: 0, failed: 1 });
        appender.ready().await;
        assert!(!stage(&mut appender, 10));
    });
}

#[test]
fn a_commit_that_runs_out_of_space_fails_and_the_writer_recovers() {
    run(async {
        let disk = disk(Faults::default(), 1 << 30);
        let writer = open(&disk, options()).await;
        let (mut first, mut second) = (appender(&writer), appender(&writer));
        assert!(stage(&mut first, 10));
        assert_eq!(first.settle().await.durable, 1);
        for round in 0..3u64 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            disk.borrow_mut().faults.write_no_space = 1;
            assert!(stage(&mut first, 10) && stage(&mut first, 12_000) && stage(&mut second, 12_000));
            assert_eq!(first.settle().await, Settled { durable: 0, failed: 2 });
            assert_eq!(second.settle().await, Settled { durable: 0, failed: 1 });
            first.ready().await;
            assert!(!stage(&mut first, 10));
            assert!(matches!(writer.condition(), Condition::Full(why) if why.contains("writing commit ")));
            disk.borrow_mut().faults.write_no_space = 0;
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(stage(&mut first, 10));
            assert_eq!(first.settle().await, Settled { durable: 1, failed: 0 });
            let durable = writer.stats().durable;
            assert_eq!((durable.commit, durable.sequence), (round + 2, round + 2), "failed commits have no number");
            assert_eq!(durable.segment, round as u32 + 1, "the commit is in a new segment");
        }
        assert_eq!(disk.borrow().prealloc.last(), Some(&Prealloc::Unwritten), "zero-filling doesn't help there");
        writer.close().await.unwrap();
    });
}

#[test]
fn a_failed_commit_is_final_even_if_another_one_ran_out_of_space() {
    run(async {
        let disk = disk(Faults::default(), 1 << 30);
        let writer = open(&disk, options()).await;
        let mut appender = appender(&writer);
        tokio::time::sleep(Duration::from_millis(50)).await;
        disk.borrow_mut().refusals.extend([ErrorKind::StorageFull, ErrorKind::Other]);
        assert!(stage(&mut appender, 12_000) && stage(&mut appender, 12_000));
        assert_eq!(appender.settle().await, Settled { durable: 0, failed: 2 });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(matches!(writer.condition(), Condition::Failed(_)));
        assert!(writer.close().await.is_err());
    });
}

#[test]
fn making_a_segment_is_tried_again_soon_whatever_has_failed() {
    for faults in [
        Faults { temporary_error: 1, ..Faults::default() },
        Faults { dir_error: 1, ..Faults::default() },
        Faults { no_space: 1, ..Faults::default() },
    ] {
        run(async {
            let small = WriterOptions { segment_len: 64 << 10, space_interval: Duration::from_secs(100), ..options() };
            let disk = disk(Faults::default(), 1 << 30);
            let writer = open(&disk, small).await;
            let mut appender = appender(&writer);
            disk.borrow_mut().faults = faults.clone();
            let mut durable = 0;
            loop {
                appender.ready().await;
                if !stage(&mut appender, 3000) {
                    break;
                }
                durable += appender.settle().await.durable;
            }
            assert!(durable >= 15, "{durable} of the 15 commits of a segment");
            assert!(matches!(writer.condition(), Condition::Full(_)), "{faults:?}: {:?}", writer.condition());
            disk.borrow_mut().faults = Faults::default();
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(stage(&mut appender, 3000), "{faults:?}: {:?}", writer.condition());
            assert_eq!(appender.settle().await.durable, 1);
        });
    }
}

#[test]
fn a_position_that_could_not_be_published_is_published_later() {
    run(async {
        let disk = disk(Faults { publish_error: 1, ..Faults::default() }, 1 << 30);
        let writer = open(&disk, options()).await;
        let mut appender = appender(&writer);
        assert!(stage(&mut appender, 10));
        assert_eq!(appender.settle().await.durable, 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
        disk.borrow_mut().faults = Faults::default();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(position::read(&disk.writer_dir(WRITER)).unwrap(), writer.stats().durable);
    });
}

#[test]
fn closing_a_failed_writer_waits_for_the_last_write() {
    run(async {
        let disk = disk(Faults::default(), 1 << 30);
        let writer = open(&disk, options()).await;
        let mut appender = appender(&writer);
        assert!(stage(&mut appender, 10));
        assert_eq!(appender.settle().await.durable, 1);
        // The next segment has been made by then.
        tokio::time::sleep(Duration::from_millis(100)).await;
        disk.borrow_mut().faults.delay_max_us = 10_000_000;
        disk.borrow_mut().refusals.push_back(ErrorKind::Other);
        assert!(stage(&mut appender, 12_000) && stage(&mut appender, 12_000));
        assert_eq!(appender.settle().await, Settled { durable: 0, failed: 2 });
        assert_eq!(writer.core.writes_in_flight(), 1);
        let core = writer.core.clone();
        assert!(writer.close().await.is_err());
        assert_eq!(core.writes_in_flight(), 0);
    });
}

#[test]
fn an_interrupted_write_is_repeated_but_not_forever() {
    run(async {
        let disk = disk(Faults::default(), 1 << 30);
        let writer = open(&disk, options()).await;
        let mut appender = appender(&writer);
        disk.borrow_mut().refusals.extend([ErrorKind::Interrupted, ErrorKind::WouldBlock]);
        assert!(stage(&mut appender, 12_000));
        assert_eq!(appender.settle().await, Settled { durable: 1, failed: 0 });
        disk.borrow_mut().refusals.extend([ErrorKind::Interrupted; 100]);
        assert!(stage(&mut appender, 12_000));
        assert_eq!(appender.settle().await, Settled { durable: 0, failed: 1 });
        assert!(matches!(writer.condition(), Condition::Failed(_)));
    });
}
