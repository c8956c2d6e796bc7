//! Which event, or which events, a genuine body is.
//!
//! Guarantee: identity, platform and time come from what the signature covers; only a type may be read from an unsigned
//! header, where the definition says so. Two bodies are one event if, and only if, they carry the same provider id, or,
//! without one, say the same: key order, white space and ignored fields do not count, numbers count as written. Of a
//! batch, either every element is an event, or there is none.

mod batch;
mod unusable;

use std::borrow::Cow;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use shared::event::{
    EventTime, MAX_EVENT_ID_BYTES, MAX_EVENT_TYPE_BYTES, NewEvent, marker_digest, to_hex,
};
use shared::json::{self, Document, JsonError, time};
use shared::outbound::headers::HOPS_HEADER;
use shared::platform::{EventSpec, Locator, PayloadError, Platform, Pointer};
use shared::queue::{MAX_BATCH_BYTES, MAX_BATCH_EVENTS};
use shared::signature::Verified;
use shared::trace;

use batch::BatchElement;
pub(crate) use unusable::unusable;

/// Longest provider's delivery id that is kept, in bytes.
const MAX_DELIVERY_ID_BYTES: usize = 256;

/// Why a genuine body is no event. Names places, never values.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// Not what its `Content-Encoding` says.
    #[error("not decodable as its content encoding says")]
    Coding,
    /// A coding that is not undone here.
    #[error("content encoding is none of gzip, zstd and br")]
    UnknownCoding,
    /// More bytes than are accepted, once decoded.
    #[error("larger than MAX_BODY_BYTES once decoded")]
    LargeDecoded,
    /// Not a JSON document as we take them.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// No type.
    #[error("{0}: no event type of 1 to {MAX_EVENT_TYPE_BYTES} bytes")]
    Type(String),
    /// It says that it belongs to another platform.
    #[error("{0}: names another platform")]
    Platform(String),
    /// The platform's schema is not met.
    #[error(transparent)]
    Schema(#[from] PayloadError),
    /// Something else stands where the batch should.
    #[error("{0}: must be a list of events")]
    NoList(String),
    /// An element that cannot be an event.
    #[error("{0}: must be an object")]
    NoObject(String),
    /// More than is taken together.
    #[error(
        "{0}: more than {MAX_BATCH_EVENTS} events, or {MAX_BATCH_BYTES} bytes of them, at once"
    )]
    LargeBatch(String),
}

/// What a genuine body is.
#[derive(Debug)]
pub enum Identified {
    /// One event.
    One(NewEvent),
    /// The events of a batch, in their order, no more than the queue takes together; none of an
    /// empty list.
    Batch(Vec<NewEvent>),
    /// The dead letter of a request that is no usable event, see [`unusable()`].
    Unusable(NewEvent),
}

impl Identified {
    /// The events.
    #[must_use]
    pub fn events(&self) -> &[NewEvent] {
        match self {
            Self::One(event) | Self::Unusable(event) => std::slice::from_ref(event),
            Self::Batch(events) => events,
        }
    }

    /// Bytes of all bodies.
    pub(crate) fn bytes(&self) -> usize {
        self.events().iter().map(|event| event.body.len()).sum()
    }
}

impl From<NewEvent> for Identified {
    fn from(event: NewEvent) -> Self {
        Self::One(event)
    }
}

/// Reads the event, or the events of a batch, out of the decoded `body` of a genuine request.
///
/// # Errors
/// When the body, or one element of it, is no event of this platform.
pub fn identify(
    platform: &Platform,
    verified: &Verified<'_>,
    body: &Bytes,
) -> Result<Identified, IdentifyError> {
    let text = json::text(body);
    let document = Document::parse_text(&text)?;
    let replaced = matches!(text, Cow::Owned(_)).then_some(&body[..]);
    let found =
        platform.event.batch.as_ref().map(|list| batch::elements(list, &document, text.as_bytes()));
    let Some(elements) = found.transpose()?.flatten() else {
        let whole =
            EventSource { body: body.clone(), document: &document, element: None, replaced };
        return identify_event(platform, verified, whole).map(Identified::One);
    };
    let event = |(element, body): (BatchElement<'_>, Bytes)| {
        let document = Document::parse(&body)?;
        identify_event(
            platform,
            verified,
            EventSource {
                body: body.clone(),
                document: &document,
                element: Some(element),
                replaced,
            },
        )
    };
    elements.into_iter().map(event).collect::<Result<_, _>>().map(Identified::Batch)
}

