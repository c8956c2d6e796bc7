//! Tests of database outages, which are never blamed on an event.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tests::database::{Database, ExclusiveLock};
use tests::poll;
use tests::postgres::{PostgresOptions, PostgresServer};
use worker::effects::Applied;
use worker::store::{OpenError, Store, StoreError, StoreOptions};

use crate::fixture::{ACTIVE, IDLE, StoreFixture, event, mux, options};

on_both!(cancelled_apply_leaves_the_store_usable, missing_table_is_an_outage);

const TEST_TIMEOUT: Duration = Duration::from_secs(10);

fn is_outage<T: std::fmt::Debug>(outcome: Result<T, StoreError>) {
    assert!(matches!(outcome, Err(StoreError::Outage(_))), "{outcome:?}");
}

async fn cancelled_apply_leaves_the_store_usable(fixture: StoreFixture) {
    for n in 0..40_u64 {
        let event = event(&format!("e{n}"), "live", 0, json!({"room": format!("r{n}")}));
        let batch = [fixture.plan("studio", &event)];
        let apply = fixture.store.apply(fixture.platform("studio"), &batch);
        let _ = tokio::time::timeout(Duration::from_micros(n * 100), apply).await;
    }
    let last = event("last", "live", 0, json!({"room": "last"}));
    fixture.one("studio", last).await;
    let pairs =
        "SELECT count(*) AS n FROM sessions s JOIN webhook_events e ON e.room_id = s.room_id";
    let rows = fixture.database.rows(pairs, &[]).await;
    assert_eq!(
        rows[0]["n"],
        fixture.database.count("sessions").await,
        "every session has its ledger row"
    );
    assert_eq!(rows[0]["n"], fixture.database.count("webhook_events").await);
}

async fn missing_table_is_an_outage(fixture: StoreFixture) {
    fixture.database.execute("ALTER TABLE webhook_events RENAME TO mislaid").await;
    let planned = [fixture.plan("studio", &event("e", "live", 0, json!({"room": "r"})))];
    is_outage(fixture.try_apply("studio", &planned).await);
    fixture.database.execute("ALTER TABLE mislaid RENAME TO webhook_events").await;
    fixture.try_apply("studio", &planned).await.unwrap();
}

#[tokio::test]
async fn locked_sqlite_is_an_outage_until_the_lock_ends() {
    let fixture = StoreFixture::sqlite().await;
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let planned = [fixture.plan("mux", &mux("e", ACTIVE, 0, Some("r"), "s"))];
    let lock = ExclusiveLock::take(&fixture.database).await;
    let began = Instant::now();
    is_outage(fixture.try_apply("mux", &planned).await);
    assert!(began.elapsed() >= Duration::from_millis(200), "the store waits for busy_timeout");
    is_outage(fixture.store.probe().await);
    assert!(fixture.store.session("r").await.unwrap().is_some(), "readers do not wait for writers");
    lock.release().await;
    fixture.store.probe().await.unwrap();
    fixture.try_apply("mux", &planned).await.unwrap();
}

#[tokio::test]
async fn read_only_sqlite_is_an_outage() {
    let fixture = StoreFixture::sqlite().await;
    let Database::Sqlite(path) = &fixture.database else { panic!() };
    let store = Store::open(
        &SecretString::from(format!("sqlite://{}?mode=ro", path.display())),
        &options(),
    )
    .await;
    assert!(matches!(store, Err(OpenError::Unavailable(StoreError::Outage(_)))), "{store:?}");
}

async fn own_server() -> (PostgresServer, StoreFixture) {
    let server =
        PostgresServer::start(PostgresOptions { fsync: true, ..PostgresOptions::default() }).await;
    let url = server.database().await;
    let fixture = StoreFixture::on(Database::Postgres(url), None).await;
    (server, fixture)
}

#[tokio::test]
async fn killed_postgres_is_an_outage_and_keeps_its_commits() {
    let (mut server, fixture) = own_server().await;
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let planned = [fixture.plan("mux", &mux("e", ACTIVE, 0, Some("r"), "s"))];
    server.kill();
    for _ in 0..3 {
        is_outage(fixture.try_apply("mux", &planned).await);
        is_outage(fixture.store.probe().await);
        is_outage(fixture.store.session("r").await);
    }
    let refused = Store::open(&SecretString::from(fixture.database.url()), &options()).await;
    assert!(matches!(refused, Err(OpenError::Unavailable(StoreError::Outage(_)))), "{refused:?}");
    server.restart().await;
    fixture.store.probe().await.unwrap();
    fixture.try_apply("mux", &planned).await.unwrap();
    assert_eq!(fixture.session("r").await["status"], "live");
    assert!(fixture.store.is_durable().await.unwrap());
}

#[tokio::test]
async fn postgres_restart_between_batches_fails_no_batch() {
    let (mut server, fixture) = own_server().await;
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    server.stop().await;
    server.restart().await;
    // Longer than an idle connection is used without a check.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    fixture.one("mux", mux("e", ACTIVE, 0, Some("r"), "s")).await;
}

