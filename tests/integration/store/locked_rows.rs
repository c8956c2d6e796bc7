//! Tests of rows that an application keeps locked: their events are held back, and other events of
//! the transaction take effect.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tests::poll;
use worker::effects::Applied;
use worker::store::{PlatformEvents, Store, StoreOptions};

use crate::fixture::{ACTIVE, StoreFixture, TestEvent, event, mux, options};

const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

async fn store_with_short_lock_timeout(fixture: &StoreFixture) -> Store {
    let options = StoreOptions { lock_timeout: LOCK_TIMEOUT, ..options() };
    Store::open(&SecretString::from(fixture.database.url()), &options).await.unwrap()
}

/// Locks the rows of `query` until the connection is dropped or passed to [`release`].
async fn hold(fixture: &StoreFixture, query: &str) -> PgConnection {
    let mut holder = PgConnection::connect(&fixture.database.url()).await.unwrap();
    let sql = format!("BEGIN; {query} FOR UPDATE");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut holder).await.unwrap();
    holder
}

async fn release(mut holder: PgConnection) {
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
}

/// Applies `events` and returns for each whether it was held back.
async fn apply(
    store: &Store,
    fixture: &StoreFixture,
    platform: &str,
    events: &[TestEvent],
) -> Vec<bool> {
    let planned: Vec<_> = events.iter().map(|event| fixture.plan(platform, event)).collect();
    let applied = store.apply(fixture.platform(platform), &planned).await.unwrap();
    let is_held_back = |applied: &Applied| match applied {
        Applied::RowLocked => true,
        Applied::Done(_) => false,
        other => panic!("{other:?}"),
    };
    applied.iter().map(is_held_back).collect()
}

#[tokio::test]
async fn locked_session_holds_back_only_its_events() {
    let fixture = StoreFixture::postgres().await;
    for room in ["held", "free"] {
        fixture
            .announce(room, 0, json!({"room_id": room, "live_stream_id": format!("{room}-stream")}))
            .await;
    }
    let store = store_with_short_lock_timeout(&fixture).await;
    let holder = hold(&fixture, "SELECT 1 FROM sessions WHERE room_id = 'held'").await;
    let events = |round: i64| {
        [
            mux(&format!("a{round}"), ACTIVE, round, Some("held"), "held-stream"),
            mux(&format!("b{round}"), ACTIVE, round, Some("free"), "free-stream"),
            mux(&format!("c{round}"), ACTIVE, round, None, "held-stream"),
            mux(&format!("d{round}"), ACTIVE, round, None, "free-stream"),
        ]
    };
    assert_eq!(apply(&store, &fixture, "mux", &events(1)).await, [true, false, true, false]);
    let begun = Instant::now();
    for round in 2..5 {
        assert_eq!(
            apply(&store, &fixture, "mux", &events(round)).await,
            [true, false, true, false]
        );
    }
    assert!(
        begun.elapsed() < LOCK_TIMEOUT,
        "{:?}: the store waited again for a row that it knew to be locked",
        begun.elapsed()
    );
    assert_eq!(fixture.session("held").await["status"], "ready");
    assert_eq!(fixture.session("free").await["status"], "live");
    release(holder).await;
    assert_eq!(apply(&store, &fixture, "mux", &events(5)).await, [false; 4]);
    assert_eq!(fixture.session("held").await["status"], "live");
}

#[tokio::test]
async fn locked_row_of_each_table_holds_back_its_events() {
    /// A table, its key column, and an event for the row with a given id.
    type LockedRowCase = (&'static str, &'static str, fn(&str) -> TestEvent);
    let fixture = StoreFixture::postgres().await;
    let store = store_with_short_lock_timeout(&fixture).await;
    let cases: [LockedRowCase; 4] = [
        ("recordings", "recording_id", |id| {
            event(&format!("{id}-tape"), "taped", 0, json!({"tape": id}))
        }),
        ("contents", "content_id", |id| {
            event(&format!("{id}-item"), "added", 0, json!({"item": id}))
        }),
        ("jobs", "job_id", |id| event(&format!("{id}-job"), "worked", 0, json!({"job": id}))),
        ("chat_messages", "message_id", |id| {
            event(
                &format!("{id}-chat"),
                "said",
                0,
                json!({"room": format!("{id}-room"), "message": id, "text": "t"}),
            )
        }),
    ];
    for (table, key, event_for) in cases {
        let mut first = event_for("held");
        first.id.push_str("-first");
        apply(&store, &fixture, "studio", &[first]).await;
        let holder = hold(&fixture, &format!("SELECT 1 FROM {table} WHERE {key} = 'held'")).await;
        let kept = apply(&store, &fixture, "studio", &[event_for("held"), event_for("free")]).await;
        assert_eq!(kept, [true, false], "{table}");
        release(holder).await;
        assert_eq!(
            apply(&store, &fixture, "studio", &[event_for("held")]).await,
            [false],
            "{table}"
        );
    }
}

