//! Tests of sessions found by live stream id, and of reused ids.

use serde_json::json;
use worker::effects::{Applied, EventAction};

use crate::fixture::{ACTIVE, IDLE, StoreFixture, T0, done, event, mux};

on_both!(
    room_id_wins_over_live_stream_id,
    unknown_room_falls_back_to_the_live_stream_id,
    live_stream_id_in_the_config_finds_the_session,
    live_stream_id_matches_its_newest_announcement,
    event_older_than_every_holder_is_stale,
    replay_after_its_announcement_takes_effect,
    live_stream_id_set_by_hand_counts_from_its_creation,
);

const MINUTE: i64 = 60_000;

async fn room_of(fixture: &StoreFixture, id: &str, at: i64, stream: &str) -> Option<String> {
    done(fixture.one("mux", mux(id, ACTIVE, at, None, stream)).await).room_id
}

async fn room_id_wins_over_live_stream_id(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "by-room"})).await;
    fixture.announce("b", 0, json!({"room_id": "by-stream", "live_stream_id": "s"})).await;
    let result = done(fixture.one("mux", mux("e1", ACTIVE, 1_000, Some("by-room"), "s")).await);
    assert_eq!(result.room_id.as_deref(), Some("by-room"));
    assert_eq!(fixture.session("by-stream").await["status"], "ready");
}

async fn unknown_room_falls_back_to_the_live_stream_id(fixture: StoreFixture) {
    fixture.announce("b", 0, json!({"room_id": "by-stream", "live_stream_id": "s"})).await;
    let result = done(fixture.one("mux", mux("e1", ACTIVE, 1_000, Some("unknown"), "s")).await);
    assert_eq!(result.room_id.as_deref(), Some("by-stream"));
    let empty = done(fixture.one("mux", mux("e2", IDLE, 2_000, Some(""), "s")).await);
    assert_eq!(empty.room_id.as_deref(), Some("by-stream"));
}

async fn live_stream_id_in_the_config_finds_the_session(fixture: StoreFixture) {
    let body =
        json!({"room_id": "r", "config": {"egress": {"live_stream_id": "s"}, "other": true}});
    fixture.announce("a", 0, body).await;
    assert_eq!(room_of(&fixture, "e1", 1_000, "s").await.as_deref(), Some("r"));
    fixture
        .database
        .execute(
            "INSERT INTO sessions (room_id, config, created_at) \
             VALUES ('hand', '{\"egress\": {\"live_stream_id\": 42}}', '2020-01-01T00:00:00Z')",
        )
        .await;
    assert_eq!(
        room_of(&fixture, "e2", 1_000, "42").await.as_deref(),
        Some("hand"),
        "a numeric id matches by its digits"
    );
}

async fn live_stream_id_matches_its_newest_announcement(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "monday", "live_stream_id": "s"})).await;
    fixture.announce("b", 60 * MINUTE, json!({"room_id": "tuesday", "live_stream_id": "s"})).await;
    let body = json!({"room_id": "wednesday", "config": {"egress": {"live_stream_id": "s"}}});
    fixture.announce("c", 120 * MINUTE, body).await;
    for (id, at, room) in [
        ("e1", 121 * MINUTE, "wednesday"),
        ("e2", 115 * MINUTE, "wednesday"),
        ("e3", 114 * MINUTE, "tuesday"),
        ("e4", 61 * MINUTE, "tuesday"),
        ("e5", 55 * MINUTE, "tuesday"),
        ("e6", 54 * MINUTE, "monday"),
        ("e7", -5 * MINUTE, "monday"),
    ] {
        assert_eq!(room_of(&fixture, id, at, "s").await.as_deref(), Some(room), "{id}");
    }
}

async fn event_older_than_every_holder_is_stale(fixture: StoreFixture) {
    fixture.announce("a", 60 * MINUTE, json!({"room_id": "r", "live_stream_id": "s"})).await;
    let result = done(fixture.one("mux", mux("e1", ACTIVE, 54 * MINUTE, None, "s")).await);
    assert_eq!((result.action, result.room_id), (EventAction::StaleIgnored, None));
    assert_eq!(fixture.session("r").await["status"], "ready");
    assert_eq!(fixture.database.event("mux", "e1").await.unwrap()["action"], "stale_ignored");
    let result = done(fixture.one("mux", mux("e2", ACTIVE, 54 * MINUTE, Some("r"), "s")).await);
    assert_eq!(result.action, EventAction::StatusUpdated, "a room id needs no time check");
}

async fn replay_after_its_announcement_takes_effect(fixture: StoreFixture) {
    fixture.announce("a", 60 * MINUTE, json!({"room_id": "r", "live_stream_id": "s"})).await;
    let mut planned = fixture.plan("mux", &mux("e1", ACTIVE, 54 * MINUTE, None, "s"));
    planned.replayed = true;
    let result = done(fixture.try_apply("mux", &[planned]).await.unwrap().remove(0));
    assert_eq!((result.action, result.room_id.as_deref()), (EventAction::StatusUpdated, Some("r")));
}

async fn live_stream_id_set_by_hand_counts_from_its_creation(fixture: StoreFixture) {
    let hand = |room: &str, at: i64| {
        format!(
            "INSERT INTO sessions (room_id, live_stream_id, created_at) \
             VALUES ('{room}', 's', '{}')",
            shared::clock::rfc3339(T0 + at)
        )
    };
    fixture.database.execute(&hand("old", 0)).await;
    fixture.database.execute(&hand("new", 60 * MINUTE)).await;
    assert_eq!(room_of(&fixture, "e1", 56 * MINUTE, "s").await.as_deref(), Some("new"));
    assert_eq!(room_of(&fixture, "e2", 54 * MINUTE, "s").await.as_deref(), Some("old"));
    // An event that creates a session also sets its live stream id.
    let live = json!({"room": "own", "stream": "s"});
    fixture.one("studio", event("e3", "live", 0, live)).await;
    assert_eq!(fixture.session("own").await["live_stream_id"], "s");
    let by_stream = fixture.one("studio", event("e4", "offline", 1, json!({"stream": "s"}))).await;
    assert_eq!(done(by_stream).room_id.as_deref(), Some("own"));
    let unknown = fixture.one("studio", event("e5", "offline", 1, json!({"stream": "t"}))).await;
    assert_eq!(unknown, Applied::MissingSession);
}
