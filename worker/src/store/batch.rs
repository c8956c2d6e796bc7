//! Batches of several platforms, one transaction: the story, in terms of what each database spells its own way.
//!
//! Guarantee: ledger rows are inserted only for events whose effect is in the same transaction, and every row that the
//! transaction creates was absent when it was inserted: who loses a race against another worker rolls back and runs again.
//! What one platform's part writes is there before the next one reads, so parts may need the same row.
//!
//! Nearly every event is new, so a transaction may take them to be ([`Ledger::Unread`]) instead of looking. It commits only
//! if all took effect and every ledger row went in: then none was known, and the look would have found nothing. An event
//! without a ledger row of its own (no session, conflict) may have been known; a row that was there already certainly was;
//! and what a database says against a known event's values is not held against it. In all these cases nothing stays, and
//! the transaction is run again with the look ([`Ledger::Read`]), which alone says what is known, missing or refused.

use std::collections::HashMap;
use std::future::Future;

use shared::event::{Millis, StreamId};
use shared::platform::{Platform, SessionScope};

use super::error::Cause;
use super::held::HeldRow;
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

/// Whether a transaction asks the ledger for its events before it works on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ledger {
    /// It does: whatever became of them before is known.
    Read,
    /// It takes all of them to be new.
    Unread,
}

/// What became of a transaction.
#[derive(Debug)]
pub(super) enum Ran {
    /// Committed. The answer has the parts' lengths and order.
    Applied(Vec<Vec<Applied>>),
    /// Another worker was faster: to be rolled back and run again.
    LostRace,
    /// Not all of its events are new, or not all take effect: to be rolled back and run again with [`Ledger::Read`].
    NotAllNew,
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
    pub(super) scope: SessionScope,
    /// Of the events to be asked for in the ledger.
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
    /// Whether the ledger was asked for these events, so that only another worker can have them meanwhile.
    pub(super) asked: Ledger,
}

/// What a transaction asks of a connection, in the fewest round trips that the database can do it in.
pub(super) trait Transact: Send {
    /// Whether the database still answers; a server may have been restarted.
    fn is_alive(&mut self) -> impl Future<Output = bool> + Send;
    /// Begins a transaction and reads for its first part; what is read stays as it is until the end (locked in order:
    /// sessions, recordings, contents, jobs, chat messages, each by key).
    fn begin(&mut self, first: &Wanted<'_>) -> impl Future<Output = Result<Loaded, Cause>> + Send;
    /// Writes what a part says, new rows last, so that workers cannot deadlock; then reads for the next one, as
    /// [`Self::begin`] does. `None`: somebody has inserted a row first; the transaction is to be rolled back. A ledger row
    /// that is there although the ledger was not asked may be an error instead.
    fn go_on(
        &mut self,
        changes: &Changes<'_>,
        next: &Wanted<'_>,
    ) -> impl Future<Output = Result<Option<Loaded>, Cause>> + Send;
    /// Writes what the last part says and commits. `false`: as `None` above.
    fn commit(&mut self, changes: &Changes<'_>) -> impl Future<Output = Result<bool, Cause>> + Send;
    /// Gives up what is open. `begun`: whether [`Self::begin`] was called.
    fn rollback(&mut self, begun: bool) -> impl Future<Output = Result<(), Cause>> + Send;
    /// A write of its own, committed, to see whether writes commit.
    fn probe(&mut self, now: Millis) -> impl Future<Output = Result<(), Cause>> + Send;
    /// Returns the UUID of the database that the connection writes to, without a write.
    fn look(&mut self) -> impl Future<Output = Result<String, Cause>> + Send;
    /// Forgets prepared statements, whose plans may be older than the schema.
    fn forget_statements(&mut self) -> impl Future<Output = Result<(), Cause>> + Send {
        std::future::ready(Ok(()))
    }
    /// Closes the connection in order.
    fn close(self) -> impl Future<Output = ()> + Send
    where
        Self: Sized;
    /// Returns the rows of a part that another transaction keeps locked, without waiting. Empty
    /// where the database has no row locks.
    fn held(&mut self, _: &Wanted<'_>) -> impl Future<Output = Result<Vec<HeldRow>, Cause>> + Send {
        std::future::ready(Ok(Vec::new()))
    }
}

/// Runs the parts in one transaction.
pub(super) async fn run<T: Transact>(
    on: &mut T,
    parts: &[Part<'_>],
    ledger: Ledger,
    now: Millis,
) -> Result<Ran, Cause> {
    let outcome = attempt(on, parts, ledger, now).await;
    match outcome {
        Ok(Ran::LostRace) if ledger == Ledger::Unread => Ok(Ran::NotAllNew),
        Err(cause) if ledger == Ledger::Unread && cause.may_be_an_events_fault() => Ok(Ran::NotAllNew),
        outcome => outcome,
    }
}

async fn attempt<T: Transact>(on: &mut T, parts: &[Part<'_>], ledger: Ledger, now: Millis) -> Result<Ran, Cause> {
    let mut all = Vec::with_capacity(parts.len());
    let mut rest = parts.iter();
    let Some(mut part) = rest.next() else { return Ok(Ran::Applied(all)) };
    let mut loaded = on.begin(&part.wanted(ledger)).await?;
    loop {
        let (rows, outcomes) = part.work_on(loaded)?;
        if ledger == Ledger::Unread && !outcomes.iter().all(Applied::took_effect) {
            return Ok(Ran::NotAllNew);
        }
        let changes = part.changes(&rows, &outcomes, ledger, now);
        let Some(next) = rest.next() else {
            let won = on.commit(&changes).await?;
            all.push(outcomes);
            return Ok(if won { Ran::Applied(all) } else { Ran::LostRace });
        };
        let Some(more) = on.go_on(&changes, &next.wanted(ledger)).await? else { return Ok(Ran::LostRace) };
        all.push(outcomes);
        (part, loaded) = (next, more);
    }
}

impl<'a> Part<'a> {
    pub(super) fn wanted(&self, ledger: Ledger) -> Wanted<'a> {
        let ids = match ledger {
            Ledger::Read => self.events.iter().map(|event| event.event_id.as_str()).collect(),
            Ledger::Unread => Vec::new(),
        };
        let (platform, scope) = (self.platform.name.as_str(), self.platform.session_scope);
        Wanted { platform, scope, ids, needs: Needs::of(self.events.iter()) }
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

    fn changes<'r>(&self, rows: &'r Rows<'_>, outcomes: &'r [Applied], asked: Ledger, now: Millis) -> Changes<'r>
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
            asked,
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
        Applied::Known { .. } | Applied::MissingSession | Applied::Conflict | Applied::Held => None,
    };
    let mut effective: Vec<_> = batch.iter().zip(outcomes).filter_map(took).collect();
    effective.sort_unstable_by(|(a, _), (b, _)| a.event_id.cmp(&b.event_id));
    effective
}
