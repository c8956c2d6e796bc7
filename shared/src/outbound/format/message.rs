//! Builds the content of a chat message: a title for the event type, and its facts.

use serde_json::Value;
use url::Url;

use super::super::headers::SourceName;
use crate::visible::{is_blank, is_visible};

/// Longest text of a fact, in characters. A longer one ends with "…".
const MAX_FACT: usize = 500;

/// Severity of an event, for icons and colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Success,
    Failure,
    Warning,
    Neutral,
}

/// One line of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) value: FactValue,
}

/// Content of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FactValue {
    /// User text, which each format has to escape.
    Text(String),
    /// A valid link without markup characters.
    Link(String),
}

/// A message, independent of the chat service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Title from source and event type, such as `StreamGank Job Completed`. Needs no escaping.
    pub(super) title: String,
    pub(super) severity: Severity,
    pub(super) facts: Vec<Fact>,
    /// Event type.
    pub(super) event: String,
    /// Title of the stream, if the event has one.
    pub(super) stream_title: Option<String>,
    /// Id of the stream.
    pub(super) stream_id: Option<String>,
    /// Room id of the session.
    pub(super) room_id: Option<String>,
    /// Time in RFC 3339.
    pub(super) timestamp: Option<String>,
}

/// Names of facts, and their places in `data`.
const FACTS: [(&str, &[&str]); 16] = [
    ("Job ID", &["/job_id"]),
    ("Title", &["/title"]),
    ("Streamer", &["/streamer_id", "/broadcaster_user_name"]),
    ("Stream", &["/stream_id", "/live_stream_id"]),
    ("Step", &["/current_step"]),
    ("Progress", &["/progress"]),
    ("Video", &["/video_url"]),
    ("Recording", &["/cdn_url", "/recording_url"]),
    ("Duration", &["/processing_duration_ms", "/duration", "/duration_seconds"]),
    ("Viewers", &["/viewer_count"]),
    ("Peak viewers", &["/peak_viewers"]),
    ("From", &["/user_name", "/user_id"]),
    ("Message", &["/message"]),
    ("Content", &["/content_id"]),
    ("Error", &["/error/message", "/error", "/error_message"]),
    ("Error code", &["/error_code"]),
];

impl Message {
    pub(super) fn of(payload: &str, source: &SourceName) -> Self {
        let payload: Value = serde_json::from_str(payload).unwrap_or_default();
        let event = payload.get("event").and_then(Value::as_str).unwrap_or("event").to_owned();
        let data = payload.get("data").unwrap_or(&Value::Null);
        let result = payload.get("result").unwrap_or(&Value::Null);
        let mut facts: Vec<Fact> =
            FACTS.iter().filter_map(|(name, places)| fact(name, places, data)).collect();
        let room_id = text(result.get("room_id"));
        if let Some(room) = &room_id
            && !facts.iter().any(|fact| fact.value == FactValue::Text(room.clone()))
        {
            facts.push(Fact { name: "Room", value: FactValue::Text(room.clone()) });
        }
        if let Some(status) = status_change(result) {
            facts.push(Fact { name: "Status", value: FactValue::Text(status) });
        }
        Self {
            title: format!("{} {}", source.as_str(), title_words(&event)),
            severity: severity(&event),
            facts,
            stream_title: text(data.get("title")),
            stream_id: text(data.get("stream_id")).or_else(|| text(result.get("live_stream_id"))),
            room_id,
            timestamp: text(payload.get("timestamp")),
            event,
        }
    }
}

fn fact(name: &'static str, places: &[&str], data: &Value) -> Option<Fact> {
    let (place, value) =
        places.iter().find_map(|place| Some((*place, text(data.pointer(place))?)))?;
    let value = match name {
        "Duration" => FactValue::Text(duration(place, &value)),
        "Progress" => FactValue::Text(format!("{value} %")),
        "Video" | "Recording" => {
            safe_link(&value).map_or_else(|| FactValue::Text(value), FactValue::Link)
        }
        _ => FactValue::Text(value),
    };
    Some(Fact { name, value })
}

/// A string with a visible character, or a number. Truncated.
fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => {
            Some(cut(visible_text(text).trim(), MAX_FACT)).filter(|text| !is_blank(text))
        }
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Removes control characters and invisible ones. Keeps joiners, since some scripts and emoji need
/// them.
fn visible_text(text: &str) -> String {
    let kept = |c: &char| is_visible(*c) || c.is_control() || matches!(c, '\u{200c}' | '\u{200d}');
    text.chars().filter(kept).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Truncates `text` to `max` characters.
pub(super) fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max.saturating_sub(1)) {
        Some((end, last)) if end + last.len_utf8() < text.len() => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

/// Converts `job.completed_with_issues` to `Job Completed With Issues`.
fn title_words(event: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str())
    };
    let clean: String = event.chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    cut(&clean.split_whitespace().filter_map(word).collect::<Vec<_>>().join(" "), 100)
}

fn severity(event: &str) -> Severity {
    let has = |parts: &[&str]| parts.iter().any(|part| event.contains(part));
    if has(&["with_issues", "cancelled", "canceled", "warning"]) {
        Severity::Warning
    } else if has(&["fail", "error", "timeout", "timed_out"]) {
        Severity::Failure
    } else if has(&["completed", ".live", ".active", "ready", "online", "started"]) {
        Severity::Success
    } else {
        Severity::Neutral
    }
}

