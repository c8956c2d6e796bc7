//! Judge: compares the accepted events with the final state of the system.
//!
//! # Guarantees
//!
//! - Every accepted event is searched in every place (`judge_reports_a_lost_event`,
//!   `judge_reports_an_event_in_two_places`).
//! - Every row is compared with the sequential [`crate::model`] of the events that took effect
//!   (`judge_reports_wrong_missing_and_extra_rows`).
//! - Only the times and the order of queueing come from the system, and they are checked against
//!   the times of sending and answering (`judge_reports_queueing_out_of_order`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;

use super::EventPlace;
use super::observed::{LedgerRow, ObservedState, QueuedEvent, RowState};
use super::recorder::Acceptance;
use crate::model::{self, ArrivedEvent, ExpectedEnd, Model, Origin};

/// Most examples kept per kind of failure.
const MAX_EXAMPLES: usize = 20;

/// Expectations of a run.
#[derive(Clone, Debug, Default)]
pub struct JudgeConfig {
    /// Time that a worker waits for a missing session.
    pub session_wait: Duration,
    /// Times since the start in which an acknowledged write may be lost, with a Redis without
    /// `appendfsync always`. Empty if nothing may be lost.
    pub loss_windows: Vec<RangeInclusive<Duration>>,
    /// Times since the start at which Redis's clock was set so far ahead that all dedup markers
    /// expired. A request in flight may then be accepted again, and its event become two dead
    /// letters. Only the database never forgets an event.
    pub markers_expired_at: Vec<Duration>,
}

/// Number of failures of one kind, with examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FailureTally {
    /// Number of failures.
    pub count: usize,
    /// Descriptions of the first failures.
    pub examples: Vec<String>,
}

impl FailureTally {
    pub(super) fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// Result of the comparison.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JudgeVerdict {
    /// Number of accepted events.
    #[serde(rename = "promised")]
    pub accepted: usize,
    /// Number of events per place.
    pub places: BTreeMap<EventPlace, usize>,
    /// Accepted events that are in no place.
    pub lost: FailureTally,
    /// Accepted events in no place, but answered in a time in which Redis may lose writes.
    pub forgotten: FailureTally,
    /// Events in two places, or applied or counted twice.
    pub twice: FailureTally,
    /// Rows in which an older event overwrote a newer one, also temporarily.
    pub backwards: FailureTally,
    /// Rows that are missing, extra, or different from the model.
    pub wrong_rows: FailureTally,
    /// Events with a wrong end: an unjustified dead letter, an effect of an invalid event, or an
    /// attempt spent on an outage.
    pub misjudged: FailureTally,
    /// Events that are still unfinished.
    pub unfinished: FailureTally,
    /// Number of rows compared.
    pub rows: usize,
    /// Number of row states checked.
    pub states: usize,
}

impl JudgeVerdict {
    /// Returns true if no check failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failures().iter().all(|(_, tally)| tally.count == 0)
    }

    /// Returns the failures by name.
    #[must_use]
    pub fn failures(&self) -> [(&'static str, &FailureTally); 6] {
        [
            ("lost", &self.lost),
            ("twice", &self.twice),
            ("backwards", &self.backwards),
            ("wrong rows", &self.wrong_rows),
            ("misjudged", &self.misjudged),
            ("unfinished", &self.unfinished),
        ]
    }
}

/// Judges a system at rest.
#[must_use]
pub fn judge(
    acceptances: &[Acceptance],
    observed: &ObservedState,
    config: &JudgeConfig,
) -> JudgeVerdict {
    let mut verdict = JudgeVerdict { accepted: acceptances.len(), ..JudgeVerdict::default() };
    let mut places: HashMap<(&str, &str), EventLocations<'_>> = HashMap::new();
    for row in &observed.ledger {
        places.entry((&row.platform, &row.event_id)).or_default().ledger.push(row);
    }
    for entry in &observed.queued {
        places.entry((&entry.platform, &entry.event_id)).or_default().queued.push(entry);
    }
    let announced = announced(acceptances);
    let mut arrived = Vec::new();
    for acceptance in acceptances {
        let locations =
            places.remove(&(acceptance.event.platform, acceptance.id.as_str())).unwrap_or_default();
        if let Some(row) = locations.settle(acceptance, &announced, config, &mut verdict) {
            let (id, received_at, origin) = (acceptance.id.as_str(), row.received_at, row.origin);
            arrived.push((
                acceptance,
                ArrivedEvent { event: &acceptance.event, id, received_at, origin },
            ));
        }
    }
    for ((platform, id), _) in places {
        verdict.misjudged.add(|| format!("{platform} {id}: no such event was accepted"));
    }
    if config.loss_windows.is_empty() {
        check_arrival_order(&arrived, &mut verdict);
        check_counters(observed, &mut verdict);
    }
    check_applied_once(observed, &mut verdict);
    check_row_history(&observed.changes, &mut verdict);
    compare_rows(
        &model::apply(arrived.into_iter().map(|(_, arrived)| arrived).collect()),
        observed,
        &mut verdict,
    );
    verdict
}

