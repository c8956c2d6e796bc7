//! Runs batches of several platforms in one transaction, in terms that both databases implement.
//!
//! # Guarantees
//! - A ledger row is inserted only for an event whose effect is in the same transaction
//!   (`announcement_and_its_events_fit_in_one_batch`).
//! - Every row that a transaction creates was absent before. A transaction that loses a race
//!   against another worker is rolled back and runs again
//!   (`workers_sharing_a_session_apply_each_event_once`).
//! - A part reads what earlier parts of its transaction wrote, so parts may need the same row
//!   (`redelivery_in_a_later_part_reruns_all_parts`).
//! - A redelivered event is found even if the transaction assumed that it is new
//!   (`redelivery_is_known_among_new_events`).
//!
//! # Design
//! Nearly all events are new, so a transaction may assume that ([`LedgerCheck::AssumeNew`]) and
//! save a query. It commits only if all events take effect and all ledger rows are inserted. Then
//! no event was in the ledger before.
//!
//! In any other case it is rolled back and runs again with the query ([`LedgerCheck::Query`]). That
//! is so for an event without a session or with a conflict, for a ledger row that exists, and for a
//! rejected value. Only the second run decides which events are known, missing or rejected.

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

/// Row of the ledger, with the columns that a redelivery needs.
#[derive(Debug)]
pub(super) struct StoredLedgerRow {
    pub(super) event_id: String,
    pub(super) origin: String,
    pub(super) result: String,
}

/// Event that took effect, and its result.
pub(super) type EffectiveEvent<'a> = (&'a PlannedEvent, &'a EventResult);

/// Rows that the database has of those that a batch needs.
#[derive(Debug, Default)]
pub(super) struct LoadedRows {
    pub(super) ledger: Vec<StoredLedgerRow>,
    pub(super) sessions: Vec<SessionRow>,
    pub(super) recordings: Vec<RecordingRow>,
    pub(super) contents: Vec<ContentRow>,
    pub(super) jobs: Vec<JobRow>,
    pub(super) chats: Vec<ChatRow>,
}

/// Rows that the database has, and new rows, each in order of key.
#[derive(Debug)]
pub(super) struct RowSet<'a, R> {
    pub(super) known: Vec<&'a R>,
    pub(super) new: Vec<&'a R>,
}

/// Mode of finding the events of a transaction in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LedgerCheck {
    /// Queries the ledger, so that earlier results are known.
    Query,
    /// Assumes that all events are new.
    AssumeNew,
}

/// Result of a transaction.
#[derive(Debug)]
pub(super) enum TransactionOutcome {
    /// Committed, with an outcome for each event of each part.
    Applied(Vec<Vec<Applied>>),
    /// Another worker was faster. The transaction has to be rolled back and run again.
    LostRace,
    /// Not all events are new, or not all take effect. The transaction has to be rolled back and
    /// run again with [`LedgerCheck::Query`].
    NotAllNew,
}

/// Events of one platform, as a part of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct PlatformEvents<'a> {
    /// Platform of the events.
    pub platform: &'a Platform,
    /// Events in the order of their effects. Their ids are distinct.
    pub events: &'a [PlannedEvent],
}

/// Rows that a part has to read before it is applied.
#[derive(Debug)]
pub(super) struct RowQuery<'a> {
    pub(super) platform: &'a str,
    pub(super) scope: SessionScope,
    /// Ids of the events to query in the ledger.
    pub(super) ids: Vec<&'a str>,
    pub(super) row_keys: RowKeys<'a>,
}

/// Rows that a part writes.
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
    /// With [`LedgerCheck::Query`], only another worker can have inserted one of these events
    /// since.
    pub(super) ledger_check: LedgerCheck,
}