/// The worker overrides defaults of the database: durable commits, and a bound for every wait.
#[tokio::test]
async fn postgres_session_has_the_required_settings() {
    let (_server, fixture) = own_server().await;
    for statement in [
        "DO $$ BEGIN EXECUTE \
         format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$",
        "CREATE TABLE seen (setting TEXT)",
        "CREATE FUNCTION note() RETURNS trigger AS $$ BEGIN \
         INSERT INTO seen SELECT name || ' ' || current_setting(name) \
         FROM unnest(ARRAY['synchronous_commit', 'idle_in_transaction_session_timeout', \
         'lock_timeout', 'statement_timeout', 'tcp_keepalives_idle', 'tcp_keepalives_interval', \
         'tcp_keepalives_count']) AS name; RETURN NEW; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER note BEFORE INSERT ON tributary_meta FOR EACH ROW EXECUTE FUNCTION note()",
    ] {
        fixture.database.execute(statement).await;
    }
    let url = SecretString::from(fixture.database.url());
    let store = Store::open(&url, &StoreOptions::default()).await.unwrap();
    fixture.database.execute("DELETE FROM seen").await;
    store.probe().await.unwrap();
    let seen =
        fixture.database.rows("SELECT setting FROM seen ORDER BY setting COLLATE \"C\"", &[]).await;
    let seen: Vec<&str> = seen.iter().filter_map(|row| row["setting"].as_str()).collect();
    let expected = [
        "idle_in_transaction_session_timeout 5s",
        "lock_timeout 400ms",
        "statement_timeout 10s",
        "synchronous_commit on",
        "tcp_keepalives_count 3",
        "tcp_keepalives_idle 10",
        "tcp_keepalives_interval 5",
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn frozen_postgres_is_an_outage_within_the_deadline() {
    let (server, fixture) = own_server().await;
    let options = StoreOptions { deadline: Duration::from_millis(500), ..options() };
    let store = Store::open(&SecretString::from(fixture.database.url()), &options).await.unwrap();
    let backends = format!("a pid of the server on port {}", server.port());
    let sql =
        "SELECT pid::text AS pid FROM pg_stat_activity WHERE application_name = 'tributary-worker'";
    let pids: Vec<String> = fixture
        .database
        .rows(sql, &[])
        .await
        .iter()
        .map(|row| row["pid"].as_str().expect(&backends).to_owned())
        .collect();
    assert!(pids.len() >= 2, "{pids:?}");
    signal("-STOP", &pids);
    let planned = [fixture.plan("studio", &event("e", "live", 0, json!({"room": "r"})))];
    let began = Instant::now();
    is_outage(store.apply(fixture.platform("studio"), &planned).await);
    assert!(began.elapsed() < Duration::from_secs(5));
    signal("-CONT", &pids);
    store.apply(fixture.platform("studio"), &planned).await.unwrap();
}

fn signal(name: &str, pids: &[String]) {
    let done = std::process::Command::new("kill").arg(name).args(pids).status().unwrap();
    assert!(done.success());
}

#[tokio::test]
async fn session_row_locked_elsewhere_blames_no_event() {
    let fixture = StoreFixture::postgres().await;
    let options = StoreOptions { lock_timeout: Duration::from_millis(200), ..options() };
    let store = Store::open(&SecretString::from(fixture.database.url()), &options).await.unwrap();
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let holder = hold(&fixture).await;
    let planned = [fixture.plan("mux", &mux("e", ACTIVE, 0, Some("r"), "s"))];
    assert_eq!(store.apply(fixture.platform("mux"), &planned).await.unwrap(), [Applied::RowLocked]);
    unlock(holder).await;
    store.apply(fixture.platform("mux"), &planned).await.unwrap();
}

#[tokio::test]
async fn frozen_transaction_ends_by_its_idle_timeout() {
    let fixture = StoreFixture::postgres().await;
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let options = StoreOptions { idle_timeout: Duration::from_millis(300), ..options() };
    let frozen = Store::open(&SecretString::from(fixture.database.url()), &options).await.unwrap();
    let first = [fixture.plan("mux", &mux("e1", ACTIVE, 0, Some("r"), "s"))];
    let second = [fixture.plan("mux", &mux("e2", IDLE, 1, Some("r"), "s"))];
    // The future waits for the row and is not polled any more, like in a stopped process.
    let holder = hold(&fixture).await;
    let mut stopped = Box::pin(frozen.apply(fixture.platform("mux"), &first));
    poll::until("the worker waits for the row", TEST_TIMEOUT, async || {
        let _ = tokio::time::timeout(Duration::from_millis(20), stopped.as_mut()).await;
        if waiting(&fixture).await { Ok(()) } else { Err("not yet") }
    })
    .await;
    unlock(holder).await;
    poll::until("the worker has the row", TEST_TIMEOUT, async || {
        if waiting(&fixture).await { Err("still waiting") } else { Ok(()) }
    })
    .await;
    fixture.try_apply("mux", &second).await.unwrap();
    is_outage(stopped.await);
    frozen.apply(fixture.platform("mux"), &first).await.unwrap();
    assert_eq!(fixture.session("r").await["status"], "idle");
}

async fn waiting(fixture: &StoreFixture) -> bool {
    let sql = "SELECT pid FROM pg_stat_activity \
        WHERE wait_event_type = 'Lock' AND datname = current_database()";
    !fixture.database.rows(sql, &[]).await.is_empty()
}

async fn hold(fixture: &StoreFixture) -> PgConnection {
    let mut holder = PgConnection::connect(&fixture.database.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT 1 FROM sessions WHERE room_id = 'r' FOR UPDATE")
        .execute(&mut holder)
        .await
        .unwrap();
    holder
}

async fn unlock(mut holder: PgConnection) {
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
}
