//! Formats Discord messages.
//!
//! Reference: <https://discord.com/developers/docs/resources/webhook#execute-webhook>.
//!
//! # Guarantees
//!
//! - Only the mention that the operator configured takes effect, since `allowed_mentions` names
//!   nothing else (`stream_is_announced_only_as_configured`, `user_text_mentions_nobody`).
//! - User text is escaped against Discord's markdown (`user_text_mentions_nobody`).
//! - Messages stay within Discord's limits (`discord_limits_hold_for_any_text`).

use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use super::message::{FactValue, Message, Severity, cut};

/// Bounds below Discord's limits. Those are, in characters: 256 for a title, 1,024 for a field, 25
/// fields, 2,000 for the content, and 6,000 in total.
const MAX_TITLE: usize = 250;
const MAX_FIELD: usize = 1_000;
const MAX_CONTENT: usize = 1_900;
const MAX_TOTAL: usize = 5_500;
/// Longest link to the stream. With a longer one, the stream is not announced.
const MAX_URL: usize = 1_500;
/// Event type of a stream that went live.
const LIVE: &str = "stream.live";

/// Body of the request.
pub(super) fn body(message: &Message, mention: Option<&str>, watch_url: Option<&str>) -> String {
    let title = cut(&message.title, MAX_TITLE);
    let mut all = title.chars().count();
    let mut fields = Vec::new();
    for fact in &message.facts {
        let value = match &fact.value {
            FactValue::Text(text) => cut(&escape_user_text(text), MAX_FIELD),
            FactValue::Link(link) => link.clone(),
        };
        all += fact.name.len() + value.chars().count();
        if all > MAX_TOTAL {
            break;
        }
        fields.push(
            json!({"name": fact.name, "value": value, "inline": value.chars().count() <= 40}),
        );
    }
    let mut embed = json!({"title": title, "color": colour(message.severity), "fields": fields});
    if let Some(timestamp) = &message.timestamp {
        embed["timestamp"] = Value::from(timestamp.as_str());
    }
    let (content, allowed) = live_announcement(message, mention, watch_url);
    let mut body = json!({"embeds": [embed], "allowed_mentions": allowed});
    if let Some(content) = content {
        body["content"] = Value::from(content);
    }
    body.to_string()
}

/// Builds `@everyone <title> is now live! Watch at: …`, if the operator configured both parts.
fn live_announcement(
    message: &Message,
    mention: Option<&str>,
    watch_url: Option<&str>,
) -> (Option<String>, Value) {
    let no_mentions = json!({"parse": []});
    let (Some(mention), Some(watch_url), LIVE) = (mention, watch_url, message.event.as_str())
    else {
        return (None, no_mentions);
    };
    let role = !mention.is_empty() && mention.bytes().all(|b| b.is_ascii_digit());
    let (mention, allowed) = match mention {
        "everyone" | "here" => (format!("@{mention}"), json!({"parse": ["everyone"]})),
        role_id if role => (format!("<@&{role_id}>"), json!({"parse": [], "roles": [role_id]})),
        _ => return (None, no_mentions),
    };
    let name =
        message.stream_title.as_deref().or(message.room_id.as_deref()).unwrap_or("The stream");
    let encoded = |id: &Option<String>| {
        byte_serialize(id.as_deref().unwrap_or_default().as_bytes()).collect::<String>()
    };
    let url = watch_url
        .replace("{stream_id}", &encoded(&message.stream_id))
        .replace("{room_id}", &encoded(&message.room_id));
    if url.len() > MAX_URL {
        return (None, no_mentions);
    }
    let name = cut(&escape_user_text(name), MAX_CONTENT.saturating_sub(url.chars().count() + 64));
    (Some(format!("{mention} {name} is now live! Watch at: {url}")), allowed)
}

const fn colour(severity: Severity) -> u32 {
    match severity {
        Severity::Success => 0x002e_a44f,
        Severity::Failure => 0x00d7_3a49,
        Severity::Warning => 0x00db_ab09,
        Severity::Neutral => 0x0058_65f2,
    }
}

