//! Tests of redeliveries in a store that assumes new events and skips the ledger lookup.
//!
//! A redelivery is answered from the ledger, and other events of its batch take effect once. Each
//! redelivery uses a newly opened store, which has no hint to look up the ledger first.

use serde_json::json;
use shared::platform::Platform;
use worker::effects::{Applied, EventAction, PlannedEvent};
use worker::store::{PlatformEvents, StoreError};

use crate::fixture::{ACTIVE, DISCONNECTED, IDLE, StoreFixture, TestEvent, done, event, mux, open};

on_both!(
    redelivery_is_known_among_new_events,
    redelivery_is_known_after_its_session_was_deleted,
    redelivery_is_known_after_its_room_changed_owner,
    redelivery_is_known_even_if_the_database_would_refuse_it,
    redelivery_in_a_later_part_reruns_all_parts,
    missing_session_beside_a_redelivery_stays_missing,
    duplicate_entry_is_known_without_a_ledger_lookup,
    rejected_event_is_rejected_with_and_without_ledger_lookup,
    redeliveries_are_known_batch_after_batch,
);

async fn apply_in_fresh_store(
    fixture: &StoreFixture,
    platform: &str,
    events: &[PlannedEvent],
) -> Result<Vec<Applied>, StoreError> {
    open(&fixture.database).await.apply(fixture.platform(platform), events).await
}

fn live(id: &str, at: i64, room: &str) -> TestEvent {
    event(id, "live", at, json!({"room": room, "title": id}))
}

/// Applies `event` and returns the plan for a redelivery, with the outcome to expect from it.
async fn apply_first_delivery(
    fixture: &StoreFixture,
    platform: &str,
    event: TestEvent,
) -> (PlannedEvent, Applied) {
    let planned = fixture.plan(platform, &event);
    let result =
        done(fixture.try_apply(platform, std::slice::from_ref(&planned)).await.unwrap().remove(0));
    (planned, Applied::AlreadyApplied { same_origin: true, result })
}

async fn redelivery_is_known_among_new_events(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    // A logged event changes no row, so only the ledger knows it.
    let (logged, known) = apply_first_delivery(
        &fixture,
        "mux",
        mux("b", "video.live_stream.created", 1_000, Some("r"), "s"),
    )
    .await;
    let batch = [
        fixture.plan("mux", &mux("c", ACTIVE, 2_000, Some("r"), "s")),
        logged,
        fixture.plan("mux", &mux("a", IDLE, 3_000, Some("r"), "s")),
    ];
    let outcomes = apply_in_fresh_store(&fixture, "mux", &batch).await.unwrap();
    assert_eq!(outcomes[1], known);
    let actions = [done(outcomes[0].clone()), done(outcomes[2].clone())]
        .map(|result| (result.action, result.old_status));
    let old = |text: &str| text.parse().ok();
    assert_eq!(
        actions,
        [(EventAction::StatusUpdated, old("ready")), (EventAction::StatusUpdated, old("live"))]
    );
    assert_eq!(fixture.database.count("webhook_events").await, 4);
    assert_eq!(fixture.session("r").await["status"], "idle");
}

async fn redelivery_is_known_after_its_session_was_deleted(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let (event, known) =
        apply_first_delivery(&fixture, "mux", mux("e", ACTIVE, 1_000, Some("r"), "s")).await;
    fixture.database.execute("DELETE FROM sessions").await;
    assert_eq!(
        apply_in_fresh_store(&fixture, "mux", &[event]).await.unwrap(),
        [known],
        "a redelivery does not wait for its session"
    );
}

async fn redelivery_is_known_after_its_room_changed_owner(fixture: StoreFixture) {
    let (event, known) = apply_first_delivery(&fixture, "studio", live("e", 1_000, "r")).await;
    fixture.database.execute("UPDATE sessions SET platform = 'rival' WHERE room_id = 'r'").await;
    assert_eq!(
        apply_in_fresh_store(&fixture, "studio", &[event]).await.unwrap(),
        [known],
        "not a conflict"
    );
    let new = fixture.plan("studio", &live("f", 1_000, "r"));
    assert_eq!(
        apply_in_fresh_store(&fixture, "studio", &[new]).await.unwrap(),
        [Applied::Conflict]
    );
}

async fn redelivery_is_known_even_if_the_database_would_refuse_it(fixture: StoreFixture) {
    let (event, known) = apply_first_delivery(&fixture, "studio", live("poison", 1_000, "r")).await;
    fixture.database.execute("DELETE FROM sessions").await;
    fixture.refuse_title("poison").await;
    let new = fixture.plan("studio", &live("good", 1_000, "other"));
    let outcomes = apply_in_fresh_store(&fixture, "studio", &[event, new]).await.unwrap();
    assert_eq!(outcomes[0], known);
    assert_eq!(done(outcomes[1].clone()).action, EventAction::StatusUpdated);
}

