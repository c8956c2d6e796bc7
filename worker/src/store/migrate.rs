//! Holds the migrations of the session database.
//!
//! # Guarantees
//! - Any number of workers may start at once. One migrates at a time, under a lock that ends with
//!   its process (`workers_starting_at_once_all_open_the_database`).
//! - An older program starts beside newer migrations
//!   (`older_binary_starts_beside_newer_migrations`).
//!
//! # Design
//! The lock is Tributary's own, because sqlx's lock does nothing on SQLite.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Longest wait for another worker's migration before an outage is reported.
pub(super) const MIGRATION_TIMEOUT: Duration = Duration::from_secs(60);

/// Version, description and SQL.
type MigrationStep = (i64, &'static str, &'static str);

pub(super) const SQLITE: [MigrationStep; 2] = [
    (1, "tables", include_str!("../../migrations/sqlite/0001_tables.sql")),
    (2, "chat room optional", include_str!("../../migrations/sqlite/0002_chat_room_optional.sql")),
];
pub(super) const POSTGRES: [MigrationStep; 2] = [
    (1, "tables", include_str!("../../migrations/postgres/0001_tables.sql")),
    (
        2,
        "chat room optional",
        include_str!("../../migrations/postgres/0002_chat_room_optional.sql"),
    ),
];

/// Reads the UUID of the database.
pub(super) const DATABASE_ID: &str = "SELECT value FROM tributary_meta WHERE key = 'database_id'";

pub(super) fn migrator(steps: &[MigrationStep]) -> Migrator {
    let step = |(version, description, sql): &MigrationStep| {
        let name = Cow::Borrowed(*description);
        Migration::new(*version, name, MigrationType::Simple, (*sql).into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(steps.iter().map(step).collect());
    migrator.set_ignore_missing(true).set_locking(false);
    // The application may keep tables and a sqlx history of its own in the same database.
    migrator.dangerous_set_table_name("tributary_migrations");
    migrator
}

pub(super) fn new_database_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
