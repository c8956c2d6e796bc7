//! Tests of sessions that an application announces, through the queue or by its own SQL.

use serde_json::{Value, json};
use shared::platform::SessionStatus;
use worker::effects::EventAction;

use crate::fixture::{ACTIVE, IDLE, StoreFixture, done, mux, time};

on_both!(
    announcement_creates_a_ready_session,
    announced_config_is_replaced_whole_and_absent_fields_stay,
    ready_status_only_initializes,
    announcement_without_status_touches_no_status_guard,
    announced_status_other_than_ready_counts_as_an_event,
    older_announcement_keeps_values_of_a_newer_one,
    announcement_and_its_events_fit_in_one_batch,
    session_row_inserted_by_hand_is_used,
);

async fn announcement_creates_a_ready_session(fixture: StoreFixture) {
    let result =
        fixture.announce("a", 7, json!({"room_id": "r", "config": {"a": [1.50, null]}})).await;
    assert_eq!(
        (result.action, result.old_status, result.new_status),
        (EventAction::Recorded, None, Some(SessionStatus::Ready))
    );
    let row = fixture.session("r").await;
    for (column, value) in [
        ("status", json!("ready")),
        ("platform", json!("sessions")),
        ("scope", json!("shared")),
        ("config", json!({"a": [1.50, null]})),
        ("live_stream_id", Value::Null),
        ("created_at", json!(time(7))),
        ("last_event_id", json!("a")),
    ] {
        assert_eq!(row[column], value, "{column}");
    }
    let explicit = fixture.announce("b", 7, json!({"room_id": "r2", "status": "ready"})).await;
    assert_eq!(
        (explicit.action, explicit.new_status),
        (EventAction::StatusUpdated, Some(SessionStatus::Ready))
    );
}

async fn announced_config_is_replaced_whole_and_absent_fields_stay(fixture: StoreFixture) {
    let body = json!({
        "room_id": "r", "live_stream_id": "s",
        "config": {"a": 1, "egress": {"live_stream_id": "e"}},
    });
    fixture.announce("a", 0, body).await;
    fixture.announce("b", 1_000, json!({"room_id": "r", "config": {"b": 2}})).await;
    let row = fixture.session("r").await;
    assert_eq!((&row["config"], &row["live_stream_id"]), (&json!({"b": 2}), &json!("s")));
    let gone = fixture.one("mux", mux("e1", ACTIVE, 2_000, None, "e")).await;
    assert_eq!(
        gone,
        worker::effects::Applied::MissingSession,
        "the replaced config matches no session"
    );
    fixture.announce("c", 2_000, json!({"room_id": "r", "live_stream_id": "s2"})).await;
    let row = fixture.session("r").await;
    assert_eq!((&row["config"], &row["live_stream_id"]), (&json!({"b": 2}), &json!("s2")));
}

async fn ready_status_only_initializes(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    fixture.one("mux", mux("e1", ACTIVE, 1_000, Some("r"), "s")).await;
    let result = fixture.announce("b", 5_000, json!({"room_id": "r", "status": "ready"})).await;
    assert_eq!(
        (result.action, result.new_status),
        (EventAction::StatusUnchanged, Some(SessionStatus::Live))
    );
    let late = done(fixture.one("mux", mux("e2", IDLE, 2_000, Some("r"), "s")).await);
    assert_eq!(
        late.new_status,
        Some(SessionStatus::Idle),
        "ready set no status guard, so an older event is the newest status"
    );
}

async fn announcement_without_status_touches_no_status_guard(fixture: StoreFixture) {
    fixture.announce("a", 5_000, json!({"room_id": "r", "config": {}})).await;
    let result = done(fixture.one("mux", mux("e1", ACTIVE, 1_000, Some("r"), "s")).await);
    assert_eq!(result.new_status, Some(SessionStatus::Live));
    fixture.announce("b", 9_000, json!({"room_id": "r", "config": {"x": 1}})).await;
    let result = done(fixture.one("mux", mux("e2", IDLE, 2_000, Some("r"), "s")).await);
    assert_eq!(result.action, EventAction::StatusUpdated);
}

async fn announced_status_other_than_ready_counts_as_an_event(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let stopped = fixture.announce("b", 3_000, json!({"room_id": "r", "status": "stopped"})).await;
    assert_eq!(
        (stopped.action, stopped.old_status),
        (EventAction::StatusUpdated, Some(SessionStatus::Ready))
    );
    let stale = done(fixture.one("mux", mux("e1", ACTIVE, 2_000, Some("r"), "s")).await);
    assert_eq!(stale.action, EventAction::StaleIgnored);
    assert_eq!(fixture.session("r").await["status"], "stopped");
}

async fn older_announcement_keeps_values_of_a_newer_one(fixture: StoreFixture) {
    fixture.announce("b", 5_000, json!({"room_id": "r", "config": {"n": 2}})).await;
    let older = fixture
        .announce("a", 1_000, json!({"room_id": "r", "config": {"n": 1}, "live_stream_id": "s"}))
        .await;
    assert_eq!(older.action, EventAction::Recorded, "only its live stream id is new");
    let row = fixture.session("r").await;
    assert_eq!((&row["config"], &row["live_stream_id"]), (&json!({"n": 2}), &json!("s")));
    assert_eq!((&row["created_at"], &row["last_event_id"]), (&json!(time(1_000)), &json!("b")));
    let oldest = fixture.announce("c", 500, json!({"room_id": "r", "config": {"n": 0}})).await;
    assert_eq!(oldest.action, EventAction::StaleIgnored);
}

async fn announcement_and_its_events_fit_in_one_batch(fixture: StoreFixture) {
    let announced = |id: &str, at, body| crate::fixture::event(id, "session.announced", at, body);
    let outcomes = fixture
        .apply(
            "sessions",
            &[
                announced("a", 0, json!({"room_id": "r", "config": {"n": 1}})),
                announced(
                    "b",
                    1_000,
                    json!({"room_id": "r", "status": "live", "config": {"n": 2}}),
                ),
                announced("c", 500, json!({"room_id": "other"})),
            ],
        )
        .await;
    assert!(outcomes.into_iter().all(|one| done(one).processed));
    let row = fixture.session("r").await;
    assert_eq!((&row["status"], &row["config"]), (&json!("live"), &json!({"n": 2})));
}

async fn session_row_inserted_by_hand_is_used(fixture: StoreFixture) {
    fixture.database.execute("INSERT INTO sessions (room_id) VALUES ('r')").await;
    let row = fixture.session("r").await;
    assert_eq!((&row["status"], &row["platform"]), (&json!("ready"), &json!("sessions")));
    assert!(row["created_at"].as_str().unwrap().starts_with("20"));
    let result = done(fixture.one("mux", mux("e1", ACTIVE, 1_000, Some("r"), "s")).await);
    assert_eq!(
        (result.old_status, result.new_status),
        (Some(SessionStatus::Ready), Some(SessionStatus::Live))
    );
    fixture
        .database
        .execute(
            "UPDATE sessions SET title = 'by hand', status = 'a word of its own', \
             viewer_count = 4 WHERE room_id = 'r'",
        )
        .await;
    let result = done(fixture.one("mux", mux("e2", IDLE, 2_000, Some("r"), "s")).await);
    assert_eq!((result.old_status, result.new_status), (None, Some(SessionStatus::Idle)));
    let row = fixture.session("r").await;
    assert_eq!((&row["title"], &row["viewer_count"]), (&json!("by hand"), &json!(4)), "left alone");
}
