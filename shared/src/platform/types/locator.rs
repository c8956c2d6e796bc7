//! Locates values in a request.

use std::fmt;

use crate::json::time::UtcOffset;

/// JSON pointer (RFC 6901) into the signed body, split into unescaped segments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pointer {
    /// Unescaped reference tokens, outermost first. Empty: the whole body.
    pub segments: Vec<String>,
}

/// Error of a text that is not a JSON pointer. The definition's `syntax` parses pointers.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be a JSON pointer such as \"/data/id\", with ~0 for ~ and ~1 for /")]
pub struct PointerError;

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments
            .iter()
            .try_for_each(|one| write!(f, "/{}", one.replace('~', "~0").replace('/', "~1")))
    }
}

/// Location of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Locator {
    /// In the signed body.
    Body(Pointer),
    /// In a header (name in lower case). The signature must cover it, or the definition must list
    /// it as `unsigned`.
    Header(String),
}

/// Locations of the parts of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventSpec {
    /// List of events in a request with several. Each element becomes an event. Its body is the
    /// request's body with this element in place of the list. All other pointers point into that
    /// body.
    pub batch: Option<Pointer>,
    /// Event id of the provider. The first usable one counts. Empty: the content hash is the
    /// identity.
    pub id: Vec<Locator>,
    /// Event type. Never empty.
    pub kind: Vec<Locator>,
    /// Time of the provider.
    pub time: Vec<Locator>,
    /// Offset of times without one, in the event and in columns.
    pub time_zone: UtcOffset,
    /// Room id.
    pub session: Vec<Pointer>,
    /// Live stream id, used if no session has the room id.
    pub live_stream_id: Vec<Pointer>,
    /// Field that must be absent, or equal to the platform in the path or one of its aliases.
    pub platform: Vec<Pointer>,
    /// Delivery id of the provider. It is kept with the event and affects nothing.
    pub delivery_id: Vec<Locator>,
    /// Fields that the content hash leaves out.
    pub ignore: Vec<Pointer>,
    /// If true, identical bodies without id and time are separate events.
    pub repeatable: bool,
}
