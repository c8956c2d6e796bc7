//! The judgement: what was promised against what is there.
//!
//! Guarantee: every promised event is looked for in every place, and every row is compared with what the sequential
//! [`crate::model`] makes of all events that took effect. Nothing is taken from the system on trust but when and in
//! which order it queued events, and that is checked against when they were sent and answered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;

use super::EventPlace;
use super::observed::{LedgerRow, ObservedState, QueuedEvent, RowState};
use super::recorder::Acceptance;
use crate::model::{self, ArrivedEvent, ExpectedEnd, Model, Origin};

/// Examples kept of each kind of failure.
const MAX_EXAMPLES: usize = 20;

/// What may be expected of the run.
#[derive(Clone, Debug, Default)]
pub struct JudgeConfig {
    /// How long a worker lets an event wait for its session.
    pub session_wait: Duration,
    /// The times (since the beginning) in which an answer may have been given whose event a Redis without
    /// `appendfsync always` forgot afterwards. Empty: nothing may be lost.
    pub loss_windows: Vec<RangeInclusive<Duration>>,
    /// When Redis's clock was set so far ahead that every marker had outlived its time. A request that was under way may
    /// be accepted again then, and its event be a dead letter twice: only the database never forgets.
    pub markers_expired_at: Vec<Duration>,
}

/// How often something happened, with some examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FailureTally {
    /// How often.
    pub count: usize,
    /// In words.
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

/// What came out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JudgeVerdict {
    /// Events that were promised.
    pub promised: usize,
    /// Where they are.
    pub places: BTreeMap<EventPlace, usize>,
    /// Promised and nowhere.
    pub lost: FailureTally,
    /// Promised and nowhere, but answered just before a Redis that syncs once a second was cut off.
    pub forgotten: FailureTally,
    /// In two places, applied or counted twice.
    pub twice: FailureTally,
    /// An older event stands, or stood, over a newer one.
    pub backwards: FailureTally,
    /// Rows that are missing, too many, or otherwise not what the model says.
    pub wrong_rows: FailureTally,
    /// Ended otherwise than it must: a dead letter without its own fault, an effect of what must have none, an attempt
    /// spent on an outage.
    pub misjudged: FailureTally,
    /// Still unfinished.
    pub unfinished: FailureTally,
    /// Rows of the database compared.
    pub rows: usize,
    /// States of rows looked at.
    pub states: usize,
}

impl JudgeVerdict {
    /// Whether all is as it must be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failures().iter().all(|(_, tally)| tally.count == 0)
    }

    /// Everything that must be none, by name.
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
    found: &ObservedState,
    config: &JudgeConfig,
) -> JudgeVerdict {
    let mut verdict = JudgeVerdict { promised: acceptances.len(), ..JudgeVerdict::default() };
    let mut places: HashMap<(&str, &str), EventLocations<'_>> = HashMap::new();
    for row in &found.ledger {
        places.entry((&row.platform, &row.event_id)).or_default().ledger.push(row);
    }
    for entry in &found.queued {
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
        verdict.misjudged.add(|| format!("{platform} {id}: nobody was promised anything of it"));
    }
    if config.loss_windows.is_empty() {
        in_order_of_arrival(&arrived, &mut verdict);
        counted_once(found, &mut verdict);
    }
    applied_once(found, &mut verdict);
    never_backwards(&found.changes, &mut verdict);
    compare(
        &model::apply(arrived.into_iter().map(|(_, arrived)| arrived).collect()),
        found,
        &mut verdict,
    );
    verdict
}

/// When each room was first announced.
fn announced(acceptances: &[Acceptance]) -> HashMap<&str, Duration> {
    let mut announced = HashMap::new();
    for acceptance in acceptances {
        if let model::EventMeaning::Announce { room, .. } = &acceptance.event.meaning {
            let first = announced.entry(room.as_str()).or_insert(acceptance.promised);
            *first = acceptance.promised.min(*first);
        }
    }
    announced
}

/// Where an event was found.
#[derive(Default)]
struct EventLocations<'f> {
    ledger: Vec<&'f LedgerRow>,
    queued: Vec<&'f QueuedEvent>,
}

