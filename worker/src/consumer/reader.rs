//! Reads new entries of all platforms, announcements first.
//!
//! # Guarantees
//! - Announcements and idle streams are in every read. If the busy streams do not fit into one
//!   read, they rotate (`announcements_are_read_first_and_others_rotate`,
//!   `busy_streams_rotate_and_idle_streams_are_always_read`).
//! - A read fits the entries and bytes that may still be held (`read_size_fits_the_capacity_left`).
//! - Entries of a lost reply are read again as soon as Redis answers
//!   (`entries_in_a_lost_reply_are_processed_at_once`).
//! - A damaged stream does not stop the others. A missing group is created again at 0, and a key of
//!   another type is skipped and reported (`deleted_or_mistyped_stream_stops_nothing_else`).
//!
//! # Design
//! A read is never cancelled, because Redis counts its entries as delivered. It blocks briefly, and
//! the loop checks for a stop between two reads.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::backoff::Backoff;
use shared::platform::PlatformName;
use shared::queue::{CallError, GroupState, StreamEntry, StreamReader};
use tokio::sync::mpsc;

use super::claimer;
use super::execute::error_chain;
use crate::context::{EntryBatch, PlatformQueue, WorkerContext};

/// Time that a read waits for new entries. A stop or a changed list of platforms is noticed this
/// late.
const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// Most entries of one stream per read. Large enough for an efficient transaction, small enough for
/// the platforms to take turns.
const MAX_ENTRIES_PER_STREAM: usize = 512;
/// Fewest entries to read of a busy stream. If so many of each do not fit, only some streams are
/// read at once, because small batches cost several times as much per entry.
const MIN_ENTRIES_PER_STREAM: usize = 128;
/// Most bytes per read. While a reply is parsed, its bytes are in memory twice.
const MAX_READ_BYTES: usize = 8 * 1024 * 1024;
/// Factor by which an idle stream is expected to return less. Its last read returned all it had.
const IDLE_DISCOUNT: usize = 64;
/// Time for which a damaged stream is not read.
const BROKEN_STREAM_PAUSE: Duration = Duration::from_secs(30);
/// Bounds of the pause after a failed read.
const FAILURE_PAUSE_MIN: Duration = Duration::from_millis(50);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Reads until the worker is stopped.
pub async fn run(
    worker: Arc<WorkerContext>,
    mut reader: StreamReader,
    batches: mpsc::Sender<EntryBatch>,
) {
    let backoff = Backoff::new(FAILURE_PAUSE_MIN, FAILURE_PAUSE_MAX);
    let mut blocked: HashMap<PlatformName, Instant> = HashMap::new();
    let mut drained: HashSet<PlatformName> = HashSet::new();
    let (mut rotation, mut failures) = (0_usize, 0_u32);
    // Set when a reply was lost, together with entries that Redis counts as delivered.
    let mut lost_delivery = false;
    while worker.wait_until_may_take().await {
        if lost_delivery {
            match claimer::recover_lost_deliveries(&worker, &batches).await {
                Ok(()) => lost_delivery = false,
                Err(fault) => {
                    failures = failures.saturating_add(1);
                    tracing::debug!(
                        error = error_chain(&fault),
                        "cannot recover entries of a lost reply yet; retrying"
                    );
                    let pause = backoff.delay(failures, &mut rand::rng());
                    let _ = worker.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    continue;
                }
            }
        }
        let all = worker.platforms.all();
        unblock_streams(&all, &mut blocked);
        let capacity = worker.inflight.capacity_left();
        let max_busy = if reader.supports_stream_selection() {
            (capacity.0 / MIN_ENTRIES_PER_STREAM).max(1)
        } else {
            usize::MAX
        };
        let ReadSelection { platforms, passed_over } =
            choose_platforms(read_order(&all, &blocked, rotation), max_busy, &drained);
        if platforms.is_empty() {
            let _ = worker.stop.run_until_cancelled(tokio::time::sleep(READ_TIMEOUT)).await;
            continue;
        }
        let keys: Vec<_> = platforms.iter().map(|platform_queue| &platform_queue.keys).collect();
        let count = entries_per_stream(capacity, &platforms, &drained);
        // The streams that were left out may have entries while these have none.
        let block = if passed_over.is_some() { Duration::ZERO } else { READ_TIMEOUT };
        match worker.queue.read_new(&mut reader, &keys, &worker.consumer, count, block).await {
            Ok(pages) => {
                failures = 0;
                rotation = rotation.wrapping_add(passed_over.unwrap_or(1));
                note_drained(&platforms, &pages, count, &mut drained);
                // All entries are held before the first batch may have to wait, so that their
                // claims are extended.
                let pages: Vec<_> = pages
                    .into_iter()
                    .map(|(position, entries)| {
                        (&platforms[position], hold_entries(&worker, &platforms[position], entries))
                    })
                    .collect();
                for (platform_queue, entries) in pages {
                    if dispatch_batch(platform_queue, entries, &batches).await.is_err() {
                        return;
                    }
                }
            }
            Err(fault) => {
                failures = failures.saturating_add(1);
                lost_delivery |= !fault.certainly_not_run();
                worker.queue.outage_log().failed("read events", &fault);
                if fault.is_no_group() || fault.is_wrong_type() {
                    repair_streams(&worker, &platforms, &mut blocked).await;
                }
                let pause = backoff.delay(failures, &mut rand::rng());
                let _ = worker.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            }
        }
    }
}

