//! The one connection that writes.
//!
//! Guarantee: a connection is used again only after a commit or a rollback that the database confirmed. After anything
//! else, a cancelled call included, it is closed, which rolls back what was open, and the next call connects anew.

use std::future::Future;
use std::time::{Duration, Instant};

use shared::clock;
use tokio::sync::Mutex;

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
    pub(super) fn new(backend: B, connection: B::Connection, deadline: Duration) -> Self {
        let turn = Turn { idle: Some(Idle::now(connection)), doubts: Doubts::default() };
        Self { backend, turn: Mutex::new(turn), deadline }
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

    /// One transaction. Unless it committed, it is rolled back.
    async fn once(&self, idle: &mut Option<Idle<B::Connection>>, work: Work<'_>) -> Result<Ran, Cause> {
        let mut connection = self.connection(idle).await?;
        let now = clock::now_ms();
        let done = match work {
            Work::Parts(parts, ledger) => batch::run(&mut connection, parts, ledger, now).await,
            Work::Probe => connection.probe(now).await.map(|()| Ran::Applied(Vec::new())),
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
        self.backend.connect().await
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
}

#[cfg(test)]
mod tests;
