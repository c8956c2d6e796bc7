//! The judgement: what was promised against what is there.
//!
//! Guarantee: every promised event is looked for in every place, and every row is compared with what the sequential
//! [`crate::model`] makes of all events that took effect. Nothing is taken from the system on trust but when and in
//! which order it queued events, and that is checked against when they were sent and answered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;

use super::Place;
use super::found::{Change, Found, LedgerRow, Queued};
use super::oracle::Promise;
use crate::model::{self, Arrived, Fate, Model, Origin};

/// Examples kept of each kind of failure.
const EXAMPLES: usize = 20;

/// What may be expected of the run.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// How long a worker lets an event wait for its session.
    pub session_wait: Duration,
    /// The times (since the beginning) in which an answer may have been given whose event a Redis without
    /// `appendfsync always` forgot afterwards. Empty: nothing may be lost.
    pub forgetful: Vec<RangeInclusive<Duration>>,
    /// When Redis's clock was set so far ahead that every marker had outlived its time. A request that was under way may
    /// be accepted again then, and its event be a dead letter twice: only the database never forgets.
    pub outlived: Vec<Duration>,
}

/// How often something happened, with some examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How often.
    pub count: usize,
    /// In words.
    pub examples: Vec<String>,
}

impl Tally {
    pub(super) fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// What came out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// Events that were promised.
    pub promised: usize,
    /// Where they are.
    pub places: BTreeMap<Place, usize>,
    /// Promised and nowhere.
    pub lost: Tally,
    /// Promised and nowhere, but answered just before a Redis that syncs once a second was cut off.
    pub forgotten: Tally,
    /// In two places, applied or counted twice.
    pub twice: Tally,
    /// An older event stands, or stood, over a newer one.
    pub backwards: Tally,
    /// Rows that are missing, too many, or otherwise not what the model says.
    pub wrong_rows: Tally,
    /// Ended otherwise than it must: a dead letter without its own fault, an effect of what must have none, an attempt
    /// spent on an outage.
    pub misjudged: Tally,
    /// Still unfinished.
    pub unfinished: Tally,
    /// Rows of the database compared.
    pub rows: usize,
    /// States of rows looked at.
    pub states: usize,
}

impl Verdict {
    /// Whether all is as it must be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failures().iter().all(|(_, tally)| tally.count == 0)
    }

    /// Everything that must be none, by name.
    #[must_use]
    pub fn failures(&self) -> [(&'static str, &Tally); 6] {
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
pub fn judge(promises: &[Promise], found: &Found, terms: &Terms) -> Verdict {
    let mut verdict = Verdict { promised: promises.len(), ..Verdict::default() };
    let mut places: HashMap<(&str, &str), Whereabouts<'_>> = HashMap::new();
    for row in &found.ledger {
        places.entry((&row.platform, &row.event_id)).or_default().ledger.push(row);
    }
    for entry in &found.queued {
        places.entry((&entry.platform, &entry.event_id)).or_default().queued.push(entry);
    }
    let announced = announced(promises);
    let mut arrived = Vec::new();
    for promise in promises {
        let whereabouts = places.remove(&(promise.event.platform, promise.id.as_str())).unwrap_or_default();
        if let Some(row) = whereabouts.settle(promise, &announced, terms, &mut verdict) {
            let (id, received_at, origin) = (promise.id.as_str(), row.received_at, row.origin);
            arrived.push((promise, Arrived { event: &promise.event, id, received_at, origin }));
        }
    }
    for ((platform, id), _) in places {
        verdict.misjudged.add(|| format!("{platform} {id}: nobody was promised anything of it"));
    }
    if terms.forgetful.is_empty() {
        in_order_of_arrival(&arrived, &mut verdict);
        counted_once(found, &mut verdict);
    }
    applied_once(found, &mut verdict);
    never_backwards(&found.changes, &mut verdict);
    compare(&model::apply(arrived.into_iter().map(|(_, arrived)| arrived).collect()), found, &mut verdict);
    verdict
}

/// When each room was first announced.
fn announced(promises: &[Promise]) -> HashMap<&str, Duration> {
    let mut announced = HashMap::new();
    for promise in promises {
        if let model::Deed::Announce { room, .. } = &promise.event.deed {
            let first = announced.entry(room.as_str()).or_insert(promise.promised);
            *first = promise.promised.min(*first);
        }
    }
    announced
}

/// Where an event was found.
#[derive(Default)]
struct Whereabouts<'f> {
    ledger: Vec<&'f LedgerRow>,
    queued: Vec<&'f Queued>,
}

impl<'f> Whereabouts<'f> {
    /// Looks whether the event is where it must be; gives its ledger row if it took effect.
    fn settle(
        &self,
        promise: &Promise,
        announced: &HashMap<&str, Duration>,
        terms: &Terms,
        verdict: &mut Verdict,
    ) -> Option<&'f LedgerRow> {
        let all = self.ledger.iter().map(|_| Place::Database).chain(self.queued.iter().map(|entry| entry.place));
        let all: Vec<Place> = all.collect();
        let named = || format!("event {} ({} {})", promise.event.number, promise.event.platform, promise.id);
        match all.as_slice() {
            [] if terms.forgetful.iter().any(|times| times.contains(&promise.promised)) => {
                verdict.forgotten.add(named);
            }
            [] => verdict.lost.add(|| format!("{}: promised at {:?}, nowhere now", named(), promise.promised)),
            [place] => *verdict.places.entry(*place).or_default() += 1,
            places if terms.outlived.iter().any(|at| *at > promise.promised) && self.ledger.len() <= 1 => {
                *verdict.places.entry(places[0]).or_default() += 1;
            }
            places => verdict.twice.add(|| format!("{}: {places:?}", named())),
        }
        for entry in &self.queued {
            match entry.place {
                Place::Incoming | Place::Retry => {
                    verdict.unfinished.add(|| format!("{}: {:?} {}", named(), entry.place, entry.error_code));
                }
                _ if may_be_dead(promise, &entry.error_code, announced, terms) => {}
                _ => verdict.misjudged.add(|| format!("{}: dead letter {}", named(), entry.error_code)),
            }
        }
        let row = *self.ledger.first()?;
        let event = &promise.event;
        let mut wrong = |what: String| verdict.misjudged.add(|| format!("{}: {what}", named()));
        if let Fate::Dead(code) = event.fate {
            wrong(format!("took effect, must be a dead letter {code}"));
        }
        let occurred_at = model::occurred_at(event, row.received_at);
        if (row.occurred_at, row.event_type.as_str()) != (occurred_at, event.kind) {
            wrong(format!("is {} at {}, not {} at {occurred_at}", row.event_type, row.occurred_at, event.kind));
        }
        if row.attempts != 1 && event.awaited().is_none() {
            wrong(format!("spent {} attempts", row.attempts));
        }
        Some(row)
    }
}

