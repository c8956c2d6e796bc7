//! The one connection that writes.
//!
//! Guarantee: a connection is used again only after a commit or a rollback that the database confirmed. After anything
//! else, a cancelled call included, it is closed, which rolls back what was open, and the next call connects anew. A new
//! connection, and every probe, must find the database that was opened first.

use std::future::Future;
use std::time::{Duration, Instant};

use shared::clock;
use tokio::sync::{Mutex, watch};

use super::batch::{self, Ledger, Part, Ran, Transact};
use super::doubts::Doubts;
use super::error::{Cause, StoreError};
use super::sharing::Sharing;
use crate::effects::Applied;

/// How often a batch is run again when other workers were faster.
const MAX_RACES: u32 = 8;

/// A connection that has rested longer is asked whether it still answers.
const RESTED: Duration = Duration::from_secs(1);

/// What a database must offer to be written to.
pub(super) trait Backend: Send + Sync {
    /// Its connection.
    type Connection: Transact;
    /// Which platforms' parts may share a transaction.
    const SHARING: Sharing;
    /// A new connection with every setting that must hold.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Cause>> + Send;
}

/// One connection, one transaction at a time.
#[derive(Debug)]
pub(super) struct Writer<B: Backend> {
    backend: B,
    turn: Mutex<Turn<B::Connection>>,
    deadline: Duration,
    database_id: String,
    /// Why nothing is committed until an operator acts.
    trouble: watch::Sender<Option<String>>,
}

/// What one transaction leaves for the next.
#[derive(Debug)]
struct Turn<C> {
    idle: Option<Idle<C>>,
    doubts: Doubts,
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    since: Instant,
}

impl<C> Idle<C> {
    fn now(connection: C) -> Self {
        Self { connection, since: Instant::now() }
    }
}

impl<B: Backend> Writer<B> {
    /// `database_id`: of the database that `connection` leads to.
    pub(super) fn new(backend: B, connection: B::Connection, database_id: &str, deadline: Duration) -> Self {
        let turn = Turn { idle: Some(Idle::now(connection)), doubts: Doubts::default() };
        Self {
            backend,
            turn: Mutex::new(turn),
            deadline,
            database_id: database_id.to_owned(),
            trouble: watch::Sender::new(None),
        }
    }

    /// See [`super::Store::trouble`].
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// See [`super::Store::apply_together`].
    pub(super) async fn apply(&self, parts: &[Part<'_>]) -> Result<Vec<Vec<Applied>>, StoreError> {
        if parts.iter().all(|part| part.events.is_empty()) {
            return Ok(vec![Vec::new(); parts.len()]);
        }
        self.bounded(async {
            let mut turn = self.turn.lock().await;
            let mut ledger = turn.doubts.about(parts);
            let mut races = 0;
            while races < MAX_RACES {
                match self.once(&mut turn.idle, Work::Parts(parts, ledger)).await {
                    Ok(Ran::Applied(applied)) => {
                        turn.doubts.learn(parts, &applied);
                        return Ok(applied);
                    }
                    // At most once, since the ledger is read from now on.
                    Ok(Ran::NotAllNew) => {
                        turn.doubts.raise(parts);
                        ledger = Ledger::Read;
                    }
                    Ok(Ran::LostRace) => races += 1,
                    Err(cause) if cause.lost_a_race() => races += 1,
                    Err(cause) => return Err(cause),
                }
            }
            Err(Cause::Contended(MAX_RACES))
        })
        .await
    }

    /// See [`super::Store::sharing`].
    #[expect(clippy::unused_self, reason = "asked of whichever database there is")]
    pub(super) const fn sharing(&self) -> Sharing {
        B::SHARING
    }

    /// See [`super::Store::probe`].
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        self.bounded(async {
            let mut turn = self.turn.lock().await;
            self.once(&mut turn.idle, Work::Probe).await.map(|_| ())
        })
        .await
    }

    /// See [`super::Store::look`].
    pub(super) async fn look(&self) -> Result<(), StoreError> {
        self.bounded(async {
            let mut turn = self.turn.lock().await;
            self.once(&mut turn.idle, Work::Look).await.map(|_| ())
        })
        .await
    }

    async fn once(&self, idle: &mut Option<Idle<B::Connection>>, work: Work<'_>) -> Result<Ran, Cause> {
        let done = self.transact(idle, work).await;
        self.note(&done);
        done
    }

    /// Logs each change between the right database and a wrong one.
    fn note(&self, done: &Result<Ran, Cause>) {
        let trouble = match done {
            Ok(Ran::Applied(_)) => None,
            Err(cause) => match cause.remedy() {
                Some(remedy) => Some(format!("{cause}; {remedy}")),
                None => return,
            },
            Ok(_) => return,
        };
        self.trouble.send_if_modified(|known| {
            match (&known, &trouble) {
                (None, Some(reason)) => tracing::error!(reason, "not the session database; nothing is committed"),
                (Some(_), None) => tracing::info!("the session database is the right one again"),
                _ => {}
            }
            let changed = *known != trouble;
            *known = trouble;
            changed
        });
    }

    /// One transaction. Unless it committed, it is rolled back.
    async fn transact(&self, idle: &mut Option<Idle<B::Connection>>, work: Work<'_>) -> Result<Ran, Cause> {
        let mut connection = self.connection(idle).await?;
        let now = clock::now_ms();
        let done = match work {
            Work::Parts(parts, ledger) => batch::run(&mut connection, parts, ledger, now).await,
            Work::Probe => match connection.probe(now).await {
                Ok(()) => self.recognize(&mut connection).await,
                Err(cause) => Err(cause),
            },
            Work::Look => self.recognize(&mut connection).await,
        };
        // A connection that cannot confirm the rollback is dropped, which rolls back as well.
        if matches!(done, Ok(Ran::Applied(_))) || connection.rollback().await.is_ok() {
            *idle = Some(Idle::now(connection));
        }
        done
    }

    /// The idle connection if it still answers, else a new one. A server may have been restarted since it was last used;
    /// that is no outage.
    async fn connection(&self, idle: &mut Option<Idle<B::Connection>>) -> Result<B::Connection, Cause> {
        if let Some(Idle { mut connection, since }) = idle.take()
            && (since.elapsed() < RESTED || connection.is_alive().await)
        {
            return Ok(connection);
        }
        let mut connection = self.backend.connect().await?;
        self.recognize(&mut connection).await?;
        Ok(connection)
    }

    /// Checks that `connection` leads to the database that was opened first.
    async fn recognize(&self, connection: &mut B::Connection) -> Result<Ran, Cause> {
        let found = connection.look().await?;
        if found == self.database_id {
            Ok(Ran::Applied(Vec::new()))
        } else {
            Err(Cause::Foreign { expected: self.database_id.clone(), found })
        }
    }

    async fn bounded<T>(&self, work: impl Future<Output = Result<T, Cause>> + Send) -> Result<T, StoreError> {
        let outcome = tokio::time::timeout(self.deadline, work).await;
        Ok(outcome.unwrap_or(Err(Cause::Deadline(self.deadline)))?)
    }
}

/// What a transaction is for.
#[derive(Clone, Copy)]
enum Work<'a> {
    Parts(&'a [Part<'a>], Ledger),
    Probe,
    Look,
}

#[cfg(test)]
mod tests;
