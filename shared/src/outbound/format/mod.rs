//! Formats messages for Slack and Discord, which replace the standard payload.
//!
//! # Guarantees
//!
//! - Every message stays within its service's limits (`slack_limits_hold_for_any_text`,
//!   `discord_limits_hold_for_any_text`).
//! - Text of providers and users can neither mention anyone nor style text nor hide a link
//!   (`user_text_neither_mentions_nor_styles`, `user_text_mentions_nobody`).

mod discord;
mod message;
mod slack;

use super::destination::{Destination, PayloadFormat};

/// Body of a request to `destination`. `payload` is the standard payload.
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
