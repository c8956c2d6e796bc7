//! Tests of planning: values refused before they reach a database, and events that the database
//! rejects.

use serde_json::{Value, json};
use worker::effects::{
    ColumnWarning, ColumnWarningReason, InvalidEventError, JobField, MAX_KEY_BYTES, PlannedChange,
    RequiredValue,
};
use worker::store::StoreError;

use crate::fixture::{ACTIVE, StoreFixture, TestEvent, event};

on_both!(rejected_event_rolls_back_its_batch, unreadable_creation_time_counts_as_long_ago);

fn live(body: Value) -> TestEvent {
    event("e", "live", 0, body)
}

#[tokio::test]
async fn event_without_a_usable_essential_value_is_refused() {
    let fixture = StoreFixture::sqlite().await;
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    let wrong = |what, expected| InvalidEventError::WrongType { what, expected };
    let missing = |what| InvalidEventError::Missing { what };
    let nul = |what| InvalidEventError::Nul { what };
    let replaced = |what| InvalidEventError::ReplacementCharacter { what };
    let too_long = |what| InvalidEventError::TooLong { what, max: MAX_KEY_BYTES };
    let cases = [
        (live(json!({"room": "r\u{0}"})), nul(RequiredValue::RoomId)),
        (live(json!({"room": long})), too_long(RequiredValue::RoomId)),
        (live(json!({"room": "caf\u{fffd}"})), replaced(RequiredValue::RoomId)),
        (
            event("e", "taped", 0, json!({"tape": "t\u{fffd}"})),
            replaced(RequiredValue::RecordingId),
        ),
        (event("e", "added", 0, json!({"item": "c\u{fffd}"})), replaced(RequiredValue::ContentId)),
        (event("e", "worked", 0, json!({"job": "j\u{fffd}"})), replaced(RequiredValue::JobId)),
        (
            event("e", "said", 0, json!({"room": "r", "message": "m\u{fffd}"})),
            replaced(RequiredValue::MessageId),
        ),
        (live(json!({"stream": long})), too_long(RequiredValue::LiveStreamId)),
        (
            live(json!({"room": {"id": "r"}, "stream": long})),
            wrong(RequiredValue::RoomId, "a text"),
        ),
        (live(json!({"room": "", "stream": null})), missing(RequiredValue::Session)),
        (event("e", "taped", 0, json!({"room": "r"})), missing(RequiredValue::RecordingId)),
        (event("e", "taped", 0, json!({"tape": long})), too_long(RequiredValue::RecordingId)),
        (event("e", "added", 0, json!({"item": ""})), missing(RequiredValue::ContentId)),
        (
            event("e", "watched", 0, json!({"room": "r", "n": "many"})),
            wrong(RequiredValue::ViewerCount, "a count"),
        ),
        (
            event("e", "watched", 0, json!({"room": "r", "n": "N/A"})),
            wrong(RequiredValue::ViewerCount, "a count"),
        ),
        (
            event("e", "watched", 0, json!({"room": "r", "n": -5})),
            wrong(RequiredValue::ViewerCount, "a count"),
        ),
        (event("e", "watched", 0, json!({"room": "r"})), missing(RequiredValue::ViewerCount)),
        (event("e", "watched", 0, json!({"n": 1})), missing(RequiredValue::Session)),
        (event("e", "said", 0, json!({"room": "r"})), missing(RequiredValue::MessageId)),
        (event("e", "worked", 0, json!({"progress": 1})), missing(RequiredValue::JobId)),
        (event("e", "worked", 0, json!({"job": long})), too_long(RequiredValue::JobId)),
        (event("e\u{0}", "live", 0, json!({"room": "r"})), nul(RequiredValue::EventId)),
    ];
    for (event, expected) in cases {
        assert_eq!(fixture.try_plan("studio", &event).unwrap_err(), expected, "{}", event.body);
    }
    let announced = |body| event("e", "session.announced", 0, body);
    let cases = [
        (json!({"status": "ready"}), missing(RequiredValue::Session)),
        (
            json!({"room_id": "r", "status": "asleep"}),
            wrong(RequiredValue::AnnouncedStatus, "a session status"),
        ),
        (json!({"room_id": "r", "live_stream_id": long}), too_long(RequiredValue::AnnouncedStream)),
        (
            json!({"room_id": "r", "config": {"egress": {"live_stream_id": long}}}),
            too_long(RequiredValue::AnnouncedEgress),
        ),
        (json!({"room_id": "r", "config": {"a": "\u{0}"}}), nul(RequiredValue::AnnouncedConfig)),
    ];
    for (body, expected) in cases {
        assert_eq!(fixture.try_plan("sessions", &announced(body)).unwrap_err(), expected);
    }
}

