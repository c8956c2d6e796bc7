//! Sections of `docs/reference/platform-definition.md`.

use shared::platform::definition::grammar::{
    DESTINATION_KEYS, DefinitionKey, EFFECT_KEYS, EFFECT_KINDS, EVENT_KEYS, HANDSHAKE_KEYS,
    HANDSHAKE_KINDS, PLATFORM_KEYS, SIGNATURE_KEYS, SIGNATURE_SCHEMES,
};
use shared::platform::{
    ChatColumn, ContentColumn, ContentState, JobColumn, RecordingColumn, RecordingState,
    SessionColumn, SessionStatus,
};

use super::markdown::{code, codes, list, paragraph, table};
use super::sections::Section;

pub(super) const SECTIONS: &[Section] = &[
    ("platform-keys", || keys(PLATFORM_KEYS)),
    ("signature-keys", || keys_by_kind(SIGNATURE_KEYS, "schemes", SIGNATURE_SCHEMES)),
    ("event-keys", || keys(EVENT_KEYS)),
    ("handshake-keys", || keys_by_kind(HANDSHAKE_KEYS, "kinds", HANDSHAKE_KINDS)),
    ("effect-keys", || keys_by_kind(EFFECT_KEYS, "effects", EFFECT_KINDS)),
    ("effect-values", effect_values),
    ("destination-keys", || keys(DESTINATION_KEYS)),
];

fn keys(keys: &[DefinitionKey]) -> String {
    let row = |key: &DefinitionKey| [code(key.name), key.values.to_owned(), default(key)];
    table(["key", "value", "default"], keys.iter().map(row).collect())
}

/// The kinds of a table, and its keys with the kinds that have them.
fn keys_by_kind(keys: &[DefinitionKey], head: &str, kinds: &[&str]) -> String {
    let row = |key: &DefinitionKey| {
        [code(key.name), owners(key, kinds), key.values.to_owned(), default(key)]
    };
    let table = table(["key", head, "value", "default"], keys.iter().map(row).collect());
    format!("{}\n{table}", paragraph(&format!("All {head}: {}.", codes(kinds, ", "))))
}

fn default(key: &DefinitionKey) -> String {
    if key.default.is_empty() { "none".to_owned() } else { key.default.to_owned() }
}

/// Kinds that have `key`, out of `all`.
fn owners(key: &DefinitionKey, all: &[&str]) -> String {
    let without: Vec<&&str> = all.iter().filter(|kind| !key.belongs_to(kind)).collect();
    match without.as_slice() {
        [] => "all".to_owned(),
        [one] => format!("all but {}", code(one)),
        _ => codes(key.kinds, ", "),
    }
}

/// Columns of `set`, and the values of `status` and `state`.
fn effect_values() -> String {
    let columns =
        |effect: &str, columns: String| format!("Columns of {}: {columns}.", code(effect));
    let values = |key: &str, effect: &str, values: String| {
        format!("{} of {}: {values}.", code(key), code(effect))
    };
    let viewers = [SessionColumn::ViewerCount, SessionColumn::PeakViewers];
    list([
        values("status", "session.status", codes(SessionStatus::ALL, ", ")),
        values("state", "recording", codes(RecordingState::ALL, ", ")),
        values("state", "content", codes(ContentState::ALL, ", ")),
        columns("session.status", codes(SessionColumn::ALL, ", ")),
        columns("session.viewers", codes(viewers, ", ")),
        columns("recording", codes(RecordingColumn::ALL, ", ")),
        columns("content", codes(ContentColumn::ALL, ", ")),
        columns("job", codes(JobColumn::ALL, ", ")),
        columns("chat", codes(ChatColumn::ALL, ", ")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_names_the_kinds_that_have_it() {
        let text = keys_by_kind(SIGNATURE_KEYS, "schemes", SIGNATURE_SCHEMES);
        for start in [
            "| `scheme` | all | ",
            "| `prefix` | `hmac` | ",
            "| `hash` | `hmac`, `pairs` | ",
            "| `tolerance` | all but `shared-secret` | ",
        ] {
            assert!(text.contains(start), "{text}");
        }
    }
}
