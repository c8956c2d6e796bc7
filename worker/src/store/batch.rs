//! Batches of several platforms, one transaction: the story, in terms of what each database spells its own way.
//!
//! Guarantee: ledger rows are inserted only for events whose effect is in the same transaction, and every row that the
//! transaction creates was absent when it was inserted: who loses a race against another worker rolls back and runs again.
//! What one platform's part writes is there before the next one reads, so parts may need the same row.
//!
//! Nearly every event is new, so a transaction may take them to be ([`LedgerCheck::AssumeNew`]) instead of looking. It commits only
//! if all took effect and every ledger row went in: then none was known, and the look would have found nothing. An event
//! without a ledger row of its own (no session, conflict) may have been known; a row that was there already certainly was;
//! and what a database says against a known event's values is not held against it. In all these cases nothing stays, and
//! the transaction is run again with the look ([`LedgerCheck::Query`]), which alone says what is known, missing or refused.

use std::collections::HashMap;
use std::future::Future;

use shared::event::{Millis, StreamId};
use shared::platform::{Platform, SessionScope};

use super::error::BackendError;
use super::locked_rows::LockedRow;
use crate::effects::{
    Applied, ChatRow, ContentRow, EventResult, JobRow, PlannedEvent, RecordingRow, RowKeys,
    SessionRow, TrackedRow, TransactionRows,
};

/// A row of the ledger, as far as a redelivery needs it.
#[derive(Debug)]
pub(super) struct StoredLedgerRow {
    pub(super) event_id: String,
    pub(super) origin: String,
    pub(super) result: String,
}

/// An event that took effect, and what it did.
pub(super) type EffectiveEvent<'a> = (&'a PlannedEvent, &'a EventResult);

/// What the database has of the rows that a batch needs.
#[derive(Debug, Default)]
pub(super) struct LoadedRows {
    pub(super) ledger: Vec<StoredLedgerRow>,
    pub(super) sessions: Vec<SessionRow>,
    pub(super) recordings: Vec<RecordingRow>,
    pub(super) contents: Vec<ContentRow>,
    pub(super) jobs: Vec<JobRow>,
    pub(super) chats: Vec<ChatRow>,
}

/// Rows that the database has, and rows that it does not have yet; each in order of key.
#[derive(Debug)]
pub(super) struct RowSet<'a, R> {
    pub(super) known: Vec<&'a R>,
    pub(super) new: Vec<&'a R>,
}

/// Whether a transaction asks the ledger for its events before it works on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LedgerCheck {
    /// It does: whatever became of them before is known.
    Query,
    /// It takes all of them to be new.
    AssumeNew,
}

/// What became of a transaction.
#[derive(Debug)]
pub(super) enum TransactionOutcome {
    /// Committed. The answer has the parts' lengths and order.
    Applied(Vec<Vec<Applied>>),
    /// Another worker was faster: to be rolled back and run again.
    LostRace,
    /// Not all of its events are new, or not all take effect: to be rolled back and run again with [`LedgerCheck::Query`].
    NotAllNew,
}

/// A platform's part of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct PlatformEvents<'a> {
    /// Whose events.
    pub platform: &'a Platform,
    /// The events, folded by id, in the order of their effects.
    pub events: &'a [PlannedEvent],
}

/// What a part has to know before anything is decided.
#[derive(Debug)]
pub(super) struct RowQuery<'a> {
    pub(super) platform: &'a str,
    pub(super) scope: SessionScope,
    /// Of the events to be asked for in the ledger.
    pub(super) ids: Vec<&'a str>,
    pub(super) needs: RowKeys<'a>,
}

/// What a part writes.
#[derive(Debug)]
pub(super) struct RowChanges<'a> {
    pub(super) platform: &'a str,
    pub(super) now: Millis,
    pub(super) sessions: RowSet<'a, SessionRow>,
    pub(super) recordings: RowSet<'a, RecordingRow>,
    pub(super) contents: RowSet<'a, ContentRow>,
    pub(super) jobs: RowSet<'a, JobRow>,
    pub(super) chats: RowSet<'a, ChatRow>,
    /// In order of event id.
    pub(super) ledger: Vec<EffectiveEvent<'a>>,
    /// Whether the ledger was asked for these events, so that only another worker can have them meanwhile.
    pub(super) ledger_check: LedgerCheck,
}

