//! Formats Slack messages.
//!
//! Reference: <https://docs.slack.dev/reference/block-kit/blocks>.
//!
//! # Guarantees
//!
//! - User text cannot start a mention or a link, since `&`, `<` and `>` are escaped
//!   (`user_text_neither_mentions_nor_styles`). `verbatim` stops Slack from making its own links
//!   and mentions.
//! - User text cannot style, since a zero-width space follows each character that could
//!   (`user_text_neither_mentions_nor_styles`).

use serde_json::{Value, json};

use super::message::{FactValue, Message, Severity, cut};

/// Longest header, below Slack's limit of 150 characters.
const MAX_HEADER: usize = 140;
/// Longest section, below Slack's limit of 3,000 characters.
const MAX_SECTION: usize = 2_900;

/// Body of the request.
pub(super) fn body(message: &Message) -> String {
    let title = format!("{} {}", icon(message.severity), message.title);
    let mut lines: Vec<String> = Vec::new();
    let mut length = 0;
    for fact in &message.facts {
        let line = match &fact.value {
            FactValue::Text(text) => format!("{}: {}", fact.name, escape_user_text(text)),
            FactValue::Link(link) => format!("{}: <{}>", fact.name, escaped(link)),
        };
        length += line.chars().count() + 1;
        if length > MAX_SECTION {
            break;
        }
        lines.push(line);
    }
    let mut blocks = vec![json!({
        "type": "header",
        "text": {"type": "plain_text", "text": cut(&title, MAX_HEADER), "emoji": true},
    })];
    if !lines.is_empty() {
        let text = lines.join("\n");
        blocks.push(
            json!({"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": true}}),
        );
    }
    // Notifications show this text.
    let text = escape_user_text(&title);
    Value::to_string(
        &json!({"text": text, "blocks": blocks, "unfurl_links": false, "unfurl_media": false}),
    )
}

const fn icon(severity: Severity) -> &'static str {
    match severity {
        Severity::Success => "\u{2705}",
        Severity::Failure => "\u{274c}",
        Severity::Warning => "\u{26a0}\u{fe0f}",
        Severity::Neutral => "\u{2139}\u{fe0f}",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Makes user text harmless. A zero-width space after a character prevents styles, emoji and
/// mentions.
fn escape_user_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in escaped(text).chars() {
        out.push(c);
        if matches!(c, '*' | '_' | '~' | '`' | '@' | '#' | ':') {
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

    fn parsed(event: &str, data: &str) -> Value {
        serde_json::from_str(&body(&message(event, data))).unwrap()
    }

    #[test]
    fn job_message_is_as_documented() {
        let body = parsed(
            "job.completed",
            r#"{"job_id":"job_1","video_url":"https://cdn.creatomate.com/video.mp4",
                "processing_duration_ms":330000}"#,
        );
        assert_eq!(body["blocks"][0]["text"]["text"], "\u{2705} StreamGank Job Completed");
        assert_eq!(
            body["blocks"][1]["text"]["text"],
            "Job ID: job_\u{200b}1\nVideo: <https://cdn.creatomate.com/video.mp4>\nDuration: 5m 30s"
        );
    }

    #[test]
    fn user_text_neither_mentions_nor_styles() {
        let typed = r#"{
            "message":"<!channel> <@U1> @here *b* <https://evil.example|bank> `c` :smile:",
            "title":"&lt;!here&gt;"
        }"#;
        let body = parsed("chat.message.new", typed);
        let text = body["blocks"][1]["text"]["text"].as_str().unwrap();
        assert!(!text.contains('<') && !text.contains("@here") && !text.contains("*b*"), "{text}");
        assert!(text.contains("&lt;!channel&gt;") && text.contains("&amp;lt;"), "{text}");
        assert_eq!(body["blocks"][1]["text"]["verbatim"], true);
    }

    #[test]
    fn slack_limits_hold_for_any_text() {
        let long = "&".repeat(5_000);
        let data = json!({"title": long, "message": long, "user_name": long, "error": long,
            "current_step": long});
        let body = parsed(&"x".repeat(500), &data.to_string());
        assert!(body["blocks"][0]["text"]["text"].as_str().unwrap().chars().count() <= 150);
        assert!(body["blocks"][1]["text"]["text"].as_str().unwrap().chars().count() <= 3_000);
    }

    #[test]
    fn event_without_facts_is_a_title_alone() {
        assert_eq!(parsed("ping", "null")["blocks"].as_array().unwrap().len(), 1);
    }
}
