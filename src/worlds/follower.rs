//! A follower of a world's journal. It checks what it sees, and resumes from its positions again and again.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, sleep_until};

use super::plan::FollowerPlan;
use super::records::Seen;
use super::world::World;
use crate::journal::{Position, ReadError, Reader, ReaderOptions, Start};
use crate::sim::random::Random;
use crate::sim::trace;

/// Follows the journal until the world ends.
pub async fn run(world: Rc<World>, plan: FollowerPlan, seen: Rc<RefCell<Seen>>) {
    let mut random = Random(plan.seed);
    sleep_until((world.began + plan.start).into()).await;
    let mut positions = Vec::new();
    loop {
        let start = if positions.is_empty() { Start::Beginning } else { Start::Positions(positions) };
        let options = ReaderOptions::default().follow(true).start(start);
        let followed = match Reader::open(&world.data_dir, options) {
            Ok(reader) => follow(&world, &plan, &mut random, reader, &seen).await,
            Err(error) => Err(format!("law 3: a follower can't open the journal: {error}")),
        };
        match followed {
            Ok(left_at) => positions = left_at,
            Err(what) => return trace::violated(|| what),
        }
    }
}

/// Follows with one reader. Returns the positions at which it ended.
async fn follow(
    world: &World,
    plan: &FollowerPlan,
    random: &mut Random,
    mut reader: Reader,
    seen: &RefCell<Seen>,
) -> Result<Vec<Position>, String> {
    let power_cuts = world.power_cuts.get();
    let retains = world.plan.server.options.journal().is_some_and(|journal| !journal.retention.is_off());
    let mut notes = Vec::new();
    loop {
        while let Some(record) = reader.try_next() {
            let record = record.map_err(|error: ReadError| format!("law 3: a follower fails: {error}"))?;
            notes.extend(reader.take_notes());
            seen.borrow_mut().see(&record, &notes, retains)?;
            trace::add("followed", record.position.writer.0, record.position.sequence);
        }
        let mut pause = Duration::ZERO;
        reader.wait_with(|time| pause = time);
        let positions = reader.positions();
        // Virtual time costs nothing, and looking often does.
        sleep(pause + Duration::from_millis(random.below(100))).await;
        // The follower's host has lost its power, too.
        if world.power_cuts.get() != power_cuts || random.one_in(plan.resumes_one_in) {
            return Ok(positions);
        }
    }
}
