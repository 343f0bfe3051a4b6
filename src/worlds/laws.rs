//! The laws: what must be true in every world, whatever happens in it.
//!
//! 1. Acks come in order, one for each request, with its ID (`client`).
//! 2. A message that was acked with 0 can be read, in order, intact and once, after any crash.
//! 3. A follower shows only what is durable, and everything, once and in order, wherever it resumes (`follower`).
//! 4. Once the faults have stopped, everything that is due comes, and everything that should end ends.
//! 5. Memory, descriptors and the journal's bytes stay within their limits, and are returned.
//! 6. A server that has drained leaves no task behind (`director`).
//! 7. The metrics agree with what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::plan::{Ending, Sending};
use super::process::{End, Process};
use super::records::{Outcome, SeenWriter, Sent, request_of};
use super::world::World;
use crate::clock;
use crate::journal::{Note, Position, Reader, ReaderOptions, Record, Start, WriterId};
use crate::metrics::CloseReason;
use crate::proto::AckResult;
use crate::sim::kernel;
use crate::sim::random::Random;
use crate::sim::trace;

/// Checks a law that has no better place.
fn check(holds: bool, what: impl FnOnce() -> String) {
    if !holds {
        trace::violated(what);
    }
}

/// Judges the end of a world: the faults have stopped, and `server` serves.
pub async fn judge_end(world: &Rc<World>, server: &Rc<Process>) {
    let bound = bound(world);
    // Law 4, for clients.
    let ended = || world.sent.iter().all(|sent| sent.borrow().outcome.is_some());
    if !holds_within(bound, ended).await {
        let waiting = world.sent.iter().zip(&world.plan.clients).find(|(sent, _)| sent.borrow().outcome.is_none());
        let (sent, client) = waiting.expect("a client waits");
        let sent = sent.borrow();
        return trace::violated(|| {
            let (acks, requests, complete) = (sent.acks, sent.requests.len(), sent.complete);
            format!(
                "law 4: client {} waits: {acks} acks for {requests} requests, {complete} of them sent: {client:?}",
                client.number
            )
        });
    }
    // Law 4, for connections.
    let open = || server.totals().connections_open.get() == 0;
    let options = &world.plan.server.options;
    let kernel_ends = !options.listen.tcp_keepalive.is_zero() && !options.write_timeout.is_zero();
    let timeouts = [options.idle_timeout, options.frame_timeout, options.write_timeout];
    let handshake_timeout = options.tls.as_ref().map(|tls| tls.handshake_timeout);
    let may_stay = world.plan.clients.iter().any(|client| matches!(client.ending, Ending::Vanish(_)))
        && !kernel_ends
        && timeouts.iter().chain(&handshake_timeout).any(Duration::is_zero);
    if !holds_within(if may_stay { LOOK_INTERVAL } else { bound }, open).await && !may_stay {
        let open = server.totals().connections_open.get();
        return trace::violated(|| format!("law 4: {open} connections are open without a client"));
    }
    if server.end().is_some() {
        return check(server.end() != Some(End::Stalled) || stall_is_due(world, server), || {
            "law 4: the server ended by itself".into()
        });
    }
    let staged = || {
        let totals = server.totals();
        totals.journal_gathered_bytes.get() + totals.journal_in_flight_bytes.get()
    };
    // The gauges follow late, and so does the disk.
    sleep(GAUGES_UPDATE).await;
    let written = holds_within(PATIENCE, || staged() == 0).await;
    check(written, || format!("law 5: {} bytes are left in the journal's memory", staged()));
    let totals = server.totals();
    if totals.connections_open.get() == 0 {
        judge_resources(server);
        judge_metrics(world, server);
    }
    catch_up(world).await;
    // Law 4, for the drain.
    let cut_before = totals.connections_closed.of(CloseReason::Cut).get();
    server.drain();
    judge_drain(world, server).await;
    check(may_stay || server.totals().connections_closed.of(CloseReason::Cut).get() == cut_before, || {
        "law 4: a drain cut a connection though nobody was there".into()
    });
}

/// Judges what is left of a world when no server is alive any longer.
pub fn judge_past(world: &World) {
    check_journal(world);
    judge_clients(world);
    resume(world);
}

