//! Messages for people: what Slack and Discord are sent instead of the standard payload.
//!
//! Guarantee: every event kind becomes a message within the service's limits, and nothing that a provider or its users
//! typed can mention anybody, style the text or hide a link.

mod discord;
mod message;
mod slack;

use super::destination::{Destination, PayloadFormat};

/// The body that `destination` is sent for the standard payload `payload`.
#[must_use]
pub fn body(destination: &Destination, payload: &str) -> String {
    let message = || message::Message::of(payload, &destination.source);
    match destination.format {
        PayloadFormat::Standard => payload.to_owned(),
        PayloadFormat::Slack => slack::body(&message()),
        PayloadFormat::Discord => discord::body(
            &message(),
            destination.mention.as_deref(),
            destination.watch_url.as_deref(),
        ),
    }
}