/// A request, or one element of it.
struct EventSource<'p, 'd> {
    body: Bytes,
    /// The body, parsed.
    document: &'p Document<'d>,
    element: Option<BatchElement<'p>>,
    /// The request's bytes where its text is not just these: other bytes may have the same text.
    replaced: Option<&'p [u8]>,
}

/// Reads one event.
fn identify_event(
    platform: &Platform,
    verified: &Verified<'_>,
    part: EventSource<'_, '_>,
) -> Result<NewEvent, IdentifyError> {
    let EventSource { body, document, element, replaced } = part;
    let event_type = event_type(platform, verified, document, element)?;
    check_platform(platform, document, element)?;
    platform.schemas.check(&event_type, document.root().raw().as_bytes()).map_err(|error| {
        match element {
            Some(element) => element.in_request_error(error),
            None => error,
        }
    })?;

    let spec = &platform.event;
    let occurred_at = occurred_at(spec, verified, document);
    // An id in which characters were replaced tells no two events apart.
    let is_whole = |id: &str| replaced.is_none() || !id.contains(char::REPLACEMENT_CHARACTER);
    let id = provider_id(&spec.id, verified, document, element, is_whole);
    let content_hash = || content_hash(platform, &event_type, document, replaced);
    let (event_id, unique) = match id {
        Some(id) => (id, true),
        None if spec.repeatable && occurred_at.known().is_none() => {
            let occurrence: u64 = rand::random();
            (format!("{}-{occurrence:016x}", content_hash()), false)
        }
        None => (content_hash(), true),
    };
    Ok(NewEvent {
        marker: unique.then(|| marker_digest(platform.name.as_str(), &event_id)),
        event_id,
        event_type,
        occurred_at,
        body,
        delivery_id: delivery_id(&spec.delivery_id, verified, document),
        traceparent: traceparent(verified),
        reply_to: None,
        hops: hops(verified),
        unusable: None,
    })
}

fn traceparent(verified: &Verified<'_>) -> Option<String> {
    verified.unsigned_header("traceparent").filter(|text| is_traceparent(text)).map(str::to_owned)
}

fn hops(verified: &Verified<'_>) -> u32 {
    verified.unsigned_header(HOPS_HEADER).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The first of `locators` that is there and not null, as text. `None` in the inner place: it is there, but no text.
fn first<'v>(
    locators: &[Locator],
    document: &'v Document<'_>,
    header: impl Fn(&str) -> Option<&'v str>,
) -> Option<Option<Cow<'v, str>>> {
    locators.iter().find_map(|locator| match locator {
        Locator::Body(pointer) => {
            document.find(pointer).filter(|node| !node.is_null()).map(|node| node.as_text())
        }
        Locator::Header(name) => header(name).map(|text| Some(Cow::Borrowed(text))),
    })
}

/// The first of `locators` whose text is `usable`: what cannot be used is as good as absent.
fn first_usable<'v>(
    locators: &[Locator],
    document: &'v Document<'_>,
    header: impl Fn(&str) -> Option<&'v str>,
    usable: impl Fn(&str) -> bool,
) -> Option<Cow<'v, str>> {
    locators
        .iter()
        .find_map(|locator| text_at(locator, document, &header).filter(|text| usable(text)))
}

/// The text, or the number as written, that `locator` leads to.
fn text_at<'v>(
    locator: &Locator,
    document: &'v Document<'_>,
    header: impl Fn(&str) -> Option<&'v str>,
) -> Option<Cow<'v, str>> {
    match locator {
        Locator::Body(pointer) => document.find(pointer)?.as_text(),
        Locator::Header(name) => header(name).map(Cow::Borrowed),
    }
}

fn event_type(
    platform: &Platform,
    verified: &Verified<'_>,
    document: &Document<'_>,
    element: Option<BatchElement<'_>>,
) -> Result<String, IdentifyError> {
    let locators = &platform.event.kind;
    // The definition has declared what it takes from unsigned headers.
    let header = |name: &str| verified.unsigned_header(name);
    let found =
        first_usable(locators, document, header, |text| is_name(text, MAX_EVENT_TYPE_BYTES));
    found.map(Cow::into_owned).ok_or_else(|| IdentifyError::Type(places(locators, element)))
}

