//! An outage is not a failure of the event.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tests::database::{Database, ExclusiveLock};
use tests::poll;
use tests::postgres::{PostgresOptions, PostgresServer};
use worker::effects::Applied;
use worker::store::{OpenError, Store, StoreError, StoreOptions};

use crate::fixture::{ACTIVE, Fixture, IDLE, event, mux, options};

on_both!(
    a_call_that_is_dropped_half_way_leaves_the_store_usable,
    a_missing_table_is_nobody_s_fault
);

const PATIENCE: Duration = Duration::from_secs(10);

fn is_outage<T: std::fmt::Debug>(outcome: Result<T, StoreError>) {
    assert!(matches!(outcome, Err(StoreError::Outage(_))), "{outcome:?}");
}

async fn a_call_that_is_dropped_half_way_leaves_the_store_usable(fixture: Fixture) {
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
        "never one without the other"
    );
    assert_eq!(rows[0]["n"], fixture.database.count("webhook_events").await);
}

async fn a_missing_table_is_nobody_s_fault(fixture: Fixture) {
    fixture.database.execute("ALTER TABLE webhook_events RENAME TO mislaid").await;
    let planned = [fixture.plan("studio", &event("e", "live", 0, json!({"room": "r"})))];
    is_outage(fixture.try_apply("studio", &planned).await);
    fixture.database.execute("ALTER TABLE mislaid RENAME TO webhook_events").await;
    fixture.try_apply("studio", &planned).await.unwrap();
}

#[tokio::test]
async fn a_locked_sqlite_is_an_outage_and_is_over_when_the_lock_is() {
    let fixture = Fixture::sqlite().await;
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let planned = [fixture.plan("mux", &mux("e", ACTIVE, 0, Some("r"), "s"))];
    let lock = ExclusiveLock::take(&fixture.database).await;
    let began = Instant::now();
    is_outage(fixture.try_apply("mux", &planned).await);
    assert!(began.elapsed() >= Duration::from_millis(200), "it waited for the lock first");
    is_outage(fixture.store.probe().await);
    assert!(fixture.store.session("r").await.unwrap().is_some(), "readers do not wait for writers");
    lock.release().await;
    fixture.store.probe().await.unwrap();
    fixture.try_apply("mux", &planned).await.unwrap();
}

#[tokio::test]
async fn a_sqlite_that_may_not_be_written_is_an_outage() {
    let fixture = Fixture::sqlite().await;
    let Database::Sqlite(path) = &fixture.database else { panic!() };
    let store = Store::open(
        &SecretString::from(format!("sqlite://{}?mode=ro", path.display())),
        &options(),
    )
    .await;
    assert!(matches!(store, Err(OpenError::Unavailable(StoreError::Outage(_)))), "{store:?}");
}

async fn own_server() -> (PostgresServer, Fixture) {
    let server =
        PostgresServer::start(PostgresOptions { fsync: true, ..PostgresOptions::default() }).await;
    let url = server.database().await;
    let fixture = Fixture::on(Database::Postgres(url), None).await;
    (server, fixture)
}

#[tokio::test]
async fn a_killed_postgres_is_an_outage_and_comes_back_with_everything_it_confirmed() {
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
async fn a_restart_between_two_batches_is_not_even_noticed() {
    let (mut server, fixture) = own_server().await;
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    server.stop().await;
    server.restart().await;
    // Longer than a connection may rest unasked.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    fixture.one("mux", mux("e", ACTIVE, 0, Some("r"), "s")).await;
}

/// Whatever the database's own defaults are: durable commits, and an end to every wait.
#[tokio::test]
async fn a_session_of_postgres_has_the_settings_that_must_hold() {
    let (_server, fixture) = own_server().await;
    for statement in [
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$",
        "CREATE TABLE seen (setting TEXT)",
        "CREATE FUNCTION note() RETURNS trigger AS $$ BEGIN INSERT INTO seen SELECT name || ' ' || current_setting(name) \
         FROM unnest(ARRAY['synchronous_commit', 'idle_in_transaction_session_timeout', 'lock_timeout', 'statement_timeout', \
         'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count']) AS name; RETURN NEW; END $$ LANGUAGE plpgsql",
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
async fn a_frozen_postgres_is_an_outage_within_the_deadline() {
    let (server, fixture) = own_server().await;
    let options = StoreOptions { deadline: Duration::from_millis(500), ..options() };
    let store = Store::open(&SecretString::from(fixture.database.url()), &options).await.unwrap();
    let backends = format!("pid from backends of {}", server.port());
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
async fn session_row_held_by_another_is_no_fault_of_the_event() {
    let fixture = Fixture::postgres().await;
    let options = StoreOptions { lock_timeout: Duration::from_millis(200), ..options() };
    let store = Store::open(&SecretString::from(fixture.database.url()), &options).await.unwrap();
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let holder = hold(&fixture).await;
    let planned = [fixture.plan("mux", &mux("e", ACTIVE, 0, Some("r"), "s"))];
    assert_eq!(store.apply(fixture.platform("mux"), &planned).await.unwrap(), [Applied::RowLocked]);
    let_go(holder).await;
    store.apply(fixture.platform("mux"), &planned).await.unwrap();
}

#[tokio::test]
async fn a_worker_frozen_in_mid_transaction_holds_nobody_up_for_ever() {
    let fixture = Fixture::postgres().await;
    fixture.announce("a", 0, json!({"room_id": "r"})).await;
    let options = StoreOptions { idle_timeout: Duration::from_millis(300), ..options() };
    let frozen = Store::open(&SecretString::from(fixture.database.url()), &options).await.unwrap();
    let first = [fixture.plan("mux", &mux("e1", ACTIVE, 0, Some("r"), "s"))];
    let second = [fixture.plan("mux", &mux("e2", IDLE, 1, Some("r"), "s"))];
    // It gets as far as waiting for the row; then nobody polls it, as if the process were stopped.
    let holder = hold(&fixture).await;
    let mut stopped = Box::pin(frozen.apply(fixture.platform("mux"), &first));
    poll::until("the worker waits for the row", PATIENCE, async || {
        let _ = tokio::time::timeout(Duration::from_millis(20), stopped.as_mut()).await;
        if waiting(&fixture).await { Ok(()) } else { Err("not yet") }
    })
    .await;
    let_go(holder).await;
    poll::until("the worker has the row", PATIENCE, async || {
        if waiting(&fixture).await { Err("still waiting") } else { Ok(()) }
    })
    .await;
    fixture.try_apply("mux", &second).await.unwrap();
    is_outage(stopped.await);
    frozen.apply(fixture.platform("mux"), &first).await.unwrap();
    assert_eq!(fixture.session("r").await["status"], "idle");
}

async fn waiting(fixture: &Fixture) -> bool {
    let sql = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    !fixture.database.rows(sql, &[]).await.is_empty()
}

async fn hold(fixture: &Fixture) -> PgConnection {
    let mut holder = PgConnection::connect(&fixture.database.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT 1 FROM sessions WHERE room_id = 'r' FOR UPDATE")
        .execute(&mut holder)
        .await
        .unwrap();
    holder
}

async fn let_go(mut holder: PgConnection) {
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
}
