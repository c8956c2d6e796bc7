//! Reads and writes the session database as an application does, SQLite or PostgreSQL.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{
    AssertSqlSafe, Column, Connection, PgConnection, Row, SqliteConnection, TypeInfo, ValueRef,
};
use time::format_description::well_known::Rfc3339;

use crate::sender;

/// A session database seen from outside. Every call opens its own connection.
#[derive(Clone, Debug)]
pub enum Database {
    /// Path of the file.
    Sqlite(PathBuf),
    /// URL of the database.
    Postgres(String),
}

impl Database {
    /// Returns the value of `DATABASE_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite://{}", path.display()),
            Self::Postgres(url) => url.clone(),
        }
    }

    /// Returns the rows of a query as objects. Parameters are `$1`, `$2`, … Times are RFC 3339 with
    /// ms and `Z` from both databases, and JSON columns are JSON.
    ///
    /// # Errors
    /// If the database is unavailable or locked, or rejects the query.
    pub async fn try_rows(&self, sql: &str, parameters: &[&str]) -> sqlx::Result<Vec<Value>> {
        match self {
            Self::Sqlite(path) => {
                let mut connection = sqlite(path, Duration::from_secs(5)).await?;
                let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
                for parameter in parameters {
                    query = query.bind((*parameter).to_owned());
                }
                query.fetch_all(&mut connection).await?.iter().map(object).collect()
            }
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await?;
                let sql = format!("SELECT row_to_json(t)::text FROM ({sql}) t");
                let mut query = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql));
                for parameter in parameters {
                    query = query.bind((*parameter).to_owned());
                }
                let rows = query.fetch_all(&mut connection).await?;
                let _ = connection.close().await;
                Ok(rows
                    .iter()
                    .map(|row| plain_times(serde_json::from_str(row).unwrap_or_default()))
                    .collect())
            }
        }
    }

    /// Returns the rows like [`Self::try_rows`].
    ///
    /// # Panics
    /// If the query fails.
    pub async fn rows(&self, sql: &str, parameters: &[&str]) -> Vec<Value> {
        self.try_rows(sql, parameters).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs a statement, as an application that writes `sessions` does.
    ///
    /// # Panics
    /// If the statement fails.
    pub async fn execute(&self, sql: &str) {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let done = match self {
            Self::Sqlite(path) => match sqlite(path, Duration::from_secs(5)).await {
                Ok(mut connection) => query.execute(&mut connection).await.map(drop),
                Err(error) => Err(error),
            },
            Self::Postgres(url) => match PgConnection::connect(url).await {
                Ok(mut connection) => query.execute(&mut connection).await.map(drop),
                Err(error) => Err(error),
            },
        };
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Adds a trigger that rejects contents with this id, as an application's own trigger might.
    ///
    /// # Panics
    /// If the trigger cannot be created.
    pub async fn refuse_content(&self, content_id: &str) {
        let sql = match self {
            Self::Sqlite(_) => format!(
                "CREATE TRIGGER refuse BEFORE INSERT ON contents
                 WHEN NEW.content_id = '{content_id}'
                 BEGIN SELECT RAISE(ABORT, 'no'); END"
            ),
            Self::Postgres(_) => format!(
                "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'no'; END $$
                 LANGUAGE plpgsql;
                 CREATE TRIGGER refuse BEFORE INSERT ON contents FOR EACH ROW
                 WHEN (NEW.content_id = '{content_id}') EXECUTE FUNCTION refuse()"
            ),
        };
        self.execute(&sql).await;
    }

    /// Adds a trigger that suppresses contents with this id: no error and no row.
    ///
    /// # Panics
    /// If the trigger cannot be created.
    pub async fn swallow_content(&self, content_id: &str) {
        let sql = match self {
            Self::Sqlite(_) => format!(
                "CREATE TRIGGER swallow BEFORE INSERT ON contents
                 WHEN NEW.content_id = '{content_id}'
                 BEGIN SELECT RAISE(IGNORE); END"
            ),
            Self::Postgres(_) => format!(
                "CREATE FUNCTION swallow() RETURNS trigger AS $$ BEGIN RETURN NULL; END $$
                 LANGUAGE plpgsql;
                 CREATE TRIGGER swallow BEFORE INSERT ON contents FOR EACH ROW
                 WHEN (NEW.content_id = '{content_id}') EXECUTE FUNCTION swallow()"
            ),
        };
        self.execute(&sql).await;
    }

    /// Returns the session of `room`.
    pub async fn session(&self, room: &str) -> Option<Value> {
        self.rows("SELECT * FROM sessions WHERE room_id = $1", &[room]).await.pop()
    }

    /// Returns the status of `room`, or `none` without a session.
    pub async fn status(&self, room: &str) -> String {
        let session = self.session(room).await.unwrap_or(json!({"status": "none"}));
        session["status"].as_str().unwrap_or("null").to_owned()
    }

    /// Returns the ledger row of an event.
    pub async fn event(&self, platform: &str, event_id: &str) -> Option<Value> {
        let sql = "SELECT * FROM webhook_events WHERE platform = $1 AND event_id = $2";
        self.rows(sql, &[platform, event_id]).await.pop()
    }

    /// Returns the number of rows of a table, or 0 if the table does not exist.
    pub async fn count(&self, table: &str) -> i64 {
        let rows = self.try_rows(&format!("SELECT count(*) AS n FROM {table}"), &[]).await;
        rows.ok().and_then(|rows| rows[0]["n"].as_i64()).unwrap_or(0)
    }
}

/// SQLite's write lock, held until it is dropped, as by an application with an open transaction.
#[derive(Debug)]
pub struct ExclusiveLock(SqliteConnection);

impl ExclusiveLock {
    /// Takes the lock within 10 s.
    ///
    /// # Panics
    /// If the lock is not free in time, or if the database is not SQLite.
    pub async fn take(database: &Database) -> Self {
        Self::try_take(database, Duration::from_secs(10)).await.expect("BEGIN EXCLUSIVE")
    }

    /// Takes the lock within `timeout`.
    ///
    /// # Errors
    /// If the lock is not free in time.
    ///
    /// # Panics
    /// If the database is not SQLite.
    pub async fn try_take(database: &Database, timeout: Duration) -> sqlx::Result<Self> {
        let Database::Sqlite(path) = database else { panic!("only SQLite is locked like this") };
        let mut connection = sqlite(path, timeout).await?;
        sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut connection).await?;
        Ok(Self(connection))
    }

    /// Releases the lock.
    ///
    /// # Panics
    /// If SQLite returns an error.
    pub async fn release(mut self) {
        sqlx::raw_sql("ROLLBACK").execute(&mut self.0).await.expect("ROLLBACK");
        let _ = self.0.close().await;
    }
}

