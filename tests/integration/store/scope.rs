//! Whose room: a registered third party must not be able to end somebody else's stream.

use serde_json::json;
use worker::effects::{Action, Applied};

use crate::fixture::{ACTIVE, Fixture, done, event, mux};

on_both!(
    a_platform_with_own_scope_touches_only_its_own_sessions,
    shared_rooms_are_closed_to_own_scope_and_open_to_shared_scope,
    a_room_that_a_platform_owns_cannot_be_announced,
    a_live_stream_id_does_not_get_around_it,
    a_recording_does_not_get_around_it,
);

async fn a_platform_with_own_scope_touches_only_its_own_sessions(fixture: Fixture) {
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
    assert_eq!(done(outcomes[1].clone()).action, Action::StatusUpdated, "a neighbour is not harmed");
    assert_eq!(fixture.session("r").await, before);
    assert_eq!(fixture.database.event("rival", "x1").await, None);
}

async fn shared_rooms_are_closed_to_own_scope_and_open_to_shared_scope(fixture: Fixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    fixture.one("mux", mux("e1", ACTIVE, 1_000, Some("r"), "s")).await;
    let refused = fixture.one("rival", event("x1", "offline", 2_000, json!({"room": "r"}))).await;
    assert_eq!(refused, Applied::Conflict);
    let trusted = fixture.one("partner", event("x1", "offline", 2_000, json!({"room": "r"}))).await;
    assert_eq!(done(trusted).action, Action::StatusUpdated);
    assert_eq!(fixture.session("r").await["status"], "ended");
}

async fn a_room_that_a_platform_owns_cannot_be_announced(fixture: Fixture) {
    fixture.one("studio", event("e1", "live", 1_000, json!({"room": "r"}))).await;
    let announced = event("a", "session.announced", 2_000, json!({"room_id": "r", "status": "ended"}));
    assert_eq!(fixture.one("sessions", announced).await, Applied::Conflict);
    assert_eq!(fixture.one("mux", mux("e2", ACTIVE, 2_000, Some("r"), "s")).await, Applied::Conflict);
    assert_eq!(fixture.session("r").await["platform"], "studio");
}

async fn a_live_stream_id_does_not_get_around_it(fixture: Fixture) {
    fixture.announce("a", 0, json!({"room_id": "r", "live_stream_id": "s"})).await;
    let refused = fixture.one("rival", event("x1", "offline", 2_000, json!({"stream": "s"}))).await;
    assert_eq!(refused, Applied::Conflict);
    fixture.one("rival", event("x2", "live", 3_000, json!({"room": "own", "stream": "s"}))).await;
    let own = done(fixture.one("rival", event("x3", "offline", 4_000, json!({"stream": "s"}))).await);
    assert_eq!(own.room_id.as_deref(), Some("own"), "an id may be in use on both sides");
    let theirs = done(fixture.one("mux", mux("e1", ACTIVE, 4_000, None, "s")).await);
    assert_eq!(theirs.room_id.as_deref(), Some("r"));
}

async fn a_recording_does_not_get_around_it(fixture: Fixture) {
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let refused = fixture.one("rival", event("x1", "taped", 0, json!({"room": "r", "tape": "t"}))).await;
    assert_eq!(refused, Applied::Conflict);
    assert_eq!(fixture.database.count("recordings").await, 0);
}
