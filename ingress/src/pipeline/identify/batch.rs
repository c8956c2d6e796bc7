//! Takes a request that holds several events apart.
//!
//! Guarantee: each event's body is a document of its own, which says all that the request said about it: the request's,
//! with that one element in the list's place, every byte of both as it was sent. Together the bodies are no larger than
//! one call to the queue.

use bytes::Bytes;
use shared::json::{Document, JsonNode, Value};
use shared::platform::{PayloadError, Pointer};
use shared::queue::{MAX_BATCH_BYTES, MAX_BATCH_EVENTS};

use super::{IdentifyError, place};

/// An element of the list that a definition names as its batch.
#[derive(Clone, Copy)]
pub(super) struct BatchElement<'p> {
    /// Where the list is.
    list: &'p Pointer,
    /// Its position, from 0.
    pub(super) index: usize,
}

impl BatchElement<'_> {
    /// Whether `pointer` leads into the element and not to what stands around the list.
    pub(super) fn holds(&self, pointer: &Pointer) -> bool {
        pointer.segments.starts_with(&self.list.segments)
    }

    /// `path` in the event's body, as a path in the request's.
    pub(super) fn in_request(&self, path: &str) -> String {
        let list = self.list.to_string();
        match path.strip_prefix(&list) {
            Some("" | "/") => format!("{list}/{}", self.index),
            Some(rest) if rest.starts_with('/') => format!("{list}/{}{rest}", self.index),
            _ => path.to_owned(),
        }
    }

    /// The same, where a schema's refusal names it.
    pub(super) fn in_request_error(&self, error: PayloadError) -> PayloadError {
        match error {
            PayloadError::Unmet { path, rule } => {
                PayloadError::Unmet { path: self.in_request(&path), rule }
            }
            other => other,
        }
    }
}

/// The elements and their bodies, if `document` has a list where the definition says. An object in its place is one
/// event already. An empty list is a probe, such as Xero's "intent to receive", and holds no event.
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

/// What stands before and behind `node`, whose text is a part of `body`.
fn around<'b>(node: &JsonNode<'_>, body: &'b [u8]) -> (&'b [u8], &'b [u8]) {
    let begin = (node.raw().as_ptr() as usize).saturating_sub(body.as_ptr() as usize);
    let end = begin + node.raw().len();
    (body.get(..begin).unwrap_or_default(), body.get(end..).unwrap_or_default())
}
