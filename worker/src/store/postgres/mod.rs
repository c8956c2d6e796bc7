//! PostgreSQL session database.
//!
//! # Guarantees
//! - A session that holds locks cannot hold them longer than its own timeouts, even if its worker
//!   is frozen in a transaction (`frozen_transaction_ends_by_its_idle_timeout`).
//! - Rows that a batch changes are locked first, in order of key. A deadlock counts as a lost race
//!   (`deadlock_is_retried_as_a_lost_race`).

mod ledger_retention;
mod sql;
mod statements;
mod writes;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection as _, PgConnection};

use super::StoreOptions;
use super::error::{BackendError, OpenError, StoreError};
use super::migrate::{self, DATABASE_ID, POSTGRES};
use super::schema;
use super::transaction_scope::TransactionScope;
use super::writer::{Backend, Writer};

/// Session settings, in one round trip per connection. Start-up options would not do, because
/// poolers refuse them. All statements here look rows up by key, so plans that scan a table are
/// disabled: PostgreSQL keeps a plan that it made while a table was small.
const SETTINGS: &str = "SELECT \
    set_config('idle_in_transaction_session_timeout', $1, false), \
    set_config('statement_timeout', $2, false), \
    set_config('lock_timeout', $3, false), \
    set_config('synchronous_commit', 'on', false), \
    set_config('tcp_keepalives_idle', '10', false), \
    set_config('tcp_keepalives_interval', '5', false), \
    set_config('tcp_keepalives_count', '3', false), \
    set_config('enable_seqscan', 'off', false), \
    set_config('enable_hashjoin', 'off', false), \
    set_config('enable_mergejoin', 'off', false), \
    set_config('jit', 'off', false)";

const RESULT: &str =
    "SELECT result::text FROM webhook_events WHERE platform = $1 AND event_id = $2";

const SESSION: &str = "SELECT json_build_object(\
    'room_id', room_id, 'platform', platform, 'status', status, 'live_stream_id', live_stream_id, \
    'config', config, 'title', title, 'streamer_id', streamer_id, 'app_id', app_id, \
    'viewer_count', viewer_count, 'peak_viewers', peak_viewers, \
    'duration_seconds', duration_seconds, 'error_code', error_code, \
    'error_message', error_message, \
    'started_at', to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
    'ended_at', to_char(ended_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
    'data', data, 'last_event_id', last_event_id, \
    'last_event_at', to_char(last_event_at AT TIME ZONE 'UTC', \
    'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
    'created_at', to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
    'updated_at', to_char(updated_at AT TIME ZONE 'UTC', \
    'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'))::text \
    FROM sessions WHERE room_id = $1";

/// Key of the migration lock, used by nothing else in the database: "tributar" in ASCII.
const MIGRATION_LOCK: i64 = 0x7472_6962_7574_6172;

/// Returns the schema that tables are created in, and which of the given names exist there.
const RELATIONS: &str = "SELECT current_schema()::text, ARRAY(SELECT relname::text FROM pg_class \
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) \
    AND relname = ANY($1) ORDER BY relname)";

/// Returns the given pairs of table and column that are missing. The column is null if the table is
/// missing.
const MISSING: &str = "SELECT n.tab, \
        CASE WHEN to_regclass(n.tab) IS NULL THEN NULL ELSE n.col END \
    FROM unnest($1::text[], $2::text[]) AS n (tab, col) \
    WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(n.tab) AND \
        a.attname = n.col AND a.attnum > 0 AND NOT a.attisdropped)";

/// Returns the given tables that this session's role may not use, with the missing privilege.
/// Ledger rows are never updated.
const FORBIDDEN: &str = "SELECT t.tab, p.verb FROM unnest($1::text[]) AS t (tab) \
    CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) AS p (verb) \
    WHERE NOT (t.tab = 'webhook_events' AND p.verb = 'UPDATE') \
    AND NOT has_any_column_privilege(to_regclass(t.tab), p.verb)";

/// Connections for the routes that show rows.
const READER_CONNECTIONS: u32 = 2;

/// PostgreSQL session database.
#[derive(Debug)]
pub struct Postgres {
    pub(super) writer: Writer<PostgresBackend>,
    readers: PgPool,
    pub(super) database_id: String,
}

/// Connection options and session settings.
#[derive(Clone, Debug)]
pub(super) struct PostgresBackend {
    connect: PgConnectOptions,
    options: StoreOptions,
}

impl Backend for PostgresBackend {
    type Connection = PgConnection;
    const TRANSACTION_SCOPE: TransactionScope = TransactionScope::OwnSessions;

    async fn connect(&self) -> Result<PgConnection, BackendError> {
        let connecting = async {
            let mut connection = PgConnection::connect_with(&self.connect).await?;
            configure_session(&mut connection, &self.options).await?;
            Ok(connection)
        };
        Ok(with_timeout(self.options.connect_timeout, connecting).await?)
    }
}

impl Postgres {
    pub(super) async fn open(url: &str, options: &StoreOptions) -> Result<Self, OpenError> {
        let connect: PgConnectOptions = url.parse().map_err(|_| {
            OpenError::Configuration(
                "is not a valid PostgreSQL URL (use postgres://user:password@host/database)"
                    .to_owned(),
            )
        })?;
        let connect = connect.application_name("tributary-worker");
        let server = PostgresBackend { connect, options: options.clone() };
        let database_id = migrate(&server).await?;
        let connection = server.connect().await.map_err(StoreError::from)?;
        let settings = options.clone();
        let readers = PgPoolOptions::new()
            .max_connections(READER_CONNECTIONS)
            .min_connections(0)
            .acquire_timeout(options.connect_timeout)
            .after_connect(move |connection, _| {
                let settings = settings.clone();
                Box::pin(async move { configure_session(connection, &settings).await })
            })
            .connect_lazy_with(server.connect.clone());
        let writer = Writer::new(server, connection, &database_id, options.deadline);
        Ok(Self { writer, readers, database_id })
    }

    pub(super) async fn result(
        &self,
        platform: &str,
        event_id: &str,
    ) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar(RESULT)
            .bind(platform)
            .bind(event_id)
            .fetch_optional(&self.readers)
            .await?)
    }

    pub(super) async fn session(&self, room_id: &str) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar(SESSION).bind(room_id).fetch_optional(&self.readers).await?)
    }

    /// Returns true if commits survive a power loss.
    pub(super) async fn is_durable(&self) -> Result<bool, StoreError> {
        let settings: String = sqlx::query_scalar(
            "SELECT current_setting('fsync') || current_setting('full_page_writes')",
        )
        .fetch_one(&self.readers)
        .await?;
        Ok(settings == "onon")
    }
}

