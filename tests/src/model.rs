//! What the session database must hold: the contract's meaning of events, applied one after the other.
//!
//! Guarantee: nothing of the worker is used. There are no guards, batches or merges here: events are sorted by the
//! provider's time (an absent one, or one more than five minutes ahead of arrival, is the time of arrival; one that
//! cannot be read is older than all others), then by arrival, and each simply overwrites what the ones before it have written. A system that took them in any other order
//! must end with the very same rows.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::sender::rfc3339;

/// How far ahead of arrival a provider's time counts, in ms.
const MAX_FUTURE_MS: i64 = 300_000;
/// How much older than its session an event may be that names it by live stream id only, in ms.
const STREAM_REUSE_MS: i64 = 300_000;
/// What an event that is no announcement says of how a broadcast went; a new broadcast begins without it.
const BROADCAST_COLUMNS: [&str; 6] =
    ["viewer_count", "peak_viewers", "duration_seconds", "error_code", "error_message", "ended_at"];

/// Columns and their values; null: empty.
pub type ColumnValues = BTreeMap<String, Value>;

/// Table, platform (empty for sessions, which all platforms share), key.
pub type RowKey = (EventTable, String, String);

/// The tables that events write, beside the ledger.
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
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Sessions, Self::Recordings, Self::Contents, Self::Jobs, Self::ChatMessages];

    /// Its name.
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

    /// The column that is its key, beside the platform.
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

/// What an event means, in the contract's words.
#[derive(Clone, Debug, PartialEq)]
pub enum EventMeaning {
    /// An application announces a session; what is absent is left alone.
    Announce {
        /// The session.
        room: String,
        /// Its live stream, if told.
        live_stream_id: Option<String>,
        /// Its status, if told; `ready` changes nothing.
        status: Option<&'static str>,
        /// Its configuration, if told.
        config: Option<Value>,
    },
    /// Something happens to a session.
    Session {
        /// The session.
        room: String,
        /// How the event names it and what it may do about a missing one.
        session_ref: SessionRef,
        /// Its new status, if it gets one.
        status: Option<&'static str>,
        /// Columns that are written.
        set: ColumnValues,
        /// Members of `data` that are written.
        data: ColumnValues,
    },
    /// A row of another table, whose columns are simply written.
    Upsert {
        /// Which table.
        table: EventTable,
        /// Its key.
        id: String,
        /// Columns that are written.
        set: ColumnValues,
    },
    /// Nothing but a ledger row.
    LogOnly,
}

/// How an event names its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRef {
    /// By room; a missing one is made.
    RoomOrCreate,
    /// By room; a missing one is waited for.
    Room,
    /// By live stream id only: what is clearly older than the session meant somebody else's.
    LiveStream,
}

/// How an event must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedEnd {
    /// It takes effect (or waits for its session until the waiting time is over, where nobody announces that).
    Effect,
    /// It becomes a dead letter with this code.
    Dead(&'static str),
}

/// The time of an event, as its sender gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderTime {
    /// A time in ms since the epoch.
    Known(i64),
    /// None: the time of arrival counts.
    Absent,
    /// A value that is no time: the event is older than each event whose time is known.
    Unreadable,
}

impl From<Option<i64>> for ProviderTime {
    fn from(known: Option<i64>) -> Self {
        known.map_or(Self::Absent, Self::Known)
    }
}

/// An event, as its sender means it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEvent {
    /// Counts up; names the event in reports.
    pub number: u64,
    /// Whose it is.
    pub platform: &'static str,
    /// Its type.
    pub kind: &'static str,
    /// The provider's time.
    pub at: ProviderTime,
    /// What it means.
    pub meaning: EventMeaning,
    /// How it must end.
    pub expected_end: ExpectedEnd,
}

impl ModelEvent {
    /// The room whose session it waits for.
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

/// The first place in a queue: what decides between events of one time. (The first XADD's stream id.)
pub type Origin = (u64, u64);

/// An event that was accepted, and when.
#[derive(Clone, Debug)]
pub struct ArrivedEvent<'e> {
    /// The event.
    pub event: &'e ModelEvent,
    /// The id that it was given.
    pub id: &'e str,
    /// When it was accepted, by the queue's clock, in ms since the epoch.
    pub received_at: i64,
    /// Its place in the queue.
    pub origin: Origin,
}