/// Checks that the body, if it names a platform, names this one.
fn check_platform(
    platform: &Platform,
    document: &Document<'_>,
    element: Option<BatchElement<'_>>,
) -> Result<(), IdentifyError> {
    for pointer in &platform.event.platform {
        if document.find(pointer).is_some_and(|node| platform.is_named_otherwise(node)) {
            return Err(IdentifyError::Platform(place_in(pointer, element)));
        }
    }
    Ok(())
}

/// The provider's id of the event. Of an element, an id that stands outside it is that of the whole message, which all of
/// its elements share; what tells them apart is their position, the same whenever the message is sent again.
fn provider_id(
    locators: &[Locator],
    verified: &Verified<'_>,
    document: &Document<'_>,
    element: Option<BatchElement<'_>>,
    is_whole: impl Fn(&str) -> bool,
) -> Option<String> {
    locators.iter().find_map(|locator| {
        let id = text_at(locator, document, |name| verified.signed_header(name));
        let id = id.filter(|id| !id.is_empty() && is_whole(id))?;
        let id = match (element, locator) {
            (Some(element), Locator::Body(pointer)) if element.holds(pointer) => id,
            (Some(element), _) => format!("{id}#{}", element.index).into(),
            (None, _) => id,
        };
        is_name(&id, MAX_EVENT_ID_BYTES).then(|| id.into_owned())
    })
}

/// The first usable time: a value that is none hides no other place.
fn occurred_at(spec: &EventSpec, verified: &Verified<'_>, document: &Document<'_>) -> EventTime {
    let found = |locator| {
        first(std::slice::from_ref(locator), document, |name| verified.signed_header(name))
    };
    time::read_first(spec.time.iter().filter_map(found), spec.time_zone)
}

fn delivery_id(
    locators: &[Locator],
    verified: &Verified<'_>,
    document: &Document<'_>,
) -> Option<String> {
    let header = |name: &str| verified.unsigned_header(name);
    first_usable(locators, document, header, |id| is_name(id, MAX_DELIVERY_ID_BYTES))
        .map(Cow::into_owned)
}

/// SHA-256 over platform, type and the canonical body, in hex; and over the bytes that were
/// `replaced` in it, if any.
fn content_hash(
    platform: &Platform,
    event_type: &str,
    document: &Document<'_>,
    replaced: Option<&[u8]>,
) -> String {
    let mut hash = Sha256::new();
    for piece in [platform.name.as_str(), event_type] {
        hash.update((piece.len() as u64).to_be_bytes());
        hash.update(piece);
    }
    document.canonical_hash_into(&mut |piece| hash.update(piece), &platform.event.ignore);
    replaced.into_iter().for_each(|body| hash.update(body));
    to_hex(&hash.finalize())
}

/// Whether `text` can name something in keys, columns and logs: not empty, short, without control characters.
fn is_name(text: &str, max_bytes: usize) -> bool {
    let is_plain = || text.bytes().all(|b| matches!(b, b' '..=b'~'));
    !text.is_empty()
        && text.len() <= max_bytes
        && (is_plain() || !text.chars().any(char::is_control))
}

/// Whether `text` is a W3C trace context of version 00.
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, len| {
        part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut parts = text.split('-');
    let mut next = |len| parts.next().is_some_and(|part| hex(part, len));
    let formed = text.starts_with("00-")
        && next(2)
        && next(32)
        && next(16)
        && next(2)
        && parts.next().is_none();
    // Ids of nothing but zeros are none.
    formed && trace::is_valid_traceparent(text)
}

fn place(pointer: &Pointer) -> String {
    if pointer.segments.is_empty() { "/".to_owned() } else { pointer.to_string() }
}

/// Where `pointer` into an event's body leads in the request's.
fn place_in(pointer: &Pointer, element: Option<BatchElement<'_>>) -> String {
    let place = place(pointer);
    element.map_or_else(|| place.clone(), |element| element.in_request(&place))
}

fn places(locators: &[Locator], element: Option<BatchElement<'_>>) -> String {
    let one = |locator: &Locator| match locator {
        Locator::Body(pointer) => place_in(pointer, element),
        Locator::Header(name) => format!("header {name}"),
    };
    locators.iter().map(one).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests;