impl<'f> EventLocations<'f> {
    /// Looks whether the event is where it must be; gives its ledger row if it took effect.
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
        let named = || {
            format!(
                "event {} ({} {})",
                acceptance.event.number, acceptance.event.platform, acceptance.id
            )
        };
        match all.as_slice() {
            [] if config.loss_windows.iter().any(|times| times.contains(&acceptance.promised)) => {
                verdict.forgotten.add(named);
            }
            [] => verdict
                .lost
                .add(|| format!("{}: promised at {:?}, nowhere now", named(), acceptance.promised)),
            [place] => *verdict.places.entry(*place).or_default() += 1,
            places
                if config.markers_expired_at.iter().any(|at| *at > acceptance.promised)
                    && self.ledger.len() <= 1 =>
            {
                *verdict.places.entry(places[0]).or_default() += 1;
            }
            places => verdict.twice.add(|| format!("{}: {places:?}", named())),
        }
        for entry in &self.queued {
            match entry.place {
                EventPlace::Incoming | EventPlace::Retry => {
                    verdict
                        .unfinished
                        .add(|| format!("{}: {:?} {}", named(), entry.place, entry.error_code));
                }
                _ if may_be_dead(acceptance, &entry.error_code, announced, config) => {}
                _ => verdict
                    .misjudged
                    .add(|| format!("{}: dead letter {}", named(), entry.error_code)),
            }
        }
        let row = *self.ledger.first()?;
        let event = &acceptance.event;
        let mut wrong = |what: String| verdict.misjudged.add(|| format!("{}: {what}", named()));
        if let ExpectedEnd::Dead(code) = event.expected_end {
            wrong(format!("took effect, must be a dead letter {code}"));
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

/// Whether the event is to blame for being a dead letter: it must be one, or its session was not announced in time.
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

/// Of two events of a platform, the one that was answered before the other was sent has come first.
fn in_order_of_arrival(arrived: &[(&Acceptance, ArrivedEvent<'_>)], verdict: &mut JudgeVerdict) {
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
        answered.sort_by_key(|(acceptance, _)| acceptance.promised);
        let (mut answered, mut newest) = (answered.into_iter().peekable(), Origin::default());
        for (acceptance, origin) in sent {
            while let Some((_, before)) =
                answered.next_if(|(before, _)| before.promised < acceptance.sent)
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

fn applied_once(found: &ObservedState, verdict: &mut JudgeVerdict) {
    let mut seen = BTreeSet::new();
    for event in &found.applied {
        if !seen.insert(event) {
            verdict.twice.add(|| format!("{event:?}: put into the ledger once more"));
        }
    }
}

/// The counters of the queue say as many finished events as the ledger has, and as many dead ones as there are.
fn counted_once(found: &ObservedState, verdict: &mut JudgeVerdict) {
    for (platform, (finished, dead)) in &found.counted {
        let of = |platform: &str, other: &str| platform == other;
        let rows = found.ledger.iter().filter(|row| of(&row.platform, platform)).count();
        let is_letter =
            |entry: &&QueuedEvent| of(&entry.platform, platform) && entry.place == EventPlace::Dead;
        let letters = found.queued.iter().filter(is_letter).count();
        if (usize::try_from(*finished), usize::try_from(*dead)) != (Ok(rows), Ok(letters)) {
            verdict.twice.add(|| {
                format!(
                    "{platform}: {finished} finished and {dead} dead letters counted, {rows} and {letters} there"
                )
            });
        }
    }
}

/// What a newer event wrote is never written by an older one, not even for a moment.
fn never_backwards(changes: &[RowState], verdict: &mut JudgeVerdict) {
    verdict.states = changes.len();
    let mut before: HashMap<&model::RowKey, &BTreeMap<String, (i64, Origin)>> = HashMap::new();
    for change in changes {
        let Some(earlier) = before.insert(&change.key, &change.writers) else { continue };
        for (group, old) in earlier {
            let backwards = match change.writers.get(group) {
                // The oldest event that may make a session is the one that did.
                Some(new) if group == "created" => new > old,
                Some(new) => new < old,
                // A newer broadcast begins without what an older one told.
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

/// Compares every row.
fn compare(model: &Model, found: &ObservedState, verdict: &mut JudgeVerdict) {
    verdict.rows = found.rows.len();
    for (key, expected) in &model.rows {
        let Some(row) = found.rows.get(key) else {
            verdict.wrong_rows.add(|| format!("{key:?}: missing"));
            continue;
        };
        for differs in model::differences(key.0, expected, row) {
            let told = model.told.get(key).and_then(|columns| columns.get(&differs.column));
            let older = told
                .is_some_and(|values| values.iter().any(|value| model::same(value, &differs.seen)));
            let tally = if older { &mut verdict.backwards } else { &mut verdict.wrong_rows };
            tally.add(|| {
                format!("{key:?}: {} is {}, not {}", differs.column, differs.seen, differs.wanted)
            });
        }
    }
    for key in found.rows.keys().filter(|key| !model.rows.contains_key(*key)) {
        verdict.wrong_rows.add(|| format!("{key:?}: no event has made it"));
    }
}

#[cfg(test)]
mod tests;
