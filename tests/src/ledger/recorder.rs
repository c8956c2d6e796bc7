//! Recorder of requests and answers, and of the events accepted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::generator::SentEvent;
use crate::model::ModelEvent;
use crate::sender::HttpAnswer;

/// An event that was answered with 2xx.
#[derive(Clone, Debug)]
pub struct Acceptance {
    /// Meaning of the event.
    pub event: ModelEvent,
    /// Event id in the answer.
    pub id: String,
    /// Time of the first attempt, since the start.
    pub sent: Duration,
    /// Time of the first 2xx answer, since the start.
    pub accepted: Duration,
}

/// Meaning of an answer for the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// Accepted.
    Accepted,
    /// Accepted before.
    Duplicate,
    /// To be retried.
    Busy,
    /// Rejected, as expected.
    Refused,
    /// Wrong answer; see [`RequestRecorder::complaints`].
    Wrong,
}

/// Recorder shared by all senders.
#[derive(Debug)]
pub struct RequestRecorder {
    began: Instant,
    known: Mutex<RecordedAnswers>,
}

#[derive(Debug, Default)]
struct RecordedAnswers {
    sent: BTreeMap<u64, (ModelEvent, Duration)>,
    accepted: BTreeMap<u64, (Duration, String)>,
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

    /// Returns the start time, from which all durations count.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Records that a request is about to be sent.
    pub fn record_sending(&self, sent_event: &SentEvent) {
        if sent_event.validly_signed {
            let at = self.began.elapsed();
            self.known()
                .sent
                .entry(sent_event.event.number)
                .or_insert_with(|| (sent_event.event.clone(), at));
        }
    }

    /// Records an answer and returns its meaning.
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
                let (_, first) = known.accepted.entry(number).or_insert_with(|| (at, id.clone()));
                if *first == id {
                    return heard;
                }
                format!("its id was {first} before")
            }
            None if [429, 503].contains(&answer.status) => return AnswerKind::Busy,
            None if !sent_event.validly_signed && [401, 403].contains(&answer.status) => {
                return AnswerKind::Refused;
            }
            _ => {
                (if sent_event.validly_signed { "it is signed correctly" } else { "it is forged" })
                    .to_owned()
            }
        };
        let ModelEvent { platform, kind, .. } = sent_event.event;
        let complaint = format!(
            "event {number} ({platform} {kind}): {} {}; {wrong}",
            answer.status, answer.text
        );
        known.complaints.push(complaint);
        AnswerKind::Wrong
    }

    /// Returns the number of accepted events.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.known().accepted.len()
    }

    /// Returns the acceptance time and the id of an event.
    #[must_use]
    pub fn acceptance(&self, number: u64) -> Option<(Duration, String)> {
        self.known().accepted.get(&number).cloned()
    }

    /// Returns all accepted events, in the order of their numbers.
    #[must_use]
    pub fn acceptances(&self) -> Vec<Acceptance> {
        let known = self.known();
        let acceptance = |(number, (accepted, id)): (&u64, &(Duration, String))| {
            let (event, sent) = known.sent.get(number)?.clone();
            Some(Acceptance { event, id: id.clone(), sent, accepted: *accepted })
        };
        known.accepted.iter().filter_map(acceptance).collect()
    }

    /// Returns the number of validly signed events that were sent and never accepted.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        let known = self.known();
        known.sent.keys().filter(|number| !known.accepted.contains_key(number)).count()
    }

    /// Returns the wrong answers: a valid event rejected, a forged one accepted, or an id that
    /// changed.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.known().complaints.clone()
    }
}