/// Law 4: waits for the end of a server that drains.
pub async fn judge_drain(world: &World, server: &Process) {
    let began = clock::now();
    let within = world.plan.server.options.drain_timeout + DRAIN_SLACK;
    let drained = tokio::time::timeout(within, server.wait(|server| server.end().is_some())).await;
    check(drained.is_ok(), || format!("law 4: the drain of process {} does not end", server.id));
    let cut = server.totals().connections_closed.of(CloseReason::Cut).get();
    check(cut == 0 || !world.plan.is_gentle(), || {
        format!("law 4: the drain of process {} cut {cut} clients that read", server.id)
    });
    // No connection has a reason to last longer.
    let took = clock::now() - began;
    check(took < GENTLE_DRAIN_MAX || !world.plan.is_gentle(), || {
        format!("law 4: the drain of process {} took {took:?}, though its clients read", server.id)
    });
}

/// Returns how long everything that is due may take once the faults have stopped.
fn bound(world: &World) -> Duration {
    let options = &world.plan.server.options;
    let timeouts = [
        options.frame_timeout,
        options.idle_timeout,
        options.write_timeout,
        options.linger_timeout,
        options.listen.tcp_keepalive * 3,
        options.tls.as_ref().map_or(Duration::ZERO, |tls| tls.handshake_timeout),
    ];
    timeouts.iter().sum::<Duration>() * 2 + PATIENCE
}

/// Waits until the condition holds. Returns `false` if it does not hold in time.
async fn holds_within(within: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = clock::now() + within;
    while !condition() {
        if clock::now() >= deadline {
            return false;
        }
        sleep(LOOK_INTERVAL).await;
    }
    true
}