/// What a transaction asks of a connection, in the fewest round trips that the database can do it in.
pub(super) trait Transact: Send {
    /// Whether the database still answers; a server may have been restarted.
    fn is_alive(&mut self) -> impl Future<Output = bool> + Send;
    /// Begins a transaction and reads for its first part; what is read stays as it is until the end (locked in order:
    /// sessions, recordings, contents, jobs, chat messages, each by key).
    fn begin(
        &mut self,
        first: &RowQuery<'_>,
    ) -> impl Future<Output = Result<LoadedRows, BackendError>> + Send;
    /// Writes what a part says, new rows last, so that workers cannot deadlock; then reads for the next one, as
    /// [`Self::begin`] does. `None`: somebody has inserted a row first; the transaction is to be rolled back. A ledger row
    /// that is there although the ledger was not asked may be an error instead.
    fn write_then_read(
        &mut self,
        changes: &RowChanges<'_>,
        next: &RowQuery<'_>,
    ) -> impl Future<Output = Result<Option<LoadedRows>, BackendError>> + Send;
    /// Writes what the last part says and commits. `false`: as `None` above.
    fn commit(
        &mut self,
        changes: &RowChanges<'_>,
    ) -> impl Future<Output = Result<bool, BackendError>> + Send;
    /// Gives up what is open. `begun`: whether [`Self::begin`] was called.
    fn rollback(&mut self, begun: bool) -> impl Future<Output = Result<(), BackendError>> + Send;
    /// A write of its own, committed, to see whether writes commit.
    fn probe(&mut self, now: Millis) -> impl Future<Output = Result<(), BackendError>> + Send;
    /// Returns the UUID of the database that the connection writes to, without a write.
    fn read_database_id(&mut self) -> impl Future<Output = Result<String, BackendError>> + Send;
    /// Forgets prepared statements, whose plans may be older than the schema.
    fn clear_statements(&mut self) -> impl Future<Output = Result<(), BackendError>> + Send {
        std::future::ready(Ok(()))
    }
    /// Closes the connection in order.
    fn close(self) -> impl Future<Output = ()> + Send
    where
        Self: Sized;
    /// Returns the rows of a part that another transaction keeps locked, without waiting. Empty
    /// where the database has no row locks.
    fn locked_rows(
        &mut self,
        _: &RowQuery<'_>,
    ) -> impl Future<Output = Result<Vec<LockedRow>, BackendError>> + Send {
        std::future::ready(Ok(Vec::new()))
    }
}

