//! What planning refuses, so that no database has to; and what a database refuses all the same.

use serde_json::{Value, json};
use worker::effects::{InvalidEvent, MAX_KEY_BYTES};
use worker::store::StoreError;

use crate::fixture::{Event, Fixture, event};

on_both!(a_rejected_event_takes_its_batch_with_it_and_leaves_nothing, a_creation_that_nobody_can_read_was_long_ago);

fn live(body: Value) -> Event {
    event("e", "live", 0, body)
}

#[tokio::test]
async fn what_can_never_be_stored_is_an_invalid_event() {
    let fixture = Fixture::sqlite().await;
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    let wrong = |what, expected| InvalidEvent::WrongType { what, expected };
    let max = MAX_KEY_BYTES;
    let cases = [
        (live(json!({"room": "r", "title": ["x"]})), wrong("title", "a text")),
        (live(json!({"room": "r", "title": "a\u{0}b"})), InvalidEvent::Nul { what: "title" }),
        (live(json!({"room": "r", "at": "tomorrow"})), wrong("started_at", "a time")),
        (live(json!({"room": "r\u{0}"})), InvalidEvent::Nul { what: "the room id" }),
        (live(json!({"room": long})), InvalidEvent::TooLong { what: "the room id", max }),
        (live(json!({"stream": long})), InvalidEvent::TooLong { what: "the live stream id", max }),
        (live(json!({"room": {"id": "r"}})), wrong("the room id", "a text")),
        (live(json!({"room": ""})), InvalidEvent::Missing { what: "the session" }),
        (event("e", "offline", 0, json!({"room": "r", "peak": -1})), wrong("peak_viewers", "a count")),
        (event("e", "offline", 0, json!({"room": "r", "duration": "long"})), wrong("duration_seconds", "a number")),
        (event("e", "taped", 0, json!({"room": "r"})), InvalidEvent::Missing { what: "the recording id" }),
        (event("e", "taped", 0, json!({"tape": long})), InvalidEvent::TooLong { what: "the recording id", max }),
        (event("e", "added", 0, json!({"item": ""})), InvalidEvent::Missing { what: "the content id" }),
        (event("e", "added", 0, json!({"item": "c", "more": {"a\u{0}": 1}})), InvalidEvent::Nul { what: "data" }),
        (event("e", "watched", 0, json!({"room": "r", "n": "many"})), wrong("viewer_count", "a count")),
        (event("e", "watched", 0, json!({"room": "r"})), InvalidEvent::Missing { what: "the number of viewers" }),
        (event("e", "watched", 0, json!({"n": 1})), InvalidEvent::Missing { what: "the session" }),
        (
            event("e", "watched", 0, json!({"room": "r", "n": 1, "viewer": {"id": 1}})),
            wrong("data", "a text, a number or a truth value"),
        ),
        (event("e", "said", 0, json!({"room": "r"})), InvalidEvent::Missing { what: "the message id" }),
        (event("e", "said", 0, json!({"message": "m"})), InvalidEvent::Missing { what: "the session" }),
        (event("e", "said", 0, json!({"room": "r", "message": "m", "text": {}})), wrong("message", "a text")),
        (event("e", "said", 0, json!({"room": "r", "message": "m", "at": "x"})), wrong("sent_at", "a time")),
        (event("e", "worked", 0, json!({"progress": 1})), InvalidEvent::Missing { what: "the job id" }),
        (event("e", "worked", 0, json!({"job": long})), InvalidEvent::TooLong { what: "the job id", max }),
        (event("e", "worked", 0, json!({"job": "j", "progress": "half"})), wrong("progress", "a number")),
        (event("e", "worked", 0, json!({"job": "j", "retries": -1})), wrong("retry_count", "a count")),
        (event("e", "worked", 0, json!({"job": "j", "step": []})), wrong("current_step", "a text")),
        (event("e", "worked", 0, json!({"job": "j", "more": "\u{0}"})), InvalidEvent::Nul { what: "data" }),
        (event("e\u{0}", "live", 0, json!({"room": "r"})), InvalidEvent::Nul { what: "the event id" }),
    ];
    for (event, expected) in cases {
        assert_eq!(fixture.try_plan("studio", &event).unwrap_err(), expected, "{}", event.body);
    }
    let announced = |body| event("e", "session.announced", 0, body);
    let cases = [
        (json!({"status": "ready"}), InvalidEvent::Missing { what: "the session" }),
        (json!({"room_id": "r", "status": "asleep"}), wrong("status", "a session status")),
        (
            json!({"room_id": "r", "config": {"egress": {"live_stream_id": long}}}),
            InvalidEvent::TooLong { what: "config.egress.live_stream_id", max },
        ),
        (json!({"room_id": "r", "config": {"a": "\u{0}"}}), InvalidEvent::Nul { what: "config" }),
    ];
    for (body, expected) in cases {
        assert_eq!(fixture.try_plan("sessions", &announced(body)).unwrap_err(), expected);
    }
}

#[tokio::test]
async fn a_logged_event_is_kept_whatever_its_session_looks_like() {
    let fixture = Fixture::sqlite().await;
    let logged = event("e", "unheard-of", 0, json!({"room": ["no", "room"], "title": "a\u{0}b"}));
    let planned = fixture.plan("studio", &logged);
    assert_eq!((planned.room, planned.live_stream_id), (None, None));
}

async fn a_rejected_event_takes_its_batch_with_it_and_leaves_nothing(fixture: Fixture) {
    fixture.refuse_title("poison").await;
    let good = |n: i64| event(&format!("good-{n}"), "live", n, json!({"room": format!("r{n}"), "title": "fine"}));
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
    assert_eq!(fixture.database.count("webhook_events").await, 2, "without it the same batch commits");
}

async fn a_creation_that_nobody_can_read_was_long_ago(fixture: Fixture) {
    let unreadable = match &fixture.database {
        tests::database::Database::Sqlite(_) => "yesterday",
        tests::database::Database::Postgres(_) => "infinity",
    };
    let sql =
        format!("INSERT INTO sessions (room_id, live_stream_id, created_at) VALUES ('r', 's', '{unreadable}')");
    fixture.database.execute(&sql).await;
    fixture.one("partner", event("e1", "offline", 0, json!({"stream": "s"}))).await;
    assert_eq!(fixture.database.status("r").await, "ended");
}