/// Formats a duration such as `5m 30s`. The value is in ms if its place ends with `_ms`, else in s.
fn duration(place: &str, value: &str) -> String {
    let Ok(number) = value.parse::<f64>() else { return value.to_owned() };
    let seconds = if place.ends_with("_ms") { number / 1000.0 } else { number };
    if !(0.0..1e9).contains(&seconds) {
        return value.to_owned();
    }
    // The value is in range, so the conversion drops nothing.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m {seconds}s"),
        _ => format!("{hours}h {minutes}m {seconds}s"),
    }
}

/// Formats a status as `live`, or a change as `idle → live`.
fn status_change(result: &Value) -> Option<String> {
    let new = text(result.get("new_status"))?;
    Some(match text(result.get("old_status")) {
        Some(old) if old != new => format!("{old} → {new}"),
        _ => new,
    })
}

/// Returns an http or https URL with percent-encoded markup characters.
fn safe_link(text: &str) -> Option<String> {
    let url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
    // A user name in a link can imitate another host.
    if !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let mut out = String::new();
    for c in url.as_str().chars() {
        match c {
            '<' | '>' | '|' | '*' | '_' | '~' | '`' | '(' | ')' | '[' | ']' | '\\' | '"' | '@' => {
                out.push_str(&format!("%{:02X}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    (out.len() <= 1000).then_some(out)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    pub(in super::super) fn message(event: &str, data: &str) -> Message {
        let payload = format!(
            r#"{{"event":{},"data":{data},"timestamp":"2024-01-01T12:05:30.123Z",
                "result":{{"room_id":null}}}}"#,
            Value::from(event)
        );
        Message::of(&payload, &SourceName::new("StreamGank").unwrap())
    }

    fn value(message: &Message, name: &str) -> String {
        match &message.facts.iter().find(|fact| fact.name == name).unwrap().value {
            FactValue::Text(text) | FactValue::Link(text) => text.clone(),
        }
    }

    #[test]
    fn finished_job_message_is_as_documented() {
        let message = message(
            "job.completed",
            r#"{"job_id":"job_1","video_url":"https://cdn.creatomate.com/video.mp4",
                "processing_duration_ms":330000}"#,
        );
        assert_eq!(message.title, "StreamGank Job Completed");
        assert_eq!(value(&message, "Job ID"), "job_1");
        assert_eq!(value(&message, "Video"), "https://cdn.creatomate.com/video.mp4");
        assert_eq!(value(&message, "Duration"), "5m 30s");
        assert_eq!(message.severity, Severity::Success);
    }

    #[test]
    fn titles_are_words() {
        for (event, title) in [
            ("job.completed_with_issues", "StreamGank Job Completed With Issues"),
            ("video.live_stream.active", "StreamGank Video Live Stream Active"),
            ("a<!channel>*b*", "StreamGank A Channel B"),
        ] {
            assert_eq!(message(event, "{}").title, title);
        }
    }

    #[test]
    fn link_is_a_safe_url_or_plain_text() {
        for hostile in [
            "javascript:alert(1)",
            "https://good.example@evil.example/",
            "https://",
            "ftp://example.com/x",
            "not a link",
        ] {
            assert_eq!(safe_link(hostile), None, "{hostile}");
        }
        assert_eq!(
            safe_link("https://a.example/x>|<!channel>").unwrap(),
            "https://a.example/x%3E%7C%3C!channel%3E"
        );
    }

    #[test]
    fn durations_are_read_by_their_unit() {
        assert_eq!(duration("/duration", "3600"), "1h 0m 0s");
        assert_eq!(duration("/duration", "59.6"), "1m 0s");
        assert_eq!(duration("/processing_duration_ms", "900"), "1s");
        assert_eq!(duration("/duration", "soon"), "soon");
        assert_eq!(duration("/duration", "-1"), "-1");
    }

    #[test]
    fn control_and_bidirectional_characters_are_removed() {
        let message = message(
            "chat.message.new",
            "{\"message\":\"a\\u202eb\\nc\\u0000\",\"user_name\":\"x\"}",
        );
        assert_eq!(value(&message, "Message"), "ab c");
        assert_eq!(value(&message, "From"), "x");
    }

    #[test]
    fn value_of_nothing_visible_is_left_out() {
        for blank in [
            "",
            " \n",
            "\u{200b}\u{feff}",
            "\u{202e}",
            "\u{e0041}\u{e0042}",
            "\u{3164}",
            "\u{200d}",
        ] {
            let data = serde_json::json!({"title": blank, "message": blank, "user_name": blank,
                "user_id": "u", "error": {"message": blank}, "error_message": "no space"});
            let message = message("chat.message.new", &data.to_string());
            let named = |name| message.facts.iter().any(|fact| fact.name == name);
            assert!(!named("Title") && !named("Message"), "{blank:?}: {message:?}");
            assert_eq!(
                (value(&message, "From"), value(&message, "Error")),
                ("u".into(), "no space".into())
            );
            assert_eq!(message.stream_title, None);
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüx", 3), "äö…");
    }
}