#[tokio::test]
async fn column_with_an_unusable_value_is_left_alone_and_named() {
    let fixture = StoreFixture::sqlite().await;
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    let job =
        |column: &str, value: Value| event("e", "worked", 0, json!({"job": "j", column: value}));
    let said = |column: &str, value: Value| {
        event("e", "said", 0, json!({"room": "r", "message": "m", column: value}))
    };
    for (event, column, reason) in [
        (live(json!({"room": "r", "title": ["x"]})), "title", ColumnWarningReason::WrongType),
        (
            live(json!({"room": "r", "title": "a\u{0}b"})),
            "title",
            ColumnWarningReason::ReplacedCharacters,
        ),
        (
            live(json!({"room": "r", "at": "tomorrow"})),
            "started_at",
            ColumnWarningReason::UnreadableTime,
        ),
        (live(json!({"room": long, "stream": "s"})), "room_id", ColumnWarningReason::TooLong),
        (
            live(json!({"room": "\u{fffd}", "stream": "s"})),
            "room_id",
            ColumnWarningReason::ReplacementCharacter,
        ),
        (
            live(json!({"room": "r", "stream": ["s"]})),
            "live_stream_id",
            ColumnWarningReason::WrongType,
        ),
        (
            event("e", "offline", 0, json!({"room": "r", "peak": -5})),
            "peak_viewers",
            ColumnWarningReason::OutOfRange,
        ),
        (
            event("e", "offline", 0, json!({"room": "r", "duration": ""})),
            "duration_seconds",
            ColumnWarningReason::Empty,
        ),
        (
            event("e", "taped", 0, json!({"tape": "t", "size": 1.5})),
            "size_bytes",
            ColumnWarningReason::WrongType,
        ),
        (
            event("e", "taped", 0, json!({"tape": "t", "room": "\u{0}"})),
            "room_id",
            ColumnWarningReason::NulCharacter,
        ),
        (
            event("e", "added", 0, json!({"item": "c", "more": {"a\u{0}": 1}})),
            "data",
            ColumnWarningReason::ReplacedCharacters,
        ),
        (
            event("e", "watched", 0, json!({"room": "r", "n": 1, "viewer": {"id": 1}})),
            "data.viewer",
            ColumnWarningReason::WrongType,
        ),
        (
            event("e", "said", 0, json!({"room": ["r"], "message": "m"})),
            "room_id",
            ColumnWarningReason::WrongType,
        ),
        (said("name", json!(false)), "user_name", ColumnWarningReason::WrongType),
        (said("at", json!("x")), "sent_at", ColumnWarningReason::UnreadableTime),
        (job("progress", json!("half")), "progress", ColumnWarningReason::WrongType),
        (job("retries", json!(u64::MAX)), "retry_count", ColumnWarningReason::OutOfRange),
        (job("step", json!([])), "current_step", ColumnWarningReason::WrongType),
        (job("more", json!("\u{0}")), "data", ColumnWarningReason::ReplacedCharacters),
    ] {
        let planned = fixture.plan("studio", &event);
        let expected = [ColumnWarning { column: column.into(), reason }];
        assert_eq!(planned.warnings, expected, "{}", event.body);
    }
}

#[tokio::test]
async fn unusable_first_place_leaves_the_next_one() {
    let fixture = StoreFixture::sqlite().await;
    for unusable in [json!({}), json!([]), Value::Null] {
        let body = json!({"job": "j", "step": unusable, "phase": "render"});
        let planned = fixture.plan("studio", &event("e", "worked", 0, body));
        let PlannedChange::Job { set, .. } = &planned.change else { panic!("{planned:?}") };
        assert!(set.contains(&JobField::CurrentStep(Some("render".to_owned()))), "{set:?}");
        assert_eq!(planned.warnings, []);
    }
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    for unusable in
        [json!(long), json!("\u{0}"), json!("\u{fffd}"), json!({"id": 1}), json!(""), Value::Null]
    {
        let body =
            json!({"object": {"id": unusable}, "data": {"id": "s", "passthrough": unusable}});
        let planned = fixture.plan("mux", &event("e", ACTIVE, 0, body));
        assert_eq!(
            (planned.room, planned.live_stream_id.as_deref()),
            (None, Some("s")),
            "{unusable}"
        );
    }
}

#[tokio::test]
async fn member_that_its_column_cannot_take_stays_in_data() {
    let fixture = StoreFixture::sqlite().await;
    let body = json!({"job": "j", "progress": "half", "retries": 2, "more": 1});
    let planned = fixture.plan("studio", &event("e", "worked", 0, body));
    let PlannedChange::Job { set, .. } = planned.change else { panic!() };
    let data = JobField::Data(r#"{"more":1,"progress":"half"}"#.to_owned());
    assert_eq!(set, [JobField::RetryCount(Some(2)), data]);
}

#[tokio::test]
async fn logged_event_needs_no_usable_session() {
    let fixture = StoreFixture::sqlite().await;
    let logged = event("e", "unheard-of", 0, json!({"room": ["no", "room"], "title": "a\u{0}b"}));
    let planned = fixture.plan("studio", &logged);
    assert_eq!((planned.room, planned.live_stream_id), (None, None));
}

async fn rejected_event_rolls_back_its_batch(fixture: StoreFixture) {
    fixture.refuse_title("poison").await;
    let good = |n: i64| {
        event(&format!("good-{n}"), "live", n, json!({"room": format!("r{n}"), "title": "fine"}))
    };
    let poison = event("poison", "live", 9, json!({"room": "p", "title": "poison"}));
    let batch = [good(1), poison, good(2)].map(|event| fixture.plan("studio", &event));
    match fixture.try_apply("studio", &batch).await {
        Err(StoreError::Rejected(_)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.database.count("sessions").await, 0);
    assert_eq!(fixture.database.count("webhook_events").await, 0);
    fixture.store.probe().await.unwrap();
    let without = [batch[0].clone(), batch[2].clone()];
    fixture.try_apply("studio", &without).await.unwrap();
    assert_eq!(
        fixture.database.count("webhook_events").await,
        2,
        "the batch commits without the rejected event"
    );
}

async fn unreadable_creation_time_counts_as_long_ago(fixture: StoreFixture) {
    let unreadable = match &fixture.database {
        tests::database::Database::Sqlite(_) => "yesterday",
        tests::database::Database::Postgres(_) => "infinity",
    };
    let sql = format!(
        "INSERT INTO sessions (room_id, live_stream_id, created_at) \
         VALUES ('r', 's', '{unreadable}')"
    );
    fixture.database.execute(&sql).await;
    fixture.one("partner", event("e1", "offline", 0, json!({"stream": "s"}))).await;
    assert_eq!(fixture.database.status("r").await, "ended");
}
