//! What an ingress replica that waits for an event is told of it.
//!
//! Guarantee: a reply is stored and published by the very script that finishes the event or gives it up, and only when
//! that call removed the entry; so whoever is told may rely on it. It is stored first, under [`PlatformKeys::result`],
//! for a minute: who did not listen at that moment can still ask. Events that nobody waits for have none.

use redis::cmd;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Fault, PlatformKeys, Queue};

/// What became of an event that somebody waits for.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It took effect; what it did, as answers show it.
    Processed(Box<RawValue>),
    /// It is a dead letter; why, by code.
    Dead(String),
}

/// A reply.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Whose event it is.
    pub platform: String,
    /// Which event it is.
    pub event_id: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// A text that is no reply.
#[derive(Debug, thiserror::Error)]
#[error("not a reply")]
pub struct NoReply(#[source] Option<serde_json::Error>);

/// As it is published and stored.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    platform: &'a str,
    #[serde(borrow)]
    event_id: std::borrow::Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    results: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_code: Option<&'a str>,
}

impl Reply {
    /// Reads what was published or stored.
    ///
    /// # Errors
    /// When it is no reply of ours.
    pub fn decode(text: &[u8]) -> Result<Self, NoReply> {
        let wire: Wire<'_> = serde_json::from_slice(text).map_err(|error| NoReply(Some(error)))?;
        let outcome = match (wire.results, wire.error_code) {
            (Some(results), None) => Outcome::Processed(results.to_owned()),
            (None, Some(code)) => Outcome::Dead(code.to_owned()),
            _ => return Err(NoReply(None)),
        };
        Ok(Self { platform: wire.platform.to_owned(), event_id: wire.event_id.into_owned(), outcome })
    }

    /// What is published and stored.
    #[must_use]
    pub fn encode(&self) -> String {
        let (results, error_code) = match &self.outcome {
            Outcome::Processed(results) => (Some(&**results), None),
            Outcome::Dead(code) => (None, Some(code.as_str())),
        };
        let event_id = self.event_id.as_str().into();
        // Strings and JSON: there is nothing that cannot be written.
        serde_json::to_string(&Wire { platform: &self.platform, event_id, results, error_code }).unwrap_or_default()
    }
}

/// A reply and who is to get it.
#[derive(Clone, Debug)]
pub struct Addressed {
    /// The replica's channel: [`crate::event::Envelope::reply_to`].
    pub channel: String,
    /// What it is told.
    pub reply: Reply,
}

impl Queue {
    /// What became of an event that somebody waits or waited for, if it is known and not older than a minute.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn stored_reply(&self, keys: &PlatformKeys, event_id: &str) -> Result<Option<Reply>, Fault> {
        let stored: Option<Vec<u8>> = self.connection.query(cmd("GET").arg(keys.result(event_id))).await?;
        Ok(stored.and_then(|text| Reply::decode(&text).ok()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_reply_reads_back_as_it_was_written() {
        let results = RawValue::from_string(r#"{"action":"logged","n":1.50}"#.to_owned()).unwrap();
        for outcome in [Outcome::Processed(results), Outcome::Dead("session_not_found".to_owned())] {
            let reply = Reply { platform: "mux".to_owned(), event_id: "a\"\u{e9}\\".to_owned(), outcome };
            let read = Reply::decode(reply.encode().as_bytes()).unwrap();
            assert_eq!((read.platform, read.event_id), (reply.platform, reply.event_id));
            match (read.outcome, reply.outcome) {
                (Outcome::Processed(read), Outcome::Processed(written)) => assert_eq!(read.get(), written.get()),
                (Outcome::Dead(read), Outcome::Dead(written)) => assert_eq!(read, written),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_not_read_as_one() {
        let both = r#"{"platform":"mux","event_id":"a","results":{},"error_code":"x"}"#;
        for text in ["", "{}", "null", r#"{"platform":"mux","event_id":"a"}"#, both] {
            assert!(Reply::decode(text.as_bytes()).is_err(), "{text}");
        }
    }
}
