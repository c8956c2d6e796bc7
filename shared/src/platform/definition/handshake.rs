//! `[platforms.NAME.handshake]`: what the provider asks before, or besides, sending events.

use std::collections::HashSet;

use super::section::Section;
use crate::platform::types::Handshake;

/// Most topics of one platform.
const MAX_TOPICS: usize = 1000;
/// Longest topic, in bytes.
const MAX_TOPIC_BYTES: usize = 2048;

/// Reads the section; `None` after at least one problem. `credentials`: whether the signature takes key pairs.
pub(super) fn read(mut section: Section<'_>, credentials: Option<bool>) -> Option<Handshake> {
    let report = section.report();
    let before = report.count();
    if !section.has("kind") {
        section.problem("kind", "is missing");
        return None;
    }
    let handshake = match section.text("kind")?.as_str() {
        "twitch" => Handshake::Twitch,
        "zoom" => {
            if credentials == Some(true) {
                section.problem("kind", "zoom answers with one of `secrets`, and this signature scheme has none");
            }
            Handshake::Zoom
        }
        "echo" => Handshake::Echo,
        "websub" => Handshake::WebSub { topics: topics(&mut section) },
        _ => {
            section.problem("kind", "must be one of: twitch zoom echo websub");
            return None;
        }
    };
    section.finish();
    (report.count() == before).then_some(handshake)
}

fn topics(section: &mut Section<'_>) -> HashSet<String> {
    let topics = section.words("topics", topic).unwrap_or_default();
    if topics.is_empty() {
        section.problem("topics", "is missing: the URLs whose subscription is meant; every other one is refused");
    }
    if topics.len() > MAX_TOPICS {
        section.problem("topics", format!("must be at most {MAX_TOPICS}"));
    }
    topics.into_iter().collect()
}

fn topic(text: &str) -> Result<String, String> {
    let url = text.starts_with("https://") || text.starts_with("http://");
    if url && text.len() <= MAX_TOPIC_BYTES && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(format!("must be a URL of at most {MAX_TOPIC_BYTES} bytes, exactly as it was given to the hub"))
}
