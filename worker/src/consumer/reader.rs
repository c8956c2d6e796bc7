//! Reads new entries of every platform, announcements first.
//!
//! Guarantee: a read is never cancelled; it blocks briefly and the order to stop is seen between two reads. It waits
//! while the database is away or the bounds of what may be held are reached. Platforms that were added, changed or paused
//! since count from the next read on. What a lost answer held is taken up as soon as Redis answers again. One damaged stream does not keep the others from being read: missing groups are made
//! again at 0, a key of another type is set aside and reported.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::backoff::Backoff;
use shared::platform::PlatformName;
use shared::queue::{Entry, Fault, GroupState, Reader};
use tokio::sync::mpsc;

use super::claimer;
use super::execute::chain;
use crate::worker::{Batch, Lane, Worker};

/// How long a read waits for something new; also how late the order to stop, or another list of lanes, may be seen.
const BLOCK: Duration = Duration::from_millis(500);
/// Entries of one stream per read: large enough for one transaction to pay, small enough to take turns.
const COUNT: usize = 256;
/// How long a stream that cannot be read is left alone.
const SET_ASIDE: Duration = Duration::from_secs(30);
/// Pauses after failed reads.
const FAILED_MIN: Duration = Duration::from_millis(50);
const FAILED_MAX: Duration = Duration::from_secs(1);

/// Reads until the worker is to stop.
pub async fn run(worker: Arc<Worker>, mut reader: Reader, batches: mpsc::Sender<Batch>) {
    let backoff = Backoff::new(FAILED_MIN, FAILED_MAX);
    let mut aside: HashMap<PlatformName, Instant> = HashMap::new();
    let (mut turn, mut failures) = (0_usize, 0_u32);
    // An answer was lost, and with it what Redis counts as delivered.
    let mut unheard = false;
    while worker.may_take().await {
        if unheard {
            match claimer::undelivered(&worker, &batches).await {
                Ok(()) => unheard = false,
                Err(fault) => {
                    failures = failures.saturating_add(1);
                    tracing::debug!(error = chain(&fault), "lost deliveries not looked for yet");
                    let pause = backoff.delay(failures, &mut rand::rng());
                    let _ = worker.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    continue;
                }
            }
        }
        let all = worker.lanes.all();
        readmit(&all, &mut aside);
        let lanes = order(&all, &aside, turn);
        if lanes.is_empty() {
            let _ = worker.stop.run_until_cancelled(tokio::time::sleep(BLOCK)).await;
            continue;
        }
        let keys: Vec<_> = lanes.iter().map(|lane| &lane.keys).collect();
        let count = share(&worker, &lanes);
        match worker.queue.read_new(&mut reader, &keys, &worker.consumer, count, BLOCK).await {
            Ok(pages) => {
                failures = 0;
                turn = turn.wrapping_add(1);
                // All are held, and so renewed, before the first one may have to wait for its turn.
                let pages: Vec<_> = pages
                    .into_iter()
                    .map(|(position, entries)| (&lanes[position], hold(&worker, &lanes[position], entries)))
                    .collect();
                for (lane, entries) in pages {
                    if hand_over(lane, entries, &batches).await.is_err() {
                        return;
                    }
                }
            }
            Err(fault) => {
                failures = failures.saturating_add(1);
                unheard |= !fault.certainly_not_run();
                tracing::warn!(error = chain(&fault), "reading failed");
                if fault.is_no_group() || fault.is_wrong_type() {
                    repair(&worker, &lanes, &mut aside).await;
                }
                let pause = backoff.delay(failures, &mut rand::rng());
                let _ = worker.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            }
        }
    }
}

/// The lanes to read: announcements first, then the others, beginning one further each turn.
fn order(lanes: &[Arc<Lane>], aside: &HashMap<PlatformName, Instant>, turn: usize) -> Vec<Arc<Lane>> {
    let readable = |lane: &&Arc<Lane>| !lane.is_paused() && !aside.contains_key(lane.name());
    let (first, others): (Vec<_>, Vec<_>) =
        lanes.iter().filter(readable).cloned().partition(|lane| lane.name().as_str() == PlatformName::SESSIONS);
    let begin = turn % others.len().max(1);
    first.into_iter().chain(others[begin..].iter().cloned()).chain(others[..begin].iter().cloned()).collect()
}

/// Entries to ask of each stream, so that a full answer fits what may still be held.
fn share(worker: &Worker, lanes: &[Arc<Lane>]) -> usize {
    let heaviest: usize = lanes.iter().map(|lane| lane.weight.estimate()).sum();
    let (entries, bytes) = worker.inflight.room();
    (entries / lanes.len()).min(bytes / heaviest.max(1)).clamp(1, COUNT)
}

/// Lets streams that were set aside be tried again, and forgets those of platforms that are gone.
fn readmit(lanes: &[Arc<Lane>], aside: &mut HashMap<PlatformName, Instant>) {
    let now = Instant::now();
    aside.retain(|name, until| match lanes.iter().find(|lane| lane.name() == name) {
        Some(lane) if *until <= now => {
            lane.depth.stream_broken(false);
            false
        }
        Some(_) => true,
        None => false,
    });
}

/// Takes hold of entries; those that are held already are left to their holder.
pub(super) fn hold(worker: &Worker, lane: &Lane, entries: Vec<Entry>) -> Vec<Entry> {
    entries
        .into_iter()
        .filter(|entry| {
            let bytes = size(entry);
            lane.weight.note(bytes);
            worker.inflight.hold(lane.name(), entry.id, bytes)
        })
        .collect()
}

/// Passes held entries on.
pub(super) async fn hand_over(
    lane: &Arc<Lane>,
    entries: Vec<Entry>,
    batches: &mpsc::Sender<Batch>,
) -> Result<(), mpsc::error::SendError<Batch>> {
    if entries.is_empty() {
        return Ok(());
    }
    batches.send(Batch { lane: Arc::clone(lane), entries, suspect: false, taken: Instant::now() }).await
}

/// What an entry weighs against the bound of bytes held.
fn size(entry: &Entry) -> usize {
    entry.fields.iter().flatten().map(|(name, value)| name.len() + value.len()).sum()
}

/// Makes missing groups again and sets aside what is no stream.
async fn repair(worker: &Worker, lanes: &[Arc<Lane>], aside: &mut HashMap<PlatformName, Instant>) {
    for lane in lanes {
        match ensure_group(worker, lane).await {
            Ok(true) => lane.depth.stream_broken(false),
            Ok(false) => {
                aside.insert(lane.name().clone(), Instant::now() + SET_ASIDE);
            }
            Err(fault) => tracing::warn!(platform = %lane.name(), error = chain(&fault), "repair failed"),
        }
    }
}

/// Sees to it that a platform's consumer group exists; `false`: its key is no stream.
///
/// # Errors
/// When Redis does not answer.
pub async fn ensure_group(worker: &Worker, lane: &Lane) -> Result<bool, Fault> {
    match worker.queue.create_group(&lane.keys).await? {
        GroupState::Created => {
            tracing::info!(platform = %lane.name(), "consumer group created; every unfinished event is delivered anew");
        }
        GroupState::Existed => {}
        GroupState::WrongType => {
            lane.depth.stream_broken(true);
            tracing::error!(platform = %lane.name(), key = lane.keys.incoming,
                "this key is no stream; its platform is set aside until somebody removes it");
            return Ok(false);
        }
    }
    Ok(true)
}
