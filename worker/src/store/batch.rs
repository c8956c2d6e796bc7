//! Batches of several platforms, one transaction: the story, in terms of what each database spells its own way.
//!
//! Guarantee: ledger rows are inserted only for events whose effect is in the same transaction, and every row that the
//! transaction creates was absent when it was inserted: who loses a race against another worker rolls back and runs again.
//! What one platform's part writes is there before the next one reads, so parts may need the same row.

use std::collections::HashMap;
use std::future::Future;

use shared::event::{Millis, StreamId};
use shared::platform::Platform;

use super::error::Cause;
use crate::effects::{
    Applied, ChatRow, ContentRow, EventResult, Held, JobRow, Needs, Planned, RecordingRow, Rows, SessionRow,
};

/// A row of the ledger, as far as a redelivery needs it.
#[derive(Debug)]
pub(super) struct LedgerRow {
    pub(super) event_id: String,
    pub(super) origin: String,
    pub(super) result: String,
}

/// An event that took effect, and what it did.
pub(super) type Effective<'a> = (&'a Planned, &'a EventResult);

/// What the database has of the rows that a batch needs.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) ledger: Vec<LedgerRow>,
    pub(super) sessions: Vec<SessionRow>,
    pub(super) recordings: Vec<RecordingRow>,
    pub(super) contents: Vec<ContentRow>,
    pub(super) jobs: Vec<JobRow>,
    pub(super) chats: Vec<ChatRow>,
}

/// Rows that the database has, and rows that it does not have yet; each in order of key.
#[derive(Debug)]
pub(super) struct Split<'a, R> {
    pub(super) known: Vec<&'a R>,
    pub(super) new: Vec<&'a R>,
}

/// A platform's part of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Whose events.
    pub platform: &'a Platform,
    /// The events, folded by id, in the order of their effects.
    pub events: &'a [Planned],
}

/// What a part has to know before anything is decided.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) platform: &'a str,
    /// Of its events.
    pub(super) ids: Vec<&'a str>,
    pub(super) needs: Needs<'a>,
}

/// What a part writes.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    pub(super) platform: &'a str,
    pub(super) now: Millis,
    pub(super) sessions: Split<'a, SessionRow>,
    pub(super) recordings: Split<'a, RecordingRow>,
    pub(super) contents: Split<'a, ContentRow>,
    pub(super) jobs: Split<'a, JobRow>,
    pub(super) chats: Split<'a, ChatRow>,
    /// In order of event id.
    pub(super) ledger: Vec<Effective<'a>>,
}

