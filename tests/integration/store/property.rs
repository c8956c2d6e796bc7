//! Property test: events end in the same rows in any order, any split into batches and with any
//! redeliveries.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use worker::effects::{Applied, PlannedEvent};
use worker::store::Store;

use crate::fixture::{ACTIVE, DISCONNECTED, IDLE, StoreFixture, TestEvent, event, open, time};

const CASES: u32 = 32;

/// Generated event: its kind, its room, and a bit for each optional value it has.
#[derive(Clone, Debug)]
struct EventSeed {
    kind: usize,
    room: usize,
    values: u8,
}

#[derive(Clone, Debug)]
struct ReorderCase {
    seeds: Vec<EventSeed>,
    /// Sort key of each event.
    order: Vec<u32>,
    /// Batch sizes, repeated in a cycle.
    batches: Vec<usize>,
    /// Distance in events after which an event is redelivered, if it is.
    again: Vec<Option<usize>>,
}

fn cases() -> impl Strategy<Value = ReorderCase> {
    let seed = (0..17_usize, 0..2_usize, any::<u8>()).prop_map(|(kind, room, values)| EventSeed {
        kind,
        room,
        values,
    });
    prop::collection::vec(seed, 1..24).prop_flat_map(|seeds| {
        let order = prop::collection::vec(any::<u32>(), seeds.len());
        let batches = prop::collection::vec(1..6_usize, 1..4);
        let again = prop::collection::vec(prop::option::weighted(0.2, 1..12_usize), seeds.len());
        (Just(seeds), order, batches, again)
            .prop_map(|(seeds, order, batches, again)| ReorderCase { seeds, order, batches, again })
    })
}

/// Returns event `n` and its platform. `run` is part of every key, so that runs do not interfere.
fn generated_event(run: &str, n: usize, seed: &EventSeed) -> (&'static str, TestEvent) {
    let at = n as i64 * 1_000;
    let id = format!("{run}-{n}");
    let shared_room = format!("{run}-shared-{}", seed.room);
    let own_room = format!("{run}-own-{}", seed.room);
    let thing = format!("{run}-thing-{}", seed.room);
    let has = |bit: u8| seed.values & (1 << bit) != 0;
    let given = |bit: u8, value: Value| if has(bit) { value } else { Value::Null };
    let own = |kind, body| ("studio", event(&id, kind, at, body));
    let mux = |kind| {
        let stream = format!("{run}-s{}", seed.room);
        let body = json!({"data": {"id": stream, "passthrough": given(0, json!(shared_room))}});
        ("mux", event(&id, kind, at, body))
    };
    match seed.kind {
        0 | 1 => {
            let mut body =
                json!({"room_id": shared_room, "live_stream_id": format!("{run}-s{}", seed.room)});
            if has(0) {
                body["config"] = json!({"n": n});
            }
            if has(1) {
                body["status"] = json!(if has(2) { "ready" } else { "stopped" });
            }
            ("sessions", event(&id, "session.announced", at, body))
        }
        2 => mux(ACTIVE),
        3 => mux(IDLE),
        4 => mux(DISCONNECTED),
        5 | 6 => own(
            "live",
            json!({"room": own_room, "title": given(0, json!(n)), "streamer": given(1, json!(id)),
                   "at": given(2, json!(time(at))), "stream": given(3, json!(thing))}),
        ),
        7 => own(
            "offline",
            json!({"room": own_room, "title": given(0, json!(n)), "duration": given(1, json!(n)),
                   "peak": given(2, json!(n)), "at": given(3, json!(time(at)))}),
        ),
        8 => own(
            "broken",
            json!({"room": own_room, "code": given(0, json!(n)), "message": given(1, json!(id))}),
        ),
        9 => own(
            "taped",
            json!({"tape": thing, "room": given(0, json!(own_room)), "url": given(1, json!(id)),
                   "duration": given(2, json!(n)), "size": given(3, json!(n))}),
        ),
        10 => own("taping", json!({"tape": thing, "room": given(0, json!(own_room))})),
        11 | 12 => own(
            "watched",
            json!({"room": own_room, "n": n, "peak": given(0, json!(n)),
                   "viewer": given(1, json!(id)),
                   "change": given(2, json!(n as i64 - 5))}),
        ),
        13 => own(
            "said",
            json!({"message": thing, "room": own_room, "user": given(0, json!(id)),
                   "name": given(1, json!(id)),
                   "text": given(2, json!(id)), "at": given(3, json!(time(at)))}),
        ),
        // An explicit null clears a column, an absent value keeps it.
        14 => own(
            "worked",
            json!({"job": thing, "progress": given(0, json!(n)), "step": given(1, json!(id)),
                   "n": n, "url": given(2, json!(id)), "retries": given(3, json!(n)),
                   "error": given(4, json!({"n": n}))}),
        ),
        15 if has(0) => own("failed", json!({"job": thing, "error": given(1, json!(id))})),
        15 => own("failed", json!({"job": thing})),
        _ if has(7) => own("removed", json!({"item": thing})),
        _ => own(
            "added",
            json!({"item": thing, "title": given(0, json!(n)), "kind": given(1, json!(id)),
                   "more": given(2, json!([n]))}),
        ),
    }
}

