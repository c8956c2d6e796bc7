//! Derives type and time of an edited event from its body, as ingress does.
//!
//! # Guarantees
//!
//! - Type and time come from the edited body only (`type_and_time_are_those_of_the_edited_body`).
//! - Values that came from a header stay unchanged, since the header is no longer known
//!   (`header_values_stay_as_they_were`).
//!
//! # Design
//!
//! The event id and the order of arrival are not derived again: an edited event is still the same
//! event.

use super::{Locator, PayloadError, Platform};
use crate::event::{MAX_EVENT_TYPE_BYTES, Millis};
use crate::json::{self, Document, JsonError, JsonNode, time};

/// Derived fields of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivedFields {
    /// Type of the event.
    pub event_type: String,
    /// Time of the provider, limited to the arrival, or the time of arrival. It is encoded as in
    /// entries, see [`crate::event::EventTime`].
    pub occurred_at: Millis,
}

/// Reason why an edited body is not an event of its platform. It names places, never values.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The body is not an accepted JSON document.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The body has no event type.
    #[error("no event type of 1 to {MAX_EVENT_TYPE_BYTES} bytes")]
    Type,
    /// The body names another platform.
    #[error("{0}: names another platform")]
    Platform(String),
    /// The body does not match the schema of the platform.
    #[error(transparent)]
    Schema(#[from] PayloadError),
}

/// Derives the fields of an event of `platform` from its edited `body`. `before` holds the fields
/// before the edit.
///
/// # Errors
/// Returns an error if ingress would refuse the body.
pub fn derive(
    platform: &Platform,
    body: &[u8],
    before: &DerivedFields,
    received_at: Millis,
) -> Result<DerivedFields, EditError> {
    let text = json::text(body);
    let document = Document::parse_text(&text)?;
    let find_type = |locator: &Locator| match locator {
        Locator::Header(_) => Some(&before.event_type).filter(|kind| is_type(kind)).cloned(),
        Locator::Body(at) => {
            document.find(at)?.as_text().filter(|text| is_type(text)).map(|text| text.into_owned())
        }
    };
    let event_type = platform.event.kind.iter().find_map(find_type).ok_or(EditError::Type)?;
    for pointer in &platform.event.platform {
        if document.find(pointer).is_some_and(|node| platform.is_other_platform(node)) {
            return Err(EditError::Platform(pointer.to_string()));
        }
    }
    platform.schemas.check(&event_type, &text)?;
    let nodes = platform.event.time.iter().filter_map(|locator| body_value(locator, &document));
    let occurred_at = if came_from_header(&platform.event.time, &document) {
        before.occurred_at
    } else {
        time::read_first(nodes.map(JsonNode::as_text), platform.event.time_zone)
            .clamped(received_at)
    };
    Ok(DerivedFields { event_type, occurred_at })
}

impl Platform {
    /// Returns true if `node` is neither null nor this platform's name or alias.
    #[must_use]
    pub fn is_other_platform(&self, node: &JsonNode<'_>) -> bool {
        let is_own = |named: &str| {
            self.aliases.iter().chain([&self.name]).any(|name| name.as_str() == named)
        };
        !node.is_null() && !node.as_str().is_some_and(is_own)
    }
}

/// Returns the value in the body at `locator`, or `None` for null and for a header.
fn body_value<'n, 'b>(locator: &Locator, document: &'n Document<'b>) -> Option<&'n JsonNode<'b>> {
    match locator {
        Locator::Body(pointer) => document.find(pointer).filter(|node| !node.is_null()),
        Locator::Header(_) => None,
    }
}

/// Returns true if the value came from a header: no locator before the header finds a value in the
/// body.
fn came_from_header(locators: &[Locator], document: &Document<'_>) -> bool {
    let first = locators.iter().find(|locator| {
        matches!(locator, Locator::Header(_)) || body_value(locator, document).is_some()
    });
    matches!(first, Some(Locator::Header(_)))
}

