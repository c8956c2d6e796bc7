//! Results of awaited events, as workers send them to the ingress replica that waits.
//!
//! # Guarantees
//!
//! - The script that settles or dead-letters an event also stores and publishes its result, and
//!   only if this call removed the entry (`settled_event_is_published_once_to_its_waiter`).
//! - An event that no replica waits for causes no further command
//!   (`event_without_a_waiter_costs_no_extra_command`).
//! - Only channels of ingress replicas are published to (`foreign_reply_channel_is_ignored`).
//!
//! # Design
//!
//! The result is stored first, under [`PlatformKeys::result`], for a minute. A replica that was not
//! subscribed at that moment can still fetch it.

use redis::cmd;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{CallError, PlatformKeys, Queue};

/// Result of an awaited event.
#[derive(Clone, Debug)]
pub enum ReplyOutcome {
    /// The event took effect. Holds its results as ingress returns them.
    Processed(Box<RawValue>),
    /// The event is a dead letter. Holds the error code.
    Dead(String),
}

/// Result of an event, with the event's identity.
#[derive(Clone, Debug)]
pub struct EventReply {
    /// Platform of the event.
    pub platform: String,
    /// Id of the event.
    pub event_id: String,
    /// Result of the event.
    pub outcome: ReplyOutcome,
}

/// Error for a text that is not an encoded [`EventReply`].
#[derive(Debug, thiserror::Error)]
#[error("not an encoded reply")]
pub struct ReplyDecodeError(#[source] Option<serde_json::Error>);

/// Wire form of a reply, as it is published and stored.
#[derive(Serialize, Deserialize)]
struct WireReply<'a> {
    platform: &'a str,
    #[serde(borrow)]
    event_id: std::borrow::Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    results: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_code: Option<&'a str>,
}

impl EventReply {
    /// Decodes a published or stored reply.
    ///
    /// # Errors
    /// If `text` is not an encoded reply.
    pub fn decode(text: &[u8]) -> Result<Self, ReplyDecodeError> {
        let wire: WireReply<'_> =
            serde_json::from_slice(text).map_err(|error| ReplyDecodeError(Some(error)))?;
        let outcome = match (wire.results, wire.error_code) {
            (Some(results), None) => ReplyOutcome::Processed(results.to_owned()),
            (None, Some(code)) => ReplyOutcome::Dead(code.to_owned()),
            _ => return Err(ReplyDecodeError(None)),
        };
        Ok(Self {
            platform: wire.platform.to_owned(),
            event_id: wire.event_id.into_owned(),
            outcome,
        })
    }

    /// Encodes the reply for publishing and storing.
    #[must_use]
    pub fn encode(&self) -> String {
        let (results, error_code) = match &self.outcome {
            ReplyOutcome::Processed(results) => (Some(&**results), None),
            ReplyOutcome::Dead(code) => (None, Some(code.as_str())),
        };
        let event_id = self.event_id.as_str().into();
        // Cannot fail: the struct holds only strings and valid JSON.
        serde_json::to_string(&WireReply {
            platform: &self.platform,
            event_id,
            results,
            error_code,
        })
        .unwrap_or_default()
    }
}

/// Reply with the channel of the replica that waits for it.
#[derive(Clone, Debug)]
pub struct AddressedReply {
    /// Channel of the replica, from [`crate::event::Envelope::reply_to`].
    pub channel: String,
    /// Reply to publish.
    pub reply: EventReply,
}

impl Queue {
    /// Fetches the stored result of an awaited event. Returns `None` if there is none, or it is
    /// older than a minute.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn stored_reply(
        &self,
        keys: &PlatformKeys,
        event_id: &str,
    ) -> Result<Option<EventReply>, CallError> {
        let stored: Option<Vec<u8>> =
            self.connection.query(cmd("GET").arg(keys.result(event_id))).await?;
        Ok(stored.and_then(|text| EventReply::decode(&text).ok()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn reply_decodes_as_it_was_encoded() {
        let results = RawValue::from_string(r#"{"action":"logged","n":1.50}"#.to_owned()).unwrap();
        for outcome in
            [ReplyOutcome::Processed(results), ReplyOutcome::Dead("session_not_found".to_owned())]
        {
            let reply = EventReply {
                platform: "mux".to_owned(),
                event_id: "a\"\u{e9}\\".to_owned(),
                outcome,
            };
            let read = EventReply::decode(reply.encode().as_bytes()).unwrap();
            assert_eq!((read.platform, read.event_id), (reply.platform, reply.event_id));
            match (read.outcome, reply.outcome) {
                (ReplyOutcome::Processed(read), ReplyOutcome::Processed(written)) => {
                    assert_eq!(read.get(), written.get())
                }
                (ReplyOutcome::Dead(read), ReplyOutcome::Dead(written)) => {
                    assert_eq!(read, written)
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn reply_decode_refuses_other_json() {
        let both = r#"{"platform":"mux","event_id":"a","results":{},"error_code":"x"}"#;
        for text in ["", "{}", "null", r#"{"platform":"mux","event_id":"a"}"#, both] {
            assert!(EventReply::decode(text.as_bytes()).is_err(), "{text}");
        }
    }
}
