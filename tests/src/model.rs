//! Sequential model of the session database: the contract's meaning of events, applied one after
//! the other.
//!
//! # Guarantees
//!
//! - No code of the worker is used. There are no guards, batches or merges.
//! - Events are sorted by the provider's time, then by arrival, and each overwrites the values of
//!   earlier ones (`model_orders_by_time_then_arrival`). A system that receives them in another
//!   order must end with the same rows.
//! - A missing time, or one more than five minutes ahead of arrival, counts as the time of arrival
//!   (`model_replaces_a_future_time_by_arrival`). An unreadable time is older than all others.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::sender::rfc3339;

/// Limit in ms by which a provider's time may be ahead of arrival.
const MAX_FUTURE_MS: i64 = 300_000;
/// Age in ms relative to its session above which an event that names it by live stream id only has
/// no effect.
const STREAM_REUSE_MS: i64 = 300_000;
/// Columns that a new broadcast clears, unless an announcement set them.
const BROADCAST_COLUMNS: [&str; 6] =
    ["viewer_count", "peak_viewers", "duration_seconds", "error_code", "error_message", "ended_at"];

/// Columns and their values; null is empty.
pub type ColumnValues = BTreeMap<String, Value>;

/// Table, platform (empty for sessions, which all platforms share), and key.
pub type RowKey = (EventTable, String, String);

/// Tables that events write, except the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum EventTable {
    Sessions,
    Recordings,
    Contents,
    Jobs,
    ChatMessages,
}

impl EventTable {
    /// All tables.
    pub const ALL: [Self; 5] =
        [Self::Sessions, Self::Recordings, Self::Contents, Self::Jobs, Self::ChatMessages];

    /// Returns the name of the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Recordings => "recordings",
            Self::Contents => "contents",
            Self::Jobs => "jobs",
            Self::ChatMessages => "chat_messages",
        }
    }

    /// Returns the column of the key, which the platform completes.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Sessions => "room_id",
            Self::Recordings => "recording_id",
            Self::Contents => "content_id",
            Self::Jobs => "job_id",
            Self::ChatMessages => "message_id",
        }
    }
}

/// Meaning of an event by the contract.
#[derive(Clone, Debug, PartialEq)]
pub enum EventMeaning {
    /// An application announces a session. Absent values change nothing.
    Announce {
        /// Room of the session.
        room: String,
        /// Live stream id.
        live_stream_id: Option<String>,
        /// Status; `ready` changes nothing.
        status: Option<&'static str>,
        /// Configuration.
        config: Option<Value>,
    },
    /// An event of a session.
    Session {
        /// Room of the session.
        room: String,
        /// Reference to the session, and its effect without one.
        session_ref: SessionRef,
        /// New status.
        status: Option<&'static str>,
        /// Columns that are set.
        set: ColumnValues,
        /// Members of `data` that are set.
        data: ColumnValues,
    },
    /// An insert or update of a row in another table.
    Upsert {
        /// Table of the row.
        table: EventTable,
        /// Key of the row.
        id: String,
        /// Columns that are set.
        set: ColumnValues,
    },
    /// Only a ledger row.
    LogOnly,
}

/// Reference of an event to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRef {
    /// By room; a missing session is created.
    RoomOrCreate,
    /// By room; the event waits for a missing session.
    Room,
    /// By live stream id only. An event clearly older than the session belongs to another one and
    /// has no effect.
    LiveStream,
}

/// Expected end of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedEnd {
    /// The event takes effect. If its session is never announced, it becomes a dead letter after
    /// the waiting time.
    Effect,
    /// The event becomes a dead letter with this code.
    Dead(&'static str),
}

/// Time of an event as its sender gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderTime {
    /// In ms since the epoch.
    Known(i64),
    /// No time; the time of arrival counts.
    Absent,
    /// Not a time; the event is older than every event with a known time.
    Unreadable,
}

impl From<Option<i64>> for ProviderTime {
    fn from(known: Option<i64>) -> Self {
        known.map_or(Self::Absent, Self::Known)
    }
}

/// An event as its sender means it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEvent {
    /// Sequence number; identifies the event in reports.
    pub number: u64,
    /// Platform of the event.
    pub platform: &'static str,
    /// Event type.
    pub kind: &'static str,
    /// Time given by the provider.
    pub at: ProviderTime,
    /// Meaning of the event.
    pub meaning: EventMeaning,
    /// Expected end of the event.
    pub expected_end: ExpectedEnd,
}

impl ModelEvent {
    /// Returns the room whose session the event waits for.
    #[must_use]
    pub fn awaited(&self) -> Option<&str> {
        match &self.meaning {
            EventMeaning::Session {
                room,
                session_ref: SessionRef::Room | SessionRef::LiveStream,
                ..
            } => Some(room),
            _ => None,
        }
    }
}

/// Stream id of the first queue entry of an event. It orders events of the same time.
pub type Origin = (u64, u64);

