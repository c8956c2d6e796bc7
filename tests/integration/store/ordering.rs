//! Tests of the order of events: a newer value is never overwritten by an older one.

use serde_json::{Value, json};
use worker::effects::EventAction;

use crate::fixture::{
    ACTIVE, DISCONNECTED, IDLE, StoreFixture, TestEvent, action, done, event, mux, time,
};

on_both!(
    stream_events_in_every_order_end_in_the_same_row,
    late_event_fills_columns_nobody_else_set,
    equal_times_are_decided_by_arrival,
    results_name_the_action,
    new_broadcast_clears_columns_of_the_last_one,
    event_without_values_keeps_the_other_columns,
);

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

fn comparable(mut row: Value) -> Value {
    for column in ["room_id", "updated_at", "last_event_id", "guards"] {
        row.as_object_mut().unwrap().remove(column);
    }
    row
}

async fn stream_events_in_every_order_end_in_the_same_row(fixture: StoreFixture) {
    for (n, order) in ORDERS.iter().enumerate() {
        let (room, stream) = (format!("room-{n}"), format!("stream-{n}"));
        fixture
            .announce(&format!("a-{n}"), 0, json!({"room_id": room, "live_stream_id": stream}))
            .await;
        let events = [(ACTIVE, 1_000), (IDLE, 2_000), (DISCONNECTED, 3_000)];
        for one in order {
            let (kind, at) = events[*one];
            fixture.one("mux", mux(&format!("{n}-{one}"), kind, at, None, &stream)).await;
        }
        let row = fixture.session(&room).await;
        assert_eq!(row["status"], "ended", "{order:?}");
        assert_eq!(row["last_event_id"], format!("{n}-2"), "{order:?}");
        assert_eq!(row["last_event_at"], time(3_000), "{order:?}");
        let mut same = comparable(row);
        same["live_stream_id"] = json!("");
        let mut first = comparable(fixture.session("room-0").await);
        first["live_stream_id"] = json!("");
        assert_eq!(same, first, "{order:?}");
    }
}

fn live(id: &str, at: i64, title: &str) -> TestEvent {
    event(id, "live", at, json!({"room": "r", "title": title, "streamer": "s1", "at": time(at)}))
}

fn offline(id: &str, at: i64) -> TestEvent {
    event(id, "offline", at, json!({"room": "r", "duration": 330.5, "peak": "17", "at": time(at)}))
}

async fn late_event_fills_columns_nobody_else_set(fixture: StoreFixture) {
    assert_eq!(
        action(fixture.one("studio", offline("e2", 5_000)).await),
        EventAction::StatusUpdated
    );
    assert_eq!(
        action(fixture.one("studio", live("e1", 1_000, "Show")).await),
        EventAction::Recorded
    );
    let row = fixture.session("r").await;
    for (column, value) in [
        ("status", json!("ended")),
        ("title", json!("Show")),
        ("streamer_id", json!("s1")),
        ("started_at", json!(time(1_000))),
        ("ended_at", json!(time(5_000))),
        ("duration_seconds", json!(330.5)),
        ("peak_viewers", json!(17)),
        ("platform", json!("studio")),
        ("scope", json!("own")),
        ("created_at", json!(time(1_000))),
        ("last_event_id", json!("e2")),
    ] {
        assert_eq!(row[column], value, "{column}");
    }
}

async fn equal_times_are_decided_by_arrival(fixture: StoreFixture) {
    let first = fixture.plan("studio", &live("e1", 1_000, "first"));
    let second = fixture.plan("studio", &offline("e2", 1_000));
    fixture.try_apply("studio", std::slice::from_ref(&second)).await.unwrap();
    fixture.try_apply("studio", std::slice::from_ref(&first)).await.unwrap();
    assert_eq!(fixture.session("r").await["status"], "ended", "the later arrival wins");
}

async fn results_name_the_action(fixture: StoreFixture) {
    fixture.announce("a", 0, json!({"room_id": "r", "live_stream_id": "s"})).await;
    let result = done(fixture.one("mux", mux("e1", ACTIVE, 2_000, Some("r"), "s")).await);
    let expected = json!({
        "processed": true, "action": "status_updated", "room_id": "r",
        "old_status": "ready", "new_status": "live",
        "live_stream_id": "s", "event_id": "e1", "event_type": ACTIVE,
    });
    assert_eq!(serde_json::to_value(&result).unwrap(), expected);
    let stored = fixture.database.event("mux", "e1").await.unwrap();
    assert_eq!(stored["result"], expected);
    assert_eq!(stored["action"], "status_updated");
    assert_eq!(fixture.store.result("mux", "e1").await.unwrap(), Some(result));

    let again = done(fixture.one("mux", mux("e2", ACTIVE, 3_000, Some("r"), "s")).await);
    assert_eq!((again.action, again.old_status), (EventAction::StatusUnchanged, again.new_status));
    let stale = done(fixture.one("mux", mux("e0", IDLE, 1_000, Some("r"), "s")).await);
    assert_eq!((stale.action, stale.old_status), (EventAction::StaleIgnored, stale.new_status));
    let logged =
        done(fixture.one("mux", mux("e3", "video.live_stream.created", 1, Some("r"), "s")).await);
    assert_eq!((logged.action, logged.room_id.as_deref()), (EventAction::Logged, Some("r")));
    assert_eq!((logged.old_status, logged.new_status), (None, None));
}

async fn new_broadcast_clears_columns_of_the_last_one(fixture: StoreFixture) {
    let broken =
        || event("e3", "broken", 6_000, json!({"room": "r", "code": 17, "message": "no signal"}));
    for (n, events) in [
        [live("e1", 1_000, "One"), offline("e2", 5_000), broken(), live("e4", 9_000, "Two")],
        [live("e4", 9_000, "Two"), broken(), offline("e2", 5_000), live("e1", 1_000, "One")],
    ]
    .into_iter()
    .enumerate()
    {
        let fixture = if n == 0 { &fixture } else { &StoreFixture::sqlite().await };
        for event in events {
            fixture.one("studio", event).await;
        }
        let row = fixture.session("r").await;
        assert_eq!((&row["status"], &row["title"]), (&json!("live"), &json!("Two")));
        for column in
            ["ended_at", "duration_seconds", "peak_viewers", "error_code", "error_message"]
        {
            assert_eq!(row[column], Value::Null, "{column}");
        }
        assert_eq!(row["started_at"], time(9_000));
    }
}

async fn event_without_values_keeps_the_other_columns(fixture: StoreFixture) {
    fixture.apply("studio", &[live("e1", 1_000, "Show"), offline("e2", 5_000)]).await;
    let nothing = json!({"room": "r", "title": null, "duration": "", "peak": 0, "at": 0});
    let nothing = event("e3", "offline", 6_000, nothing);
    fixture.one("studio", nothing).await;
    let row = fixture.session("r").await;
    assert_eq!((&row["title"], &row["peak_viewers"]), (&json!("Show"), &json!(0)));
    assert_eq!((&row["duration_seconds"], &row["ended_at"]), (&json!(330.5), &json!(time(5_000))));
}
