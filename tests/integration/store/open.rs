//! Opening: migrations under a lock of our own, by any number of workers at once.

use secrecy::SecretString;
use serde_json::json;
use worker::store::{OpenError, Store, StoreError};

use crate::fixture::{Fixture, open, options};

on_both!(
    eight_workers_that_start_at_once_all_start,
    a_database_keeps_its_identity,
    database_with_another_identity_is_an_outage,
    an_older_program_starts_beside_newer_migrations,
    a_migration_that_was_changed_is_refused,
    an_application_keeps_its_own_migrations_in_the_same_database,
    commits_are_durable_by_the_server_s_own_settings,
);

async fn eight_workers_that_start_at_once_all_start(fixture: Fixture) {
    // A database that nobody has touched yet.
    let fresh = match &fixture.database {
        tests::database::Database::Sqlite(path) => {
            tests::database::Database::Sqlite(path.with_file_name("fresh.db"))
        }
        tests::database::Database::Postgres(_) => {
            tests::database::Database::Postgres(tests::postgres::shared().await.database().await)
        }
    };
    let opening: Vec<_> = (0..8)
        .map(|_| {
            let fresh = fresh.clone();
            tokio::spawn(async move { open(&fresh).await.database_id().to_owned() })
        })
        .collect();
    let mut ids = Vec::new();
    for one in opening {
        ids.push(one.await.unwrap());
    }
    assert_eq!(ids[0].len(), 36);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    for table in ["sessions", "webhook_events", "recordings", "contents", "jobs", "chat_messages"] {
        assert!(
            fresh.try_rows(&format!("SELECT * FROM {table}"), &[]).await.unwrap().is_empty(),
            "{table}"
        );
    }
}

async fn a_database_keeps_its_identity(fixture: Fixture) {
    let again = open(&fixture.database).await;
    assert_eq!(again.database_id(), fixture.store.database_id());
    assert_ne!(Fixture::sqlite().await.store.database_id(), fixture.store.database_id());
}

/// Restoring the backup of another system into the database does this.
async fn database_with_another_identity_is_an_outage(fixture: Fixture) {
    let own = fixture.store.database_id();
    let set =
        |id: &str| format!("UPDATE tributary_meta SET value = '{id}' WHERE key = 'database_id'");
    fixture.database.execute(&set("another")).await;
    let probed = fixture.store.probe().await;
    assert!(matches!(probed, Err(StoreError::Outage(_))), "{probed:?}");
    let trouble = fixture.store.wrong_database().unwrap();
    assert!(trouble.contains("another") && trouble.contains(own), "{trouble}");
    fixture.database.execute(&set(own)).await;
    fixture.store.probe().await.unwrap();
    assert_eq!(fixture.store.wrong_database(), None);
}

async fn an_older_program_starts_beside_newer_migrations(fixture: Fixture) {
    let newer = "INSERT INTO tributary_migrations (version, description, success, checksum, execution_time) \
        VALUES (9000, 'from the future', true, '00', 1)";
    fixture.database.execute(newer).await;
    fixture.database.execute("ALTER TABLE sessions ADD COLUMN from_the_future TEXT").await;
    let store = open(&fixture.database).await;
    let event = crate::fixture::event("e", "live", 0, json!({"room": "r"}));
    store.apply(fixture.platform("studio"), &[fixture.plan("studio", &event)]).await.unwrap();
}

async fn a_migration_that_was_changed_is_refused(fixture: Fixture) {
    fixture.database.execute("UPDATE tributary_migrations SET checksum = '00'").await;
    match Store::open(&SecretString::from(fixture.database.url()), &options()).await {
        Err(OpenError::Migration(_)) => {}
        other => panic!("{other:?}"),
    }
}

async fn an_application_keeps_its_own_migrations_in_the_same_database(fixture: Fixture) {
    fixture
        .database
        .execute("CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, checksum TEXT)")
        .await;
    fixture
        .database
        .execute("INSERT INTO _sqlx_migrations (version, checksum) VALUES (1, 'theirs')")
        .await;
    assert_eq!(open(&fixture.database).await.database_id(), fixture.store.database_id());
}

async fn commits_are_durable_by_the_server_s_own_settings(fixture: Fixture) {
    let expected = matches!(fixture.database, tests::database::Database::Sqlite(_));
    assert_eq!(
        fixture.store.is_durable().await.unwrap(),
        expected,
        "the tests' PostgreSQL runs with fsync off"
    );
}

#[tokio::test]
async fn a_database_in_memory_is_refused_however_it_is_asked_for() {
    let folder = tests::process::folder();
    for question in ["?mode=memory", "?vfs=memdb"] {
        let url = format!("sqlite://{}/x.db{question}", folder.path().display());
        match Store::open(&SecretString::from(url), &options()).await {
            Err(OpenError::Configuration(reason)) => assert!(reason.contains("memory"), "{reason}"),
            other => panic!("{question}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_url_that_names_no_database_is_a_configuration_error_without_the_url() {
    for url in [
        "mysql://u:hush@h/d",
        "nonsense hush",
        "sqlite::memory:",
        "sqlite:///no/folder/hush.db",
        "postgres://u:hush@h:port/d",
    ] {
        match Store::open(&SecretString::from(url), &options()).await {
            Err(error @ OpenError::Configuration(_)) => {
                assert!(!error.to_string().contains("u:hush"), "{error}");
            }
            other => panic!("{url}: {other:?}"),
        }
    }
}