/// An accepted event.
#[derive(Clone, Debug)]
pub struct ArrivedEvent<'e> {
    /// The event itself.
    pub event: &'e ModelEvent,
    /// Event id in the answer.
    pub id: &'e str,
    /// Time of acceptance by the queue's clock, in ms since the epoch.
    pub received_at: i64,
    /// First stream id.
    pub origin: Origin,
}

impl ArrivedEvent<'_> {
    /// Returns the effective time, in ms since the epoch.
    #[must_use]
    pub fn occurred_at(&self) -> i64 {
        occurred_at(self.event, self.received_at)
    }
}

/// Returns the effective time of an event accepted at `received_at`.
#[must_use]
pub fn occurred_at(event: &ModelEvent, received_at: i64) -> i64 {
    match event.at {
        ProviderTime::Known(at) if at <= received_at + MAX_FUTURE_MS => at,
        ProviderTime::Known(_) | ProviderTime::Absent | ProviderTime::Unreadable => received_at,
    }
}

/// Expected rows after all events took effect.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Rows by table, platform and key.
    pub rows: BTreeMap<RowKey, ColumnValues>,
    /// Former values of each column, by row. A row must hold the last value.
    pub past_values: BTreeMap<RowKey, BTreeMap<String, Vec<Value>>>,
}

/// Applies `arrived` in their order.
#[must_use]
pub fn apply(mut arrived: Vec<ArrivedEvent<'_>>) -> Model {
    let unreadable = |one: &ArrivedEvent<'_>| one.event.at == ProviderTime::Unreadable;
    let mut model = Model::default();
    // Sessions are created first, since an event counts even if it is older than the announcement
    // of its session. The oldest event creates the session; one with an unreadable time does so
    // only if there is no other.
    arrived.sort_by_key(|one| (unreadable(one), one.occurred_at(), one.origin));
    for one in &arrived {
        create_session(&mut model.rows, one);
    }
    arrived.sort_by_key(|one| (!unreadable(one), one.occurred_at(), one.origin));
    for one in &arrived {
        let Some((key, written)) = written(&model.rows, one) else { continue };
        let row = model.rows.entry(key.clone()).or_default();
        let past_values = model.past_values.entry(key).or_default();
        for (column, value) in written {
            let before = row.insert(column.clone(), value).unwrap_or_default();
            past_values.entry(column).or_default().push(before);
        }
    }
    model
}

/// Returns the columns that an event writes into the current row.
fn written(
    rows: &BTreeMap<RowKey, ColumnValues>,
    one: &ArrivedEvent<'_>,
) -> Option<(RowKey, ColumnValues)> {
    match &one.event.meaning {
        EventMeaning::LogOnly => None,
        EventMeaning::Upsert { table, id, set } => {
            let key = key(*table, one.event.platform, id);
            let mut written = set.clone();
            // A message without a time of sending gets the time of its oldest event.
            if *table == EventTable::ChatMessages && !rows.contains_key(&key) {
                written
                    .entry("sent_at".to_owned())
                    .or_insert_with(|| rfc3339(one.occurred_at()).into());
            }
            Some((key, written))
        }
        EventMeaning::Announce { room, live_stream_id, status, config } => {
            let key = key(EventTable::Sessions, "", room);
            rows.get(&key)?;
            let past_values = [
                ("live_stream_id", live_stream_id.clone().map(Value::from)),
                ("config", config.clone()),
                ("status", status.filter(|status| *status != "ready").map(Value::from)),
            ];
            let mut written = touch(one);
            written.extend(
                past_values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))),
            );
            Some((key, written))
        }
        EventMeaning::Session { room, session_ref, status, set, data } => {
            let key = key(EventTable::Sessions, "", room);
            let row = rows.get(&key)?;
            if *session_ref == SessionRef::LiveStream && older_than_its_session(row, one) {
                return None;
            }
            let mut written = touch(one);
            if *status == Some("live") {
                written.extend(BROADCAST_COLUMNS.map(|column| (column.to_owned(), Value::Null)));
            }
            written.extend(status.map(|status| ("status".to_owned(), status.into())));
            written.extend(set.clone());
            if !data.is_empty() {
                let known = row.get("data").and_then(Value::as_object).cloned().unwrap_or_default();
                written.insert(
                    "data".to_owned(),
                    Value::Object(known.into_iter().chain(data.clone()).collect()),
                );
            }
            Some((key, written))
        }
    }
}

/// Creates the session of an event. The oldest event that may create one is applied first.
fn create_session(tables: &mut BTreeMap<RowKey, ColumnValues>, one: &ArrivedEvent<'_>) {
    let room = match &one.event.meaning {
        EventMeaning::Announce { room, .. }
        | EventMeaning::Session { room, session_ref: SessionRef::RoomOrCreate, .. } => room,
        _ => return,
    };
    tables.entry(key(EventTable::Sessions, "", room)).or_insert_with(|| {
        let facts = [
            ("platform", one.event.platform.into()),
            ("created_at", rfc3339(one.occurred_at()).into()),
            ("status", "ready".into()),
        ];
        facts.map(|(name, value): (&str, Value)| (name.to_owned(), value)).into()
    });
}

