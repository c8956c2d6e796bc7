//! Reads new entries of every platform, announcements first.
//!
//! Guarantee: a read is never cancelled; it blocks briefly and the order to stop is seen between two reads. It waits
//! while the database is away or the bounds of what may be held are reached. Busy streams that are too many for one read take
//! turns, and quiet ones are in every read. Platforms that were added, changed or paused since count from the next read on.
//! What a lost answer held is taken up as soon as Redis answers again. One damaged stream does not keep the others from being
//! read: missing groups are made again at 0, a key of another type is set aside and reported.

use std::collections::{HashMap, HashSet};
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
const COUNT: usize = 512;
/// Entries that a busy stream is to bring at least: where so many of each are too much to hold, only some are read at once.
/// Reading, applying and settling a few of each costs several times as much.
const WORTHWHILE: usize = 128;
/// Bytes that a read is to bring at most: while its answer is taken apart they are there twice.
const READ_BYTES: usize = 8 * 1024 * 1024;
/// How much less a stream is expected to bring that had less than was asked for when it was read last: only what has
/// come since.
const QUIETER: usize = 64;
/// How long a stream that cannot be read is left alone.
const SET_ASIDE: Duration = Duration::from_secs(30);
/// Pauses after failed reads.
const FAILED_MIN: Duration = Duration::from_millis(50);
const FAILED_MAX: Duration = Duration::from_secs(1);

