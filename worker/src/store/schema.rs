//! Compares the tables and columns that this program needs with those in the database.
//!
//! # Guarantees
//! - A missing table or column makes the worker unready, and is named
//!   (`missing_column_or_table_is_unready_and_named`).
//!
//! # Design
//! The migrations define what is needed. SQLite's migrations run in memory and are read back. Those
//! of PostgreSQL create the same tables and columns (`workers_starting_at_once_all_open_the_database`).

use std::sync::OnceLock;

use rusqlite::Connection;

use super::error::{BackendError, OpenError};
use super::migrate::SQLITE;

/// Most missing parts that one message names.
const MAX_NAMED: usize = 5;

/// Tables and columns, one pair for each column.
#[derive(Debug)]
pub(super) struct RequiredSchema {
    pub(super) tables: Vec<String>,
    pub(super) columns: Vec<String>,
}

/// Returns everything that the migrations create.
pub(super) fn required() -> Result<&'static RequiredSchema, BackendError> {
    static REQUIRED: OnceLock<RequiredSchema> = OnceLock::new();
    if let Some(needed) = REQUIRED.get() {
        return Ok(needed);
    }
    let memory = Connection::open_in_memory()?;
    for (_, _, sql) in SQLITE {
        memory.execute_batch(sql)?;
    }
    let (tables, columns) = columns(&memory)?.into_iter().unzip();
    Ok(REQUIRED.get_or_init(|| RequiredSchema { tables, columns }))
}

/// Returns the names of the tables that the migrations create.
pub(super) fn tables() -> Result<Vec<String>, BackendError> {
    let mut tables = required()?.tables.clone();
    tables.sort();
    tables.dedup();
    Ok(tables)
}

/// Returns the tables of a SQLite database with their columns.
pub(super) fn columns(connection: &Connection) -> Result<Vec<(String, String)>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(
        "SELECT t.name, c.name \
            FROM sqlite_schema t JOIN pragma_table_info(t.name) c \
            WHERE t.type = 'table'",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// Fails if a table or column is missing: `(table, None)` or `(table, Some(column))`.
pub(super) fn check_schema(missing: Vec<(String, Option<String>)>) -> Result<(), BackendError> {
    let mut named: Vec<String> = missing
        .into_iter()
        .map(|(table, column)| match column {
            Some(column) => format!("the table {table} has no column {column}"),
            None => format!("there is no table {table}"),
        })
        .collect();
    named.sort();
    named.dedup();
    fail_if_any(named)
}

/// Fails if the database user lacks a privilege: `(table, privilege)`.
pub(super) fn check_privileges(lacking: Vec<(String, String)>) -> Result<(), BackendError> {
    let named =
        |(table, verb)| format!("the database user may not {verb} on table {table}; GRANT it");
    fail_if_any(lacking.into_iter().map(named).collect())
}

fn fail_if_any(mut named: Vec<String>) -> Result<(), BackendError> {
    if named.is_empty() {
        return Ok(());
    }
    if named.len() > MAX_NAMED {
        let more = named.split_off(MAX_NAMED).len();
        named.push(format!("and {more} more"));
    }
    Err(BackendError::Schema(named.join(", ")))
}

/// Refuses a database in which an application has tables of the same names, unless Tributary's
/// migrations have run there before. `remedy` names another place for its tables.
pub(super) fn check_unclaimed(found: &[String], remedy: &str) -> Result<(), OpenError> {
    const OWN: &str = "tributary_meta";
    if found.is_empty() || found.iter().any(|table| table == OWN) {
        return Ok(());
    }
    let (noun, names) = (if found.len() == 1 { "table" } else { "tables" }, found.join(", "));
    Err(OpenError::Configuration(format!(
        "the database already has the {noun} {names}, which Tributary did not make; {remedy}"
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn required_schema_is_read_from_the_migrations() {
        let needed = required().unwrap();
        let has = |table: &str, column: &str| {
            needed.tables.iter().zip(&needed.columns).any(|(t, c)| t == table && c == column)
        };
        assert!(
            has("sessions", "room_id")
                && has("sessions", "guards")
                && has("tributary_meta", "value")
        );
        let known = [
            "chat_messages",
            "contents",
            "jobs",
            "recordings",
            "sessions",
            "tributary_meta",
            "webhook_events",
        ];
        assert_eq!(tables().unwrap(), known);
    }

    #[test]
    fn room_of_chat_messages_becomes_optional_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let (first, second) = (Connection::open(&path).unwrap(), Connection::open(&path).unwrap());
        first.execute_batch(SQLITE[0].2).unwrap();
        let insert = |room: Option<&str>, sent_at: Option<&str>| {
            let sql = "INSERT INTO chat_messages (platform, message_id, room_id, sent_at) \
                       VALUES ('p', ?1 || hex(randomblob(4)), ?1, ?2)";
            let sql = sql.replace("?1 ||", "coalesce(?1, '') ||");
            second.execute(&sql, (room, sent_at))
        };
        insert(Some("r"), Some("t")).unwrap();
        insert(None, Some("t")).unwrap_err();
        second.execute_batch("CREATE VIEW rooms AS SELECT room_id FROM chat_messages").unwrap();
        first.execute_batch(&format!("BEGIN; {} COMMIT", SQLITE[1].2)).unwrap();
        insert(None, Some("t")).unwrap();
        insert(Some("r"), None).unwrap_err();
        let one = |sql: &str| first.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(one("SELECT count(*) || ' of ' || count(room_id) FROM rooms"), "2 of 1");
        assert_eq!(one("PRAGMA integrity_check"), "ok");
    }

    #[test]
    fn missing_parts_of_the_schema_are_named() {
        assert!(check_schema(Vec::new()).is_ok());
        let column = |column: &str| ("sessions".to_owned(), Some(column.to_owned()));
        let error = check_schema(vec![
            column("title"),
            ("jobs".to_owned(), None),
            ("jobs".to_owned(), None),
        ]);
        assert_eq!(
            error.unwrap_err().to_string(),
            "the schema is not complete: the table sessions has no column title, there is no \
                table jobs"
        );
        let error =
            check_schema(["a", "b", "c", "d", "e", "f", "g"].map(column).to_vec()).unwrap_err();
        assert!(error.to_string().ends_with("has no column e, and 2 more"), "{error}");
    }

    #[test]
    fn tables_of_an_application_are_refused() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(check_unclaimed(&[], "").is_ok());
        assert!(check_unclaimed(&names(&["sessions", "tributary_meta"]), "").is_ok());
        let error = check_unclaimed(&names(&["jobs", "sessions"]), "move").unwrap_err().to_string();
        let expected = "DATABASE_URL: the database already has the tables jobs, sessions, which \
            Tributary did \
                        not make; move";
        assert_eq!(error, expected);
    }
}