/// Lock on a session's row or on a table of PostgreSQL, held until it is dropped, as by an
/// application with an open transaction.
#[derive(Debug)]
pub struct RowLock(PgConnection);

impl RowLock {
    /// Locks the row of `room`.
    ///
    /// # Panics
    /// If there is no such row, or if the database is not PostgreSQL.
    pub async fn take(database: &Database, room: &str) -> Self {
        let Database::Postgres(url) = database else { panic!("only PostgreSQL has row locks") };
        let mut connection = PgConnection::connect(url).await.expect("the database");
        sqlx::raw_sql("BEGIN").execute(&mut connection).await.expect("BEGIN");
        let lock = sqlx::query("SELECT 1 FROM sessions WHERE room_id = $1 FOR UPDATE")
            .bind(room.to_owned());
        lock.fetch_one(&mut connection).await.expect("a session to lock");
        Self(connection)
    }

    /// Locks a whole table, as a migration of the application does.
    ///
    /// # Panics
    /// If there is no such table, or if the database is not PostgreSQL.
    pub async fn take_table(database: &Database, table: &str) -> Self {
        let Database::Postgres(url) = database else { panic!("only PostgreSQL has table locks") };
        let mut connection = PgConnection::connect(url).await.expect("the database");
        let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut connection).await.expect("a table to lock");
        Self(connection)
    }

    /// Releases the lock.
    ///
    /// # Panics
    /// If PostgreSQL returns an error.
    pub async fn release(mut self) {
        sqlx::raw_sql("ROLLBACK").execute(&mut self.0).await.expect("ROLLBACK");
        let _ = self.0.close().await;
    }
}

async fn sqlite(path: &PathBuf, timeout: Duration) -> sqlx::Result<SqliteConnection> {
    let options =
        SqliteConnectOptions::new().filename(path).create_if_missing(false).busy_timeout(timeout);
    SqliteConnection::connect_with(&options).await
}

fn object(row: &SqliteRow) -> sqlx::Result<Value> {
    let mut object = Map::new();
    for column in row.columns() {
        let raw = row.try_get_raw(column.ordinal())?;
        let value = match raw.type_info().name() {
            _ if raw.is_null() => Value::Null,
            "INTEGER" | "BOOLEAN" => json!(row.try_get_unchecked::<i64, _>(column.ordinal())?),
            "REAL" => json!(row.try_get_unchecked::<f64, _>(column.ordinal())?),
            _ => text(row.try_get_unchecked::<String, _>(column.ordinal())?),
        };
        object.insert(column.name().to_owned(), value);
    }
    Ok(plain_times(Value::Object(object)))
}

/// Parses objects and arrays, since SQLite stores JSON as text.
fn text(text: String) -> Value {
    if text.starts_with(['{', '[']) {
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    } else {
        text.into()
    }
}

fn plain_times(mut row: Value) -> Value {
    for value in row.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let time = value.as_str().filter(|text| text.len() >= 20 && text.ends_with("+00:00"));
        if let Some(at) = time.and_then(|text| time::OffsetDateTime::parse(text, &Rfc3339).ok()) {
            let ms = i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
            *value = sender::rfc3339(ms).into();
        }
    }
    row
}