/// Returns the platforms to read: announcements first, then the others, rotated by `rotation`.
fn read_order(
    platforms: &[Arc<PlatformQueue>],
    blocked: &HashMap<PlatformName, Instant>,
    rotation: usize,
) -> Vec<Arc<PlatformQueue>> {
    let readable = |platform_queue: &&Arc<PlatformQueue>| {
        !platform_queue.is_paused() && !blocked.contains_key(platform_queue.name())
    };
    let (first, others): (Vec<_>, Vec<_>) = platforms
        .iter()
        .filter(readable)
        .cloned()
        .partition(|platform_queue| is_announcements(platform_queue));
    let begin = rotation % others.len().max(1);
    first
        .into_iter()
        .chain(others[begin..].iter().cloned())
        .chain(others[..begin].iter().cloned())
        .collect()
}

/// Platforms of one read.
struct ReadSelection {
    platforms: Vec<Arc<PlatformQueue>>,
    /// Number of rotating platforms before the first one that is left out, if any is.
    passed_over: Option<usize>,
}

/// Selects the announcements, the idle platforms, and the first `max_busy` of the others.
fn choose_platforms(
    ordered: Vec<Arc<PlatformQueue>>,
    max_busy: usize,
    drained: &HashSet<PlatformName>,
) -> ReadSelection {
    let (mut left, mut place, mut passed_over) = (max_busy, 0, None);
    let mut platforms = ordered;
    platforms.retain(|platform_queue| {
        if is_announcements(platform_queue) {
            return true;
        }
        place += 1;
        if drained.contains(platform_queue.name()) {
            return true;
        }
        if left == 0 {
            passed_over.get_or_insert(place - 1);
            return false;
        }
        left -= 1;
        true
    });
    ReadSelection { platforms, passed_over }
}

fn is_announcements(platform_queue: &PlatformQueue) -> bool {
    platform_queue.name().as_str() == PlatformName::SESSIONS
}

/// Returns the entries to request of each stream, so that the largest expected reply fits what may
/// still be held. One busy stream among many idle ones gets large reads.
fn entries_per_stream(
    (entries, bytes): (usize, usize),
    platforms: &[Arc<PlatformQueue>],
    drained: &HashSet<PlatformName>,
) -> usize {
    let (quiet, busy): (Vec<_>, Vec<_>) =
        platforms.iter().partition(|platform_queue| drained.contains(platform_queue.name()));
    let weight = |platforms: &[&Arc<PlatformQueue>]| {
        platforms.iter().map(|platform_queue| platform_queue.entry_size.estimate()).sum::<usize>()
    };
    let streams = busy.len() + quiet.len().div_ceil(IDLE_DISCOUNT);
    let heaviest = weight(&busy) + weight(&quiet).div_ceil(IDLE_DISCOUNT);
    (entries / streams.max(1))
        .min(bytes.min(MAX_READ_BYTES) / heaviest.max(1))
        .clamp(1, MAX_ENTRIES_PER_STREAM)
}

/// Records which of `platforms` returned fewer than the `count` entries requested of each.
fn note_drained(
    platforms: &[Arc<PlatformQueue>],
    pages: &[(usize, Vec<StreamEntry>)],
    count: usize,
    drained: &mut HashSet<PlatformName>,
) {
    let full =
        |position| pages.iter().any(|(at, entries)| *at == position && entries.len() >= count);
    for (position, platform_queue) in platforms.iter().enumerate() {
        if full(position) {
            drained.remove(platform_queue.name());
        } else if !drained.contains(platform_queue.name()) {
            drained.insert(platform_queue.name().clone());
        }
    }
}

