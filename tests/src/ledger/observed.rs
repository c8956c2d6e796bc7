//! State of a system at rest: places of events, rows that events write, and the history of the
//! rows.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::{EventPlace, entries, event_id};
use crate::model::{EventTable, Origin, RowKey};
use crate::stack::Stack;

/// Row of `webhook_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LedgerRow {
    pub platform: String,
    pub event_id: String,
    pub event_type: String,
    /// In ms since the epoch.
    pub occurred_at: i64,
    /// In ms since the epoch.
    pub received_at: i64,
    pub origin: Origin,
    pub attempts: i64,
}

/// Entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct QueuedEvent {
    pub platform: String,
    pub event_id: String,
    pub place: EventPlace,
    /// Error code of a dead letter, or of an entry with a failed attempt.
    pub error_code: String,
    pub received_at: i64,
    pub origin: Origin,
}

/// Committed state of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowState {
    /// Key of the row.
    pub key: RowKey,
    /// Time and origin of the event that wrote each column group last.
    pub writers: BTreeMap<String, (i64, Origin)>,
}

/// Final state and history of a system.
#[derive(Clone, Debug, Default)]
pub struct ObservedState {
    /// Rows of the ledger.
    pub ledger: Vec<LedgerRow>,
    /// Entries of streams and dead letters.
    pub queued: Vec<QueuedEvent>,
    /// Rows that events write.
    pub rows: BTreeMap<RowKey, Value>,
    /// Every insert into the ledger, in its order; empty without the triggers.
    pub applied: Vec<(String, String)>,
    /// Every committed state of every row, in its order; empty without the triggers.
    pub changes: Vec<RowState>,
    /// Numbers of finished events and of dead letters that the counters show, by platform.
    pub counted: BTreeMap<String, (i64, i64)>,
}

impl ObservedState {
    /// Reads the whole state.
    ///
    /// # Panics
    /// If Redis or the database is unavailable.
    pub async fn read(stack: &Stack) -> Self {
        let mut observed = Self::default();
        for row in stack.database.rows("SELECT * FROM webhook_events", &[]).await {
            observed.ledger.push(LedgerRow {
                platform: text(&row, "platform"),
                event_id: text(&row, "event_id"),
                event_type: text(&row, "event_type"),
                occurred_at: time(&row["occurred_at"]),
                received_at: time(&row["received_at"]),
                origin: origin(&text(&row, "origin")),
                attempts: row["attempts"].as_i64().unwrap_or_default(),
            });
        }
        for table in EventTable::ALL {
            for row in stack.database.rows(&format!("SELECT * FROM {}", table.name()), &[]).await {
                let platform = if table == EventTable::Sessions {
                    String::new()
                } else {
                    text(&row, "platform")
                };
                observed.rows.insert((table, platform, text(&row, table.key())), row);
            }
        }
        for platform in stack.platforms().await {
            observed.queued.extend(queued(stack, &platform).await);
            let counters: HashMap<String, i64> =
                stack.redis.command(&["HGETALL", &format!("webhooks:counters:{platform}")]).await;
            let count = |name: &str| counters.get(name).copied().unwrap_or_default();
            observed
                .counted
                .insert(platform, (count("processed") + count("stale"), count("dead_lettered")));
        }
        observed
    }
}

async fn queued(stack: &Stack, platform: &str) -> Vec<QueuedEvent> {
    let waiting: Vec<String> =
        stack.redis.command(&["ZRANGE", &format!("webhooks:retry:{platform}"), "0", "-1"]).await;
    let mut all = Vec::new();
    for stream in ["incoming", "dlq"] {
        for (id, fields) in entries(stack, &format!("webhooks:{stream}:{platform}")).await {
            let place = match stream {
                "dlq" => EventPlace::Dead,
                _ if waiting.contains(&id) => EventPlace::Retry,
                _ => EventPlace::Incoming,
            };
            let field =
                |name: &str| fields.get(name).map(|raw| String::from_utf8_lossy(raw).into_owned());
            all.push(QueuedEvent {
                platform: platform.to_owned(),
                event_id: event_id(&fields),
                place,
                error_code: field("error_code").unwrap_or_default(),
                received_at: field("received_at")
                    .and_then(|text| text.parse().ok())
                    .unwrap_or_default(),
                origin: origin(&field("origin").unwrap_or_default()),
            });
        }
    }
    all
}

fn text(row: &Value, column: &str) -> String {
    row[column].as_str().unwrap_or_default().to_owned()
}

fn time(value: &Value) -> i64 {
    let format = &time::format_description::well_known::Rfc3339;
    let at = value.as_str().and_then(|text| time::OffsetDateTime::parse(text, format).ok());
    at.and_then(|at| i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()).unwrap_or_default()
}

pub(super) fn origin(text: &str) -> Origin {
    let parts =
        text.split_once('-').and_then(|(ms, seq)| Some((ms.parse().ok()?, seq.parse().ok()?)));
    parts.unwrap_or_default()
}
