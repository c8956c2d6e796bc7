//! Tests of recordings and contents.

use serde_json::{Value, json};
use worker::effects::EventAction;

use crate::fixture::{StoreFixture, action, done, event};

on_both!(
    recording_needs_no_session_and_is_linked_to_an_existing_one,
    recording_keeps_newer_values,
    content_is_added_and_removed,
    content_id_is_scoped_to_its_platform,
);

async fn recording(fixture: &StoreFixture, id: &str) -> Value {
    fixture.database.rows("SELECT * FROM recordings WHERE recording_id = $1", &[id]).await.remove(0)
}

async fn content(fixture: &StoreFixture, id: &str) -> Value {
    fixture.database.rows("SELECT * FROM contents WHERE content_id = $1", &[id]).await.remove(0)
}

async fn recording_needs_no_session_and_is_linked_to_an_existing_one(fixture: StoreFixture) {
    let created = "video.asset.created";
    let asset = |id: &str, room: Value| json!({"data": {"id": id, "live_stream_id": "s", "passthrough": room}});
    let alone = done(fixture.one("mux", event("e1", created, 0, asset("t1", Value::Null))).await);
    assert_eq!((alone.action, alone.room_id), (EventAction::Recorded, None));
    assert_eq!(fixture.database.count("sessions").await, 0);
    fixture.announce("a", 0, json!({"room_id": "r", "live_stream_id": "s"})).await;
    let found =
        done(fixture.one("mux", event("e2", created, 1_000, asset("t2", Value::Null))).await);
    assert_eq!(found.room_id.as_deref(), Some("r"));
    let named =
        done(fixture.one("mux", event("e3", created, 1_000, asset("t3", json!("r")))).await);
    assert_eq!(named.room_id.as_deref(), Some("r"));
    assert_eq!(recording(&fixture, "t2").await["room_id"], "r");
    assert_eq!(recording(&fixture, "t1").await["state"], "created");
}

async fn recording_keeps_newer_values(fixture: StoreFixture) {
    let taped = |id, at, body| event(id, "taped", at, body);
    let newer = json!({"room": "r", "tape": "t", "url": "https://new", "size": 9_000_000_000_i64});
    assert_eq!(
        action(fixture.one("studio", taped("e2", 2_000, newer)).await),
        EventAction::Recorded
    );
    let older = json!({"room": "q", "tape": "t", "url": "https://old", "duration": "12.5"});
    assert_eq!(
        action(fixture.one("studio", taped("e1", 1_000, older)).await),
        EventAction::Recorded
    );
    let oldest = event("e0", "taping", 0, json!({"tape": "t"}));
    assert_eq!(action(fixture.one("studio", oldest).await), EventAction::StaleIgnored);
    let row = recording(&fixture, "t").await;
    assert_eq!(
        (&row["url"], &row["state"], &row["room_id"]),
        (&json!("https://new"), &json!("ready"), &json!("r"))
    );
    assert_eq!(
        (&row["duration_seconds"], &row["size_bytes"]),
        (&json!(12.5), &json!(9_000_000_000_i64))
    );
}

async fn content_is_added_and_removed(fixture: StoreFixture) {
    let added = json!({
        "event_type": "content_added",
        "payload": {"content_id": "c", "title": "Film", "content_type": "movie"},
    });
    let result = done(fixture.one("netflix", event("e1", "content_added", 1_000, added)).await);
    assert_eq!((result.action, result.room_id), (EventAction::Recorded, None));
    let row = content(&fixture, "c").await;
    assert_eq!(
        (&row["state"], &row["title"], &row["content_type"]),
        (&json!("active"), &json!("Film"), &json!("movie"))
    );
    let removed = json!({"event_type": "content_removed", "payload": {"content_id": "c"}});
    fixture.one("netflix", event("e2", "content_removed", 3_000, removed)).await;
    let late = json!({
        "event_type": "content_updated",
        "payload": {"content_id": "c", "title": "Film, uncut"},
    });
    fixture.one("netflix", event("e3", "content_updated", 2_000, late)).await;
    let row = content(&fixture, "c").await;
    assert_eq!((&row["state"], &row["title"]), (&json!("removed"), &json!("Film, uncut")));
}

async fn content_id_is_scoped_to_its_platform(fixture: StoreFixture) {
    let more = json!({"item": "c", "title": "Ours", "more": {"a": ["x", 1.0]}});
    fixture
        .apply(
            "studio",
            &[event("e1", "added", 0, more), event("e2", "removed", 1_000, json!({"item": "c"}))],
        )
        .await;
    let added =
        json!({"event_type": "content_added", "payload": {"content_id": "c", "title": "Theirs"}});
    fixture.one("netflix", event("e1", "content_added", 1_000, added)).await;
    let rows = fixture.database.rows("SELECT * FROM contents ORDER BY platform", &[]).await;
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["title"], &rows[0]["state"]), (&json!("Theirs"), &json!("active")));
    assert_eq!((&rows[1]["title"], &rows[1]["state"]), (&json!("Ours"), &json!("removed")));
    assert_eq!(rows[1]["data"], json!({"a": ["x", 1.0]}));
}
