//! Builds dead letters of verified requests that are no usable events.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use shared::event::{NewEvent, marker_digest, to_hex};
use shared::json::{self, Document};
use shared::platform::Platform;
use shared::signature::Verified;

use super::{IdentifyError, delivery_id, event_type, hops, occurred_at, traceparent};

/// Builds the dead letter of a verified request whose `body` is no usable event for `reason`.
///
/// Its id is the hash of the bytes. Type and time come from the request; an unknown type is empty.
pub(crate) fn unusable(
    platform: &Platform,
    verified: &Verified<'_>,
    body: &Bytes,
    reason: &IdentifyError,
) -> NewEvent {
    let text = json::text(body);
    // A header may name the type of an unreadable body.
    let document = Document::parse_text(&text).or_else(|_| Document::parse_text("null"));
    let (event_type, occurred_at, delivery_id) = match &document {
        Ok(document) => (
            event_type(platform, verified, document, None).unwrap_or_default(),
            occurred_at(&platform.event, verified, document),
            delivery_id(&platform.event.delivery_id, verified, document),
        ),
        Err(_) => Default::default(),
    };
    let event_id = bytes_hash(platform, body);
    NewEvent {
        marker: Some(marker_digest(platform.name.as_str(), &event_id)),
        event_id,
        event_type,
        occurred_at,
        body: body.clone(),
        delivery_id,
        traceparent: traceparent(verified),
        reply_to: None,
        hops: hops(verified),
        unusable: Some(reason.to_string()),
    }
}

/// Returns the hex SHA-256 over platform and body. It differs from every content hash, whose input
/// begins with a length.
fn bytes_hash(platform: &Platform, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(u64::MAX.to_be_bytes());
    hash.update((platform.name.as_str().len() as u64).to_be_bytes());
    hash.update(platform.name.as_str());
    hash.update(body);
    to_hex(&hash.finalize())
}