#[tokio::test]
async fn released_row_is_usable_at_once() {
    let fixture = StoreFixture::postgres().await;
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let store = store_with_short_lock_timeout(&fixture).await;
    for round in 1..4 {
        let events = [mux(&format!("e{round}"), ACTIVE, round, Some("r"), "s")];
        let holder = hold(&fixture, "SELECT 1 FROM sessions WHERE room_id = 'r'").await;
        assert_eq!(apply(&store, &fixture, "mux", &events).await, [true]);
        release(holder).await;
        assert_eq!(apply(&store, &fixture, "mux", &events).await, [false]);
    }
}

/// Parts of other platforms share the transaction with the part of the locked row.
#[tokio::test]
async fn locked_row_of_one_part_holds_back_no_other_part() {
    let fixture = StoreFixture::postgres().await;
    fixture.one("studio", event("first", "live", 0, json!({"room": "studios"}))).await;
    let store = store_with_short_lock_timeout(&fixture).await;
    let holder = hold(&fixture, "SELECT 1 FROM sessions WHERE room_id = 'studios'").await;
    let live = |id: &str, room: &str| event(id, "live", 1, json!({"room": room}));
    let rival = [fixture.plan("rival", &live("e", "rivals"))];
    let studio = [
        fixture.plan("studio", &live("e", "studios")),
        fixture.plan("studio", &live("f", "other")),
    ];
    let parts = [
        PlatformEvents { platform: fixture.platform("rival"), events: &rival },
        PlatformEvents { platform: fixture.platform("studio"), events: &studio },
    ];
    let applied = store.apply_together(&parts).await.unwrap();
    let shape: Vec<Vec<bool>> = applied
        .iter()
        .map(|part| part.iter().map(|one| *one == Applied::RowLocked).collect())
        .collect();
    assert_eq!(shape, [vec![false], vec![true, false]]);
    release(holder).await;
    assert_eq!(fixture.database.count("webhook_events").await, 3);
    let again = store.apply_together(&parts).await.unwrap();
    assert!(matches!(again[1][0], Applied::Done(_)), "{again:?}");
    assert!(matches!(again[1][1], Applied::AlreadyApplied { same_origin: true, .. }), "{again:?}");
}

/// A row inserted by an uncommitted transaction is invisible, so the store cannot detect its lock.
#[tokio::test]
async fn row_being_inserted_elsewhere_is_retried_alone() {
    let fixture = StoreFixture::postgres().await;
    let store = store_with_short_lock_timeout(&fixture).await;
    let mut holder = PgConnection::connect(&fixture.database.url()).await.unwrap();
    sqlx::raw_sql(
        "BEGIN; INSERT INTO sessions (room_id, platform, scope) VALUES ('new', 'studio', 'own')",
    )
    .execute(&mut holder)
    .await
    .unwrap();
    let live = |id: &str, room: &str| event(id, "live", 1, json!({"room": room}));
    let alone = [fixture.plan("studio", &live("a", "new"))];
    let refused = store.apply(fixture.platform("studio"), &alone).await.unwrap_err();
    assert!(refused.is_lock_timeout(), "{refused:?}");
    let both = [live("a", "new"), live("b", "other")];
    assert_eq!(apply(&store, &fixture, "studio", &both).await, [true, false]);
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    poll::until("the event takes effect", Duration::from_secs(20), async || {
        match apply(&store, &fixture, "studio", &[live("a", "new")]).await[0] {
            true => Err("still held back"),
            false => Ok(()),
        }
    })
    .await;
    assert_eq!(fixture.session("new").await["status"], "live");
}
