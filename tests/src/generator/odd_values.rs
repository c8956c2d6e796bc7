//! Unusual but valid values: replaces one value of an event, and adapts its expected effect.
//!
//! # Guarantees
//!
//! - Only optional values are replaced. Id, session and the value that is the effect stay, so each
//!   altered event must still take effect.

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::SentEvent;
use crate::model::{ColumnValues, EventMeaning, ProviderTime};

/// Type of a column.
#[derive(Clone, Copy)]
enum ColumnType {
    Text,
    Number,
    Count,
    Time,
}

/// Optional members of the bodies: platform, member, column, and type of the column.
const OPTIONAL_MEMBERS: [(&str, &str, &str, ColumnType); 23] = [
    ("realcast", "/data/title", "title", ColumnType::Text),
    ("realcast", "/data/streamer_id", "streamer_id", ColumnType::Text),
    ("realcast", "/data/app_id", "app_id", ColumnType::Text),
    ("realcast", "/data/started_at", "started_at", ColumnType::Time),
    ("realcast", "/data/duration", "duration_seconds", ColumnType::Number),
    ("realcast", "/data/peak_viewers", "peak_viewers", ColumnType::Count),
    ("realcast", "/data/ended_at", "ended_at", ColumnType::Time),
    ("realcast", "/data/error_code", "error_code", ColumnType::Text),
    ("realcast", "/data/error_message", "error_message", ColumnType::Text),
    ("realcast", "/data/cdn_url", "url", ColumnType::Text),
    ("realcast", "/data/file_size", "size_bytes", ColumnType::Count),
    ("realcast", "/data/user_id", "user_id", ColumnType::Text),
    ("realcast", "/data/user_name", "user_name", ColumnType::Text),
    ("realcast", "/data/created_at", "sent_at", ColumnType::Time),
    ("mux", "/data/duration", "duration_seconds", ColumnType::Number),
    ("streamgank", "/data/progress", "progress", ColumnType::Number),
    ("streamgank", "/data/current_step", "current_step", ColumnType::Text),
    ("streamgank", "/data/video_url", "video_url", ColumnType::Text),
    ("streamgank", "/data/retry_count", "retry_count", ColumnType::Count),
    ("studio", "/title", "title", ColumnType::Text),
    ("studio", "/since", "started_at", ColumnType::Time),
    ("studio", "/peak", "peak_viewers", ColumnType::Count),
    ("studio", "/until", "ended_at", ColumnType::Time),
];

/// Members with the time of an event: platform, member.
const TIME_MEMBERS: [(&str, &str); 4] = [
    ("realcast", "/timestamp"),
    ("netflix", "/timestamp"),
    ("streamgank", "/timestamp"),
    ("mux", "/created_at"),
];

/// Expected content of a column after its value was replaced.
enum ColumnAfter {
    Unchanged,
    Becomes(Value),
}

/// Replaces the event's time or one optional value, if it has one.
pub(super) fn alter(sent_event: &mut SentEvent, rng: &mut StdRng) {
    if rng.random_bool(0.3) { alter_time(sent_event, rng) } else { alter_column(sent_event, rng) }
}

fn alter_column(sent_event: &mut SentEvent, rng: &mut StdRng) {
    let Some(set) = columns(&mut sent_event.event.meaning) else { return };
    let platform = sent_event.event.platform;
    let present: Vec<_> = OPTIONAL_MEMBERS
        .iter()
        .filter(|(of, member, column, _)| {
            *of == platform
                && set.contains_key(*column)
                && sent_event.body.pointer(member).is_some()
        })
        .collect();
    if present.is_empty() {
        return;
    }
    let (_, member, column, holds) = present[rng.random_range(0..present.len())];
    let (value, then) = odd(*holds, sent_event.event.number, rng);
    match then {
        ColumnAfter::Unchanged => {
            set.remove(*column);
            // The column `data` of a job holds the members without a column.
            if let Some(data) = set.get_mut("data").filter(|_| platform == "streamgank") {
                data[member.trim_start_matches("/data/")] = value.clone();
            }
        }
        ColumnAfter::Becomes(value) => drop(set.insert((*column).to_owned(), value)),
    }
    if let Some(place) = sent_event.body.pointer_mut(member) {
        *place = value;
    }
}

fn columns(meaning: &mut EventMeaning) -> Option<&mut ColumnValues> {
    match meaning {
        EventMeaning::Session { set, .. } | EventMeaning::Upsert { set, .. } => Some(set),
        EventMeaning::Announce { .. } | EventMeaning::LogOnly => None,
    }
}

/// Returns a value that a sender may write, and the expected content of the column.
fn odd(holds: ColumnType, number: u64, rng: &mut StdRng) -> (Value, ColumnAfter) {
    let several = match holds {
        ColumnType::Text => vec![
            (json!({"en": "x"}), ColumnAfter::Unchanged),
            (json!(["x"]), ColumnAfter::Unchanged),
            (json!("a\u{0}b"), ColumnAfter::Becomes("a\u{fffd}b".into())),
            (json!(number), ColumnAfter::Becomes(number.to_string().into())),
        ],
        ColumnType::Number => vec![
            (json!(""), ColumnAfter::Unchanged),
            (json!("soon"), ColumnAfter::Unchanged),
            (json!({"seconds": 1}), ColumnAfter::Unchanged),
            (json!(-1), ColumnAfter::Becomes(Value::Null)),
            (json!(" 12.5 "), ColumnAfter::Becomes(json!(12.5))),
        ],
        ColumnType::Count => vec![
            (json!("many"), ColumnAfter::Unchanged),
            (json!([1]), ColumnAfter::Unchanged),
            (json!("1e999"), ColumnAfter::Unchanged),
            (json!(-1), ColumnAfter::Becomes(Value::Null)),
            (json!(" 7 "), ColumnAfter::Becomes(json!(7))),
            (json!(7.0), ColumnAfter::Becomes(json!(7))),
        ],
        ColumnType::Time => vec![
            (json!("yesterday"), ColumnAfter::Unchanged),
            (json!({"seconds": 1}), ColumnAfter::Unchanged),
            (
                json!("2026-12-01T10:00:00.5+0000"),
                ColumnAfter::Becomes("2026-12-01T10:00:00.500Z".into()),
            ),
            (
                json!("2026-12-01 11:00:00,25+01"),
                ColumnAfter::Becomes("2026-12-01T10:00:00.250Z".into()),
            ),
        ],
    };
    let chosen = rng.random_range(0..several.len());
    several.into_iter().nth(chosen).expect("one of them")
}

fn alter_time(sent_event: &mut SentEvent, rng: &mut StdRng) {
    let platform = sent_event.event.platform;
    let Some((_, member)) = TIME_MEMBERS.iter().find(|(of, _)| *of == platform) else { return };
    let (Some(Value::String(text)), ProviderTime::Known(_)) =
        (sent_event.body.pointer_mut(member), sent_event.event.at)
    else {
        return;
    };
    let spelled = text.trim_end_matches('Z');
    match rng.random_range(0..4) {
        0 => *text = format!("{spelled}+0000"),
        1 => *text = format!(" {}+00 ", spelled.replace('.', ",")),
        2 => *text = spelled.replace('T', " "),
        _ => {
            "not before noon".clone_into(text);
            sent_event.event.at = ProviderTime::Unreadable;
        }
    }
}
