//! Tests of chat messages.

use serde_json::{Value, json};
use worker::effects::{Applied, ColumnWarning, ColumnWarningReason, EventAction};

use crate::fixture::{StoreFixture, action, done, event, time};

on_both!(
    chat_message_needs_and_creates_no_session,
    chat_message_for_a_foreign_room_is_refused,
    chat_message_keeps_newer_values,
    chat_message_time_comes_from_its_oldest_event,
    chat_message_finds_its_room_by_live_stream_id,
    chat_message_without_a_room_takes_a_later_room,
);

async fn message(fixture: &StoreFixture, id: &str) -> Value {
    fixture
        .database
        .rows("SELECT * FROM chat_messages WHERE message_id = $1", &[id])
        .await
        .remove(0)
}

async fn chat_message_needs_and_creates_no_session(fixture: StoreFixture) {
    let body = json!({
        "room": "r", "message": "m", "user": "u1", "name": "Ann", "text": "Hi 👋",
        "at": time(-500),
    });
    let result = done(fixture.one("studio", event("e1", "said", 0, body)).await);
    assert_eq!(
        (result.action, result.room_id.as_deref(), result.new_status),
        (EventAction::Recorded, Some("r"), None)
    );
    assert_eq!(fixture.database.count("sessions").await, 0);
    let mut row = message(&fixture, "m").await;
    row.as_object_mut().unwrap().remove("guards");
    let expected = json!({
        "platform": "studio", "message_id": "m", "room_id": "r", "user_id": "u1",
        "user_name": "Ann", "message": "Hi 👋", "sent_at": time(-500),
    });
    assert_eq!(row, expected);
}

async fn chat_message_for_a_foreign_room_is_refused(fixture: StoreFixture) {
    fixture.one("studio", event("e1", "live", 0, json!({"room": "r"}))).await;
    let refused = fixture
        .one("rival", event("x1", "said", 1_000, json!({"room": "r", "message": "m"})))
        .await;
    assert_eq!(refused, Applied::Conflict);
    assert_eq!(fixture.database.count("chat_messages").await, 0);
    assert_eq!(fixture.database.event("rival", "x1").await, None);
}

async fn chat_message_keeps_newer_values(fixture: StoreFixture) {
    let said = |id: &str, at, body| event(id, "said", at, body);
    fixture
        .one("studio", said("e2", 2_000, json!({"room": "r", "message": "m", "text": "edited"})))
        .await;
    let older = json!({"room": "q", "message": "m", "text": "first", "user": "u1"});
    assert_eq!(
        action(fixture.one("studio", said("e1", 1_000, older)).await),
        EventAction::Recorded
    );
    let oldest = json!({"room": "q", "message": "m", "text": "zeroth"});
    assert_eq!(
        action(fixture.one("studio", said("e3", 1_500, oldest)).await),
        EventAction::StaleIgnored
    );
    let row = message(&fixture, "m").await;
    assert_eq!(
        (&row["message"], &row["room_id"], &row["user_id"]),
        (&json!("edited"), &json!("r"), &json!("u1"))
    );
}

async fn chat_message_time_comes_from_its_oldest_event(fixture: StoreFixture) {
    let said = |id: &str, at, given: Value| {
        event(id, "said", at, json!({"room": "r", "message": "m", "at": given}))
    };
    fixture.one("studio", said("e2", 2_000, Value::Null)).await;
    assert_eq!(message(&fixture, "m").await["sent_at"], time(2_000));
    fixture.one("studio", said("e1", 1_000, Value::Null)).await;
    assert_eq!(message(&fixture, "m").await["sent_at"], time(1_000));
    fixture.one("studio", said("e0", 500, json!(time(700)))).await;
    assert_eq!(
        message(&fixture, "m").await["sent_at"],
        time(700),
        "a time in the payload wins over the event time"
    );
    fixture.one("studio", said("e-", 100, Value::Null)).await;
    assert_eq!(message(&fixture, "m").await["sent_at"], time(700));
}

async fn chat_message_finds_its_room_by_live_stream_id(fixture: StoreFixture) {
    let said =
        |id: &str| event(id, "said", 1_000, json!({"stream": "s", "message": "m", "text": "hi"}));
    assert_eq!(
        fixture.one("partner", said("e1")).await,
        Applied::MissingSession,
        "no session has the live stream id yet"
    );
    fixture.announce("a", 0, json!({"room_id": "r", "live_stream_id": "s"})).await;
    assert_eq!(done(fixture.one("partner", said("e1")).await).room_id.as_deref(), Some("r"));
    assert_eq!(message(&fixture, "m").await["room_id"], "r");
}

async fn chat_message_without_a_room_takes_a_later_room(fixture: StoreFixture) {
    let said = |id: &str, at, body| event(id, "said", at, body);
    let first =
        done(fixture.one("studio", said("e1", 1_000, json!({"message": "m", "text": "hi"}))).await);
    assert_eq!(
        (first.action, first.room_id, first.warnings),
        (EventAction::Recorded, None, Vec::new())
    );
    assert_eq!(message(&fixture, "m").await["room_id"], Value::Null);
    let unusable = json!({"message": "m", "room": {"id": 1}, "text": "ho"});
    let second = done(fixture.one("studio", said("e2", 2_000, unusable)).await);
    assert_eq!(
        second.warnings,
        [ColumnWarning { column: "room_id".into(), reason: ColumnWarningReason::WrongType }]
    );
    fixture
        .one("studio", said("e3", 1_500, json!({"message": "m", "room": "r", "text": "old"})))
        .await;
    let row = message(&fixture, "m").await;
    assert_eq!((&row["room_id"], &row["message"]), (&json!("r"), &json!("ho")));
}