fn key(table: EventTable, platform: &str, id: &str) -> RowKey {
    (table, platform.to_owned(), id.to_owned())
}

fn older_than_its_session(row: &ColumnValues, one: &ArrivedEvent<'_>) -> bool {
    let earliest = rfc3339(one.occurred_at() + STREAM_REUSE_MS);
    row.get("created_at").and_then(Value::as_str).is_some_and(|created| created > earliest.as_str())
}

fn touch(one: &ArrivedEvent<'_>) -> ColumnValues {
    let facts =
        [("last_event_id", one.id.to_owned()), ("last_event_at", rfc3339(one.occurred_at()))];
    facts.map(|(name, value)| (name.to_owned(), value.into())).into()
}

/// A column that differs from the model.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDifference {
    /// Name of the column.
    pub column: String,
    /// Expected value.
    pub wanted: Value,
    /// Actual value.
    pub seen: Value,
}

/// Returns the columns of `found` that differ from `expected`. A column that no event wrote must be
/// empty.
#[must_use]
pub fn differences(
    table: EventTable,
    expected: &ColumnValues,
    found: &Value,
) -> Vec<ColumnDifference> {
    const NOT_EVENTS: [&str; 3] = ["updated_at", "guards", "scope"];
    let platform = if table == EventTable::Sessions { "" } else { "platform" };
    let given = found.as_object().into_iter().flat_map(|row| row.keys());
    let mut columns: BTreeSet<&str> = given.chain(expected.keys()).map(String::as_str).collect();
    columns
        .retain(|column| !NOT_EVENTS.contains(column) && ![table.key(), platform].contains(column));
    let differs = |column: &str| {
        let (wanted, seen) = (expected.get(column).unwrap_or(&Value::Null), &found[column]);
        let difference = || ColumnDifference {
            column: column.to_owned(),
            wanted: wanted.clone(),
            seen: seen.clone(),
        };
        (!same(wanted, seen)).then(difference)
    };
    columns.into_iter().filter_map(differs).collect()
}

/// Compares values. Numbers are equal as numbers, since one database returns 60 and the other 60.0.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn session(number: u64, at: i64, status: &'static str, set: &[(&str, Value)]) -> ModelEvent {
        let set = set.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let session_ref = SessionRef::RoomOrCreate;
        let meaning = EventMeaning::Session {
            room: "r".into(),
            session_ref,
            status: Some(status),
            set,
            data: ColumnValues::new(),
        };
        ModelEvent {
            number,
            platform: "studio",
            kind: "k",
            at: ProviderTime::Known(at),
            meaning,
            expected_end: ExpectedEnd::Effect,
        }
    }

    fn arrived(event: &ModelEvent) -> ArrivedEvent<'_> {
        ArrivedEvent { event, id: "e", received_at: 1_000_000, origin: (1, event.number) }
    }

    #[test]
    fn model_orders_by_time_then_arrival() {
        let ended =
            session(1, 5_000, "ended", &[("peak_viewers", json!(7)), ("title", json!("old"))]);
        let live = session(2, 6_000, "live", &[]);
        let same_time = session(3, 6_000, "idle", &[("duration_seconds", json!(1.5))]);
        let model = apply(vec![arrived(&same_time), arrived(&live), arrived(&ended)]);
        let row = &model.rows[&(EventTable::Sessions, String::new(), "r".to_owned())];
        assert_eq!((&row["status"], &row["peak_viewers"]), (&json!("idle"), &Value::Null));
        assert_eq!((&row["title"], &row["duration_seconds"]), (&json!("old"), &json!(1.5)));
        assert_eq!(row["created_at"], json!("1970-01-01T00:00:05.000Z"));
    }

    #[test]
    fn model_replaces_a_future_time_by_arrival() {
        let event = session(1, 1_300_001, "live", &[]);
        assert_eq!(arrived(&event).occurred_at(), 1_000_000);
        assert_eq!(occurred_at(&session(1, 1_300_000, "live", &[]), 1_000_000), 1_300_000);
    }

    #[test]
    fn model_expects_unwritten_columns_to_be_empty() {
        let expected = ColumnValues::from([
            ("status".to_owned(), json!("live")),
            ("duration_seconds".to_owned(), json!(60)),
        ]);
        let found = json!({
            "room_id": "r",
            "guards": "{}",
            "status": "live",
            "duration_seconds": 60.0,
            "title": null,
        });
        assert_eq!(differences(EventTable::Sessions, &expected, &found), []);
        let found =
            json!({"room_id": "r", "status": "ended", "duration_seconds": 60.0, "title": "x"});
        let columns: Vec<_> = differences(EventTable::Sessions, &expected, &found)
            .into_iter()
            .map(|differs| differs.column)
            .collect();
        assert_eq!(columns, ["status", "title"]);
    }
}