/// What a transaction asks of a connection, in the fewest round trips that the database can do it in.
pub(super) trait Transact: Send {
    /// Whether the database still answers; a server may have been restarted.
    fn is_alive(&mut self) -> impl Future<Output = bool> + Send;
    /// Begins a transaction and reads for its first part; what is read stays as it is until the end (locked in order:
    /// sessions, recordings, contents, jobs, chat messages, each by key).
    fn begin(&mut self, first: &Wanted<'_>) -> impl Future<Output = Result<Loaded, Cause>> + Send;
    /// Writes what a part says, new rows last, so that workers cannot deadlock; then reads for the next one, as
    /// [`Self::begin`] does. `None`: another worker has inserted a row first; the transaction is to be rolled back.
    fn go_on(
        &mut self,
        changes: &Changes<'_>,
        next: &Wanted<'_>,
    ) -> impl Future<Output = Result<Option<Loaded>, Cause>> + Send;
    /// Writes what the last part says and commits. `false`: as `None` above.
    fn commit(&mut self, changes: &Changes<'_>) -> impl Future<Output = Result<bool, Cause>> + Send;
    /// Gives the transaction up.
    fn rollback(&mut self) -> impl Future<Output = Result<(), Cause>> + Send;
    /// A write of its own, committed, to see whether writes commit.
    fn probe(&mut self, now: Millis) -> impl Future<Output = Result<(), Cause>> + Send;
}

/// Runs the parts in one transaction; the answer has their length and order. `None`: another worker was faster; roll back,
/// run again.
pub(super) async fn run<T: Transact>(
    on: &mut T,
    parts: &[Part<'_>],
    now: Millis,
) -> Result<Option<Vec<Vec<Applied>>>, Cause> {
    let mut all = Vec::with_capacity(parts.len());
    let mut rest = parts.iter();
    let Some(mut part) = rest.next() else { return Ok(Some(all)) };
    let mut loaded = on.begin(&part.wanted()).await?;
    loop {
        let (rows, outcomes) = part.work_on(loaded)?;
        let changes = part.changes(&rows, &outcomes, now);
        let Some(next) = rest.next() else {
            let won = on.commit(&changes).await?;
            all.push(outcomes);
            return Ok(won.then_some(all));
        };
        let Some(more) = on.go_on(&changes, &next.wanted()).await? else { return Ok(None) };
        all.push(outcomes);
        (part, loaded) = (next, more);
    }
}

impl<'a> Part<'a> {
    fn wanted(&self) -> Wanted<'a> {
        let ids = self.events.iter().map(|event| event.event_id.as_str()).collect();
        Wanted { platform: self.platform.name.as_str(), ids, needs: Needs::of(self.events.iter()) }
    }

    /// Applies the events to what the database has.
    fn work_on(&self, loaded: Loaded) -> Result<(Rows<'a>, Vec<Applied>), Cause> {
        let known = known(&loaded.ledger, self.events)?;
        let mut rows = Rows::new(self.platform);
        loaded.sessions.into_iter().for_each(|row| rows.load_session(row));
        loaded.recordings.into_iter().for_each(|row| rows.load_recording(row));
        loaded.contents.into_iter().for_each(|row| rows.load_content(row));
        loaded.jobs.into_iter().for_each(|row| rows.load_job(row));
        loaded.chats.into_iter().for_each(|row| rows.load_chat(row));
        let outcome = |event: &Planned| match known.get(event.event_id.as_str()) {
            Some(known) => known.clone(),
            None => rows.apply(event),
        };
        let outcomes = self.events.iter().map(outcome).collect();
        Ok((rows, outcomes))
    }

    fn changes<'r>(&self, rows: &'r Rows<'_>, outcomes: &'r [Applied], now: Millis) -> Changes<'r>
    where
        'a: 'r,
    {
        Changes {
            platform: self.platform.name.as_str(),
            now,
            sessions: split(&rows.sessions()),
            recordings: split(&rows.recordings()),
            contents: split(&rows.contents()),
            jobs: split(&rows.jobs()),
            chats: split(&rows.chats()),
            ledger: effective(self.events, outcomes),
        }
    }
}

fn known<'b>(ledger: &[LedgerRow], batch: &'b [Planned]) -> Result<HashMap<&'b str, Applied>, Cause> {
    if ledger.is_empty() {
        return Ok(HashMap::new());
    }
    let by_id: HashMap<&str, &'b Planned> = batch.iter().map(|event| (event.event_id.as_str(), event)).collect();
    let mut known = HashMap::with_capacity(ledger.len());
    for hit in ledger {
        let Some(event) = by_id.get(hit.event_id.as_str()) else { continue };
        let result = serde_json::from_str(&hit.result).map_err(|_| Cause::Unreadable("result"))?;
        let same_origin = hit.origin.parse::<StreamId>() == Ok(event.order.origin);
        known.insert(event.event_id.as_str(), Applied::Known { same_origin, result });
    }
    Ok(known)
}

fn split<'r, R>(rows: &[&'r Held<R>]) -> Split<'r, R> {
    let of = |stored| rows.iter().filter(|held| held.stored == stored).map(|held| &held.row).collect();
    Split { known: of(true), new: of(false) }
}

/// What took effect, and nothing else.
fn effective<'a>(batch: &'a [Planned], outcomes: &'a [Applied]) -> Vec<Effective<'a>> {
    let took = |(event, outcome): (&'a Planned, &'a Applied)| match outcome {
        Applied::Done(result) => Some((event, result)),
        Applied::Known { .. } | Applied::MissingSession | Applied::Conflict => None,
    };
    let mut effective: Vec<_> = batch.iter().zip(outcomes).filter_map(took).collect();
    effective.sort_unstable_by(|(a, _), (b, _)| a.event_id.cmp(&b.event_id));
    effective
}
