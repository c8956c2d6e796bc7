//! Tests of odd values in every column of every bundled effect: the event takes effect, or is
//! refused because of an essential value.

use std::collections::HashSet;

use serde_json::{Value, json};
use tests::odd_values;
use worker::effects::{InvalidEventError, PlannedEvent, RequiredValue};

use crate::fixture::{StoreFixture, event};

on_both!(
    odd_values_are_stored,
    unknown_numbers_are_stored_as_null,
    newest_event_decides_whether_a_number_is_known
);

/// Events per transaction.
const BATCH: usize = 200;

/// The values that these events may be refused for.
const ESSENTIAL: [RequiredValue; 8] = [
    RequiredValue::Session,
    RequiredValue::RoomId,
    RequiredValue::LiveStreamId,
    RequiredValue::RecordingId,
    RequiredValue::ContentId,
    RequiredValue::JobId,
    RequiredValue::MessageId,
    RequiredValue::ViewerCount,
];

fn refused_for(invalid: &InvalidEventError) -> Option<RequiredValue> {
    match invalid {
        InvalidEventError::Body(_) => None,
        InvalidEventError::Missing { what }
        | InvalidEventError::WrongType { what, .. }
        | InvalidEventError::TooLong { what, .. }
        | InvalidEventError::Nul { what }
        | InvalidEventError::ReplacementCharacter { what } => Some(*what),
    }
}

/// Returns the plans of all odd events of `platform` that are not refused.
fn planned(fixture: &StoreFixture, platform: &str) -> Vec<PlannedEvent> {
    let mut plans = Vec::new();
    for (number, odd) in odd_values::events(fixture.platform(platform)).into_iter().enumerate() {
        let id = format!("{platform}-{number}");
        let kind: &'static str = odd.event_type.clone().leak();
        let context = format!("{platform}, {}, {}: {}", odd.event_type, odd.place, odd.body);
        match fixture.try_plan(platform, &event(&id, kind, number as i64, odd.body)) {
            Ok(plan) => plans.push(plan),
            Err(invalid) => {
                let for_essential =
                    refused_for(&invalid).is_some_and(|what| ESSENTIAL.contains(&what));
                assert!(for_essential && odd.essential, "{context}: {invalid}");
            }
        }
    }
    plans
}

#[tokio::test]
async fn odd_value_of_a_column_never_refuses_the_event() {
    let fixture = StoreFixture::sqlite().await;
    let mut places = HashSet::new();
    for platform in fixture.registry.iter() {
        let name = platform.name.as_str();
        places.extend(odd_values::events(platform).into_iter().map(|odd| odd.place));
        if name != "sessions" {
            planned(&fixture, name);
        }
    }
    for place in [
        "title",
        "peak_viewers",
        "started_at",
        "size_bytes",
        "data",
        "retry_count",
        "sent_at",
        "session",
        "id",
    ] {
        assert!(places.contains(place), "{place}");
    }
}

async fn odd_values_are_stored(fixture: StoreFixture) {
    let mut stored = 0;
    for platform in fixture.registry.iter().map(|platform| platform.name.as_str()) {
        // The database rejects none of them. Some sessions are missing or of another platform.
        for batch in planned(&fixture, platform).chunks(BATCH) {
            let applied = fixture.try_apply(platform, batch).await.unwrap();
            stored += applied.iter().filter(|applied| applied.took_effect()).count();
        }
    }
    assert!(stored > 1_000, "{stored}");
}

async fn unknown_numbers_are_stored_as_null(fixture: StoreFixture) {
    let body = json!({"room": "r", "peak": -1, "duration": "-1"});
    fixture.one("studio", event("e1", "offline", 1, body)).await;
    fixture.one("studio", event("e2", "watched", 2, json!({"room": "r", "n": -1}))).await;
    let session = fixture.session("r").await;
    for column in ["peak_viewers", "duration_seconds", "viewer_count"] {
        assert_eq!(session[column], Value::Null, "{column}");
    }
    fixture
        .one("studio", event("e3", "taped", 3, json!({"tape": "t", "duration": -1.0, "size": -1})))
        .await;
    let recording = fixture.database.rows("SELECT * FROM recordings", &[]).await.remove(0);
    assert_eq!(
        (&recording["duration_seconds"], &recording["size_bytes"]),
        (&Value::Null, &Value::Null)
    );
    fixture
        .one("studio", event("e4", "worked", 4, json!({"job": "j", "progress": -1, "retries": -1})))
        .await;
    let job = fixture.database.rows("SELECT * FROM jobs", &[]).await.remove(0);
    assert_eq!((&job["progress"], &job["retry_count"]), (&Value::Null, &Value::Null));
}

async fn newest_event_decides_whether_a_number_is_known(fixture: StoreFixture) {
    let taped = |id: &str, at, tape: &str, duration: Value| {
        event(id, "taped", at, json!({"tape": tape, "duration": duration}))
    };
    for (tape, first, second) in [("a", 1, 2), ("b", 2, 1)] {
        let known = taped(&format!("{tape}1"), 1, tape, json!(60));
        let unknown = taped(&format!("{tape}2"), 2, tape, json!(-1));
        let (one, other) = if first < second { (known, unknown) } else { (unknown, known) };
        fixture.one("studio", one).await;
        fixture.one("studio", other).await;
    }
    for row in fixture.database.rows("SELECT * FROM recordings", &[]).await {
        assert_eq!(row["duration_seconds"], Value::Null, "in either order of arrival: {row}");
    }
}
