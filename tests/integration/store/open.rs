//! Tests of opening the database: migrations, identity and refused URLs.

use secrecy::SecretString;
use serde_json::json;
use worker::store::{OpenError, Store, StoreError};

use crate::fixture::{StoreFixture, open, options};

on_both!(
    workers_starting_at_once_all_open_the_database,
    database_keeps_its_identity,
    database_with_another_identity_is_an_outage,
    older_binary_starts_beside_newer_migrations,
    changed_migration_is_refused,
    application_migrations_share_the_database,
    durability_follows_the_server_settings,
);

async fn workers_starting_at_once_all_open_the_database(fixture: StoreFixture) {
    // A database without migrations.
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

async fn database_keeps_its_identity(fixture: StoreFixture) {
    let again = open(&fixture.database).await;
    assert_eq!(again.database_id(), fixture.store.database_id());
    assert_ne!(StoreFixture::sqlite().await.store.database_id(), fixture.store.database_id());
}

/// Restoring the backup of another system into the database changes its identity.
async fn database_with_another_identity_is_an_outage(fixture: StoreFixture) {
    let own = fixture.store.database_id();
    let set =
        |id: &str| format!("UPDATE tributary_meta SET value = '{id}' WHERE key = 'database_id'");
    fixture.database.execute(&set("another")).await;
    let probed = fixture.store.probe().await;
    assert!(matches!(probed, Err(StoreError::Outage(_))), "{probed:?}");
    let problem = fixture.store.wrong_database().unwrap();
    assert!(problem.contains("another") && problem.contains(own), "{problem}");
    fixture.database.execute(&set(own)).await;
    fixture.store.probe().await.unwrap();
    assert_eq!(fixture.store.wrong_database(), None);
}

async fn older_binary_starts_beside_newer_migrations(fixture: StoreFixture) {
    let newer = "INSERT INTO tributary_migrations \
        (version, description, success, checksum, execution_time) \
        VALUES (9000, 'from the future', true, '00', 1)";
    fixture.database.execute(newer).await;
    fixture.database.execute("ALTER TABLE sessions ADD COLUMN from_the_future TEXT").await;
    let store = open(&fixture.database).await;
    let event = crate::fixture::event("e", "live", 0, json!({"room": "r"}));
    store.apply(fixture.platform("studio"), &[fixture.plan("studio", &event)]).await.unwrap();
}

async fn changed_migration_is_refused(fixture: StoreFixture) {
    fixture.database.execute("UPDATE tributary_migrations SET checksum = '00'").await;
    match Store::open(&SecretString::from(fixture.database.url()), &options()).await {
        Err(OpenError::Migration(_)) => {}
        other => panic!("{other:?}"),
    }
}

async fn application_migrations_share_the_database(fixture: StoreFixture) {
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

async fn durability_follows_the_server_settings(fixture: StoreFixture) {
    let expected = matches!(fixture.database, tests::database::Database::Sqlite(_));
    assert_eq!(
        fixture.store.is_durable().await.unwrap(),
        expected,
        "the tests' PostgreSQL runs with fsync off"
    );
}

#[tokio::test]
async fn in_memory_database_is_refused_in_every_form() {
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
async fn unusable_database_url_is_refused_without_quoting_it() {
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
