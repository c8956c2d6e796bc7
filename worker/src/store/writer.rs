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

use super::batch::{self, Ledger, Part, Ran, Transact};
use super::doubts::Doubts;
use super::error::{Cause, StoreError};
use super::held::{HeldRow, HeldRows};
use super::sharing::Sharing;
use crate::effects::{Applied, Planned};

/// How often a batch is run again when other workers were faster.
const MAX_RACES: u32 = 8;

/// Runs of a batch around rows that other transactions lock meanwhile.
const MAX_HELD: u32 = 4;

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
    /// Reason why nothing is committed until an operator acts.
    trouble: watch::Sender<Option<String>>,
}

/// What one transaction leaves for the next.
#[derive(Debug)]
struct Turn<C> {
    idle: Option<Idle<C>>,
    doubts: Doubts,
    held: HeldRows,
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
        let turn = Turn { idle: Some(Idle::now(connection)), doubts: Doubts::default(), held: HeldRows::default() };
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
            self.around_held(&mut turn, parts).await
        })
        .await
    }

    /// Applies what needs no held row, and answers [`Applied::Held`] for the rest.
    async fn around_held(
        &self,
        turn: &mut Turn<B::Connection>,
        parts: &[Part<'_>],
    ) -> Result<Vec<Vec<Applied>>, Cause> {
        for _ in 0..MAX_HELD {
            self.ask_again(turn, parts).await?;
            let outcome = match turn.held.split(parts) {
                None => self.all(turn, parts).await,
                Some(apart) => {
                    let others = apart.events(false);
                    match self.all(turn, &as_parts(&others)).await {
                        Ok(others) => self.try_again(turn, parts, apart.join(others, || Applied::Held)).await,
                        Err(cause) => Err(cause),
                    }
                }
            };
            let error = match outcome {
                Err(cause) if cause.is_lock_timeout() => cause,
                outcome => return outcome,
            };
            let held = self.held(&mut turn.idle, parts).await?;
            if !turn.held.remember(held) {
                turn.held.set_apart(parts);
                return Err(error);
            }
            tracing::info!("another transaction keeps rows locked; their events are retried, the others go on");
        }
        Err(Cause::Contended(MAX_HELD))
    }

    /// Runs one event alone that was set apart, after the others have their outcomes.
    async fn try_again(
        &self,
        turn: &mut Turn<B::Connection>,
        parts: &[Part<'_>],
        mut outcomes: Vec<Vec<Applied>>,
    ) -> Result<Vec<Vec<Applied>>, Cause> {
        let Some((at, event)) = turn.held.due(parts) else { return Ok(outcomes) };
        let Some(part) = parts.get(at) else { return Ok(outcomes) };
        let alone = [Part { platform: part.platform, events: part.events.get(event..=event).unwrap_or_default() }];
        match self.all(turn, &alone).await {
            Ok(applied) => {
                turn.held.admit(&alone);
                if let (Some(outcome), Some(applied)) = (
                    outcomes.get_mut(at).and_then(|part| part.get_mut(event)),
                    applied.into_iter().flatten().next(),
                ) {
                    *outcome = applied;
                }
            }
            Err(cause) if cause.is_lock_timeout() => turn.held.set_apart(&alone),
            // The others are committed. This event shows its fault when it runs in a transaction of
            // its own.
            Err(_) => turn.held.admit(&alone),
        }
        Ok(outcomes)
    }

    /// Forgets those held rows that events of `parts` need and that are free again.
    async fn ask_again(&self, turn: &mut Turn<B::Connection>, parts: &[Part<'_>]) -> Result<(), Cause> {
        let Some(apart) = turn.held.split(parts) else { return Ok(()) };
        let touched = apart.events(true);
        let touched = as_parts(&touched);
        let held = self.held(&mut turn.idle, &touched).await?;
        turn.held.forget(&touched);
        turn.held.remember(held);
        Ok(())
    }

    /// The rows that events of `parts` need and somebody else keeps locked now.
    async fn held(
        &self,
        idle: &mut Option<Idle<B::Connection>>,
        parts: &[Part<'_>],
    ) -> Result<Vec<HeldRow>, Cause> {
        let mut connection = self.connection(idle).await?;
        let mut held = Vec::new();
        for part in parts {
            held.extend(connection.held(&part.wanted(Ledger::Unread)).await?);
        }
        *idle = Some(Idle::now(connection));
        Ok(held)
    }

    /// Applies all of `parts`, again where another worker was faster.
    async fn all(&self, turn: &mut Turn<B::Connection>, parts: &[Part<'_>]) -> Result<Vec<Vec<Applied>>, Cause> {
        if parts.iter().all(|part| part.events.is_empty()) {
            return Ok(vec![Vec::new(); parts.len()]);
        }
        let mut ledger = turn.doubts.about(parts);
        let mut races = 0;
        let mut last = Cause::Contended(MAX_RACES);
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
                Err(cause) if cause.lost_a_race() => {
                    races += 1;
                    // A trigger that raises it each time refuses the event.
                    if cause.may_be_an_events_fault() {
                        last = cause;
                    }
                }
                Err(cause) => return Err(cause),
            }
        }
        Err(last)
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

    /// Closes the connection, once no call uses it.
    pub(super) async fn close(&self) {
        let idle = self.turn.lock().await.idle.take();
        if let Some(Idle { connection, .. }) = idle {
            connection.close().await;
        }
    }

    async fn once(&self, idle: &mut Option<Idle<B::Connection>>, work: Work<'_>) -> Result<Ran, Cause> {
        let mut done = self.transact(idle, work).await;
        if done.as_ref().is_err_and(Cause::may_be_of_old_statements) {
            done = self.transact(idle, work).await;
        }
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
        let begun = matches!(work, Work::Parts(..));
        let done = match work {
            Work::Parts(parts, ledger) => batch::run(&mut connection, parts, ledger, now).await,
            Work::Probe => match connection.probe(now).await {
                Ok(()) => self.recognize(&mut connection).await,
                Err(cause) => Err(cause),
            },
            Work::Look => self.recognize(&mut connection).await,
        };
        // A connection that cannot confirm the rollback is dropped, which rolls back as well.
        let mut usable = matches!(done, Ok(Ran::Applied(_))) || connection.rollback(begun).await.is_ok();
        if done.as_ref().is_err_and(Cause::may_be_of_old_statements) {
            usable &= connection.forget_statements().await.is_ok();
        }
        if usable {
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

fn as_parts<'a>(events: &'a [(Part<'a>, Vec<Planned>)]) -> Vec<Part<'a>> {
    events.iter().map(|(part, events)| Part { platform: part.platform, events }).collect()
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
