//! Tests of the ledger: an event takes effect exactly once, and every ledger row stands for an
//! effect.

use std::sync::Arc;

use serde_json::json;
use worker::effects::{Applied, EventAction, MAX_KEY_BYTES};

use crate::fixture::{ACTIVE, IDLE, StoreFixture, done, event, mux, open, time};

on_both!(
    second_delivery_is_known_and_changes_nothing,
    duplicate_entry_is_recognized_by_its_origin,
    event_in_two_workers_at_once_takes_effect_once,
    workers_sharing_a_session_apply_each_event_once,
    missing_session_leaves_no_row,
    batch_outcomes_keep_the_order,
    ledger_row_holds_every_column,
    keys_of_maximum_length_fit,
    empty_batch_has_no_outcome,
);

async fn second_delivery_is_known_and_changes_nothing(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let first = fixture.plan("mux", &mux("e1", ACTIVE, 1_000, Some("r"), "s"));
    let result =
        done(fixture.try_apply("mux", std::slice::from_ref(&first)).await.unwrap().remove(0));
    fixture.one("mux", mux("e2", IDLE, 2_000, Some("r"), "s")).await;
    let before = fixture.session("r").await;
    let again = fixture.try_apply("mux", std::slice::from_ref(&first)).await.unwrap().remove(0);
    assert_eq!(again, Applied::AlreadyApplied { same_origin: true, result });
    assert_eq!(fixture.session("r").await, before, "updated_at is unchanged too");
}

async fn duplicate_entry_is_recognized_by_its_origin(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let result = done(fixture.one("mux", mux("e1", ACTIVE, 1_000, Some("r"), "s")).await);
    let copy = fixture.one("mux", mux("e1", ACTIVE, 1_000, Some("r"), "s")).await;
    assert_eq!(copy, Applied::AlreadyApplied { same_origin: false, result });
    let elsewhere =
        fixture.one("partner", event("e1", "offline", 2_000, json!({"room": "r"}))).await;
    assert_eq!(
        done(elsewhere).action,
        EventAction::StatusUpdated,
        "event ids are scoped to their platform"
    );
}

async fn event_in_two_workers_at_once_takes_effect_once(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let (one, two) = (open(&fixture.database).await, open(&fixture.database).await);
    for round in 0..20 {
        let kind = if round % 2 == 0 { ACTIVE } else { IDLE };
        let event =
            [fixture.plan("mux", &mux(&format!("e{round}"), kind, 1_000 + round, Some("r"), "s"))];
        let mux = fixture.platform("mux");
        let (first, second) = tokio::join!(one.apply(mux, &event), two.apply(mux, &event));
        let outcomes = [first.unwrap().remove(0), second.unwrap().remove(0)];
        let took = outcomes.iter().filter(|one| matches!(one, Applied::Done(_))).count();
        let known = outcomes
            .iter()
            .filter(|one| matches!(one, Applied::AlreadyApplied { same_origin: true, .. }))
            .count();
        assert_eq!((took, known), (1, 1), "{outcomes:?}");
    }
    assert_eq!(fixture.database.count("webhook_events").await, 21);
}