/// Unblocks streams whose pause is over, and forgets those of removed platforms.
fn unblock_streams(platforms: &[Arc<PlatformQueue>], blocked: &mut HashMap<PlatformName, Instant>) {
    let now = Instant::now();
    blocked.retain(|name, until| {
        match platforms.iter().find(|platform_queue| platform_queue.name() == name) {
            Some(platform_queue) if *until <= now => {
                platform_queue.depth.stream_broken(false);
                false
            }
            Some(_) => true,
            None => false,
        }
    });
}

/// Holds entries, and drops those that this worker holds already.
pub(super) fn hold_entries(
    worker: &WorkerContext,
    platform_queue: &PlatformQueue,
    mut entries: Vec<StreamEntry>,
) -> Vec<StreamEntry> {
    worker.inflight.hold_all(platform_queue.name(), &mut entries, |entry| {
        let bytes = entry.weight();
        platform_queue.entry_size.note(bytes);
        (entry.id, bytes)
    });
    entries
}

/// Sends held entries to the consume loop.
async fn dispatch_batch(
    platform_queue: &Arc<PlatformQueue>,
    entries: Vec<StreamEntry>,
    batches: &mpsc::Sender<EntryBatch>,
) -> Result<(), mpsc::error::SendError<EntryBatch>> {
    if entries.is_empty() {
        return Ok(());
    }
    batches
        .send(EntryBatch {
            platform_queue: Arc::clone(platform_queue),
            entries,
            suspect: false,
            taken_at: Instant::now(),
        })
        .await
}

/// Creates missing groups again, and blocks keys that are not streams.
async fn repair_streams(
    worker: &WorkerContext,
    platforms: &[Arc<PlatformQueue>],
    blocked: &mut HashMap<PlatformName, Instant>,
) {
    for platform_queue in platforms {
        match ensure_group(worker, platform_queue).await {
            Ok(true) => platform_queue.depth.stream_broken(false),
            Ok(false) => {
                blocked.insert(platform_queue.name().clone(), Instant::now() + BROKEN_STREAM_PAUSE);
            }
            Err(fault) => worker.queue.outage_log().failed("repair a consumer group", &fault),
        }
    }
}

