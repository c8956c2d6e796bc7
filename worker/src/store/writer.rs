//! Runs transactions on the one connection that writes.
//!
//! # Guarantees
//! - A connection is used again only after a confirmed commit or rollback. In any other case, a
//!   cancelled call included, it is closed, which rolls back an open transaction
//!   (`database_connections_cut_under_load_lose_nothing`).
//! - A failure that old prepared statements can cause counts only if it repeats with new ones
//!   (`changed_column_type_costs_no_event`).
//! - A new connection and each probe must find the database that was opened first
//!   (`another_database_is_an_outage_until_the_first_is_back`).

use std::future::Future;
use std::time::{Duration, Instant};

use shared::clock;
use tokio::sync::{Mutex, watch};

use super::batch::{self, LedgerCheck, PlatformEvents, Transact, TransactionOutcome};
use super::duplicate_hint::DuplicateHint;
use super::error::{BackendError, StoreError};
use super::locked_rows::{LockedRow, LockedRows};
use super::transaction_scope::TransactionScope;
use crate::effects::{Applied, PlannedEvent};

/// Runs of a batch that lost races against other workers.
const MAX_RACES: u32 = 8;

/// Runs of a batch around rows that other transactions lock meanwhile.
const MAX_LOCK_RETRIES: u32 = 4;

/// Idle time after which a connection is checked before its next use.
const IDLE_PROBE_AFTER: Duration = Duration::from_secs(1);

/// Database that can be written to.
pub(super) trait Backend: Send + Sync {
    /// Connection to the database.
    type Connection: Transact;
    /// Platforms that may share a transaction.
    const TRANSACTION_SCOPE: TransactionScope;
    /// Opens a connection with all required settings.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, BackendError>> + Send;
}

/// One connection, one transaction at a time.
#[derive(Debug)]
pub(super) struct Writer<B: Backend> {
    backend: B,
    state: Mutex<WriterState<B::Connection>>,
    deadline: Duration,
    database_id: String,
    /// Reason why nothing is committed until an operator acts.
    wrong_database: watch::Sender<Option<String>>,
}

/// State that one transaction leaves for the next.
#[derive(Debug)]
struct WriterState<C> {
    idle: Option<IdleConnection<C>>,
    duplicate_hint: DuplicateHint,
    locked: LockedRows,
}

#[derive(Debug)]
struct IdleConnection<C> {
    connection: C,
    since: Instant,
}

impl<C> IdleConnection<C> {
    fn now(connection: C) -> Self {
        Self { connection, since: Instant::now() }
    }
}

impl<B: Backend> Writer<B> {
    /// Creates a writer. `database_id` is the UUID of the database of `connection`.
    pub(super) fn new(
        backend: B,
        connection: B::Connection,
        database_id: &str,
        deadline: Duration,
    ) -> Self {
        let state = WriterState {
            idle: Some(IdleConnection::now(connection)),
            duplicate_hint: DuplicateHint::default(),
            locked: LockedRows::default(),
        };
        Self {
            backend,
            state: Mutex::new(state),
            deadline,
            database_id: database_id.to_owned(),
            wrong_database: watch::Sender::new(None),
        }
    }

    /// See [`super::Store::wrong_database`].
    pub(super) fn wrong_database(&self) -> Option<String> {
        self.wrong_database.borrow().clone()
    }

