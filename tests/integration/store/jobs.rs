//! Tests of jobs.

use serde_json::{Value, json};
use worker::effects::EventAction;

use crate::fixture::{StoreFixture, action, done, event};

on_both!(
    job_keeps_all_its_values,
    job_keeps_newer_values,
    job_column_is_cleared_by_null_and_not_by_absence,
);

async fn job(fixture: &StoreFixture, id: &str) -> Value {
    fixture.database.rows("SELECT * FROM jobs WHERE job_id = $1", &[id]).await.remove(0)
}

async fn job_keeps_all_its_values(fixture: StoreFixture) {
    let body = json!({
        "job": "j", "progress": 62.5, "step": "Rendering", "url": "https://v", "retries": 2,
        "error": null, "made": {"by": ["x", 1.5]}, "phase": "not taken",
    });
    let result = done(fixture.one("studio", event("e1", "worked", 0, body)).await);
    assert_eq!((result.action, result.room_id), (EventAction::Recorded, None));
    let row = job(&fixture, "j").await;
    assert_eq!((&row["platform"], &row["status"]), (&json!("studio"), &json!("worked")));
    assert_eq!((&row["progress"], &row["current_step"]), (&json!(62.5), &json!("Rendering")));
    assert_eq!(
        (&row["video_url"], &row["retry_count"], &row["error"]),
        (&json!("https://v"), &json!(2), &Value::Null)
    );
    assert_eq!(
        row["data"],
        json!({"made": {"by": ["x", 1.5]}, "phase": "not taken"}),
        "values without a column"
    );
    assert_eq!(fixture.database.count("sessions").await, 0);
}

async fn job_keeps_newer_values(fixture: StoreFixture) {
    fixture.one("studio", event("e3", "failed", 3_000, json!({"job": "j", "error": "late"}))).await;
    let older = json!({"job": "j", "progress": 50, "error": "early", "n": 1});
    assert_eq!(
        action(fixture.one("studio", event("e2", "worked", 2_000, older)).await),
        EventAction::Recorded
    );
    let oldest = json!({"job": "j", "progress": 10, "error": "first", "n": 0});
    assert_eq!(
        action(fixture.one("studio", event("e1", "worked", 1_000, oldest)).await),
        EventAction::StaleIgnored
    );
    let row = job(&fixture, "j").await;
    assert_eq!((&row["status"], &row["error"]), (&json!("failed"), &json!("late")));
    assert_eq!((row["progress"].as_f64(), &row["data"]), (Some(50.0), &json!({"n": 1})));
}

async fn job_column_is_cleared_by_null_and_not_by_absence(fixture: StoreFixture) {
    let error = json!({"code": 7, "at": "step"});
    fixture.one("studio", event("e1", "failed", 1_000, json!({"job": "j", "error": error}))).await;
    // SQLite stores the error as JSON text.
    let stored = job(&fixture, "j").await["error"].clone();
    let stored = stored.as_str().map_or(stored.clone(), |text| serde_json::from_str(text).unwrap());
    assert_eq!(stored, error);
    fixture
        .one("studio", event("e2", "worked", 2_000, json!({"job": "j", "url": "https://v"})))
        .await;
    assert_ne!(job(&fixture, "j").await["error"], Value::Null);
    fixture
        .one(
            "studio",
            event("e3", "worked", 3_000, json!({"job": "j", "error": null, "url": null})),
        )
        .await;
    let row = job(&fixture, "j").await;
    assert_eq!((&row["error"], &row["video_url"]), (&Value::Null, &Value::Null));
    let stale = event("e0", "failed", 500, json!({"job": "j", "error": "old"}));
    assert_eq!(action(fixture.one("studio", stale).await), EventAction::StaleIgnored);
    assert_eq!(job(&fixture, "j").await["error"], Value::Null);
}
