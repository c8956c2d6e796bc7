//! Tests of the session scope: a registered platform cannot change another platform's session.

use serde_json::json;
use worker::effects::{Applied, EventAction};

use crate::fixture::{ACTIVE, StoreFixture, done, event, mux};

on_both!(
    own_scope_touches_only_its_own_sessions,
    shared_rooms_are_closed_to_own_scope,
    owned_room_cannot_be_announced,
    live_stream_id_does_not_bypass_the_scope,
    recording_does_not_bypass_the_scope,
    room_out_of_reach_falls_back_to_the_live_stream_id,
    room_out_of_reach_is_refused_without_a_matching_stream,
);

async fn own_scope_touches_only_its_own_sessions(fixture: StoreFixture) {
    fixture.one("studio", event("e1", "live", 1_000, json!({"room": "r", "title": "Show"}))).await;
    let before = fixture.session("r").await;
    let outcomes = fixture
        .apply(
            "rival",
            &[
                event("x1", "offline", 2_000, json!({"room": "r"})),
                event("x2", "live", 2_000, json!({"room": "rivals-own"})),
            ],
        )
        .await;
    assert_eq!(outcomes[0], Applied::Conflict);
    assert_eq!(
        done(outcomes[1].clone()).action,
        EventAction::StatusUpdated,
        "other events of the batch take effect"
    );
    assert_eq!(fixture.session("r").await, before);
    assert_eq!(fixture.database.event("rival", "x1").await, None);
}

async fn shared_rooms_are_closed_to_own_scope(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    fixture.one("mux", mux("e1", ACTIVE, 1_000, Some("r"), "s")).await;
    let refused = fixture.one("rival", event("x1", "offline", 2_000, json!({"room": "r"}))).await;
    assert_eq!(refused, Applied::Conflict);
    let trusted = fixture.one("partner", event("x1", "offline", 2_000, json!({"room": "r"}))).await;
    assert_eq!(done(trusted).action, EventAction::StatusUpdated);
    assert_eq!(fixture.session("r").await["status"], "ended");
}

async fn owned_room_cannot_be_announced(fixture: StoreFixture) {
    fixture.one("studio", event("e1", "live", 1_000, json!({"room": "r"}))).await;
    let announced =
        event("a", "session.announced", 2_000, json!({"room_id": "r", "status": "ended"}));
    assert_eq!(fixture.one("sessions", announced).await, Applied::Conflict);
    assert_eq!(
        fixture.one("mux", mux("e2", ACTIVE, 2_000, Some("r"), "s")).await,
        Applied::Conflict
    );
    assert_eq!(fixture.session("r").await["platform"], "studio");
}

async fn live_stream_id_does_not_bypass_the_scope(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r", "live_stream_id": "s"})).await;
    let refused = fixture.one("rival", event("x1", "offline", 2_000, json!({"stream": "s"}))).await;
    assert_eq!(refused, Applied::Conflict);
    fixture.one("rival", event("x2", "live", 3_000, json!({"room": "own", "stream": "s"}))).await;
    let own =
        done(fixture.one("rival", event("x3", "offline", 4_000, json!({"stream": "s"}))).await);
    assert_eq!(own.room_id.as_deref(), Some("own"), "both scopes may use one live stream id");
    let theirs = done(fixture.one("mux", mux("e1", ACTIVE, 4_000, None, "s")).await);
    assert_eq!(theirs.room_id.as_deref(), Some("r"));
}

async fn recording_does_not_bypass_the_scope(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let refused =
        fixture.one("rival", event("x1", "taped", 0, json!({"room": "r", "tape": "t"}))).await;
    assert_eq!(refused, Applied::Conflict);
    assert_eq!(fixture.database.count("recordings").await, 0);
}

/// Creates session `own` (platform `rival`, stream `s`) and `theirs` (`studio`, stream `t`).
async fn two_owners(fixture: &StoreFixture) {
    fixture.one("studio", event("e1", "live", 0, json!({"room": "theirs", "stream": "t"}))).await;
    fixture.one("rival", event("x1", "live", 0, json!({"room": "own", "stream": "s"}))).await;
}

async fn room_out_of_reach_falls_back_to_the_live_stream_id(fixture: StoreFixture) {
    two_owners(&fixture).await;
    let theirs = fixture.session("theirs").await;
    let body = |more: serde_json::Value| {
        let mut body = json!({"room": "theirs", "stream": "s"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    // One batch: the room's row and the stream's row are both needed.
    let outcomes = fixture
        .apply(
            "rival",
            &[
                event("x2", "offline", 2_000, body(json!({}))),
                event("x3", "taped", 2_000, body(json!({"tape": "t"}))),
                event("x4", "said", 2_000, body(json!({"message": "m"}))),
            ],
        )
        .await;
    for outcome in outcomes {
        assert_eq!(done(outcome).room_id.as_deref(), Some("own"));
    }
    assert_eq!(fixture.session("own").await["status"], "ended");
    assert_eq!(fixture.session("theirs").await, theirs);
    for table in ["recordings", "chat_messages"] {
        let rows = fixture.database.rows(&format!("SELECT room_id FROM {table}"), &[]).await;
        assert_eq!(rows, [json!({"room_id": "own"})], "{table}");
    }
}

async fn room_out_of_reach_is_refused_without_a_matching_stream(fixture: StoreFixture) {
    two_owners(&fixture).await;
    for (number, stream) in [json!("unknown"), json!("t"), json!(null)].into_iter().enumerate() {
        let body = json!({"room": "theirs", "stream": stream, "tape": "t", "message": "m"});
        for kind in ["offline", "taped", "said"] {
            let refused = fixture
                .one("rival", event(&format!("x{number}{kind}"), kind, 2_000, body.clone()))
                .await;
            assert_eq!(refused, Applied::Conflict, "{kind} {stream}");
        }
    }
    // Older than the session that holds the stream now.
    let old =
        event("old", "taped", -3_600_000, json!({"room": "theirs", "stream": "s", "tape": "t"}));
    assert_eq!(fixture.one("rival", old).await, Applied::Conflict);
    assert_eq!(
        fixture.database.count("recordings").await + fixture.database.count("chat_messages").await,
        0
    );
}
