//! Splits a request with several events.
//!
//! # Guarantees
//!
//! - The body of each event is the request's body with that one element in place of the list. All
//!   its bytes are as sent. (`batch_element_is_an_event_with_the_request_around_it`)
//! - All bodies together fit into one call to the queue. (`batch_is_bounded_in_events_and_bytes`)

use bytes::Bytes;
use shared::json::{Document, JsonNode, Value};
use shared::platform::{PayloadError, Pointer};
use shared::queue::{MAX_BATCH_BYTES, MAX_BATCH_EVENTS};

use super::{IdentifyError, place};

/// Element of the list that the definition declares as the batch.
#[derive(Clone, Copy)]
pub(super) struct BatchElement<'p> {
    /// Path of the list.
    list: &'p Pointer,
    /// Position in the list, from 0.
    pub(super) index: usize,
}

impl BatchElement<'_> {
    /// Returns true if `pointer` leads into the element, not to the text around the list.
    pub(super) fn holds(&self, pointer: &Pointer) -> bool {
        pointer.segments.starts_with(&self.list.segments)
    }

    /// Translates `path` in the event's body to the path in the request's body.
    pub(super) fn in_request(&self, path: &str) -> String {
        let list = self.list.to_string();
        match path.strip_prefix(&list) {
            Some("" | "/") => format!("{list}/{}", self.index),
            Some(rest) if rest.starts_with('/') => format!("{list}/{}{rest}", self.index),
            _ => path.to_owned(),
        }
    }

    /// Translates the path in a schema error likewise.
    pub(super) fn in_request_error(&self, error: PayloadError) -> PayloadError {
        match error {
            PayloadError::Violated { path, rule } => {
                PayloadError::Violated { path: self.in_request(&path), rule }
            }
            other => other,
        }
    }
}

/// Returns the elements and their bodies, if `document` has a list at the declared path. An object
/// there is one event by itself. An empty list has no event; it is a probe, such as Xero's "intent
/// to receive".
pub(super) fn elements<'p>(
    list: &'p Pointer,
    document: &Document<'_>,
    body: &[u8],
) -> Result<Option<Vec<(BatchElement<'p>, Bytes)>>, IdentifyError> {
    let Some(node) = document.find(list) else { return Ok(None) };
    let items = match node.value() {
        Value::Array(items) => items,
        Value::Null | Value::Object(_) => return Ok(None),
        _ => return Err(IdentifyError::NoList(place(list))),
    };
    let (before, after) = around(node, body);
    let frame = before.len() + after.len();
    let bytes: usize = items.iter().map(|item| frame + item.raw().len()).sum();
    if items.len() > MAX_BATCH_EVENTS || bytes > MAX_BATCH_BYTES {
        return Err(IdentifyError::LargeBatch(place(list)));
    }
    let one = |(index, item): (usize, &JsonNode<'_>)| {
        let element = BatchElement { list, index };
        if !matches!(item.value(), Value::Object(_)) {
            return Err(IdentifyError::NoObject(format!("{list}/{index}")));
        }
        Ok((element, [before, item.raw().as_bytes(), after].concat().into()))
    };
    items.iter().enumerate().map(one).collect::<Result<_, _>>().map(Some)
}

/// Returns the bytes of `body` before and behind `node`.
fn around<'b>(node: &JsonNode<'_>, body: &'b [u8]) -> (&'b [u8], &'b [u8]) {
    let begin = (node.raw().as_ptr() as usize).saturating_sub(body.as_ptr() as usize);
    let end = begin + node.raw().len();
    (body.get(..begin).unwrap_or_default(), body.get(end..).unwrap_or_default())
}
