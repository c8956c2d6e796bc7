//! Triggers in the session database that record every insert into the ledger and every state of
//! every row. They also show values that are overwritten later.

use serde_json::Value;

use super::observed::{ObservedState, RowState, origin};
use crate::database::Database;
use crate::model::EventTable;

/// Creates the tables and triggers. The workers' tables must exist.
///
/// # Panics
/// If the database returns an error.
pub async fn install(database: &Database) {
    for statement in statements(database) {
        database.execute(&statement).await;
    }
}

/// Returns number, platform and event id of the ledger inserts after the number `after`, and of
/// those in `also`, in their order. A transaction that began earlier may commit a lower number
/// later.
///
/// # Errors
/// If the database is unavailable.
pub async fn applied(
    database: &Database,
    after: i64,
    also: &[i64],
) -> sqlx::Result<Vec<(i64, String, String)>> {
    let also: String = also.iter().map(|number| format!(", {number}")).collect();
    let which = format!("seq > {after} OR seq IN (0{also})");
    let sql =
        format!("SELECT seq, platform, event_id FROM watch_applied WHERE {which} ORDER BY seq");
    let rows = database.try_rows(&sql, &[]).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |row: &Value| {
        (row["seq"].as_i64().unwrap_or_default(), text(&row["platform"]), text(&row["event_id"]))
    };
    Ok(rows.iter().map(row).collect())
}

/// Adds the recorded history to `observed`.
///
/// # Panics
/// If the database is unavailable, or if the triggers are not installed.
pub async fn read(database: &Database, observed: &mut ObservedState) {
    let applied =
        applied(database, 0, &[]).await.unwrap_or_else(|error| panic!("watch_applied: {error}"));
    observed.applied = applied.into_iter().map(|(_, platform, id)| (platform, id)).collect();
    for row in database.rows("SELECT * FROM watch_changes ORDER BY seq", &[]).await {
        let text = |column: &str| row[column].as_str().unwrap_or_default().to_owned();
        let Some(table) = EventTable::ALL.into_iter().find(|table| table.name() == text("what"))
        else {
            continue;
        };
        let guards = match &row["guards"] {
            Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
            other => other.clone(),
        };
        let writer = |(group, value): (&String, &Value)| {
            let (at, first) = value.as_str()?.split_once(':')?;
            Some((group.clone(), (at.parse().ok()?, origin(first))))
        };
        let writers = guards.as_object().into_iter().flatten().filter_map(writer).collect();
        observed.changes.push(RowState { key: (table, text("platform"), text("id")), writers });
    }
}

fn statements(database: &Database) -> Vec<String> {
    let (serial, postgres) = match database {
        Database::Sqlite(_) => ("INTEGER PRIMARY KEY AUTOINCREMENT", false),
        Database::Postgres(_) => ("bigserial PRIMARY KEY", true),
    };
    let mut all = vec![
        format!("CREATE TABLE watch_applied (seq {serial}, platform text, event_id text)"),
        format!(
            "CREATE TABLE watch_changes \
             (seq {serial}, what text, platform text, id text, guards text)"
        ),
    ];
    let mut trigger = |name: &str, on: &str, table: &str, insert: &str| {
        if postgres {
            all.push(format!(
                "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN {insert}; RETURN NULL; END $$"
            ));
            all.push(format!(
                "CREATE TRIGGER {name} AFTER {on} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
            ));
        } else {
            for (n, event) in on.split(" OR ").enumerate() {
                all.push(format!(
                    "CREATE TRIGGER {name}_{n} AFTER {event} ON {table} BEGIN {insert}; END"
                ));
            }
        }
    };
    let applied =
        "INSERT INTO watch_applied (platform, event_id) VALUES (new.platform, new.event_id)";
    trigger("watch_ledger", "INSERT", "webhook_events", applied);
    for table in EventTable::ALL {
        let platform = if table == EventTable::Sessions { "''" } else { "new.platform" };
        let (of, key) = (table.name(), table.key());
        let change = format!(
            "INSERT INTO watch_changes (what, platform, id, guards) \
             VALUES ('{of}', {platform}, new.{key}, new.guards)"
        );
        trigger(&format!("watch_{of}"), "INSERT OR UPDATE", of, &change);
    }
    all
}