fn is_type(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_EVENT_TYPE_BYTES && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::event::EventTime;
    use crate::platform::registry::Registry;

    const RECEIVED: Millis = 1_767_225_600_000;

    fn derived(platform: &str, body: &str) -> Result<DerivedFields, EditError> {
        let registry = Registry::from_text("test", "").unwrap();
        let before = DerivedFields { event_type: "before".to_owned(), occurred_at: 5 };
        derive(registry.get(platform).unwrap(), body.as_bytes(), &before, RECEIVED)
    }

    #[test]
    fn type_and_time_are_those_of_the_edited_body() {
        let found = derived(
            "mux",
            r#"{"type":"video.live_stream.idle","created_at":"2025-12-31T00:00:00Z"}"#,
        );
        let expected = DerivedFields {
            event_type: "video.live_stream.idle".to_owned(),
            occurred_at: 1_767_139_200_000,
        };
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn missing_or_future_time_counts_as_arrival() {
        let at = |body: &str| derived("mux", body).unwrap().occurred_at;
        assert_eq!(at(r#"{"type":"t","created_at":"2026-01-01T00:05:00Z"}"#), RECEIVED + 300_000);
        assert_eq!(at(r#"{"type":"t","created_at":"2026-01-01T00:05:01Z"}"#), RECEIVED);
        assert_eq!(at(r#"{"type":"t","created_at":""}"#), RECEIVED);
        assert_eq!(at(r#"{"type":"t"}"#), RECEIVED);
    }

    #[test]
    fn time_without_offset_is_of_the_time_zone() {
        let toml = "[platforms.acme]\nsecrets = ['env:A']\n\
                    event = { type = '/kind', time = '/at', time_zone = '+02:00' }";
        let registry = Registry::from_text("test", toml).unwrap();
        let before = DerivedFields { event_type: "before".to_owned(), occurred_at: 5 };
        for at in ["2026-01-01T01:00:00", "2025-12-31T23:00:00Z", "20260101010000"] {
            let body = format!(r#"{{"kind":"up","at":"{at}"}}"#);
            let found =
                derive(registry.get("acme").unwrap(), body.as_bytes(), &before, RECEIVED).unwrap();
            assert_eq!(found.occurred_at, RECEIVED - 3_600_000, "{at}");
        }
    }

    #[test]
    fn unreadable_time_stays_older_than_known_times() {
        let edited = derived("mux", r#"{"type":"t","created_at":"soon"}"#).unwrap();
        assert!(EventTime::is_unreadable(edited.occurred_at));
    }

    #[test]
    fn header_values_stay_as_they_were() {
        let found = derived("github", "{}").unwrap();
        assert_eq!(found.event_type, "before");
        let registry = Registry::from_text("test", "").unwrap();
        let unknown = DerivedFields { event_type: String::new(), occurred_at: 5 };
        assert_eq!(
            derive(registry.get("github").unwrap(), b"{}", &unknown, RECEIVED),
            Err(EditError::Type)
        );
    }

    #[test]
    fn unusable_type_falls_back_to_the_next_locator() {
        let toml = "[platforms.acme]\nsecrets = ['env:A']\n\
                    event = { type = ['/kind', '/event'], time = '/at' }";
        let registry = Registry::from_text("test", toml).unwrap();
        let before = DerivedFields { event_type: "before".to_owned(), occurred_at: 5 };
        for kind in ["{}", "\"\"", "null", "\"a\\u0000\""] {
            let body = format!(r#"{{"kind":{kind},"event":"up"}}"#);
            let found = derive(registry.get("acme").unwrap(), body.as_bytes(), &before, RECEIVED);
            assert_eq!(found.unwrap().event_type, "up", "{kind}");
        }
    }

    #[test]
    fn body_that_ingress_refuses_is_refused() {
        assert_eq!(
            derived("mux", r#"{"type":7,"type":8}"#),
            Err(EditError::Json(JsonError::DuplicateKey { at: 0 }))
        );
        assert_eq!(derived("mux", r#"{"type":""}"#), Err(EditError::Type));
        assert_eq!(derived("mux", "{}"), Err(EditError::Type));
        assert!(matches!(derived("netflix", r#"{"event_type":"x"}"#), Err(EditError::Schema(_))));
        let other = r#"{"event_type":"x","payload":{"content_id":"a"},"platform":"mux"}"#;
        assert_eq!(derived("netflix", other), Err(EditError::Platform("/platform".to_owned())));
        let absent = other.replace("\"mux\"", "null");
        assert_eq!(derived("netflix", &absent).map(|found| found.event_type).as_deref(), Ok("x"));
    }
}
