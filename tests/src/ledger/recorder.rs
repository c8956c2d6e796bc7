//! What was promised: every answer to every request, remembered by what was sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::generator::SentEvent;
use crate::model::ModelEvent;
use crate::sender::HttpAnswer;

/// An event that was answered 2xx.
#[derive(Clone, Debug)]
pub struct Acceptance {
    /// What it means.
    pub event: ModelEvent,
    /// The id that it was given.
    pub id: String,
    /// When it was sent first, since the beginning.
    pub sent: Duration,
    /// When the first 2xx came, since the beginning.
    pub promised: Duration,
}

/// What an answer means to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// Accepted now.
    Accepted,
    /// Accepted before.
    Duplicate,
    /// Come again.
    Busy,
    /// Refused for good, as it must be.
    Refused,
    /// An answer that must not be; it is among the [`RequestRecorder::complaints`].
    Wrong,
}

/// Remembers; shared by all senders.
#[derive(Debug)]
pub struct RequestRecorder {
    began: Instant,
    known: Mutex<RecordedAnswers>,
}

#[derive(Debug, Default)]
struct RecordedAnswers {
    sent: BTreeMap<u64, (ModelEvent, Duration)>,
    promised: BTreeMap<u64, (Duration, String)>,
    complaints: Vec<String>,
}

impl Default for RequestRecorder {
    fn default() -> Self {
        Self { began: Instant::now(), known: Mutex::default() }
    }
}

impl RequestRecorder {
    fn known(&self) -> MutexGuard<'_, RecordedAnswers> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When everything began; all durations count from here.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Notes that a request is about to be sent (again).
    pub fn record_sending(&self, sent_event: &SentEvent) {
        if sent_event.validly_signed {
            let at = self.began.elapsed();
            self.known()
                .sent
                .entry(sent_event.event.number)
                .or_insert_with(|| (sent_event.event.clone(), at));
        }
    }

    /// Notes what was answered.
    pub fn record_answer(&self, sent_event: &SentEvent, answer: &HttpAnswer) -> AnswerKind {
        let at = self.began.elapsed();
        let (number, mut known) = (sent_event.event.number, self.known());
        let acceptance = match (answer.status, answer.outcome()) {
            (202, "accepted") => Some(AnswerKind::Accepted),
            (200, "duplicate") => Some(AnswerKind::Duplicate),
            _ => None,
        };
        let wrong = match acceptance {
            Some(heard) if sent_event.validly_signed && !answer.event_id().is_empty() => {
                let id = answer.event_id().to_owned();
                let (_, first) = known.promised.entry(number).or_insert_with(|| (at, id.clone()));
                if *first == id {
                    return heard;
                }
                format!("it was {first} before")
            }
            None if [429, 503].contains(&answer.status) => return AnswerKind::Busy,
            None if !sent_event.validly_signed && [401, 403].contains(&answer.status) => {
                return AnswerKind::Refused;
            }
            _ => (if sent_event.validly_signed { "it is genuine" } else { "it is forged" })
                .to_owned(),
        };
        let ModelEvent { platform, kind, .. } = sent_event.event;
        let complaint = format!(
            "event {number} ({platform} {kind}): {} {}; {wrong}",
            answer.status, answer.text
        );
        known.complaints.push(complaint);
        AnswerKind::Wrong
    }

    /// How many events were promised.
    #[must_use]
    pub fn promised(&self) -> usize {
        self.known().promised.len()
    }

    /// When an event was promised, since the beginning, and the id that it was given.
    #[must_use]
    pub fn acceptance(&self, number: u64) -> Option<(Duration, String)> {
        self.known().promised.get(&number).cloned()
    }

    /// Every promise, in order of event.
    #[must_use]
    pub fn acceptances(&self) -> Vec<Acceptance> {
        let known = self.known();
        let acceptance = |(number, (promised, id)): (&u64, &(Duration, String))| {
            let (event, sent) = known.sent.get(number)?.clone();
            Some(Acceptance { event, id: id.clone(), sent, promised: *promised })
        };
        known.promised.iter().filter_map(acceptance).collect()
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
