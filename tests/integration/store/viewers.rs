//! Tests of the viewer count, which has a version guard of its own, and of its extra data.

use serde_json::{Value, json};
use worker::effects::{Applied, EventAction};

use crate::fixture::{StoreFixture, action, done, event};

on_both!(
    viewer_count_creates_a_session_and_keeps_its_status,
    viewer_count_keeps_the_newer_number,
    new_broadcast_clears_the_viewer_count,
    viewer_data_is_merged_into_the_data_column,
    viewer_count_of_a_missing_or_foreign_session_is_refused,
    unknown_viewer_count_takes_effect,
);

fn watched(id: &str, at: i64, n: i64) -> crate::fixture::TestEvent {
    event(id, "watched", at, json!({"room": "r", "n": n}))
}

async fn viewer_count_creates_a_session_and_keeps_its_status(fixture: StoreFixture) {
    let result = done(fixture.one("studio", watched("e1", 1_000, 7)).await);
    assert_eq!((result.action, result.old_status), (EventAction::Recorded, None));
    assert_eq!(result.new_status.map(shared::platform::SessionStatus::as_str), Some("ready"));
    let row = fixture.session("r").await;
    assert_eq!(
        (&row["viewer_count"], &row["status"], &row["platform"]),
        (&json!(7), &json!("ready"), &json!("studio"))
    );
    assert_eq!((&row["last_event_id"], &row["data"]), (&json!("e1"), &Value::Null));
    // One batch with the next events.
    fixture
        .apply(
            "studio",
            &[event("e2", "live", 2_000, json!({"room": "r"})), watched("e3", 3_000, 9)],
        )
        .await;
    let row = fixture.session("r").await;
    assert_eq!((&row["viewer_count"], &row["status"]), (&json!(9), &json!("live")));
}

async fn viewer_count_keeps_the_newer_number(fixture: StoreFixture) {
    assert_eq!(
        action(fixture.one("studio", watched("e2", 2_000, 20)).await),
        EventAction::Recorded
    );
    assert_eq!(
        action(fixture.one("studio", watched("e1", 1_000, 10)).await),
        EventAction::StaleIgnored
    );
    assert_eq!(action(fixture.one("studio", watched("e3", 3_000, 0)).await), EventAction::Recorded);
    assert_eq!(fixture.session("r").await["viewer_count"], 0);
    // The status has its own version guard, so an older status is applied.
    fixture.one("studio", event("e0", "live", 500, json!({"room": "r", "title": "Show"}))).await;
    let row = fixture.session("r").await;
    assert_eq!(
        (&row["viewer_count"], &row["status"], &row["title"]),
        (&json!(0), &json!("live"), &json!("Show"))
    );
}

async fn new_broadcast_clears_the_viewer_count(fixture: StoreFixture) {
    let live = |id: &str, at| event(id, "live", at, json!({"room": "r"}));
    fixture.apply("studio", &[live("e1", 0), watched("e2", 1_000, 50)]).await;
    fixture.one("studio", live("e5", 5_000)).await;
    assert_eq!(fixture.session("r").await["viewer_count"], Value::Null);
    assert_eq!(
        action(fixture.one("studio", watched("e4", 4_000, 40)).await),
        EventAction::StaleIgnored
    );
    assert_eq!(fixture.session("r").await["viewer_count"], Value::Null);
    fixture.one("studio", watched("e6", 6_000, 3)).await;
    assert_eq!(fixture.session("r").await["viewer_count"], 3);
}

async fn viewer_data_is_merged_into_the_data_column(fixture: StoreFixture) {
    fixture
        .database
        .execute(
            "INSERT INTO sessions (room_id, platform, scope, data) \
             VALUES ('r', 'studio', 'own', '{\"mine\":{\"a\":[1]}}')",
        )
        .await;
    let more = |id: &str, at, more: Value| {
        let mut body = json!({"room": "r", "n": 1});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event(id, "watched", at, body)
    };
    fixture.one("studio", more("e1", 1_000, json!({"viewer": "ann \"q\""}))).await;
    fixture.one("studio", more("e3", 3_000, json!({"change": -2}))).await;
    assert_eq!(
        action(fixture.one("studio", more("e2", 2_000, json!({"change": 5}))).await),
        EventAction::StaleIgnored
    );
    let expected = json!({"mine": {"a": [1]}, "viewer": "ann \"q\"", "change": -2});
    assert_eq!(fixture.session("r").await["data"], expected);
    // A value of another type that an application wrote is replaced.
    fixture.database.execute("UPDATE sessions SET data = '[1]'").await;
    fixture.one("studio", more("e4", 4_000, json!({"change": true}))).await;
    assert_eq!(fixture.session("r").await["data"], json!({"change": true}));
}

async fn viewer_count_of_a_missing_or_foreign_session_is_refused(fixture: StoreFixture) {
    assert_eq!(fixture.one("partner", watched("e1", 0, 1)).await, Applied::MissingSession);
    assert_eq!(fixture.database.count("sessions").await, 0);
    fixture.one("studio", watched("e1", 0, 1)).await;
    assert_eq!(fixture.one("rival", watched("e2", 1_000, 9)).await, Applied::Conflict);
    assert_eq!(fixture.session("r").await["viewer_count"], 1);
}

async fn unknown_viewer_count_takes_effect(fixture: StoreFixture) {
    for (number, unknown) in [Value::Null, json!(-1), json!("-1")].into_iter().enumerate() {
        let at = 1_000 * number as i64;
        fixture.one("studio", watched(&format!("known-{number}"), at, 7)).await;
        let body = json!({"room": "r", "n": unknown, "peak": 9});
        let result = done(
            fixture.one("studio", event(&format!("e{number}"), "watched", at + 500, body)).await,
        );
        assert_eq!(
            (result.action, result.warnings),
            (EventAction::Recorded, Vec::new()),
            "{unknown}"
        );
        let row = fixture.session("r").await;
        assert_eq!(
            (&row["viewer_count"], &row["peak_viewers"]),
            (&Value::Null, &json!(9)),
            "{unknown}"
        );
    }
}
