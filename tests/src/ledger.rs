//! Checks that no event is lost: every id answered with 2xx is in exactly one place at rest.
//!
//! [`AcceptanceLog`] counts places, for tests of one behaviour. For whole systems under load and
//! faults, [`recorder`] keeps the requests and their answers, [`observed`] and [`triggers`] read
//! the final state and its history, and [`judge`] compares both through the sequential
//! [`model`](crate::model).

pub mod judge;
pub mod observed;
pub mod recorder;
pub mod triggers;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::sender::HttpAnswer;
use crate::stack::Stack;

/// Place of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventPlace {
    /// In the database's ledger.
    Database,
    /// In the incoming stream.
    Incoming,
    /// In the incoming stream, waiting for a retry.
    Retry,
    /// In the dead letters.
    Dead,
}

/// Record of the accepted events.
#[derive(Debug, Default)]
pub struct AcceptanceLog {
    accepted: Mutex<BTreeMap<(String, String), u32>>,
}

impl AcceptanceLog {
    /// Records the event of an answer if the status is 2xx.
    pub fn record(&self, platform: &str, answer: &HttpAnswer) {
        if (200..300).contains(&answer.status) && !answer.event_id().is_empty() {
            let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
            *accepted.entry((platform.to_owned(), answer.event_id().to_owned())).or_default() += 1;
        }
    }

    /// Returns the number of different accepted events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Returns true if no event was accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks at rest that every accepted event is in exactly one place. Returns the number of
    /// events per place.
    ///
    /// # Panics
    /// With the events that are in no place or in several.
    pub async fn check(&self, stack: &Stack) -> BTreeMap<EventPlace, usize> {
        let found = places(stack).await;
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut counts = BTreeMap::new();
        let mut wrong = Vec::new();
        for key in accepted.keys() {
            match found.get(key).map(Vec::as_slice) {
                Some([place]) => *counts.entry(*place).or_insert(0) += 1,
                other => wrong.push(format!("{key:?}: {:?}", other.unwrap_or_default())),
            }
        }
        let shown = wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
        assert!(
            wrong.is_empty(),
            "{} of {} events not in exactly one place:\n{shown}",
            wrong.len(),
            accepted.len()
        );
        counts
    }
}

/// Returns the places of each event of `stack`, with repetitions.
pub async fn places(stack: &Stack) -> HashMap<(String, String), Vec<EventPlace>> {
    let mut found: HashMap<(String, String), Vec<EventPlace>> = HashMap::new();
    for row in stack.database.rows("SELECT platform, event_id FROM webhook_events", &[]).await {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        found.entry((text("platform"), text("event_id"))).or_default().push(EventPlace::Database);
    }
    for platform in stack.platforms().await {
        let waiting: Vec<String> = stack
            .redis
            .command(&["ZRANGE", &format!("webhooks:retry:{platform}"), "0", "-1"])
            .await;
        for (id, fields) in entries(stack, &format!("webhooks:incoming:{platform}")).await {
            let place =
                if waiting.contains(&id) { EventPlace::Retry } else { EventPlace::Incoming };
            found.entry((platform.clone(), event_id(&fields))).or_default().push(place);
        }
        for (_, fields) in entries(stack, &format!("webhooks:dlq:{platform}")).await {
            found.entry((platform.clone(), event_id(&fields))).or_default().push(EventPlace::Dead);
        }
    }
    found
}

/// Returns all entries of a stream, with id and fields.
pub async fn entries(stack: &Stack, stream: &str) -> Vec<(String, HashMap<String, Vec<u8>>)> {
    stack.redis.command(&["XRANGE", stream, "-", "+"]).await
}

fn event_id(fields: &HashMap<String, Vec<u8>>) -> String {
    fields.get("event_id").map(|id| String::from_utf8_lossy(id).into_owned()).unwrap_or_default()
}