async fn redelivery_in_a_later_part_reruns_all_parts(fixture: StoreFixture) {
    let (event, known) =
        apply_first_delivery(&fixture, "studio", live("e", 1_000, "studios")).await;
    let firsts = [fixture.plan("rival", &live("e", 1_000, "rivals"))];
    let seconds = [fixture.plan("studio", &live("f", 2_000, "studios")), event];
    let part = |name: &str, events| PlatformEvents { platform: fixture.platform(name), events };
    let parts =
        [part("rival", &firsts[..]), part("studio", &seconds[..]), part("rival", &firsts[..])];
    let outcomes = open(&fixture.database).await.apply_together(&parts).await.unwrap();
    assert_eq!(done(outcomes[0][0].clone()).old_status, None, "the first run was rolled back");
    assert_eq!(
        (done(outcomes[1][0].clone()).action, &outcomes[1][1]),
        (EventAction::StatusUnchanged, &known)
    );
    assert!(
        matches!(outcomes[2][0], Applied::AlreadyApplied { same_origin: true, .. }),
        "{outcomes:?}"
    );
    assert_eq!(fixture.database.count("webhook_events").await, 3);
    assert_eq!(fixture.database.count("sessions").await, 2);
}

async fn missing_session_beside_a_redelivery_stays_missing(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let (event, known) =
        apply_first_delivery(&fixture, "mux", mux("e", ACTIVE, 1_000, Some("r"), "s")).await;
    let missing = fixture.plan("mux", &mux("m", ACTIVE, 1_000, Some("nowhere"), "x"));
    let new = fixture.plan("mux", &mux("n", IDLE, 2_000, Some("r"), "s"));
    let outcomes = apply_in_fresh_store(&fixture, "mux", &[missing, event, new]).await.unwrap();
    assert_eq!((&outcomes[0], &outcomes[1]), (&Applied::MissingSession, &known));
    assert_eq!(done(outcomes[2].clone()).action, EventAction::StatusUpdated);
    assert_eq!(fixture.database.event("mux", "m").await, None);
}

async fn duplicate_entry_is_known_without_a_ledger_lookup(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let result = done(fixture.one("mux", mux("e", ACTIVE, 1_000, Some("r"), "s")).await);
    let copy = fixture.plan("mux", &mux("e", ACTIVE, 1_000, Some("r"), "s"));
    let outcomes = apply_in_fresh_store(&fixture, "mux", &[copy]).await.unwrap();
    assert_eq!(outcomes, [Applied::AlreadyApplied { same_origin: false, result }]);
}

async fn rejected_event_is_rejected_with_and_without_ledger_lookup(fixture: StoreFixture) {
    fixture.refuse_title("poison").await;
    let store = open(&fixture.database).await;
    let studio: &Platform = fixture.platform("studio");
    let poison = [fixture.plan("studio", &live("poison", 1_000, "r"))];
    for _ in 0..2 {
        let outcome = store.apply(studio, &poison).await;
        assert!(matches!(outcome, Err(StoreError::Rejected(_))), "{outcome:?}");
    }
    assert_eq!(fixture.database.count("webhook_events").await, 0);
}

async fn redeliveries_are_known_batch_after_batch(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let kinds = [ACTIVE, IDLE, DISCONNECTED];
    let delivery = |n: usize| mux(&format!("e{n:02}"), kinds[n % 3], n as i64, Some("r"), "s");
    let events: Vec<PlannedEvent> = (0..40).map(|n| fixture.plan("mux", &delivery(n))).collect();
    for batch in events.chunks(10) {
        fixture.try_apply("mux", batch).await.unwrap().into_iter().for_each(|one| drop(done(one)));
    }
    let before = fixture.session("r").await;
    let store = open(&fixture.database).await;
    // Enough rounds that the store drops its hint to look up the ledger.
    for round in 0..40_usize {
        let new = fixture.plan(
            "sessions",
            &event(&format!("other{round}"), "session.announced", 1, json!({"room_id": "o"})),
        );
        done(store.apply(fixture.platform("sessions"), &[new]).await.unwrap().remove(0));
        let batch = &events[round % 31..round % 31 + 10];
        let outcomes = store.apply(fixture.platform("mux"), batch).await.unwrap();
        let known =
            |one: &Applied| matches!(one, Applied::AlreadyApplied { same_origin: true, .. });
        assert!(outcomes.iter().all(known), "{round}: {outcomes:?}");
    }
    assert_eq!(fixture.session("r").await, before);
}