/// Whether the event is to blame for being a dead letter: it must be one, or its session was not announced in time.
fn may_be_dead(promise: &Promise, code: &str, announced: &HashMap<&str, Duration>, terms: &Terms) -> bool {
    match promise.event.fate {
        Fate::Dead(wanted) => code == wanted,
        Fate::Effect => {
            let in_time = |at: &Duration| *at < promise.sent + terms.session_wait;
            let waits_for = promise.event.awaited();
            code == "session_not_found" && waits_for.is_some_and(|room| !announced.get(room).is_some_and(in_time))
        }
    }
}

/// Of two events of a platform, the one that was answered before the other was sent has come first.
fn in_order_of_arrival(arrived: &[(&Promise, Arrived<'_>)], verdict: &mut Verdict) {
    let mut by_platform: BTreeMap<&str, Vec<(&Promise, Origin)>> = BTreeMap::new();
    for (promise, arrived) in arrived {
        by_platform.entry(promise.event.platform).or_default().push((promise, arrived.origin));
    }
    for (platform, mut sent) in by_platform {
        let mut answered = sent.clone();
        sent.sort_by_key(|(promise, _)| promise.sent);
        answered.sort_by_key(|(promise, _)| promise.promised);
        let (mut answered, mut newest) = (answered.into_iter().peekable(), Origin::default());
        for (promise, origin) in sent {
            while let Some((_, before)) = answered.next_if(|(before, _)| before.promised < promise.sent) {
                newest = newest.max(before);
            }
            if origin < newest {
                let number = promise.event.number;
                verdict
                    .backwards
                    .add(|| format!("event {number} of {platform}: queued before {newest:?}: {origin:?}"));
            }
        }
    }
}

fn applied_once(found: &Found, verdict: &mut Verdict) {
    let mut seen = BTreeSet::new();
    for event in &found.applied {
        if !seen.insert(event) {
            verdict.twice.add(|| format!("{event:?}: put into the ledger once more"));
        }
    }
}

/// The counters of the queue say as many finished events as the ledger has, and as many dead ones as there are.
fn counted_once(found: &Found, verdict: &mut Verdict) {
    for (platform, (finished, dead)) in &found.counted {
        let of = |platform: &str, other: &str| platform == other;
        let rows = found.ledger.iter().filter(|row| of(&row.platform, platform)).count();
        let is_letter = |entry: &&Queued| of(&entry.platform, platform) && entry.place == Place::Dead;
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
fn never_backwards(changes: &[Change], verdict: &mut Verdict) {
    verdict.states = changes.len();
    let mut before: HashMap<&model::Key, &BTreeMap<String, (i64, Origin)>> = HashMap::new();
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
                verdict.backwards.add(|| format!("{:?}: {group} went from {old:?} to {new:?}", change.key));
            }
        }
    }
}

/// Compares every row.
fn compare(model: &Model, found: &Found, verdict: &mut Verdict) {
    verdict.rows = found.rows.len();
    for (key, expected) in &model.rows {
        let Some(row) = found.rows.get(key) else {
            verdict.wrong_rows.add(|| format!("{key:?}: missing"));
            continue;
        };
        for differs in model::differences(key.0, expected, row) {
            let told = model.told.get(key).and_then(|columns| columns.get(&differs.column));
            let older = told.is_some_and(|values| values.iter().any(|value| model::same(value, &differs.seen)));
            let tally = if older { &mut verdict.backwards } else { &mut verdict.wrong_rows };
            tally.add(|| format!("{key:?}: {} is {}, not {}", differs.column, differs.seen, differs.wanted));
        }
    }
    for key in found.rows.keys().filter(|key| !model.rows.contains_key(*key)) {
        verdict.wrong_rows.add(|| format!("{key:?}: no event has made it"));
    }
}

#[cfg(test)]
mod tests;
