//! Tests of transactions with parts of several platforms: they commit together, and each part has
//! the result that it would have alone.

use serde_json::json;
use shared::platform::Platform;
use worker::effects::{Applied, EventAction, PlannedEvent};
use worker::store::{PlatformEvents, Store, StoreError, TransactionScope};

use crate::fixture::{ACTIVE, StoreFixture, TestEvent, done, event, mux, open};

on_both!(
    parts_of_two_platforms_share_a_transaction,
    part_sees_rows_written_by_an_earlier_part,
    part_sees_rows_created_by_an_earlier_part,
    rejected_event_rolls_back_all_parts,
    parts_without_events_have_no_outcome,
    parts_applied_by_two_workers_take_effect_once,
);

/// Platform and events of each part.
type PartInputs = Vec<(&'static str, Vec<TestEvent>)>;

fn planned(fixture: &StoreFixture, inputs: &PartInputs) -> Vec<(&'static str, Vec<PlannedEvent>)> {
    let plan = |(platform, events): &(&'static str, Vec<TestEvent>)| {
        (*platform, events.iter().map(|event| fixture.plan(platform, event)).collect())
    };
    inputs.iter().map(plan).collect()
}

async fn try_together(
    store: &Store,
    fixture: &StoreFixture,
    planned: &[(&'static str, Vec<PlannedEvent>)],
) -> Result<Vec<Vec<Applied>>, StoreError> {
    let platforms: Vec<&Platform> =
        planned.iter().map(|(name, _)| fixture.platform(name)).collect();
    let parts: Vec<PlatformEvents<'_>> = platforms
        .into_iter()
        .zip(planned)
        .map(|(platform, (_, events))| PlatformEvents { platform, events })
        .collect();
    let applied = store.apply_together(&parts).await?;
    let lengths = |all: &[Vec<Applied>]| all.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(
        lengths(&applied),
        planned.iter().map(|(_, events)| events.len()).collect::<Vec<_>>()
    );
    Ok(applied)
}

async fn together(fixture: &StoreFixture, inputs: PartInputs) -> Vec<Vec<Applied>> {
    try_together(&fixture.store, fixture, &planned(fixture, &inputs)).await.unwrap()
}

fn live(id: &str, at: i64, room: &str) -> TestEvent {
    event(id, "live", at, json!({"room": room}))
}

async fn parts_of_two_platforms_share_a_transaction(fixture: StoreFixture) {
    let parts = vec![
        ("rival", vec![live("e", 1, "rivals"), live("f", 2, "rivals")]),
        (
            "studio",
            vec![
                live("e", 1, "studios"),
                event("tape", "taped", 2, json!({"tape": "t", "url": "u"})),
            ],
        ),
    ];
    let applied = together(&fixture, parts).await;
    let actions: Vec<Vec<EventAction>> = applied
        .into_iter()
        .map(|part| part.into_iter().map(|one| done(one).action).collect())
        .collect();
    let changed = EventAction::StatusUpdated;
    assert_eq!(
        actions,
        [[changed, EventAction::StatusUnchanged], [changed, EventAction::Recorded]],
        "event ids are scoped to their platform"
    );
    for (room, platform) in [("rivals", "rival"), ("studios", "studio")] {
        let row = fixture.session(room).await;
        assert_eq!((&row["platform"], &row["status"]), (&json!(platform), &json!("live")));
    }
    let times = fixture
        .database
        .rows("SELECT count(DISTINCT processed_at) AS n FROM webhook_events", &[])
        .await;
    assert_eq!((fixture.database.count("webhook_events").await, &times[0]["n"]), (4, &json!(1)));
}

/// Both parts touch the room. The second must not overwrite the newer values of the first.
async fn part_sees_rows_written_by_an_earlier_part(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r", "live_stream_id": "s"})).await;
    let parts = vec![
        ("mux", vec![mux("e1", ACTIVE, 1_000, Some("r"), "s")]),
        (
            "partner",
            vec![
                event("e2", "offline", 500, json!({"room": "r"})),
                event("e3", "offline", 2_000, json!({"stream": "s"})),
            ],
        ),
    ];
    let applied = together(&fixture, parts).await;
    let old = &applied[1][0];
    assert_eq!(
        done(old.clone()).action,
        EventAction::StaleIgnored,
        "the first part's event is newer"
    );
    let ended = done(applied[1][1].clone());
    assert_eq!(
        (ended.room_id.as_deref(), ended.old_status.map(|s| s.as_str())),
        (Some("r"), Some("live"))
    );
    assert_eq!(fixture.session("r").await["status"], "ended");
}

/// A changed definition gives a platform two parts. The later one finds rows of the earlier one by
/// room, by live stream and in the ledger.
async fn part_sees_rows_created_by_an_earlier_part(fixture: StoreFixture) {
    let first = event("e1", "live", 1_000, json!({"room": "r", "stream": "s"}));
    let twice = fixture.plan("studio", &first);
    let ended = fixture
        .plan("studio", &event("e2", "offline", 2_000, json!({"stream": "s", "title": "Show"})));
    let titled =
        fixture.plan("studio", &event("e3", "live", 3_000, json!({"room": "r", "title": "Show"})));
    let parts =
        [("studio", vec![twice.clone()]), ("studio", vec![twice, ended]), ("studio", vec![titled])];
    let applied = try_together(&fixture.store, &fixture, &parts).await.unwrap();
    assert!(
        matches!(applied[1][0], Applied::AlreadyApplied { same_origin: true, .. }),
        "{applied:?}"
    );
    assert_eq!(done(applied[1][1].clone()).room_id.as_deref(), Some("r"));
    assert_eq!(done(applied[2][0].clone()).old_status.map(|status| status.as_str()), Some("ended"));
    assert_eq!(fixture.database.count("sessions").await, 1);
    assert_eq!(fixture.session("r").await["status"], "live");
}

async fn rejected_event_rolls_back_all_parts(fixture: StoreFixture) {
    fixture.refuse_title("poison").await;
    let poison = event("poison", "live", 9, json!({"room": "p", "title": "poison"}));
    let inputs = vec![
        ("netflix", vec![event("n", "unheard-of", 1, json!({}))]),
        ("rival", vec![live("good", 1, "rivals")]),
        ("studio", vec![live("good", 1, "studios"), poison]),
        ("studio", vec![live("later", 2, "studios")]),
    ];
    let parts = planned(&fixture, &inputs);
    match try_together(&fixture.store, &fixture, &parts).await {
        Err(StoreError::Rejected(_)) => {}
        other => panic!("{other:?}"),
    }
    for table in ["sessions", "webhook_events"] {
        assert_eq!(fixture.database.count(table).await, 0, "{table}");
    }
    fixture.store.probe().await.unwrap();
    for (at, (platform, events)) in parts.iter().enumerate() {
        let alone = fixture.try_apply(platform, events).await;
        assert_eq!(alone.is_ok(), at != 2, "{platform}: {alone:?}");
    }
    assert_eq!(fixture.database.count("webhook_events").await, 3);
}

async fn parts_without_events_have_no_outcome(fixture: StoreFixture) {
    let none = vec![("rival", vec![]), ("studio", vec![])];
    assert_eq!(together(&fixture, none).await, vec![vec![], vec![]]);
    let one = together(
        &fixture,
        vec![("rival", vec![]), ("studio", vec![live("e", 1, "r")]), ("studio", vec![])],
    )
    .await;
    assert_eq!(one.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 0]);
    assert_eq!(fixture.session("r").await["status"], "live");
}

/// Parts are ordered by platform name, as in workers. Rows have another order in every worker.
async fn parts_applied_by_two_workers_take_effect_once(fixture: StoreFixture) {
    const ROUNDS: i64 = 10;
    let (one, two) = (open(&fixture.database).await, open(&fixture.database).await);
    for round in 0..ROUNDS {
        let rooms = [round % 3, (round + 1) % 3, 10 + round];
        let events = |platform: &str, rooms: &[i64]| -> Vec<TestEvent> {
            let one = |room: &i64| {
                live(&format!("{round}-{room}"), round * 1_000, &format!("{platform}-{room}"))
            };
            rooms.iter().map(one).collect()
        };
        let inputs = |rooms: &[i64]| {
            vec![("rival", events("rival", rooms)), ("studio", events("studio", rooms))]
        };
        let mut first = planned(&fixture, &inputs(&rooms));
        let mut second = first.clone();
        first.iter_mut().for_each(|(_, events)| events.rotate_left(1));
        second.iter_mut().for_each(|(_, events)| events.reverse());
        let (first, second) = tokio::join!(
            try_together(&one, &fixture, &first),
            try_together(&two, &fixture, &second)
        );
        let all: Vec<Applied> =
            [first.unwrap(), second.unwrap()].into_iter().flatten().flatten().collect();
        let took = all.iter().filter(|one| matches!(one, Applied::Done(_))).count();
        let known = all
            .iter()
            .filter(|one| matches!(one, Applied::AlreadyApplied { same_origin: true, .. }))
            .count();
        assert_eq!((took, known), (6, 6), "{all:?}");
    }
    assert_eq!(fixture.database.count("webhook_events").await, 6 * ROUNDS);
    assert_eq!(fixture.database.count("sessions").await, 2 * (3 + ROUNDS));
}

/// Parts in opposite order make two workers deadlock. The database aborts one, which runs again.
#[tokio::test]
async fn deadlock_is_retried_as_a_lost_race() {
    let fixture = StoreFixture::postgres().await;
    let (one, two) = (open(&fixture.database).await, open(&fixture.database).await);
    let inputs = |round: i64, worker: usize| {
        let one = |platform: &'static str| {
            let rooms = (0..20)
                .map(|n| live(&format!("{round}-{worker}-{n}"), round, &format!("{platform}-{n}")));
            (platform, rooms.collect::<Vec<_>>())
        };
        vec![one("rival"), one("studio")]
    };
    together(&fixture, inputs(0, 9)).await;
    for round in 1..=5 {
        let (first, mut second) =
            (planned(&fixture, &inputs(round, 1)), planned(&fixture, &inputs(round, 2)));
        second.reverse();
        let (first, second) = tokio::join!(
            try_together(&one, &fixture, &first),
            try_together(&two, &fixture, &second)
        );
        let all: Vec<Applied> =
            [first.unwrap(), second.unwrap()].into_iter().flatten().flatten().collect();
        assert!(all.iter().all(|one| matches!(one, Applied::Done(_))), "{all:?}");
    }
    assert_eq!(fixture.database.count("webhook_events").await, 40 + 5 * 80);
}

#[tokio::test]
async fn transaction_scope_depends_on_the_database() {
    assert_eq!(StoreFixture::sqlite().await.store.transaction_scope(), TransactionScope::Any);
    assert_eq!(
        StoreFixture::postgres().await.store.transaction_scope(),
        TransactionScope::OwnSessions
    );
}
