//! One batch, one transaction: the story, in terms of what each database spells its own way.
//!
//! Guarantee: ledger rows are inserted only for events whose effect is in the same transaction, and every row that the
//! transaction creates was absent when it was inserted: who loses a race against another worker rolls back and runs again.

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

/// What a batch writes.
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

/// What a batch asks of a connection, in the fewest round trips that the database can do it in.
pub(super) trait Transact: Send {
    /// Whether the database still answers; a server may have been restarted.
    fn is_alive(&mut self) -> impl Future<Output = bool> + Send;
    /// Begins a transaction and reads; what is read stays as it is until the end (locked in order: sessions, recordings,
    /// contents, jobs, chat messages, each by key).
    fn begin(
        &mut self,
        platform: &str,
        ids: &[&str],
        needs: &Needs<'_>,
    ) -> impl Future<Output = Result<Loaded, Cause>> + Send;
    /// Writes everything and commits; new rows come last, so that workers cannot deadlock. `false`: another worker has
    /// inserted a row first; the transaction is to be rolled back.
    fn commit(&mut self, changes: &Changes<'_>) -> impl Future<Output = Result<bool, Cause>> + Send;
    /// Gives the transaction up.
    fn rollback(&mut self) -> impl Future<Output = Result<(), Cause>> + Send;
    /// A write of its own, committed, to see whether writes commit.
    fn probe(&mut self, now: Millis) -> impl Future<Output = Result<(), Cause>> + Send;
}

/// Runs the batch in a transaction. `None`: another worker was faster; roll back, run again.
pub(super) async fn run<T: Transact>(
    on: &mut T,
    platform: &Platform,
    batch: &[Planned],
    now: Millis,
) -> Result<Option<Vec<Applied>>, Cause> {
    let ids: Vec<&str> = batch.iter().map(|event| event.event_id.as_str()).collect();
    let loaded = on.begin(platform.name.as_str(), &ids, &Needs::of(batch.iter())).await?;
    let known = known(&loaded.ledger, batch)?;
    let mut rows = Rows::new(platform);
    loaded.sessions.into_iter().for_each(|row| rows.load_session(row));
    loaded.recordings.into_iter().for_each(|row| rows.load_recording(row));
    loaded.contents.into_iter().for_each(|row| rows.load_content(row));
    loaded.jobs.into_iter().for_each(|row| rows.load_job(row));
    loaded.chats.into_iter().for_each(|row| rows.load_chat(row));
    let outcome = |event: &Planned| match known.get(event.event_id.as_str()) {
        Some(known) => known.clone(),
        None => rows.apply(event),
    };
    let outcomes: Vec<Applied> = batch.iter().map(outcome).collect();
    let (sessions, recordings, contents) = (rows.sessions(), rows.recordings(), rows.contents());
    let (jobs, chats) = (rows.jobs(), rows.chats());
    let changes = Changes {
        platform: platform.name.as_str(),
        now,
        sessions: split(&sessions),
        recordings: split(&recordings),
        contents: split(&contents),
        jobs: split(&jobs),
        chats: split(&chats),
        ledger: effective(batch, &outcomes),
    };
    let won = on.commit(&changes).await?;
    Ok(won.then_some(outcomes))
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