    /// See [`super::Store::apply_together`].
    pub(super) async fn apply(
        &self,
        parts: &[PlatformEvents<'_>],
    ) -> Result<Vec<Vec<Applied>>, StoreError> {
        if parts.iter().all(|part| part.events.is_empty()) {
            return Ok(vec![Vec::new(); parts.len()]);
        }
        self.within_deadline(async {
            let mut state = self.state.lock().await;
            self.apply_around_locked_rows(&mut state, parts).await
        })
        .await
    }

    /// Applies the events that need no locked row. The others get [`Applied::RowLocked`].
    async fn apply_around_locked_rows(
        &self,
        state: &mut WriterState<B::Connection>,
        parts: &[PlatformEvents<'_>],
    ) -> Result<Vec<Vec<Applied>>, BackendError> {
        for _ in 0..MAX_LOCK_RETRIES {
            self.recheck_locked_rows(state, parts).await?;
            let outcome = match state.locked.split(parts) {
                None => self.apply_all(state, parts).await,
                Some(split) => {
                    let others = split.events(false);
                    match self.apply_all(state, &as_parts(&others)).await {
                        Ok(others) => {
                            self.retry_postponed(
                                state,
                                parts,
                                split.join(others, || Applied::RowLocked),
                            )
                            .await
                        }
                        Err(cause) => Err(cause),
                    }
                }
            };
            let error = match outcome {
                Err(cause) if cause.is_lock_timeout() => cause,
                outcome => return outcome,
            };
            let locked = self.locked_rows(&mut state.idle, parts).await?;
            if !state.locked.remember(locked) {
                state.locked.postpone(parts);
                return Err(error);
            }
            tracing::info!("another transaction keeps rows locked; retrying their events later");
        }
        Err(BackendError::Contended(MAX_LOCK_RETRIES))
    }

    /// Runs one postponed event alone, after the others have their outcomes.
    async fn retry_postponed(
        &self,
        state: &mut WriterState<B::Connection>,
        parts: &[PlatformEvents<'_>],
        mut outcomes: Vec<Vec<Applied>>,
    ) -> Result<Vec<Vec<Applied>>, BackendError> {
        let Some((at, event)) = state.locked.due(parts) else { return Ok(outcomes) };
        let Some(part) = parts.get(at) else { return Ok(outcomes) };
        let alone = [PlatformEvents {
            platform: part.platform,
            events: part.events.get(event..=event).unwrap_or_default(),
        }];
        match self.apply_all(state, &alone).await {
            Ok(applied) => {
                state.locked.admit(&alone);
                if let (Some(outcome), Some(applied)) = (
                    outcomes.get_mut(at).and_then(|part| part.get_mut(event)),
                    applied.into_iter().flatten().next(),
                ) {
                    *outcome = applied;
                }
            }
            Err(cause) if cause.is_lock_timeout() => state.locked.postpone(&alone),
            // The other events are committed. This one shows its fault when it runs in a
            // transaction of its own.
            Err(_) => state.locked.admit(&alone),
        }
        Ok(outcomes)
    }

    /// Forgets the locked rows that events of `parts` need and that are free again.
    async fn recheck_locked_rows(
        &self,
        state: &mut WriterState<B::Connection>,
        parts: &[PlatformEvents<'_>],
    ) -> Result<(), BackendError> {
        let Some(split) = state.locked.split(parts) else { return Ok(()) };
        let touched = split.events(true);
        let touched = as_parts(&touched);
        let locked = self.locked_rows(&mut state.idle, &touched).await?;
        state.locked.forget(&touched);
        state.locked.remember(locked);
        Ok(())
    }

    /// Returns the rows that events of `parts` need and that another transaction keeps locked.
    async fn locked_rows(
        &self,
        idle: &mut Option<IdleConnection<B::Connection>>,
        parts: &[PlatformEvents<'_>],
    ) -> Result<Vec<LockedRow>, BackendError> {
        let mut connection = self.connection(idle).await?;
        let mut locked = Vec::new();
        for part in parts {
            locked.extend(connection.locked_rows(&part.row_query(LedgerCheck::AssumeNew)).await?);
        }
        *idle = Some(IdleConnection::now(connection));
        Ok(locked)
    }

    /// Applies all `parts`, again after each lost race.
    async fn apply_all(
        &self,
        state: &mut WriterState<B::Connection>,
        parts: &[PlatformEvents<'_>],
    ) -> Result<Vec<Vec<Applied>>, BackendError> {
        if parts.iter().all(|part| part.events.is_empty()) {
            return Ok(vec![Vec::new(); parts.len()]);
        }
        let mut ledger = state.duplicate_hint.ledger_check(parts);
        let mut races = 0;
        let mut last = BackendError::Contended(MAX_RACES);
        while races < MAX_RACES {
            match self.once(&mut state.idle, WriterTask::Apply(parts, ledger)).await {
                Ok(TransactionOutcome::Applied(applied)) => {
                    state.duplicate_hint.record(parts, &applied);
                    return Ok(applied);
                }
                // Happens at most once, since the next run queries the ledger.
                Ok(TransactionOutcome::NotAllNew) => {
                    state.duplicate_hint.expect_duplicates(parts);
                    ledger = LedgerCheck::Query;
                }
                Ok(TransactionOutcome::LostRace) => races += 1,
                Err(cause) if cause.is_lost_race() => {
                    races += 1;
                    // A trigger that raises this error each time rejects the event.
                    if cause.may_be_caused_by_event() {
                        last = cause;
                    }
                }
                Err(cause) => return Err(cause),
            }
        }
        Err(last)
    }

    /// See [`super::Store::transaction_scope`].
    #[expect(clippy::unused_self, reason = "part of the interface of both databases")]
    pub(super) const fn transaction_scope(&self) -> TransactionScope {
        B::TRANSACTION_SCOPE
    }

    /// See [`super::Store::probe`].
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        self.within_deadline(async {
            let mut state = self.state.lock().await;
            self.once(&mut state.idle, WriterTask::Probe).await.map(|_| ())
        })
        .await
    }

    /// See [`super::Store::check_identity`].
    pub(super) async fn check_identity(&self) -> Result<(), StoreError> {
        self.within_deadline(async {
            let mut state = self.state.lock().await;
            self.once(&mut state.idle, WriterTask::CheckIdentity).await.map(|_| ())
        })
        .await
    }

    /// Closes the connection once no call uses it.
    pub(super) async fn close(&self) {
        let idle = self.state.lock().await.idle.take();
        if let Some(IdleConnection { connection, .. }) = idle {
            connection.close().await;
        }
    }

    async fn once(
        &self,
        idle: &mut Option<IdleConnection<B::Connection>>,
        work: WriterTask<'_>,
    ) -> Result<TransactionOutcome, BackendError> {
        let mut done = self.transact(idle, work).await;
        if done.as_ref().is_err_and(BackendError::may_be_stale_statement) {
            done = self.transact(idle, work).await;
        }
        self.note(&done);
        done
    }

    /// Logs each change between the right database and a wrong one.
    fn note(&self, done: &Result<TransactionOutcome, BackendError>) {
        let wrong_database = match done {
            Ok(TransactionOutcome::Applied(_)) => None,
            Err(cause) => match cause.remedy() {
                Some(remedy) => Some(format!("{cause}; {remedy}")),
                None => return,
            },
            Ok(_) => return,
        };
        self.wrong_database.send_if_modified(|known| {
            match (&known, &wrong_database) {
                (None, Some(reason)) => {
                    tracing::error!(reason, "not the session database; nothing is committed")
                }
                (Some(_), None) => {
                    tracing::info!("the session database is in place again; committing")
                }
                _ => {}
            }
            let changed = *known != wrong_database;
            *known = wrong_database;
            changed
        });
    }

    /// Runs one transaction. Rolls it back unless it committed.
    async fn transact(
        &self,
        idle: &mut Option<IdleConnection<B::Connection>>,
        work: WriterTask<'_>,
    ) -> Result<TransactionOutcome, BackendError> {
        let mut connection = self.connection(idle).await?;
        let now = clock::now_ms();
        let begun = matches!(work, WriterTask::Apply(..));
        let done = match work {
            WriterTask::Apply(parts, ledger) => {
                batch::run(&mut connection, parts, ledger, now).await
            }
            WriterTask::Probe => match connection.probe(now).await {
                Ok(()) => self.confirm_identity(&mut connection).await,
                Err(cause) => Err(cause),
            },
            WriterTask::CheckIdentity => self.confirm_identity(&mut connection).await,
        };
        // A connection that cannot confirm the rollback is dropped, which rolls back as well.
        let mut usable = matches!(done, Ok(TransactionOutcome::Applied(_)))
            || connection.rollback(begun).await.is_ok();
        if done.as_ref().is_err_and(BackendError::may_be_stale_statement) {
            usable &= connection.clear_statements().await.is_ok();
        }
        if usable {
            *idle = Some(IdleConnection::now(connection));
        }
        done
    }

    /// Returns the idle connection if it still answers, or else a new one. A restart of the server
    /// between two calls is no outage.
    async fn connection(
        &self,
        idle: &mut Option<IdleConnection<B::Connection>>,
    ) -> Result<B::Connection, BackendError> {
        if let Some(IdleConnection { mut connection, since }) = idle.take()
            && (since.elapsed() < IDLE_PROBE_AFTER || connection.is_alive().await)
        {
            return Ok(connection);
        }
        let mut connection = self.backend.connect().await?;
        self.confirm_identity(&mut connection).await?;
        Ok(connection)
    }

    /// Checks that `connection` leads to the database that was opened first.
    async fn confirm_identity(
        &self,
        connection: &mut B::Connection,
    ) -> Result<TransactionOutcome, BackendError> {
        let found = connection.read_database_id().await?;
        if found == self.database_id {
            Ok(TransactionOutcome::Applied(Vec::new()))
        } else {
            Err(BackendError::OtherDatabase { expected: self.database_id.clone(), found })
        }
    }

    async fn within_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, StoreError> {
        let outcome = tokio::time::timeout(self.deadline, work).await;
        Ok(outcome.unwrap_or(Err(BackendError::Deadline(self.deadline)))?)
    }
}

fn as_parts<'a>(events: &'a [(PlatformEvents<'a>, Vec<PlannedEvent>)]) -> Vec<PlatformEvents<'a>> {
    events.iter().map(|(part, events)| PlatformEvents { platform: part.platform, events }).collect()
}

/// Kind of a transaction.
#[derive(Clone, Copy)]
enum WriterTask<'a> {
    Apply(&'a [PlatformEvents<'a>], LedgerCheck),
    Probe,
    CheckIdentity,
}

#[cfg(test)]
mod tests;