/// Reads until the worker is to stop.
pub async fn run(worker: Arc<Worker>, mut reader: Reader, batches: mpsc::Sender<Batch>) {
    let backoff = Backoff::new(FAILED_MIN, FAILED_MAX);
    let mut aside: HashMap<PlatformName, Instant> = HashMap::new();
    let mut drained: HashSet<PlatformName> = HashSet::new();
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
        let room = worker.inflight.room();
        let most = if reader.may_choose() { (room.0 / WORTHWHILE).max(1) } else { usize::MAX };
        let Choice { lanes, passed_over } = choose(order(&all, &aside, turn), most, &drained);
        if lanes.is_empty() {
            let _ = worker.stop.run_until_cancelled(tokio::time::sleep(BLOCK)).await;
            continue;
        }
        let keys: Vec<_> = lanes.iter().map(|lane| &lane.keys).collect();
        let count = share(room, &lanes, &drained);
        // Those that were passed over may have something while these have nothing.
        let block = if passed_over.is_some() { Duration::ZERO } else { BLOCK };
        match worker.queue.read_new(&mut reader, &keys, &worker.consumer, count, block).await {
            Ok(pages) => {
                failures = 0;
                turn = turn.wrapping_add(passed_over.unwrap_or(1));
                note_drained(&lanes, &pages, count, &mut drained);
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
                worker.queue.outage_log().failed("read events", &fault);
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
        lanes.iter().filter(readable).cloned().partition(|lane| announces(lane));
    let begin = turn % others.len().max(1);
    first.into_iter().chain(others[begin..].iter().cloned()).chain(others[..begin].iter().cloned()).collect()
}

/// What is read at once.
struct Choice {
    lanes: Vec<Arc<Lane>>,
    /// How many of the lanes that take turns come before the first one that is left out, if any is.
    passed_over: Option<usize>,
}

/// The announcements, quiet lanes, and of the others the first `most`.
fn choose(ordered: Vec<Arc<Lane>>, most: usize, drained: &HashSet<PlatformName>) -> Choice {
    let (mut left, mut place, mut passed_over) = (most, 0, None);
    let mut lanes = ordered;
    lanes.retain(|lane| {
        if announces(lane) {
            return true;
        }
        place += 1;
        if drained.contains(lane.name()) {
            return true;
        }
        if left == 0 {
            passed_over.get_or_insert(place - 1);
            return false;
        }
        left -= 1;
        true
    });
    Choice { lanes, passed_over }
}

fn announces(lane: &Lane) -> bool {
    lane.name().as_str() == PlatformName::SESSIONS
}

/// Entries to ask of each stream, so that an answer as full as can be expected fits what may still be held: one busy
/// stream among many quiet ones is read in large pieces.
fn share((entries, bytes): (usize, usize), lanes: &[Arc<Lane>], drained: &HashSet<PlatformName>) -> usize {
    let (quiet, busy): (Vec<_>, Vec<_>) = lanes.iter().partition(|lane| drained.contains(lane.name()));
    let weight = |lanes: &[&Arc<Lane>]| lanes.iter().map(|lane| lane.weight.estimate()).sum::<usize>();
    let streams = busy.len() + quiet.len().div_ceil(QUIETER);
    let heaviest = weight(&busy) + weight(&quiet).div_ceil(QUIETER);
    (entries / streams.max(1)).min(bytes.min(READ_BYTES) / heaviest.max(1)).clamp(1, COUNT)
}

/// Notes which of `lanes` had less than the `count` that was asked of each.
fn note_drained(
    lanes: &[Arc<Lane>],
    pages: &[(usize, Vec<Entry>)],
    count: usize,
    drained: &mut HashSet<PlatformName>,
) {
    let full = |position| pages.iter().any(|(at, entries)| *at == position && entries.len() >= count);
    for (position, lane) in lanes.iter().enumerate() {
        if full(position) {
            drained.remove(lane.name());
        } else if !drained.contains(lane.name()) {
            drained.insert(lane.name().clone());
        }
    }
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
pub(super) fn hold(worker: &Worker, lane: &Lane, mut entries: Vec<Entry>) -> Vec<Entry> {
    worker.inflight.hold_all(lane.name(), &mut entries, |entry| {
        let bytes = entry.weight();
        lane.weight.note(bytes);
        (entry.id, bytes)
    });
    entries
}

/// Passes held entries on.
async fn hand_over(
    lane: &Arc<Lane>,
    entries: Vec<Entry>,
    batches: &mpsc::Sender<Batch>,
) -> Result<(), mpsc::error::SendError<Batch>> {
    if entries.is_empty() {
        return Ok(());
    }
    batches.send(Batch { lane: Arc::clone(lane), entries, suspect: false, taken: Instant::now() }).await
}

/// Makes missing groups again and sets aside what is no stream.
async fn repair(worker: &Worker, lanes: &[Arc<Lane>], aside: &mut HashMap<PlatformName, Instant>) {
    for lane in lanes {
        match ensure_group(worker, lane).await {
            Ok(true) => lane.depth.stream_broken(false),
            Ok(false) => {
                aside.insert(lane.name().clone(), Instant::now() + SET_ASIDE);
            }
            Err(fault) => worker.queue.outage_log().failed("repair a consumer group", &fault),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use secrecy::SecretString;
    use shared::event::StreamId;
    use shared::platform::registry::Registry;
    use shared::queue::{Layout, Queue, connect};

    use super::*;

    fn lanes() -> Vec<Arc<Lane>> {
        let url = SecretString::from("redis://127.0.0.1:1".to_owned());
        let queue = Queue::new(Layout::Single, connect(&url, false).unwrap());
        let registry = Registry::load(None).unwrap();
        registry.iter().map(|platform| Arc::new(Lane::new(Arc::clone(platform), &queue))).collect()
    }

    fn names(lanes: &[Arc<Lane>]) -> Vec<&str> {
        lanes.iter().map(|lane| lane.name().as_str()).collect()
    }

    #[tokio::test]
    async fn announcements_are_read_first_and_the_others_take_turns() {
        let lanes = lanes();
        let mut others = names(&lanes);
        others.retain(|name| *name != PlatformName::SESSIONS);
        for turn in 0..=others.len() {
            let read = order(&lanes, &HashMap::new(), turn);
            assert_eq!(names(&read)[..2], [PlatformName::SESSIONS, others[turn % others.len()]], "turn {turn}");
            assert_eq!(read.len(), lanes.len());
        }
        let aside = HashMap::from([(lanes[2].name().clone(), Instant::now())]);
        assert!(!names(&order(&lanes, &aside, 0)).contains(&lanes[2].name().as_str()));
    }

    #[tokio::test]
    async fn busy_streams_take_turns_where_little_of_each_would_be_read_and_quiet_ones_are_in_every_read() {
        let lanes = lanes();
        let others: Vec<&str> = names(&lanes).into_iter().filter(|name| *name != PlatformName::SESSIONS).collect();
        let quiet = HashSet::from([lanes[3].name().clone(), lanes[6].name().clone()]);
        let busy = others.len() - quiet.len();
        let all = choose(order(&lanes, &HashMap::new(), 0), busy, &quiet);
        assert_eq!((all.lanes.len(), all.passed_over), (lanes.len(), None), "there is room for all");

        let (mut turn, mut times) = (0, HashMap::<String, usize>::new());
        for _ in 0..busy {
            let read = choose(order(&lanes, &HashMap::new(), turn), 2, &quiet);
            let read_names = names(&read.lanes);
            assert_eq!(read_names[0], PlatformName::SESSIONS);
            assert!(quiet.iter().all(|name| read_names.contains(&name.as_str())));
            assert_eq!(read.lanes.len(), 1 + quiet.len() + 2);
            for name in read_names {
                *times.entry(name.to_owned()).or_default() += 1;
            }
            turn += read.passed_over.unwrap();
        }
        times.retain(|name, _| *name != PlatformName::SESSIONS && quiet.iter().all(|one| one.as_str() != name));
        assert_eq!(times.len(), busy);
        assert!(times.values().all(|times| *times == 2), "each in its turn: {times:?}");
    }

    #[tokio::test]
    async fn a_stream_that_was_set_aside_is_tried_again_in_time() {
        let lanes = lanes();
        let (now, stranger) = (Instant::now(), PlatformName::new("stranger").unwrap());
        let mut aside = HashMap::from([
            (lanes[1].name().clone(), now),
            (lanes[2].name().clone(), now + SET_ASIDE),
            (stranger, now + SET_ASIDE),
        ]);
        readmit(&lanes, &mut aside);
        assert_eq!(aside.into_keys().collect::<Vec<_>>(), [lanes[2].name().clone()]);
    }

    #[tokio::test]
    async fn what_is_asked_for_fits_what_may_be_held() {
        let lanes = lanes();
        let weight: usize = lanes.iter().map(|lane| lane.weight.estimate()).sum();
        let none = HashSet::new();
        assert_eq!(
            share((usize::MAX, usize::MAX), &lanes, &none),
            READ_BYTES / weight,
            "nor more than one answer may"
        );
        assert_eq!(share((usize::MAX, usize::MAX), &lanes[..1], &none), READ_BYTES / lanes[0].weight.estimate());
        assert_eq!(share((3 * lanes.len(), usize::MAX), &lanes, &none), 3);
        assert_eq!(share((usize::MAX, 2 * weight), &lanes, &none), 2);
        assert_eq!(share((0, 0), &lanes, &none), 1, "one is always asked for");
    }

    #[tokio::test]
    async fn a_busy_stream_is_not_read_in_crumbs_because_of_quiet_ones() {
        let lanes = lanes();
        let mut drained = HashSet::new();
        let page = |count: u64| (0..count).map(|ms| Entry { id: StreamId { ms, seq: 0 }, fields: None }).collect();
        note_drained(&lanes, &[(1, page(3)), (2, page(2))], 3, &mut drained);
        assert_eq!(drained.len(), lanes.len() - 1);
        assert!(!drained.contains(lanes[1].name()), "it may have more");
        for _ in 0..1_000 {
            lanes[1].weight.note(500);
        }
        assert_eq!(share((1_024, usize::MAX), &lanes, &drained), COUNT);
        note_drained(&lanes, &[(2, page(3))], 3, &mut drained);
        assert!(drained.contains(lanes[1].name()) && !drained.contains(lanes[2].name()));
    }
}