/// Applies events in the given order and in batches. Events without a session are retried.
///
/// Returns the ids of events that took effect, and the ids that were recognized as redeliveries.
async fn play(
    fixture: &StoreFixture,
    store: &Store,
    events: Vec<(&'static str, PlannedEvent)>,
    batches: &[usize],
) -> (Vec<String>, Vec<String>) {
    let (mut done, mut known) = (Vec::new(), Vec::new());
    let mut waiting = events;
    let mut sizes = batches.iter().cycle();
    loop {
        let before = waiting.len();
        let mut missing = Vec::new();
        let mut rest = waiting.as_slice();
        while let Some((platform, _)) = rest.first() {
            let size = *sizes.next().unwrap();
            // The worker folds duplicates within a batch, so the second one goes into the next
            // batch.
            let mut ids = HashSet::new();
            let fits = |one: &&(&str, PlannedEvent)| {
                one.0 == *platform && ids.insert(one.1.event_id.clone())
            };
            let (batch, after) = rest.split_at(rest.iter().take(size).take_while(fits).count());
            rest = after;
            let planned: Vec<PlannedEvent> = batch.iter().map(|one| one.1.clone()).collect();
            let outcomes = store.apply(fixture.platform(platform), &planned).await.unwrap();
            for (one, outcome) in batch.iter().zip(outcomes) {
                match outcome {
                    Applied::Done(_) => done.push(one.1.event_id.clone()),
                    Applied::AlreadyApplied { same_origin: true, .. } => {
                        known.push(one.1.event_id.clone())
                    }
                    Applied::MissingSession => missing.push(one.clone()),
                    other => panic!("{other:?}"),
                }
            }
        }
        if missing.is_empty() || missing.len() == before {
            return (done, known);
        }
        waiting = missing;
    }
}

/// Returns all rows of a run without `updated_at`.
async fn rows(fixture: &StoreFixture, run: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let tables = [
        ("sessions", "room_id"),
        ("recordings", "recording_id"),
        ("contents", "content_id"),
        ("jobs", "job_id"),
        ("chat_messages", "message_id"),
    ];
    for (table, key) in tables {
        let sql = format!("SELECT * FROM {table} WHERE {key} LIKE '{run}-%' ORDER BY {key}");
        all.extend(fixture.database.rows(&sql, &[]).await);
    }
    let ledger = "SELECT platform, event_id, event_type, occurred_at FROM webhook_events";
    let sql = format!("{ledger} WHERE event_id LIKE '{run}-%' ORDER BY event_id");
    all.extend(fixture.database.rows(&sql, &[]).await);
    for row in &mut all {
        row.as_object_mut().unwrap().remove("updated_at");
    }
    all
}

async fn check(fixture: &StoreFixture, case: &ReorderCase, run: u32) -> Result<(), TestCaseError> {
    let (first, second) = (format!("a{run:06}"), format!("b{run:06}"));
    let plan = |run: &str| -> Vec<(&'static str, PlannedEvent)> {
        let events = case.seeds.iter().enumerate().map(|(n, seed)| generated_event(run, n, seed));
        let mut planned: Vec<_> =
            events.map(|(platform, event)| (platform, fixture.plan(platform, &event))).collect();
        // Event times are distinct. Equal origins give both runs the same order keys.
        for (n, (_, planned)) in planned.iter_mut().enumerate() {
            planned.order.origin.seq = n as u64;
        }
        planned
    };
    // A store of its own has no hint from other cases to look up the ledger first.
    let store = open(&fixture.database).await;
    let (once, none) = play(fixture, &store, plan(&first), &[100]).await;
    prop_assert_eq!(none.len(), 0);
    let mut order: Vec<_> = plan(&second).into_iter().zip(&case.order).collect();
    order.sort_by_key(|(_, place)| **place);
    let mut mixed: Vec<(usize, (&'static str, PlannedEvent))> = Vec::new();
    for (at, ((one, _), again)) in order.into_iter().zip(&case.again).enumerate() {
        // Events take even places, redeliveries odd ones.
        mixed.extend(again.map(|after| (2 * (at + after) - 1, one.clone())));
        mixed.push((2 * at, one));
    }
    mixed.sort_by_key(|(place, _)| *place);
    let (mut took, known) =
        play(fixture, &store, mixed.into_iter().map(|(_, one)| one).collect(), &case.batches).await;
    let effects = took.len();
    took.sort_unstable();
    took.dedup();
    prop_assert_eq!((took.len(), effects), (once.len(), once.len()), "each took effect once");
    prop_assert!(known.iter().all(|id| took.binary_search(id).is_ok()));
    let (straight, mixed) = (rows(fixture, &first).await, rows(fixture, &second).await);
    prop_assert_eq!(straight.len(), mixed.len());
    for (expected, row) in straight.iter().zip(&mixed) {
        prop_assert_eq!(row.to_string().replace(&second, &first), expected.to_string());
    }
    Ok(())
}

fn check_cases(fixture: impl Future<Output = StoreFixture>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let fixture = runtime.block_on(fixture);
    let runs = AtomicU32::new(0);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&cases(), |case| {
        runtime.block_on(check(&fixture, &case, runs.fetch_add(1, Ordering::Relaxed)))
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn events_in_any_order_end_in_the_same_rows_on_sqlite() {
    check_cases(StoreFixture::sqlite());
}

#[test]
fn events_in_any_order_end_in_the_same_rows_on_postgres() {
    check_cases(StoreFixture::postgres());
}