/// Steps of a transaction on a connection, in as few round trips as the database allows.
pub(super) trait Transact: Send {
    /// Returns true if the database still answers. A server may have been restarted.
    fn is_alive(&mut self) -> impl Future<Output = bool> + Send;
    /// Begins a transaction and reads the rows of its first part. They stay unchanged until the
    /// end. PostgreSQL locks them in order: sessions, recordings, contents, jobs, chat messages,
    /// each by key.
    fn begin(
        &mut self,
        first: &RowQuery<'_>,
    ) -> impl Future<Output = Result<LoadedRows, BackendError>> + Send;
    /// Writes the rows of a part, new rows last, so that workers cannot deadlock. Then reads the
    /// rows of the next part, as [`Self::begin`] does. Returns `None` if another worker has
    /// inserted a row first, so that the transaction has to be rolled back. With
    /// [`LedgerCheck::AssumeNew`], an existing ledger row may be an error instead.
    fn write_then_read(
        &mut self,
        changes: &RowChanges<'_>,
        next: &RowQuery<'_>,
    ) -> impl Future<Output = Result<Option<LoadedRows>, BackendError>> + Send;
    /// Writes the rows of the last part and commits. Returns false instead of `None` above.
    fn commit(
        &mut self,
        changes: &RowChanges<'_>,
    ) -> impl Future<Output = Result<bool, BackendError>> + Send;
    /// Rolls back the open transaction. `begun` is true if [`Self::begin`] was called.
    fn rollback(&mut self, begun: bool) -> impl Future<Output = Result<(), BackendError>> + Send;
    /// Commits a write of its own, to check that writes commit.
    fn probe(&mut self, now: Millis) -> impl Future<Output = Result<(), BackendError>> + Send;
    /// Returns the UUID of the database that the connection writes to, without a write.
    fn read_database_id(&mut self) -> impl Future<Output = Result<String, BackendError>> + Send;
    /// Drops prepared statements, whose plans may be older than the schema.
    fn clear_statements(&mut self) -> impl Future<Output = Result<(), BackendError>> + Send {
        std::future::ready(Ok(()))
    }
    /// Closes the connection.
    fn close(self) -> impl Future<Output = ()> + Send
    where
        Self: Sized;
    /// Returns the rows of a part that another transaction keeps locked, without waiting. Empty if
    /// the database has no row locks.
    fn locked_rows(
        &mut self,
        _: &RowQuery<'_>,
    ) -> impl Future<Output = Result<Vec<LockedRow>, BackendError>> + Send {
        std::future::ready(Ok(Vec::new()))
    }
}

/// Runs the parts in one transaction.
pub(super) async fn run<T: Transact>(
    connection: &mut T,
    parts: &[PlatformEvents<'_>],
    ledger: LedgerCheck,
    now: Millis,
) -> Result<TransactionOutcome, BackendError> {
    let outcome = attempt(connection, parts, ledger, now).await;
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
    connection: &mut T,
    parts: &[PlatformEvents<'_>],
    ledger: LedgerCheck,
    now: Millis,
) -> Result<TransactionOutcome, BackendError> {
    let mut all = Vec::with_capacity(parts.len());
    let mut rest = parts.iter();
    let Some(mut part) = rest.next() else { return Ok(TransactionOutcome::Applied(all)) };
    let mut loaded = connection.begin(&part.row_query(ledger)).await?;
    loop {
        let (rows, outcomes) = part.apply_events(loaded)?;
        if ledger == LedgerCheck::AssumeNew && !outcomes.iter().all(Applied::took_effect) {
            return Ok(TransactionOutcome::NotAllNew);
        }
        let changes = part.changes(&rows, &outcomes, ledger, now);
        let Some(next) = rest.next() else {
            let won = connection.commit(&changes).await?;
            all.push(outcomes);
            return Ok(if won {
                TransactionOutcome::Applied(all)
            } else {
                TransactionOutcome::LostRace
            });
        };
        let Some(more) = connection.write_then_read(&changes, &next.row_query(ledger)).await?
        else {
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
        RowQuery { platform, scope, ids, row_keys: RowKeys::of(self.events.iter()) }
    }

    /// Applies the events to the loaded rows.
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
    let of = |stored| {
        rows.iter().filter(|tracked| tracked.stored == stored).map(|tracked| &tracked.row).collect()
    };
    RowSet { known: of(true), new: of(false) }
}

/// Returns the events that took effect, in order of id.
fn effective<'a>(batch: &'a [PlannedEvent], outcomes: &'a [Applied]) -> Vec<EffectiveEvent<'a>> {
    let result_of = |(event, outcome): (&'a PlannedEvent, &'a Applied)| match outcome {
        Applied::Done(result) => Some((event, result)),
        Applied::AlreadyApplied { .. }
        | Applied::MissingSession
        | Applied::Conflict
        | Applied::RowLocked => None,
    };
    let mut effective: Vec<_> = batch.iter().zip(outcomes).filter_map(result_of).collect();
    effective.sort_unstable_by(|(a, _), (b, _)| a.event_id.cmp(&b.event_id));
    effective
}
