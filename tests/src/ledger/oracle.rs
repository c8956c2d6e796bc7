//! What was promised: every answer to every request, remembered by what was sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::generator::Said;
use crate::model::Event;
use crate::sender::Answer;

/// An event that was answered 2xx.
#[derive(Clone, Debug)]
pub struct Promise {
    /// What it means.
    pub event: Event,
    /// The id that it was given.
    pub id: String,
    /// When it was sent first, since the beginning.
    pub sent: Duration,
    /// When the first 2xx came, since the beginning.
    pub promised: Duration,
}

/// What an answer means to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Accepted now.
    Accepted,
    /// Accepted before.
    Duplicate,
    /// Come again.
    Busy,
    /// Refused for good, as it must be.
    Refused,
    /// An answer that must not be; it is among the [`Oracle::complaints`].
    Wrong,
}

/// Remembers; shared by all senders.
#[derive(Debug)]
pub struct Oracle {
    began: Instant,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    sent: BTreeMap<u64, (Event, Duration)>,
    promised: BTreeMap<u64, (Duration, String)>,
    complaints: Vec<String>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self { began: Instant::now(), known: Mutex::default() }
    }
}

impl Oracle {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When everything began; all durations count from here.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Notes that a request is about to be sent (again).
    pub fn sending(&self, said: &Said) {
        if said.genuine {
            let at = self.began.elapsed();
            self.known().sent.entry(said.event.number).or_insert_with(|| (said.event.clone(), at));
        }
    }

    /// Notes what was answered.
    pub fn heard(&self, said: &Said, answer: &Answer) -> Heard {
        let at = self.began.elapsed();
        let (number, mut known) = (said.event.number, self.known());
        let promise = match (answer.status, answer.outcome()) {
            (202, "accepted") => Some(Heard::Accepted),
            (200, "duplicate") => Some(Heard::Duplicate),
            _ => None,
        };
        let wrong = match promise {
            Some(heard) if said.genuine && !answer.event_id().is_empty() => {
                let id = answer.event_id().to_owned();
                let (_, first) = known.promised.entry(number).or_insert_with(|| (at, id.clone()));
                if *first == id {
                    return heard;
                }
                format!("it was {first} before")
            }
            None if [429, 503].contains(&answer.status) => return Heard::Busy,
            None if !said.genuine && [401, 403].contains(&answer.status) => return Heard::Refused,
            _ => (if said.genuine { "it is genuine" } else { "it is forged" }).to_owned(),
        };
        let Event { platform, kind, .. } = said.event;
        let complaint = format!("event {number} ({platform} {kind}): {} {}; {wrong}", answer.status, answer.text);
        known.complaints.push(complaint);
        Heard::Wrong
    }

    /// How many events were promised.
    #[must_use]
    pub fn promised(&self) -> usize {
        self.known().promised.len()
    }

    /// When an event was promised, since the beginning, and the id that it was given.
    #[must_use]
    pub fn promise(&self, number: u64) -> Option<(Duration, String)> {
        self.known().promised.get(&number).cloned()
    }

    /// Every promise, in order of event.
    #[must_use]
    pub fn promises(&self) -> Vec<Promise> {
        let known = self.known();
        let promise = |(number, (promised, id)): (&u64, &(Duration, String))| {
            let (event, sent) = known.sent.get(number)?.clone();
            Some(Promise { event, id: id.clone(), sent, promised: *promised })
        };
        known.promised.iter().filter_map(promise).collect()
    }

    /// How many genuine events were sent and never promised.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        let known = self.known();
        known.sent.keys().filter(|number| !known.promised.contains_key(number)).count()
    }

    /// Answers that must not be: a genuine event refused for good, a forged one accepted, another id than before.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.known().complaints.clone()
    }
}