impl ArrivedEvent<'_> {
    /// The time that counts, in ms since the epoch.
    #[must_use]
    pub fn occurred_at(&self) -> i64 {
        occurred_at(self.event, self.received_at)
    }
}

/// The time that counts for an event accepted at `received_at`.
#[must_use]
pub fn occurred_at(event: &ModelEvent, received_at: i64) -> i64 {
    match event.at {
        ProviderTime::Known(at) if at <= received_at + MAX_FUTURE_MS => at,
        ProviderTime::Known(_) | ProviderTime::Absent | ProviderTime::Unreadable => received_at,
    }
}

/// What must be there once all events have taken effect.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The rows.
    pub rows: BTreeMap<RowKey, ColumnValues>,
    /// Every value that a column had at any time, by row: what stands there now must be the last one.
    pub told: BTreeMap<RowKey, BTreeMap<String, Vec<Value>>>,
}

/// Applies all of `arrived` in their order.
#[must_use]
pub fn apply(mut arrived: Vec<ArrivedEvent<'_>>) -> Model {
    let unreadable = |one: &ArrivedEvent<'_>| one.event.at == ProviderTime::Unreadable;
    let mut model = Model::default();
    // Sessions first: an event may come before the announcement that makes its session, and counts all the same.
    // The oldest event makes it. One whose time is unreadable does so only where no other can.
    arrived.sort_by_key(|one| (unreadable(one), one.occurred_at(), one.origin));
    for one in &arrived {
        found(&mut model.rows, one);
    }
    arrived.sort_by_key(|one| (!unreadable(one), one.occurred_at(), one.origin));
    for one in &arrived {
        let Some((key, written)) = written(&model.rows, one) else { continue };
        let row = model.rows.entry(key.clone()).or_default();
        let told = model.told.entry(key).or_default();
        for (column, value) in written {
            let before = row.insert(column.clone(), value).unwrap_or_default();
            told.entry(column).or_default().push(before);
        }
    }
    model
}

/// The columns that an event writes into a row as it is now.
fn written(
    rows: &BTreeMap<RowKey, ColumnValues>,
    one: &ArrivedEvent<'_>,
) -> Option<(RowKey, ColumnValues)> {
    match &one.event.meaning {
        EventMeaning::LogOnly => None,
        EventMeaning::Upsert { table, id, set } => {
            let key = key(*table, one.event.platform, id);
            let mut written = set.clone();
            // A message whose sender never says when it was sent was sent at the time of its oldest event.
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
            let told = [
                ("live_stream_id", live_stream_id.clone().map(Value::from)),
                ("config", config.clone()),
                ("status", status.filter(|status| *status != "ready").map(Value::from)),
            ];
            let mut written = touch(one);
            written.extend(
                told.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))),
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

/// The oldest event that may make a session is the one that did.
fn found(tables: &mut BTreeMap<RowKey, ColumnValues>, one: &ArrivedEvent<'_>) {
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

/// A column that is not as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDifference {
    /// Its name.
    pub column: String,
    /// What it must be.
    pub wanted: Value,
    /// What it is.
    pub seen: Value,
}

/// What the row `found` says otherwise than `expected`. A column that no event has written must be empty.
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

/// Numbers are compared as numbers: one database says 60, another 60.0.
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
        let twin = session(3, 6_000, "idle", &[("duration_seconds", json!(1.5))]);
        let model = apply(vec![arrived(&twin), arrived(&live), arrived(&ended)]);
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
        let found = json!({"room_id": "r", "guards": "{}", "status": "live", "duration_seconds": 60.0, "title": null});
        assert_eq!(differences(EventTable::Sessions, &expected, &found), []);
        let found =
            json!({"room_id": "r", "status": "ended", "duration_seconds": 60.0, "title": "x"});
        let said: Vec<_> = differences(EventTable::Sessions, &expected, &found)
            .into_iter()
            .map(|differs| differs.column)
            .collect();
        assert_eq!(said, ["status", "title"]);
    }
}