async fn configure_session(
    connection: &mut PgConnection,
    options: &StoreOptions,
) -> Result<(), sqlx::Error> {
    sqlx::query(SETTINGS)
        .bind(milliseconds(options.idle_timeout))
        .bind(milliseconds(options.statement_timeout))
        .bind(milliseconds(options.lock_timeout))
        .execute(connection)
        .await?;
    Ok(())
}

/// PostgreSQL reads zero as "no limit".
fn milliseconds(time: Duration) -> String {
    time.as_millis().max(1).to_string()
}

/// Migrates on a connection of its own, whose end releases the lock in any case.
async fn migrate(server: &PostgresBackend) -> Result<String, OpenError> {
    let mut connection = server.connect().await.map_err(StoreError::from)?;
    let work = async {
        // A migration may take longer than a batch, and waits for one of another worker.
        sqlx::query(
            "SELECT set_config('statement_timeout', '0', false), \
                set_config('lock_timeout', '0', false)",
        )
        .execute(&mut connection)
        .await?;
        sqlx::query("SELECT pg_advisory_lock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut connection)
            .await?;
        Ok::<_, sqlx::Error>(())
    };
    with_timeout(migrate::MIGRATION_TIMEOUT, work).await.map_err(StoreError::from)?;
    check_unclaimed(&mut connection).await?;
    migrate::migrator(&POSTGRES).run_direct(None, &mut connection, false).await?;
    let id = migrate::new_database_id();
    sqlx::query(
        "INSERT INTO tributary_meta (key, value) \
        VALUES ('database_id', $1) \
        ON CONFLICT (key) DO NOTHING",
    )
    .bind(id)
    .execute(&mut connection)
    .await
    .map_err(StoreError::from)?;
    let id = sqlx::query_scalar(DATABASE_ID)
        .fetch_one(&mut connection)
        .await
        .map_err(StoreError::from)?;
    // A pooler might keep the session open, and the lock with it.
    let unlock =
        sqlx::query("SELECT pg_advisory_unlock($1)").bind(MIGRATION_LOCK).execute(&mut connection);
    unlock.await.map_err(StoreError::from)?;
    check_schema(&mut connection).await.map_err(StoreError::from)?;
    connection.close().await.map_err(StoreError::from)?;
    Ok(id)
}

/// Refuses a schema in which an application has tables of the same names.
async fn check_unclaimed(connection: &mut PgConnection) -> Result<(), OpenError> {
    let tables = schema::tables().map_err(StoreError::from)?;
    let (schema, found): (Option<String>, Vec<String>) = sqlx::query_as(RELATIONS)
        .bind(tables)
        .fetch_one(connection)
        .await
        .map_err(StoreError::from)?;
    if schema.is_none() {
        return Err(OpenError::Configuration(
            "no schema of the connection's search_path exists; create one: CREATE SCHEMA tributary"
                .to_owned(),
        ));
    }
    schema::check_unclaimed(
        &found,
        "give Tributary a schema of its own: run CREATE SCHEMA tributary, and add the \
         parameter options=-csearch_path%3Dtributary to the URL",
    )
}

/// Checks that no table, column or privilege is missing.
pub(super) async fn check_schema(connection: &mut PgConnection) -> Result<(), BackendError> {
    let needed = schema::required()?;
    let missing = sqlx::query_as(MISSING).bind(&needed.tables).bind(&needed.columns);
    schema::check_schema(missing.fetch_all(&mut *connection).await?)?;
    let forbidden = sqlx::query_as(FORBIDDEN).bind(schema::tables()?);
    schema::check_privileges(forbidden.fetch_all(connection).await?)
}

async fn with_timeout<T>(
    bound: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>> + Send,
) -> Result<T, sqlx::Error> {
    let late = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    tokio::time::timeout(bound, work).await.unwrap_or_else(|_| Err(late()))
}