/// Runs the parts in one transaction.
pub(super) async fn run<T: Transact>(
    on: &mut T,
    parts: &[PlatformEvents<'_>],
    ledger: LedgerCheck,
    now: Millis,
) -> Result<TransactionOutcome, BackendError> {
    let outcome = attempt(on, parts, ledger, now).await;
    match outcome {
        Ok(TransactionOutcome::LostRace) if ledger == LedgerCheck::AssumeNew => {
            Ok(TransactionOutcome::NotAllNew)
        }
        Err(cause) if ledger == LedgerCheck::AssumeNew && cause.may_be_caused_by_event() => {
            Ok(TransactionOutcome::NotAllNew)
        }
        outcome => outcome,
    }
}

async fn attempt<T: Transact>(
    on: &mut T,
    parts: &[PlatformEvents<'_>],
    ledger: LedgerCheck,
    now: Millis,
) -> Result<TransactionOutcome, BackendError> {
    let mut all = Vec::with_capacity(parts.len());
    let mut rest = parts.iter();
    let Some(mut part) = rest.next() else { return Ok(TransactionOutcome::Applied(all)) };
    let mut loaded = on.begin(&part.row_query(ledger)).await?;
    loop {
        let (rows, outcomes) = part.apply_events(loaded)?;
        if ledger == LedgerCheck::AssumeNew && !outcomes.iter().all(Applied::took_effect) {
            return Ok(TransactionOutcome::NotAllNew);
        }
        let changes = part.changes(&rows, &outcomes, ledger, now);
        let Some(next) = rest.next() else {
            let won = on.commit(&changes).await?;
            all.push(outcomes);
            return Ok(if won {
                TransactionOutcome::Applied(all)
            } else {
                TransactionOutcome::LostRace
            });
        };
        let Some(more) = on.write_then_read(&changes, &next.row_query(ledger)).await? else {
            return Ok(TransactionOutcome::LostRace);
        };
        all.push(outcomes);
        (part, loaded) = (next, more);
    }
}

impl<'a> PlatformEvents<'a> {
    pub(super) fn row_query(&self, ledger: LedgerCheck) -> RowQuery<'a> {
        let ids = match ledger {
            LedgerCheck::Query => self.events.iter().map(|event| event.event_id.as_str()).collect(),
            LedgerCheck::AssumeNew => Vec::new(),
        };
        let (platform, scope) = (self.platform.name.as_str(), self.platform.session_scope);
        RowQuery { platform, scope, ids, needs: RowKeys::of(self.events.iter()) }
    }

    /// Applies the events to what the database has.
    fn apply_events(
        &self,
        loaded: LoadedRows,
    ) -> Result<(TransactionRows<'a>, Vec<Applied>), BackendError> {
        let known = known(&loaded.ledger, self.events)?;
        let mut rows = TransactionRows::new(self.platform);
        loaded.sessions.into_iter().for_each(|row| rows.load_session(row));
        loaded.recordings.into_iter().for_each(|row| rows.load_recording(row));
        loaded.contents.into_iter().for_each(|row| rows.load_content(row));
        loaded.jobs.into_iter().for_each(|row| rows.load_job(row));
        loaded.chats.into_iter().for_each(|row| rows.load_chat(row));
        let outcome = |event: &PlannedEvent| match known.get(event.event_id.as_str()) {
            Some(known) => known.clone(),
            None => rows.apply(event),
        };
        let outcomes = self.events.iter().map(outcome).collect();
        Ok((rows, outcomes))
    }

    fn changes<'r>(
        &self,
        rows: &'r TransactionRows<'_>,
        outcomes: &'r [Applied],
        ledger_check: LedgerCheck,
        now: Millis,
    ) -> RowChanges<'r>
    where
        'a: 'r,
    {
        RowChanges {
            platform: self.platform.name.as_str(),
            now,
            sessions: split(&rows.sessions()),
            recordings: split(&rows.recordings()),
            contents: split(&rows.contents()),
            jobs: split(&rows.jobs()),
            chats: split(&rows.chats()),
            ledger: effective(self.events, outcomes),
            ledger_check,
        }
    }
}

fn known<'b>(
    ledger: &[StoredLedgerRow],
    batch: &'b [PlannedEvent],
) -> Result<HashMap<&'b str, Applied>, BackendError> {
    if ledger.is_empty() {
        return Ok(HashMap::new());
    }
    let by_id: HashMap<&str, &'b PlannedEvent> =
        batch.iter().map(|event| (event.event_id.as_str(), event)).collect();
    let mut known = HashMap::with_capacity(ledger.len());
    for hit in ledger {
        let Some(event) = by_id.get(hit.event_id.as_str()) else { continue };
        let result =
            serde_json::from_str(&hit.result).map_err(|_| BackendError::Unreadable("result"))?;
        let same_origin = hit.origin.parse::<StreamId>() == Ok(event.order.origin);
        known.insert(event.event_id.as_str(), Applied::AlreadyApplied { same_origin, result });
    }
    Ok(known)
}

fn split<'r, R>(rows: &[&'r TrackedRow<R>]) -> RowSet<'r, R> {
    let of =
        |stored| rows.iter().filter(|held| held.stored == stored).map(|held| &held.row).collect();
    RowSet { known: of(true), new: of(false) }
}

/// What took effect, and nothing else.
fn effective<'a>(batch: &'a [PlannedEvent], outcomes: &'a [Applied]) -> Vec<EffectiveEvent<'a>> {
    let took = |(event, outcome): (&'a PlannedEvent, &'a Applied)| match outcome {
        Applied::Done(result) => Some((event, result)),
        Applied::AlreadyApplied { .. }
        | Applied::MissingSession
        | Applied::Conflict
        | Applied::RowLocked => None,
    };
    let mut effective: Vec<_> = batch.iter().zip(outcomes).filter_map(took).collect();
    effective.sort_unstable_by(|(a, _), (b, _)| a.event_id.cmp(&b.event_id));
    effective
}