/// Returns the time of the first announcement of each room.
fn announced(acceptances: &[Acceptance]) -> HashMap<&str, Duration> {
    let mut announced = HashMap::new();
    for acceptance in acceptances {
        if let model::EventMeaning::Announce { room, .. } = &acceptance.event.meaning {
            let first = announced.entry(room.as_str()).or_insert(acceptance.accepted);
            *first = acceptance.accepted.min(*first);
        }
    }
    announced
}

/// Places of one event.
#[derive(Default)]
struct EventLocations<'f> {
    ledger: Vec<&'f LedgerRow>,
    queued: Vec<&'f QueuedEvent>,
}

impl<'f> EventLocations<'f> {
    /// Checks the places of the event. Returns its ledger row if it took effect.
    fn settle(
        &self,
        acceptance: &Acceptance,
        announced: &HashMap<&str, Duration>,
        config: &JudgeConfig,
        verdict: &mut JudgeVerdict,
    ) -> Option<&'f LedgerRow> {
        let all = self
            .ledger
            .iter()
            .map(|_| EventPlace::Database)
            .chain(self.queued.iter().map(|entry| entry.place));
        let all: Vec<EventPlace> = all.collect();
        let label = || {
            format!(
                "event {} ({} {})",
                acceptance.event.number, acceptance.event.platform, acceptance.id
            )
        };
        match all.as_slice() {
            [] if config.loss_windows.iter().any(|times| times.contains(&acceptance.accepted)) => {
                verdict.forgotten.add(label);
            }
            [] => verdict.lost.add(|| {
                format!("{}: accepted at {:?}, found nowhere", label(), acceptance.accepted)
            }),
            [place] => *verdict.places.entry(*place).or_default() += 1,
            places
                if config.markers_expired_at.iter().any(|at| *at > acceptance.accepted)
                    && self.ledger.len() <= 1 =>
            {
                *verdict.places.entry(places[0]).or_default() += 1;
            }
            places => verdict.twice.add(|| format!("{}: {places:?}", label())),
        }
        for entry in &self.queued {
            match entry.place {
                EventPlace::Incoming | EventPlace::Retry => {
                    verdict
                        .unfinished
                        .add(|| format!("{}: {:?} {}", label(), entry.place, entry.error_code));
                }
                _ if may_be_dead(acceptance, &entry.error_code, announced, config) => {}
                _ => verdict
                    .misjudged
                    .add(|| format!("{}: dead letter {}", label(), entry.error_code)),
            }
        }
        let row = *self.ledger.first()?;
        let event = &acceptance.event;
        let mut wrong = |what: String| verdict.misjudged.add(|| format!("{}: {what}", label()));
        if let ExpectedEnd::Dead(code) = event.expected_end {
            wrong(format!("took effect, expected a dead letter {code}"));
        }
        let occurred_at = model::occurred_at(event, row.received_at);
        if (row.occurred_at, row.event_type.as_str()) != (occurred_at, event.kind) {
            wrong(format!(
                "is {} at {}, not {} at {occurred_at}",
                row.event_type, row.occurred_at, event.kind
            ));
        }
        if row.attempts != 1 && event.awaited().is_none() {
            wrong(format!("spent {} attempts", row.attempts));
        }
        Some(row)
    }
}

/// Returns true if the dead letter is justified: it is expected, or its session was not announced
/// in time.
fn may_be_dead(
    acceptance: &Acceptance,
    code: &str,
    announced: &HashMap<&str, Duration>,
    config: &JudgeConfig,
) -> bool {
    match acceptance.event.expected_end {
        ExpectedEnd::Dead(wanted) => code == wanted,
        ExpectedEnd::Effect => {
            let in_time = |at: &Duration| *at < acceptance.sent + config.session_wait;
            let waits_for = acceptance.event.awaited();
            code == "session_not_found"
                && waits_for.is_some_and(|room| !announced.get(room).is_some_and(in_time))
        }
    }
}

