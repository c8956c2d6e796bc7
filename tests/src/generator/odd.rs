//! Odd but genuine values: one value of an event is replaced, and what the event means with it.
//!
//! Guarantee: only values that decorate an event are replaced. Its id, its session and the value that
//! is the effect stay, so each altered event must still take effect.

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::Said;
use crate::model::{At, Deed, Row};

/// What a column holds.
#[derive(Clone, Copy)]
enum Holds {
    Text,
    Number,
    Count,
    Time,
}

/// Members of the body that decorate an event: platform, member, column, and what the column holds.
const DECORATION: [(&str, &str, &str, Holds); 23] = [
    ("realcast", "/data/title", "title", Holds::Text),
    ("realcast", "/data/streamer_id", "streamer_id", Holds::Text),
    ("realcast", "/data/app_id", "app_id", Holds::Text),
    ("realcast", "/data/started_at", "started_at", Holds::Time),
    ("realcast", "/data/duration", "duration_seconds", Holds::Number),
    ("realcast", "/data/peak_viewers", "peak_viewers", Holds::Count),
    ("realcast", "/data/ended_at", "ended_at", Holds::Time),
    ("realcast", "/data/error_code", "error_code", Holds::Text),
    ("realcast", "/data/error_message", "error_message", Holds::Text),
    ("realcast", "/data/cdn_url", "url", Holds::Text),
    ("realcast", "/data/file_size", "size_bytes", Holds::Count),
    ("realcast", "/data/user_id", "user_id", Holds::Text),
    ("realcast", "/data/user_name", "user_name", Holds::Text),
    ("realcast", "/data/created_at", "sent_at", Holds::Time),
    ("mux", "/data/duration", "duration_seconds", Holds::Number),
    ("streamgank", "/data/progress", "progress", Holds::Number),
    ("streamgank", "/data/current_step", "current_step", Holds::Text),
    ("streamgank", "/data/video_url", "video_url", Holds::Text),
    ("streamgank", "/data/retry_count", "retry_count", Holds::Count),
    ("studio", "/title", "title", Holds::Text),
    ("studio", "/since", "started_at", Holds::Time),
    ("studio", "/peak", "peak_viewers", Holds::Count),
    ("studio", "/until", "ended_at", Holds::Time),
];

/// Members that hold the time of an event: platform, member.
const TIMES: [(&str, &str); 4] =
    [("realcast", "/timestamp"), ("netflix", "/timestamp"), ("streamgank", "/timestamp"), ("mux", "/created_at")];

/// What becomes of a column whose value was replaced.
enum Then {
    LeftAlone,
    Is(Value),
}

/// Replaces the event's time or one value that decorates it, if it has one.
pub(super) fn alter(said: &mut Said, rng: &mut StdRng) {
    if rng.random_bool(0.3) { alter_time(said, rng) } else { alter_column(said, rng) }
}

fn alter_column(said: &mut Said, rng: &mut StdRng) {
    let Some(set) = columns(&mut said.event.deed) else { return };
    let platform = said.event.platform;
    let present: Vec<_> = DECORATION
        .iter()
        .filter(|(of, member, column, _)| {
            *of == platform && set.contains_key(*column) && said.body.pointer(member).is_some()
        })
        .collect();
    if present.is_empty() {
        return;
    }
    let (_, member, column, holds) = present[rng.random_range(0..present.len())];
    let (value, then) = odd(*holds, said.event.number, rng);
    match then {
        Then::LeftAlone => {
            set.remove(*column);
            // The data of a job is what has no column.
            if let Some(data) = set.get_mut("data").filter(|_| platform == "streamgank") {
                data[member.trim_start_matches("/data/")] = value.clone();
            }
        }
        Then::Is(value) => drop(set.insert((*column).to_owned(), value)),
    }
    if let Some(place) = said.body.pointer_mut(member) {
        *place = value;
    }
}

fn columns(deed: &mut Deed) -> Option<&mut Row> {
    match deed {
        Deed::Session { set, .. } | Deed::Thing { set, .. } => Some(set),
        Deed::Announce { .. } | Deed::Log => None,
    }
}

/// A value that a sender may write, and what the column holds after it.
fn odd(holds: Holds, number: u64, rng: &mut StdRng) -> (Value, Then) {
    let several = match holds {
        Holds::Text => vec![
            (json!({"en": "x"}), Then::LeftAlone),
            (json!(["x"]), Then::LeftAlone),
            (json!("a\u{0}b"), Then::Is("a\u{fffd}b".into())),
            (json!(number), Then::Is(number.to_string().into())),
        ],
        Holds::Number => vec![
            (json!(""), Then::LeftAlone),
            (json!("soon"), Then::LeftAlone),
            (json!({"seconds": 1}), Then::LeftAlone),
            (json!(-1), Then::Is(Value::Null)),
            (json!(" 12.5 "), Then::Is(json!(12.5))),
        ],
        Holds::Count => vec![
            (json!("many"), Then::LeftAlone),
            (json!([1]), Then::LeftAlone),
            (json!("1e999"), Then::LeftAlone),
            (json!(-1), Then::Is(Value::Null)),
            (json!(" 7 "), Then::Is(json!(7))),
            (json!(7.0), Then::Is(json!(7))),
        ],
        Holds::Time => vec![
            (json!("yesterday"), Then::LeftAlone),
            (json!({"seconds": 1}), Then::LeftAlone),
            (json!("2026-12-01T10:00:00.5+0000"), Then::Is("2026-12-01T10:00:00.500Z".into())),
            (json!("2026-12-01 11:00:00,25+01"), Then::Is("2026-12-01T10:00:00.250Z".into())),
        ],
    };
    let chosen = rng.random_range(0..several.len());
    several.into_iter().nth(chosen).expect("one of them")
}

fn alter_time(said: &mut Said, rng: &mut StdRng) {
    let platform = said.event.platform;
    let Some((_, member)) = TIMES.iter().find(|(of, _)| *of == platform) else { return };
    let (Some(Value::String(text)), At::Known(_)) = (said.body.pointer_mut(member), said.event.at) else { return };
    let spelled = text.trim_end_matches('Z');
    match rng.random_range(0..4) {
        0 => *text = format!("{spelled}+0000"),
        1 => *text = format!(" {}+00 ", spelled.replace('.', ",")),
        2 => *text = spelled.replace('T', " "),
        _ => {
            "not before noon".clone_into(text);
            said.event.at = At::Unreadable;
        }
    }
}
