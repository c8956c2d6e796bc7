//! Reads `[platforms.NAME.handshake]`: the probes that a provider sends beside its events.

use std::collections::HashSet;
use std::path::Path;

use super::syntax::secret_ref;
use super::table_reader::TableReader;
use crate::platform::types::{Handshake, PlatformSource, SecretRef};

/// Maximum number of topics of a platform.
const MAX_TOPICS: usize = 1000;
/// Longest topic in bytes.
const MAX_TOPIC_BYTES: usize = 2048;

/// Settings that the handshake depends on.
#[derive(Clone, Copy)]
pub(super) struct HandshakeContext<'a> {
    /// Set if the signature scheme uses key pairs. `None`: the scheme is unknown.
    pub(super) credentials: Option<bool>,
    /// Source of the definition.
    pub(super) source: PlatformSource,
    /// Folder of relative secret paths.
    pub(super) folder: Option<&'a Path>,
}

/// Reads the section. Returns `None` after at least one problem.
pub(super) fn read(
    mut section: TableReader<'_>,
    context: HandshakeContext<'_>,
) -> Option<Handshake> {
    let report = section.report();
    let before = report.count();
    if !section.has("kind") {
        section.problem("kind", "is missing");
        return None;
    }
    let handshake = match section.text("kind")?.as_str() {
        "twitch" => Handshake::Twitch,
        "zoom" => {
            if context.credentials == Some(true) {
                section.problem(
                    "kind",
                    "zoom answers with one of `secrets`, and this signature scheme has none",
                );
            }
            Handshake::Zoom
        }
        "echo" => Handshake::Echo,
        "websub" => Handshake::WebSub { topics: topics(&mut section) },
        "meta" => Handshake::Meta { verify_token: verify_token(&mut section, context)? },
        _ => {
            section.problem("kind", "must be one of: twitch zoom echo websub meta");
            return None;
        }
    };
    section.finish();
    (report.count() == before).then_some(handshake)
}

/// Reads the reference to Meta's token. A registered definition must not have one, since it would
/// read this process's environment.
fn verify_token(section: &mut TableReader<'_>, context: HandshakeContext<'_>) -> Option<SecretRef> {
    if context.source == PlatformSource::Registered {
        section.take("verify_token");
        section
            .problem("verify_token", "cannot be registered: a reference belongs in PLATFORMS_FILE");
        return None;
    }
    if !section.has("verify_token") {
        section.problem(
            "verify_token",
            "is missing: env:NAME or file:path of the token typed into the dashboard",
        );
    }
    section.word("verify_token", |text| secret_ref(text, context.folder))
}

fn topics(section: &mut TableReader<'_>) -> HashSet<String> {
    let topics = section.words("topics", topic).unwrap_or_default();
    if topics.is_empty() {
        section.problem(
            "topics",
            "is missing; it lists the URLs of intended subscriptions, and all others are refused",
        );
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
    Err(format!(
        "must be a URL of at most {MAX_TOPIC_BYTES} bytes, exactly as it was given to the hub"
    ))
}