/// Checks the order of queueing: an event answered before another of its platform was sent must be
/// queued first.
fn check_arrival_order(arrived: &[(&Acceptance, ArrivedEvent<'_>)], verdict: &mut JudgeVerdict) {
    let mut by_platform: BTreeMap<&str, Vec<(&Acceptance, Origin)>> = BTreeMap::new();
    for (acceptance, arrived) in arrived {
        by_platform
            .entry(acceptance.event.platform)
            .or_default()
            .push((acceptance, arrived.origin));
    }
    for (platform, mut sent) in by_platform {
        let mut answered = sent.clone();
        sent.sort_by_key(|(acceptance, _)| acceptance.sent);
        answered.sort_by_key(|(acceptance, _)| acceptance.accepted);
        let (mut answered, mut newest) = (answered.into_iter().peekable(), Origin::default());
        for (acceptance, origin) in sent {
            while let Some((_, before)) =
                answered.next_if(|(before, _)| before.accepted < acceptance.sent)
            {
                newest = newest.max(before);
            }
            if origin < newest {
                let number = acceptance.event.number;
                verdict.backwards.add(|| {
                    format!("event {number} of {platform}: queued before {newest:?}: {origin:?}")
                });
            }
        }
    }
}

fn check_applied_once(observed: &ObservedState, verdict: &mut JudgeVerdict) {
    let mut seen = BTreeSet::new();
    for event in &observed.applied {
        if !seen.insert(event) {
            verdict.twice.add(|| format!("{event:?}: inserted into the ledger again"));
        }
    }
}

/// Checks that the queue's counters equal the numbers of ledger rows and of dead letters.
fn check_counters(observed: &ObservedState, verdict: &mut JudgeVerdict) {
    for (platform, (finished, dead)) in &observed.counted {
        let of = |platform: &str, other: &str| platform == other;
        let rows = observed.ledger.iter().filter(|row| of(&row.platform, platform)).count();
        let is_letter =
            |entry: &&QueuedEvent| of(&entry.platform, platform) && entry.place == EventPlace::Dead;
        let letters = observed.queued.iter().filter(is_letter).count();
        if (usize::try_from(*finished), usize::try_from(*dead)) != (Ok(rows), Ok(letters)) {
            verdict.twice.add(|| {
                format!(
                    "{platform}: the counters show {finished} finished events and {dead} dead \
                     letters, but {rows} and {letters} exist"
                )
            });
        }
    }
}

/// Checks that no older event overwrote a newer one, not even temporarily.
fn check_row_history(changes: &[RowState], verdict: &mut JudgeVerdict) {
    verdict.states = changes.len();
    let mut before: HashMap<&model::RowKey, &BTreeMap<String, (i64, Origin)>> = HashMap::new();
    for change in changes {
        let Some(earlier) = before.insert(&change.key, &change.writers) else { continue };
        for (group, old) in earlier {
            let backwards = match change.writers.get(group) {
                Some(new) if group == "created" => creation_order(new) > creation_order(old),
                Some(new) => new < old,
                // A newer broadcast clears the columns of an older one.
                None => change.writers.get("broadcast").is_none_or(|began| began < old),
            };
            if backwards {
                let new = change.writers.get(group);
                verdict
                    .backwards
                    .add(|| format!("{:?}: {group} went from {old:?} to {new:?}", change.key));
            }
        }
    }
}

/// Order of the events that may create a session: the oldest one creates it. An event with an
/// unreadable time, which is stored as 0, loses against each known time.
fn creation_order(&(at, origin): &(i64, Origin)) -> (bool, i64, Origin) {
    (at == 0, at, origin)
}

/// Compares every row with the model.
fn compare_rows(model: &Model, observed: &ObservedState, verdict: &mut JudgeVerdict) {
    verdict.rows = observed.rows.len();
    for (key, expected) in &model.rows {
        let Some(row) = observed.rows.get(key) else {
            verdict.wrong_rows.add(|| format!("{key:?}: missing"));
            continue;
        };
        for differs in model::differences(key.0, expected, row) {
            let past_values =
                model.past_values.get(key).and_then(|columns| columns.get(&differs.column));
            let older = past_values
                .is_some_and(|values| values.iter().any(|value| model::same(value, &differs.seen)));
            let tally = if older { &mut verdict.backwards } else { &mut verdict.wrong_rows };
            tally.add(|| {
                format!("{key:?}: {} is {}, not {}", differs.column, differs.seen, differs.wanted)
            });
        }
    }
    for key in observed.rows.keys().filter(|key| !model.rows.contains_key(*key)) {
        verdict.wrong_rows.add(|| format!("{key:?}: unexpected row"));
    }
}

#[cfg(test)]
mod tests;