/// Creates a platform's consumer group if it is missing. Returns false if the key is not a stream.
///
/// # Errors
/// If Redis does not answer.
pub async fn ensure_group(
    worker: &WorkerContext,
    platform_queue: &PlatformQueue,
) -> Result<bool, CallError> {
    match worker.queue.create_group(&platform_queue.keys).await? {
        GroupState::Created => {
            tracing::info!(platform = %platform_queue.name(),
                "consumer group created; delivering all unfinished events again");
        }
        GroupState::Existed => {}
        GroupState::WrongType => {
            platform_queue.depth.stream_broken(true);
            tracing::error!(platform = %platform_queue.name(), key = platform_queue.keys.incoming,
                "key is not a stream; platform is not read until the key is removed");
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
    use shared::queue::{KeyLayout, Queue, connect};

    use super::*;

    fn platforms() -> Vec<Arc<PlatformQueue>> {
        let url = SecretString::from("redis://127.0.0.1:1".to_owned());
        let queue = Queue::new(KeyLayout::Single, connect(&url, false).unwrap());
        let registry = Registry::load(None).unwrap();
        registry
            .iter()
            .map(|platform| Arc::new(PlatformQueue::new(Arc::clone(platform), &queue)))
            .collect()
    }

    fn names(platforms: &[Arc<PlatformQueue>]) -> Vec<&str> {
        platforms.iter().map(|platform_queue| platform_queue.name().as_str()).collect()
    }

    #[tokio::test]
    async fn announcements_are_read_first_and_others_rotate() {
        let platforms = platforms();
        let mut others = names(&platforms);
        others.retain(|name| *name != PlatformName::SESSIONS);
        for rotation in 0..=others.len() {
            let read = read_order(&platforms, &HashMap::new(), rotation);
            assert_eq!(
                names(&read)[..2],
                [PlatformName::SESSIONS, others[rotation % others.len()]],
                "turn {rotation}"
            );
            assert_eq!(read.len(), platforms.len());
        }
        let blocked = HashMap::from([(platforms[2].name().clone(), Instant::now())]);
        assert!(
            !names(&read_order(&platforms, &blocked, 0)).contains(&platforms[2].name().as_str())
        );
    }

    #[tokio::test]
    async fn busy_streams_rotate_and_idle_streams_are_always_read() {
        let platforms = platforms();
        let others: Vec<&str> =
            names(&platforms).into_iter().filter(|name| *name != PlatformName::SESSIONS).collect();
        let quiet = HashSet::from([platforms[3].name().clone(), platforms[6].name().clone()]);
        let busy = others.len() - quiet.len();
        let all = choose_platforms(read_order(&platforms, &HashMap::new(), 0), busy, &quiet);
        assert_eq!(
            (all.platforms.len(), all.passed_over),
            (platforms.len(), None),
            "all platforms fit"
        );

        let (mut rotation, mut times) = (0, HashMap::<String, usize>::new());
        for _ in 0..busy {
            let read =
                choose_platforms(read_order(&platforms, &HashMap::new(), rotation), 2, &quiet);
            let read_names = names(&read.platforms);
            assert_eq!(read_names[0], PlatformName::SESSIONS);
            assert!(quiet.iter().all(|name| read_names.contains(&name.as_str())));
            assert_eq!(read.platforms.len(), 1 + quiet.len() + 2);
            for name in read_names {
                *times.entry(name.to_owned()).or_default() += 1;
            }
            rotation += read.passed_over.unwrap();
        }
        times.retain(|name, _| {
            *name != PlatformName::SESSIONS && quiet.iter().all(|one| one.as_str() != name)
        });
        assert_eq!(times.len(), busy);
        assert!(times.values().all(|times| *times == 2), "equally often: {times:?}");
    }

    #[tokio::test]
    async fn blocked_stream_is_read_again_after_its_pause() {
        let platforms = platforms();
        let (now, unknown) = (Instant::now(), PlatformName::new("stranger").unwrap());
        let mut blocked = HashMap::from([
            (platforms[1].name().clone(), now),
            (platforms[2].name().clone(), now + BROKEN_STREAM_PAUSE),
            (unknown, now + BROKEN_STREAM_PAUSE),
        ]);
        unblock_streams(&platforms, &mut blocked);
        assert_eq!(blocked.into_keys().collect::<Vec<_>>(), [platforms[2].name().clone()]);
    }

    #[tokio::test]
    async fn read_size_fits_the_capacity_left() {
        let platforms = platforms();
        let weight: usize =
            platforms.iter().map(|platform_queue| platform_queue.entry_size.estimate()).sum();
        let none = HashSet::new();
        assert_eq!(
            entries_per_stream((usize::MAX, usize::MAX), &platforms, &none),
            MAX_READ_BYTES / weight,
            "one reply is bounded"
        );
        assert_eq!(
            entries_per_stream((usize::MAX, usize::MAX), &platforms[..1], &none),
            MAX_READ_BYTES / platforms[0].entry_size.estimate()
        );
        assert_eq!(entries_per_stream((3 * platforms.len(), usize::MAX), &platforms, &none), 3);
        assert_eq!(entries_per_stream((usize::MAX, 2 * weight), &platforms, &none), 2);
        assert_eq!(entries_per_stream((0, 0), &platforms, &none), 1, "at least one entry is read");
    }

    #[tokio::test]
    async fn busy_stream_gets_large_reads_beside_idle_streams() {
        let platforms = platforms();
        let mut drained = HashSet::new();
        let page = |count: u64| {
            (0..count).map(|ms| StreamEntry { id: StreamId { ms, seq: 0 }, fields: None }).collect()
        };
        note_drained(&platforms, &[(1, page(3)), (2, page(2))], 3, &mut drained);
        assert_eq!(drained.len(), platforms.len() - 1);
        assert!(!drained.contains(platforms[1].name()), "the stream may have more entries");
        for _ in 0..1_000 {
            platforms[1].entry_size.note(500);
        }
        assert_eq!(
            entries_per_stream((1_024, usize::MAX), &platforms, &drained),
            MAX_ENTRIES_PER_STREAM
        );
        note_drained(&platforms, &[(2, page(3))], 3, &mut drained);
        assert!(drained.contains(platforms[1].name()) && !drained.contains(platforms[2].name()));
    }
}
