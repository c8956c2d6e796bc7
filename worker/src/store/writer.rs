//! The one connection that writes.
//!
//! Guarantee: a connection is used again only after a commit or a rollback that the database confirmed. After anything
//! else, a cancelled call included, it is closed, which rolls back what was open, and the next call
//! reconnects. A failure that may be due to statements prepared before a change of the schema
//! counts only if it repeats with new ones. A new connection, and every probe, must find the
//! database that was opened first.

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

/// How often a batch is run again when other workers were faster.
const MAX_RACES: u32 = 8;

/// Runs of a batch around rows that other transactions lock meanwhile.
const MAX_LOCK_RETRIES: u32 = 4;

/// A connection that has rested longer is asked whether it still answers.
const IDLE_PROBE_AFTER: Duration = Duration::from_secs(1);

/// What a database must offer to be written to.
pub(super) trait Backend: Send + Sync {
    /// Its connection.
    type Connection: Transact;
    /// Which platforms' parts may share a transaction.
    const TRANSACTION_SCOPE: TransactionScope;
    /// A new connection with every setting that must hold.
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

/// What one transaction leaves for the next.
#[derive(Debug)]
struct WriterState<C> {
    idle: Option<IdleConnection<C>>,
    duplicate_hint: DuplicateHint,
    held: LockedRows,
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
    /// `database_id`: of the database that `connection` leads to.
    pub(super) fn new(
        backend: B,
        connection: B::Connection,
        database_id: &str,
        deadline: Duration,
    ) -> Self {
        let state = WriterState {
            idle: Some(IdleConnection::now(connection)),
            duplicate_hint: DuplicateHint::default(),
            held: LockedRows::default(),
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

    /// Applies what needs no held row, and answers [`Applied::RowLocked`] for the rest.
    async fn apply_around_locked_rows(
        &self,
        state: &mut WriterState<B::Connection>,
        parts: &[PlatformEvents<'_>],
    ) -> Result<Vec<Vec<Applied>>, BackendError> {
        for _ in 0..MAX_LOCK_RETRIES {
            self.recheck_locked_rows(state, parts).await?;
            let outcome = match state.held.split(parts) {
                None => self.apply_all(state, parts).await,
                Some(apart) => {
                    let others = apart.events(false);
                    match self.apply_all(state, &as_parts(&others)).await {
                        Ok(others) => {
                            self.retry_postponed(
                                state,
                                parts,
                                apart.join(others, || Applied::RowLocked),
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
            let held = self.locked_rows(&mut state.idle, parts).await?;
            if !state.held.remember(held) {
                state.held.postpone(parts);
                return Err(error);
            }
            tracing::info!(
                "another transaction keeps rows locked; their events are retried, the others go on"
            );
        }
        Err(BackendError::Contended(MAX_LOCK_RETRIES))
    }

    /// Runs one event alone that was set apart, after the others have their outcomes.
    async fn retry_postponed(
        &self,
        state: &mut WriterState<B::Connection>,
        parts: &[PlatformEvents<'_>],
        mut outcomes: Vec<Vec<Applied>>,
    ) -> Result<Vec<Vec<Applied>>, BackendError> {
        let Some((at, event)) = state.held.due(parts) else { return Ok(outcomes) };
        let Some(part) = parts.get(at) else { return Ok(outcomes) };
        let alone = [PlatformEvents {
            platform: part.platform,
            events: part.events.get(event..=event).unwrap_or_default(),
        }];
        match self.apply_all(state, &alone).await {
            Ok(applied) => {
                state.held.admit(&alone);
                if let (Some(outcome), Some(applied)) = (
                    outcomes.get_mut(at).and_then(|part| part.get_mut(event)),
                    applied.into_iter().flatten().next(),
                ) {
                    *outcome = applied;
                }
            }
            Err(cause) if cause.is_lock_timeout() => state.held.postpone(&alone),
            // The others are committed. This event shows its fault when it runs in a transaction of
            // its own.
            Err(_) => state.held.admit(&alone),
        }
        Ok(outcomes)
    }

    /// Forgets those held rows that events of `parts` need and that are free again.
    async fn recheck_locked_rows(
        &self,
        state: &mut WriterState<B::Connection>,
        parts: &[PlatformEvents<'_>],
    ) -> Result<(), BackendError> {
        let Some(apart) = state.held.split(parts) else { return Ok(()) };
        let touched = apart.events(true);
        let touched = as_parts(&touched);
        let held = self.locked_rows(&mut state.idle, &touched).await?;
        state.held.forget(&touched);
        state.held.remember(held);
        Ok(())
    }

    /// The rows that events of `parts` need and somebody else keeps locked now.
    async fn locked_rows(
        &self,
        idle: &mut Option<IdleConnection<B::Connection>>,
        parts: &[PlatformEvents<'_>],
    ) -> Result<Vec<LockedRow>, BackendError> {
        let mut connection = self.connection(idle).await?;
        let mut held = Vec::new();
        for part in parts {
            held.extend(connection.locked_rows(&part.row_query(LedgerCheck::AssumeNew)).await?);
        }
        *idle = Some(IdleConnection::now(connection));
        Ok(held)
    }

    /// Applies all of `parts`, again where another worker was faster.
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
                // At most once, since the ledger is read from now on.
                Ok(TransactionOutcome::NotAllNew) => {
                    state.duplicate_hint.expect_duplicates(parts);
                    ledger = LedgerCheck::Query;
                }
                Ok(TransactionOutcome::LostRace) => races += 1,
                Err(cause) if cause.is_lost_race() => {
                    races += 1;
                    // A trigger that raises it each time refuses the event.
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
    #[expect(clippy::unused_self, reason = "asked of whichever database there is")]
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

    /// Closes the connection, once no call uses it.
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
                (Some(_), None) => tracing::info!("the session database is the right one again"),
                _ => {}
            }
            let changed = *known != wrong_database;
            *known = wrong_database;
            changed
        });
    }

    /// One transaction. Unless it committed, it is rolled back.
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

    /// The idle connection if it still answers, else a new one. A server may have been restarted since it was last used;
    /// that is no outage.
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

/// What a transaction is for.
#[derive(Clone, Copy)]
enum WriterTask<'a> {
    Apply(&'a [PlatformEvents<'a>], LedgerCheck),
    Probe,
    CheckIdentity,
}

#[cfg(test)]
mod tests;