/// Makes user text harmless wherever it stands.
///
/// A backslash precedes markdown characters. A zero-width space follows `@` and `:`, so that
/// neither a mention nor a link results.
fn escape_user_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(
            c,
            '\\' | '*'
                | '_'
                | '~'
                | '`'
                | '|'
                | '>'
                | '<'
                | '#'
                | '-'
                | '+'
                | '['
                | ']'
                | '('
                | ')'
                | '.'
        ) {
            out.push('\\');
        }
        out.push(c);
        if matches!(c, '@' | ':') {
            out.push('\u{200b}');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::message::tests::message;
    use super::*;

    const WATCH: &str = "https://watch.example.com/{stream_id}";

    fn parsed(event: &str, data: &str, mention: Option<&str>, watch: Option<&str>) -> Value {
        serde_json::from_str(&body(&message(event, data), mention, watch)).unwrap()
    }

    #[test]
    fn job_message_has_its_facts() {
        let body = parsed("job.failed", r#"{"job_id":"j","error":"no space"}"#, None, None);
        assert_eq!(body["embeds"][0]["title"], "StreamGank Job Failed");
        assert_eq!(body["embeds"][0]["fields"][0]["name"], "Job ID");
        assert_eq!(body["embeds"][0]["fields"][1]["value"], "no space");
        assert_eq!(body["allowed_mentions"], json!({"parse": []}));
        assert_eq!(body.get("content"), None);
    }

    #[test]
    fn stream_is_announced_only_as_configured() {
        let data = r#"{"title":"Epic Gaming Session","stream_id":"stream/1"}"#;
        let body = parsed(LIVE, data, Some("everyone"), Some(WATCH));
        assert_eq!(
            body["content"],
            "@everyone Epic Gaming Session is now live! \
             Watch at: https://watch.example.com/stream%2F1"
        );
        assert_eq!(body["allowed_mentions"], json!({"parse": ["everyone"]}));
        let body = parsed(LIVE, data, Some("123"), Some(WATCH));
        assert!(body["content"].as_str().unwrap().starts_with("<@&123> "));
        for (event, mention, watch) in [
            (LIVE, None, Some(WATCH)),
            (LIVE, Some("everyone"), None),
            ("stream.offline", Some("everyone"), Some(WATCH)),
        ] {
            let body = parsed(event, data, mention, watch);
            assert_eq!(
                (body.get("content"), &body["allowed_mentions"]),
                (None, &json!({"parse": []}))
            );
        }
    }

    #[test]
    fn user_text_mentions_nobody() {
        let data = r#"{"title":"@everyone <@1> [x](https://evil.example) **b**"}"#;
        let body = parsed(LIVE, data, Some("everyone"), Some(WATCH));
        let content = body["content"].as_str().unwrap();
        assert_eq!(content.matches("@everyone").count(), 1, "{content}");
        assert!(
            !content.contains("<@1>")
                && !content.contains("](")
                && !content.contains("https://evil"),
            "{content}"
        );
        assert!(!content.contains("**"), "{content}");
    }

    #[test]
    fn discord_limits_hold_for_any_text() {
        let long = "*".repeat(5_000);
        let data = json!({"title": long, "message": long, "user_name": long, "error": long,
            "current_step": long, "stream_id": long, "job_id": long});
        let body = parsed(LIVE, &data.to_string(), Some("everyone"), Some(WATCH));
        assert!(body["content"].as_str().unwrap().chars().count() <= 2_000);
        let fields = body["embeds"][0]["fields"].as_array().unwrap();
        let length = |value: &Value| value.as_str().unwrap().chars().count();
        assert!(fields.len() <= 25 && fields.iter().all(|field| length(&field["value"]) <= 1_024));
        let all: usize =
            fields.iter().map(|field| length(&field["name"]) + length(&field["value"])).sum();
        assert!(all + length(&body["embeds"][0]["title"]) <= 6_000);
    }
}