/// Checks the limits of all servers until the world ends.
pub async fn watch_limits(world: Rc<World>) {
    loop {
        for server in world.servers() {
            judge_limits(&world, &server);
            check(server.ends_by.get().is_none_or(|by| clock::now() < by), || {
                format!("law 4: process {} has a shard that stands still, and goes on", server.id)
            });
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Returns when a server must have ended because of a stall of this length, if it is long enough.
pub fn noticed_by(world: &World, stall: Duration) -> Option<Instant> {
    let timeout = world.plan.server.options.stall_timeout;
    let due = timeout + STALL_SLACK * 2;
    (!timeout.is_zero() && stall > due).then(|| clock::now() + due)
}

/// Law 5: nothing passes its limit.
fn judge_limits(world: &World, server: &Process) {
    let options = world.plan.options(server.shards, &world.data_dir);
    let totals = server.totals();
    let open = totals.connections_open.get();
    if let Some(max) = options.connections_max {
        check(open <= max as u64, || format!("law 5: {open} connections with a limit of {max}"));
    }
    if let Some(limit) = options.memory_limit() {
        // The small buffers are counted and never wait.
        let of_tls = if options.tls.is_some() { TLS_MEMORY_MAX } else { 0 };
        let limit = limit as u64 + open * (SMALL_BUFFERS_MAX + of_tls);
        let bytes = totals.buffer_bytes.get();
        check(bytes <= limit, || format!("law 5: {bytes} bytes of buffers with a limit of {limit}"));
    }
    if let Some(journal) = options.journal() {
        let batch = options.read_buffer_max.max(options.frame_len_max as usize) * 4;
        let limit = (journal.bytes_max() + batch) * server.shards;
        let bytes = totals.journal_gathered_bytes.get() + totals.journal_in_flight_bytes.get();
        check(bytes <= limit as u64, || format!("law 5: {bytes} bytes in the journal's memory, {limit} permitted"));
    }
}

/// Law 5: everything is returned when the connections are gone.
fn judge_resources(server: &Process) {
    let totals = server.totals();
    let left = totals.buffer_bytes.get();
    check(left == 0, || format!("law 5: {left} bytes of buffers are left"));
    let open = kernel::descriptors(server.id);
    let most = server.descriptors_at_start() + 2 * server.shards;
    check(open <= most, || format!("law 5: {open} descriptors are left, and {most} are due"));
}

/// Law 7.
fn judge_metrics(world: &World, server: &Process) {
    let totals = server.totals();
    let (accepted, closed) = (totals.connections_accepted.get(), totals.connections_closed.sum());
    check(accepted == closed, || format!("law 7: {accepted} connections accepted, {closed} closed"));
    let acks: u64 = totals.acks.sum();
    let requests = totals.requests.sum();
    check(acks <= requests, || format!("law 7: {acks} acks for {requests} requests"));
    let orderly = [CloseReason::ClientClosed, CloseReason::Drained];
    let orderly: u64 = orderly.iter().map(|reason| totals.connections_closed.of(*reason).get()).sum();
    if orderly == closed {
        check(acks == requests, || format!("law 7: {acks} acks for {requests} requests, and nothing went wrong"));
    }
    // The only server has served every client to its end.
    let undisturbed = world.disturbances.get() == 0 && !world.is_disturbed.get();
    if undisturbed && orderly == closed {
        let all = || world.sent.iter().map(|sent| sent.borrow());
        if all().all(|sent| sent.outcome == Some(Outcome::Ended)) {
            let received: usize = all().map(|sent| sent.acks).sum();
            check(received as u64 == acks, || format!("law 7: {acks} acks sent, {received} received"));
            let failures = all().flat_map(|sent| sent.requests.clone()).filter(|request| request.result == Some(1));
            let (failures, counted) = (failures.count() as u64, totals.acks.of(AckResult::Failure).get());
            check(failures == counted, || format!("law 7: {counted} failures counted, {failures} received"));
        }
        let all = world
            .sent
            .iter()
            .map(|sent| sent.borrow().requests.iter().filter(|r| r.result == Some(0) && !r.is_conn).count());
        let (acked, durable) = (all.sum::<usize>() as u64, totals.journal_records.get());
        check(world.plan.server.options.journal().is_none() || durable >= acked, || {
            format!("law 7: {durable} records counted as durable, {acked} acked")
        });
    }
}

/// Law 3: followers see everything.
async fn catch_up(world: &World) {
    if world.plan.server.options.journal().is_none() {
        return;
    }
    let retains = world.plan.server.options.journal().is_some_and(|journal| !journal.retention.is_off());
    let deadline = clock::now() + FOLLOWERS_CATCH_UP;
    loop {
        let all = match read(world, Start::Beginning) {
            Ok((records, _)) => records,
            Err(what) => return trace::violated(|| what),
        };
        let missing = all.iter().map(|record| record.position).find(|Position { writer, sequence }| {
            // After a power cut, segments that retention had removed before the follower came may be there again.
            let came_back =
                |seen: &SeenWriter| seen.records.first_key_value().is_some_and(|(first, _)| sequence < first);
            let has_seen = |seen: &SeenWriter| seen.records.contains_key(sequence) || (retains && came_back(seen));
            world.seen.iter().any(|seen| !seen.borrow().writers.get(writer).is_some_and(has_seen))
        });
        let unpublished = unpublished(world, &all);
        if missing.is_none() && unpublished.is_none() {
            return;
        }
        if clock::now() > deadline {
            return trace::violated(|| match (missing, unpublished) {
                (Some(missing), _) => format!("law 3: a follower has not seen {missing}"),
                (None, request) => format!("law 3: readers do not see the acked request {request:?}"),
            });
        }
        sleep(FOLLOWER_LOOK).await;
    }
}

/// Returns a request that was acked and that readers of the live journal do not see, by client and number.
fn unpublished(world: &World, all: &[Record]) -> Option<(u32, u32)> {
    let retains = !world.plan.server.options.journal()?.retention.is_off();
    let seen: BTreeSet<_> = all.iter().filter_map(|record| request_of(record).ok()).collect();
    world.plan.clients.iter().zip(&world.sent).filter(|_| !retains).find_map(|(plan, sent)| {
        let sent = sent.borrow();
        let acked = sent.requests.iter().zip(0..).filter(|(request, _)| request.result == Some(0) && !request.is_conn);
        acked.map(|(_, number)| (plan.number, number)).find(|request| !seen.contains(request))
    })
}

/// Reads the journal, and returns its records and notes.
fn read(world: &World, start: Start) -> Result<(Vec<Record>, Vec<Note>), String> {
    if !world.data_dir.is_dir() {
        return Ok(Default::default());
    }
    let failed = |error| format!("law 2: the journal can't be read: {error}");
    let mut reader = Reader::open(&world.data_dir, ReaderOptions::default().start(start)).map_err(failed)?;
    let mut records = Vec::new();
    while let Some(record) = reader.try_next() {
        records.push(record.map_err(failed)?);
    }
    Ok((records, reader.take_notes()))
}

/// Laws 2 and 3, while no server is alive: compares the journal with what was acked and what followers have seen.
pub fn check_journal(world: &World) {
    if world.plan.server.options.journal().is_some()
        && let Err(what) = try_check_journal(world)
    {
        trace::violated(|| what);
    }
}

fn try_check_journal(world: &World) -> Result<(), String> {
    let retains = !world.plan.server.options.journal().expect("there is a journal").retention.is_off();
    let (records, _) = read(world, Start::Beginning)?;
    let mut by_writer: BTreeMap<WriterId, BTreeMap<u64, (u32, u32)>> = BTreeMap::new();
    let mut by_client: BTreeMap<u32, (WriterId, BTreeSet<u32>)> = BTreeMap::new();
    for record in &records {
        let Position { writer, sequence } = record.position;
        let (client, number) = request_of(record)?;
        let of_writer = by_writer.entry(writer).or_default();
        if of_writer.last_key_value().map_or(!retains && sequence != 1, |(last, _)| sequence != last + 1) {
            return Err(format!("law 2: {} is out of order, or something before it is missing", record.position));
        }
        of_writer.insert(sequence, (client, number));
        let of_no_client = || format!("law 2: {} is of no client", record.position);
        let sent = world.sent_of(client).ok_or_else(of_no_client)?.borrow();
        let request = sent.requests.get(number as usize);
        if request.is_none_or(|request| request.is_conn || request.len as usize != record.payload.len()) {
            return Err(format!("law 2: request {number} of client {client} was not sent, and is in the journal"));
        }
        if record.peer != sent.address {
            return Err(format!(
                "law 2: {} is of {}, and has the address {}",
                record.position, sent.address, record.peer
            ));
        }
        let (of, numbers) = by_client.entry(client).or_insert((writer, BTreeSet::new()));
        if *of != writer || numbers.last().is_some_and(|last| *last >= number) {
            return Err(format!("law 2: request {number} of client {client} is in the journal twice, or out of order"));
        }
        numbers.insert(number);
    }
    for (plan, sent) in world.plan.clients.iter().zip(&world.sent) {
        check_acked(
            world,
            plan.number,
            &sent.borrow(),
            by_client.get(&plan.number).map(|(_, numbers)| numbers),
            may_have_removed(world),
        )?;
    }
    for seen in &world.seen {
        for (writer, seen) in &seen.borrow().writers {
            let left = by_writer.get(writer);
            let first = left.and_then(|left| left.first_key_value()).map(|(first, _)| *first);
            for (sequence, request) in &seen.records {
                // A follower also shows what a killed writer has left in the page cache.
                let durable = world.durable_at_kill.borrow().get(writer).copied().unwrap_or(u64::MAX);
                let is_lost = world.power_cuts.get() > 0 && *sequence > durable;
                let is_gone = is_lost || (retains && first.is_none_or(|first| *sequence < first));
                if !is_gone && left.and_then(|left| left.get(sequence)) != Some(request) {
                    let position = Position { writer: *writer, sequence: *sequence };
                    let there = left.and_then(|left| left.get(sequence));
                    return Err(format!(
                        "law 3: a follower has seen {position}, request {request:?}, and the journal has {there:?}"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Returns whether retention may have removed messages by now, whatever the wall clock says.
fn may_have_removed(world: &World) -> bool {
    let age = clock::now() - world.began;
    world.plan.server.options.journal().is_some_and(|journal| {
        journal.retention.bytes_max.is_some() || journal.retention.age_max.is_some_and(|age_max| age >= age_max)
    })
}

/// Law 2: what was acked is there, except for what retention may have removed.
fn check_acked(
    world: &World,
    client: u32,
    sent: &Sent,
    numbers: Option<&BTreeSet<u32>>,
    retains: bool,
) -> Result<(), String> {
    let first = numbers.and_then(|numbers| numbers.first());
    for (number, request) in sent.requests.iter().enumerate() {
        let number = number as u32;
        if request.is_conn || request.result != Some(0) || numbers.is_some_and(|numbers| numbers.contains(&number)) {
            continue;
        }
        // Retention removes the oldest records of a writer.
        let may_be_gone = retains && first.is_none_or(|first| number < *first);
        if !may_be_gone {
            return Err(format!("law 2: request {number} of client {client} was acked, and is not in the journal"));
        }
        world.count("acked and removed", 1);
    }
    Ok(())
}

/// Law 4: a client without any fault of its own, or of its server, has got everything.
fn judge_clients(world: &World) {
    for (plan, sent) in world.plan.clients.iter().zip(&world.sent) {
        let sent = sent.borrow();
        world.count("requests", sent.requests.len() as u64);
        world.count("acks", sent.acks as u64);
        let is_sound = plan.is_sound(&world.plan.server.options);
        check(!is_sound || !world.plan.is_gentle() || sent.outcome != Some(Outcome::Reset), || {
            format!("law 4: client {} was reset, though nothing but drains happened: {plan:?}", plan.number)
        });
        // A drain answers what has arrived, also on connections that nobody had accepted yet.
        let has_nothing = sent.complete > 0 && sent.acks == 0 && sent.outcome == Some(Outcome::Ended);
        check(!is_sound || !world.plan.is_gentle() || plan.sending != Sending::Fast || !has_nothing, || {
            format!("law 4: client {} has sent requests, and was drained without an ack: {plan:?}", plan.number)
        });
        if !sent.undisturbed || world.plan.descriptors < 1000 || !is_sound {
            continue;
        }
        world.count("sound clients", 1);
        let all = sent.acks == sent.requests.len() && sent.requests.len() >= plan.requests as usize;
        let ended =
            matches!((plan.ending, sent.outcome), (Ending::Close, Some(Outcome::Left)) | (_, Some(Outcome::Ended)));
        check(all && ended, || {
            let (acks, requests, outcome) = (sent.acks, sent.requests.len(), sent.outcome);
            format!(
                "law 4: client {} is sound, and got {acks} acks for {requests} requests; {outcome:?}: {plan:?}",
                plan.number
            )
        });
    }
}

/// Law 3: a reader that begins at any positions gets everything from there on.
fn resume(world: &World) {
    if world.plan.server.options.journal().is_none() {
        return;
    }
    let mut random = Random(world.plan.seed);
    let Ok((all, _)) = read(world, Start::Beginning) else { return };
    let mut last: BTreeMap<WriterId, (u64, u64)> = BTreeMap::new();
    for record in &all {
        let Position { writer, sequence } = record.position;
        last.entry(writer).or_insert((sequence, sequence)).1 = sequence;
    }
    for _ in 0..RESUMES {
        let mut positions = Vec::new();
        for (writer, (first, last)) in &last {
            if random.below(3) > 0 {
                positions.push(Position { writer: *writer, sequence: first + random.below(last - first + 2) });
            }
        }
        let from: BTreeMap<_, _> = positions.iter().map(|position| (position.writer, position.sequence)).collect();
        let is_due = |position: &Position| from.get(&position.writer).is_none_or(|from| position.sequence >= *from);
        let due: BTreeSet<_> = all.iter().map(|record| record.position).filter(is_due).collect();
        let read = match read(world, Start::Positions(positions)) {
            Ok((records, _)) => records,
            Err(what) => return trace::violated(|| what),
        };
        let got: BTreeSet<_> = read.iter().map(|record| record.position).collect();
        check(got == due && read.len() == due.len(), || {
            let missing = due.difference(&got).next().or_else(|| got.difference(&due).next());
            format!(
                "law 3: a reader that resumes from {from:?} gets {} of {} records: {missing:?}",
                got.len(),
                due.len()
            )
        });
    }
}

/// Returns whether a stall of a shard was long enough to end the server.
fn stall_is_due(world: &World, server: &Process) -> bool {
    let timeout = world.plan.server.options.stall_timeout;
    !timeout.is_zero() && server.stalls.get() + STALL_SLACK >= timeout
}

/// Law 4: a server ends by a stall only if one of its shards has stalled for long enough.
pub fn judge_stalled(world: &World, server: &Process) {
    check(stall_is_due(world, server), || {
        format!("law 4: process {} ended by a stall that it did not have", server.id)
    });
}

/// Bytes of a quiet connection's buffers, at most (docs/operating.md).
const SMALL_BUFFERS_MAX: u64 = 3 << 10;
/// Bytes that the TLS of a connection holds, at most.
const TLS_MEMORY_MAX: u64 = 16 << 10;
/// How often the limits are checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long everything may take once the faults have stopped, beside timeouts.
const PATIENCE: Duration = Duration::from_secs(300);
/// The time after which gauges are up to date.
const GAUGES_UPDATE: Duration = Duration::from_millis(600);
/// How long a drain may take after its deadline.
const DRAIN_SLACK: Duration = Duration::from_secs(5);
/// How long a drain may take if all clients read.
const GENTLE_DRAIN_MAX: Duration = Duration::from_secs(6);
/// How long followers may take to see everything.
const FOLLOWERS_CATCH_UP: Duration = Duration::from_secs(5);
/// How often it is checked whether they have.
const FOLLOWER_LOOK: Duration = Duration::from_millis(200);
/// How often a reader resumes at the end of a world.
const RESUMES: usize = 2;
/// The time by which the watchdog may notice a stall too early.
const STALL_SLACK: Duration = Duration::from_millis(600);