async fn workers_sharing_a_session_apply_each_event_once(fixture: StoreFixture) {
    let fixture = Arc::new(fixture);
    let tasks = (0..4).map(|worker| {
        let fixture = Arc::clone(&fixture);
        tokio::spawn(async move {
            let store = open(&fixture.database).await;
            for round in 0..10 {
                // New rooms in a different order for every worker, and one event that all share.
                let rooms = [(round + worker) % 10, round];
                let mut batch: Vec<_> = rooms
                    .iter()
                    .enumerate()
                    .map(|(n, room)| {
                        let id = format!("{worker}-{round}-{n}");
                        let at = i64::from(worker * 1_000 + round * 10) + n as i64;
                        let body = json!({"room": format!("room-{room}"), "title": id});
                        fixture.plan("studio", &event(&id, "live", at, body))
                    })
                    .collect();
                let all = json!({"room": "all", "title": format!("round {round}")});
                batch.push(fixture.plan(
                    "studio",
                    &event(&format!("all-{round}"), "live", i64::from(round), all),
                ));
                loop {
                    match store.apply(fixture.platform("studio"), &batch).await {
                        Ok(applied) => {
                            assert!(applied.iter().all(|one| {
                                matches!(one, Applied::Done(_) | Applied::AlreadyApplied { .. })
                            }));
                            break;
                        }
                        Err(worker::store::StoreError::Outage(_)) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(fixture.database.count("sessions").await, 11);
    assert_eq!(fixture.database.count("webhook_events").await, 4 * 10 * 2 + 10);
    assert_eq!(fixture.session("all").await["title"], "round 9");
    assert_eq!(fixture.session("room-0").await["title"], "3-7-0", "the newest of all workers");
}

async fn missing_session_leaves_no_row(fixture: StoreFixture) {
    let outcomes = fixture
        .apply(
            "mux",
            &[
                mux("e1", ACTIVE, 1_000, Some("nowhere"), "s"),
                mux("e2", "video.live_stream.created", 1_000, Some("nowhere"), "s"),
            ],
        )
        .await;
    assert_eq!(outcomes[0], Applied::MissingSession);
    assert_eq!(
        done(outcomes[1].clone()).action,
        EventAction::Logged,
        "other events of the batch take effect"
    );
    assert_eq!(fixture.database.count("sessions").await, 0);
    assert_eq!(fixture.database.event("mux", "e1").await, None);
    fixture.announce("a", 0, json!({"room_id": "nowhere"})).await;
    let result = done(fixture.one("mux", mux("e1", ACTIVE, 1_000, Some("nowhere"), "s")).await);
    assert_eq!(
        result.action,
        EventAction::StatusUpdated,
        "the retry succeeds once the session exists"
    );
}

async fn batch_outcomes_keep_the_order(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    fixture.one("mux", mux("known", ACTIVE, 1_000, Some("r"), "s")).await;
    let outcomes = fixture
        .apply(
            "mux",
            &[
                mux("z", IDLE, 2_000, Some("r"), "s"),
                mux("gone", IDLE, 2_000, Some("no"), "x"),
                mux("known", ACTIVE, 1_000, Some("r"), "s"),
                mux("b", ACTIVE, 3_000, Some("r"), "s"),
            ],
        )
        .await;
    let ids: Vec<_> = outcomes
        .iter()
        .map(|one| match one {
            Applied::Done(result) => format!("done {}", result.event_id),
            Applied::AlreadyApplied { result, .. } => format!("known {}", result.event_id),
            Applied::MissingSession => "missing".to_owned(),
            Applied::Conflict => "conflict".to_owned(),
            Applied::RowLocked => "locked".to_owned(),
        })
        .collect();
    assert_eq!(ids, ["done z", "missing", "known known", "done b"]);
}

async fn ledger_row_holds_every_column(fixture: StoreFixture) {
    let mut planned = fixture
        .plan("studio", &event("e\"1", "live", 1_234, json!({"room": "räum 'x'", "title": "🎬"})));
    planned.attempt = 3;
    fixture.try_apply("studio", std::slice::from_ref(&planned)).await.unwrap();
    let row = fixture.database.event("studio", "e\"1").await.unwrap();
    for (column, value) in [
        ("event_type", json!("live")),
        ("room_id", json!("räum 'x'")),
        ("occurred_at", json!(time(1_234))),
        ("received_at", json!(time(1_239))),
        ("attempts", json!(3)),
        ("action", json!("status_updated")),
        ("origin", json!(planned.order.origin.to_string())),
    ] {
        assert_eq!(row[column], value, "{column}");
    }
    assert_eq!(row["processed_at"].as_str().unwrap().len(), 24);
    let session = fixture.store.session("räum 'x'").await.unwrap().unwrap();
    let session: serde_json::Value = serde_json::from_str(session.get()).unwrap();
    assert_eq!((&session["title"], &session["status"]), (&json!("🎬"), &json!("live")));
    assert_eq!(session["created_at"], time(1_234));
    assert_eq!(session.get("guards"), None);
    assert!(fixture.store.session("another").await.unwrap().is_none());
    assert!(fixture.store.session("nul\0").await.unwrap().is_none());
    assert!(fixture.store.result("studio", "another").await.unwrap().is_none());
}

async fn keys_of_maximum_length_fit(fixture: StoreFixture) {
    // Characters of four bytes that do not compress.
    let long = |from: u32| -> String {
        (0..MAX_KEY_BYTES as u32 / 4)
            .map(|n| char::from_u32(0x2_0000 + from + n * 37).unwrap())
            .collect()
    };
    let body = json!({
        "room_id": long(1), "live_stream_id": long(2),
        "config": {"egress": {"live_stream_id": long(3)}},
    });
    fixture.announce("a", 0, body).await;
    let result =
        done(fixture.one("mux", mux(&"i".repeat(256), ACTIVE, 1_000, None, &long(3))).await);
    assert_eq!(result.room_id, Some(long(1)));
    let tape = json!({"tape": long(4), "room": long(5), "url": "u"});
    fixture.one("studio", event(&"j".repeat(256), "taped", 0, tape)).await;
    fixture.one("studio", event("k", "added", 0, json!({"item": long(6)}))).await;
}

async fn empty_batch_has_no_outcome(fixture: StoreFixture) {
    assert_eq!(fixture.apply("mux", &[]).await, []);
}
