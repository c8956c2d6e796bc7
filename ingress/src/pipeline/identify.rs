//! Identifies the event, or the events, in a verified body.
//!
//! # Guarantees
//!
//! - Id, platform and time come from signed bytes. Only a type may come from an unsigned header, if
//!   the definition declares it. (`unsigned_headers_decide_only_a_declared_type`)
//! - Two bodies are the same event exactly if they have the same provider id or, without one, the
//!   same content hash. Key order, white space and ignored fields do not count; numbers count as
//!   written. (`content_hash_equals_for_equal_content_only`)
//! - Every element of a batch is an event, or the whole batch is refused.
//!   (`batch_with_a_bad_element_is_refused_by_its_path`)

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

/// Bound on the provider's delivery id, in bytes.
const MAX_DELIVERY_ID_BYTES: usize = 256;

/// Reason for which a verified body is no event. Names paths, never values.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// The bytes do not match their `Content-Encoding`.
    #[error("not decodable as its content encoding says")]
    Coding,
    /// The encoding is not supported.
    #[error("content encoding is none of gzip, zstd and br")]
    UnknownCoding,
    /// The decoded body exceeds the bound.
    #[error("larger than MAX_BODY_BYTES once decoded")]
    LargeDecoded,
    /// The body is no acceptable JSON document.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The body has no usable event type.
    #[error("{0}: no event type of 1 to {MAX_EVENT_TYPE_BYTES} bytes")]
    Type(String),
    /// The body names another platform.
    #[error("{0}: names another platform")]
    Platform(String),
    /// The body violates the platform's schema.
    #[error(transparent)]
    Schema(#[from] PayloadError),
    /// The value at the batch's path is no list.
    #[error("{0}: must be a list of events")]
    NoList(String),
    /// An element of the batch is no object.
    #[error("{0}: must be an object")]
    NoObject(String),
    /// The batch exceeds the bounds of a call.
    #[error(
        "{0}: more than {MAX_BATCH_EVENTS} events, or {MAX_BATCH_BYTES} bytes of them, at once"
    )]
    LargeBatch(String),
}

/// Events of a verified body.
#[derive(Debug)]
pub enum Identified {
    /// One event.
    One(NewEvent),
    /// Events of a batch, in order, at most as many as a call takes. Empty for an empty list.
    Batch(Vec<NewEvent>),
    /// Dead letter of a request that is no usable event; see [`unusable()`].
    Unusable(NewEvent),
}

impl Identified {
    /// Returns the events.
    #[must_use]
    pub fn events(&self) -> &[NewEvent] {
        match self {
            Self::One(event) | Self::Unusable(event) => std::slice::from_ref(event),
            Self::Batch(events) => events,
        }
    }

    /// Returns the total size of the bodies.
    pub(crate) fn bytes(&self) -> usize {
        self.events().iter().map(|event| event.body.len()).sum()
    }
}

impl From<NewEvent> for Identified {
    fn from(event: NewEvent) -> Self {
        Self::One(event)
    }
}

/// Identifies the event, or the events of a batch, in the decoded `body` of a verified request.
///
/// # Errors
/// The body, or one element of it, is no event of this platform.
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

/// Body of a request, or of one batch element.
struct EventSource<'p, 'd> {
    body: Bytes,
    /// Parsed body.
    document: &'p Document<'d>,
    element: Option<BatchElement<'p>>,
    /// Bytes of the request if its text differs from them. Other bytes may have the same text.
    replaced: Option<&'p [u8]>,
}

/// Identifies one event.
fn identify_event(
    platform: &Platform,
    verified: &Verified<'_>,
    part: EventSource<'_, '_>,
) -> Result<NewEvent, IdentifyError> {
    let EventSource { body, document, element, replaced } = part;
    let event_type = event_type(platform, verified, document, element)?;
    check_platform(platform, document, element)?;
    platform.schemas.check(&event_type, document.root().raw()).map_err(|error| match element {
        Some(element) => element.in_request_error(error),
        None => error,
    })?;

    let spec = &platform.event;
    let occurred_at = occurred_at(spec, verified, document);
    // An id with replaced characters does not identify an event.
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

/// Returns the first value of `locators` that is present and not null, as text. The inner `None`
/// means that it is no text.
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

/// Returns the first text of `locators` that is `usable`. An unusable text counts as absent.
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

/// Returns the text at `locator`. A number is returned as written.
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
    // The definition declares which unsigned headers it accepts.
    let header = |name: &str| verified.unsigned_header(name);
    let found =
        first_usable(locators, document, header, |text| is_name(text, MAX_EVENT_TYPE_BYTES));
    found.map(Cow::into_owned).ok_or_else(|| IdentifyError::Type(places(locators, element)))
}

/// Checks that the body names no other platform.
fn check_platform(
    platform: &Platform,
    document: &Document<'_>,
    element: Option<BatchElement<'_>>,
) -> Result<(), IdentifyError> {
    for pointer in &platform.event.platform {
        if document.find(pointer).is_some_and(|node| platform.is_other_platform(node)) {
            return Err(IdentifyError::Platform(place_in(pointer, element)));
        }
    }
    Ok(())
}

/// Returns the provider's id of the event. An id outside the batch element is the id of the whole
/// message, which all elements share. The position of the element makes it unique, and stays the
/// same when the message is sent again.
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

/// Returns the first usable time. An unusable value falls through to the next pointer.
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

/// Returns the hex SHA-256 over platform, type and canonical body, and over the `replaced` bytes,
/// if any.
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

/// Returns true if `text` is fit for keys, columns and logs: not empty, short, without control
/// characters.
fn is_name(text: &str, max_bytes: usize) -> bool {
    let is_plain = || text.bytes().all(|b| matches!(b, b' '..=b'~'));
    !text.is_empty()
        && text.len() <= max_bytes
        && (is_plain() || !text.chars().any(char::is_control))
}

/// Returns true if `text` is a W3C trace context of version 00.
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
    // Ids of zeros only are invalid.
    formed && trace::is_valid_traceparent(text)
}

fn place(pointer: &Pointer) -> String {
    if pointer.segments.is_empty() { "/".to_owned() } else { pointer.to_string() }
}

/// Translates `pointer` in the event's body to the path in the request's body.
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
