//! What an ingress replica that waits for an event is told of it.
//!
//! Guarantee: a reply is stored and published by the very script that finishes the event or gives it up, and only when
//! that call removed the entry; so whoever is told may rely on it. It is stored first, under [`PlatformKeys::result`],
//! for a minute: who did not listen at that moment can still ask. Events that nobody waits for have none.

use redis::cmd;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{CallError, PlatformKeys, Queue};

/// What became of an event that somebody waits for.
#[derive(Clone, Debug)]
pub enum ReplyOutcome {
    /// It took effect; what it did, as answers show it.
    Processed(Box<RawValue>),
    /// It is a dead letter; why, by code.
    Dead(String),
}

/// A reply.
#[derive(Clone, Debug)]
pub struct EventReply {
    /// Whose event it is.
    pub platform: String,
    /// Which event it is.
    pub event_id: String,
    /// What became of it.
    pub outcome: ReplyOutcome,
}

/// A text that is no reply.
#[derive(Debug, thiserror::Error)]
#[error("not a reply")]
pub struct ReplyDecodeError(#[source] Option<serde_json::Error>);

/// As it is published and stored.
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
    /// Reads what was published or stored.
    ///
    /// # Errors
    /// When it is no reply of ours.
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

    /// What is published and stored.
    #[must_use]
    pub fn encode(&self) -> String {
        let (results, error_code) = match &self.outcome {
            ReplyOutcome::Processed(results) => (Some(&**results), None),
            ReplyOutcome::Dead(code) => (None, Some(code.as_str())),
        };
        let event_id = self.event_id.as_str().into();
        // Strings and JSON: there is nothing that cannot be written.
        serde_json::to_string(&WireReply {
            platform: &self.platform,
            event_id,
            results,
            error_code,
        })
        .unwrap_or_default()
    }
}

/// A reply and who is to get it.
#[derive(Clone, Debug)]
pub struct AddressedReply {
    /// The replica's channel: [`crate::event::Envelope::reply_to`].
    pub channel: String,
    /// What it is told.
    pub reply: EventReply,
}

impl Queue {
    /// What became of an event that somebody waits or waited for, if it is known and not older than a minute.
    ///
    /// # Errors
    /// When Redis did not answer.
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
