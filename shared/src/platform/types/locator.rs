//! Where in a request a value is found.

use std::fmt;

use crate::json::time::UtcOffset;

/// A JSON pointer (RFC 6901) into the signed body, already split into unescaped segments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pointer {
    /// Unescaped reference tokens, outermost first; empty: the whole body.
    pub segments: Vec<String>,
}

/// A text that is not a JSON pointer. Parsing is in the definition's syntax.
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

/// Where a value is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Locator {
    /// In the signed body.
    Body(Pointer),
    /// In a header, lower-case name. Only where the signature covers it, or where the definition says `unsigned`.
    Header(String),
}

/// Where an event's parts are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventSpec {
    /// Where a request holds several events, the list of them. Each becomes an event of its own, whose body is the
    /// request's with that one element in the list's place; all other pointers point into that body.
    pub batch: Option<Pointer>,
    /// The provider's event id; the first usable one counts. Empty: identity is the content hash.
    pub id: Vec<Locator>,
    /// The event type; never empty.
    pub kind: Vec<Locator>,
    /// The provider's time.
    pub time: Vec<Locator>,
    /// Offset of times that name none: of the event's, and of those in columns.
    pub time_zone: UtcOffset,
    /// The room id.
    pub session: Vec<Pointer>,
    /// The live stream id, tried when no session has the room id.
    pub live_stream_id: Vec<Pointer>,
    /// A field that, if present, must equal the path's platform or one of its aliases.
    pub platform: Vec<Pointer>,
    /// The provider's id of the delivery: kept with the event, decides nothing.
    pub delivery_id: Vec<Locator>,
    /// Left out of the content hash.
    pub ignore: Vec<Pointer>,
    /// Identical bodies without id and time are separate events.
    pub repeatable: bool,
}
