#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use shared::event::{Millis, OrderKey};
use shared::platform::registry::Registry;

use super::*;
use crate::effects::{EventResult, PlannedChange, PlannedEvent};
use crate::store::batch::{LoadedRows, RowChanges, RowQuery, StoredLedgerRow};

/// Database with a ledger only. Records how each transaction began.
#[derive(Clone, Debug, Default)]
struct FakeDatabase(Arc<Mutex<FakeState>>);

#[derive(Debug, Default)]
struct FakeState {
    known: HashSet<String>,
    began: Vec<LedgerCheck>,
    rolled_back: usize,
    /// Another worker always wins the race.
    hopeless: bool,
    database_id: String,
}

impl FakeDatabase {
    fn with<T>(&self, access: impl FnOnce(&mut FakeState) -> T) -> T {
        access(&mut self.0.lock().unwrap())
    }

    fn loaded(&self, wanted: &RowQuery<'_>) -> LoadedRows {
        let row = |id: &&str| StoredLedgerRow {
            event_id: (*id).to_owned(),
            origin: OrderKey::default().origin.to_string(),
            result: EventResult::logged(id).to_json(),
        };
        let ledger = self.with(|inner| {
            wanted.ids.iter().filter(|id| inner.known.contains(**id)).map(row).collect()
        });
        LoadedRows { ledger, ..LoadedRows::default() }
    }
}

impl Backend for FakeDatabase {
    type Connection = Self;
    const TRANSACTION_SCOPE: TransactionScope = TransactionScope::Any;

    async fn connect(&self) -> Result<Self, BackendError> {
        Ok(self.clone())
    }
}

impl Transact for FakeDatabase {
    async fn is_alive(&mut self) -> bool {
        true
    }

    async fn begin(&mut self, first: &RowQuery<'_>) -> Result<LoadedRows, BackendError> {
        let ledger = if first.ids.is_empty() { LedgerCheck::AssumeNew } else { LedgerCheck::Query };
        self.with(|inner| inner.began.push(ledger));
        Ok(self.loaded(first))
    }

    async fn write_then_read(
        &mut self,
        _: &RowChanges<'_>,
        next: &RowQuery<'_>,
    ) -> Result<Option<LoadedRows>, BackendError> {
        Ok(Some(self.loaded(next)))
    }

    async fn commit(&mut self, changes: &RowChanges<'_>) -> Result<bool, BackendError> {
        let ids = || changes.ledger.iter().map(|(event, _)| event.event_id.clone());
        Ok(self.with(|inner| {
            let won = !inner.hopeless && !ids().any(|id| inner.known.contains(&id));
            if won {
                inner.known.extend(ids());
            }
            won
        }))
    }

    async fn rollback(&mut self, begun: bool) -> Result<(), BackendError> {
        self.with(|inner| inner.rolled_back += usize::from(begun));
        Ok(())
    }

    async fn probe(&mut self, _: Millis) -> Result<(), BackendError> {
        Ok(())
    }

    async fn close(self) {}

    async fn read_database_id(&mut self) -> Result<String, BackendError> {
        Ok(self.with(|inner| inner.database_id.clone()))
    }
}

fn event(id: &str) -> PlannedEvent {
    PlannedEvent {
        event_id: id.to_owned(),
        event_type: "t".to_owned(),
        occurred_at: 0,
        received_at: 0,
        attempt: 1,
        replayed: false,
        edited: None,
        order: OrderKey::default(),
        room: None,
        live_stream_id: None,
        change: PlannedChange::Log,
        warnings: Vec::new(),
    }
}

struct WriterFixture {
    fake: FakeDatabase,
    writer: Writer<FakeDatabase>,
    registry: Registry,
}

impl WriterFixture {
    fn new() -> Self {
        let fake = FakeDatabase::default();
        let writer = Writer::new(fake.clone(), fake.clone(), "", Duration::from_secs(5));
        Self { fake, writer, registry: Registry::load(None).unwrap() }
    }

    /// Returns the outcomes of the events, and how the transactions began.
    async fn apply(
        &self,
        platform: &str,
        ids: &[&str],
    ) -> (Result<Vec<Applied>, StoreError>, Vec<LedgerCheck>) {
        self.fake.with(|inner| inner.began.clear());
        let events: Vec<PlannedEvent> = ids.iter().map(|id| event(id)).collect();
        let part =
            PlatformEvents { platform: self.registry.get(platform).unwrap(), events: &events };
        let applied = self.writer.apply(&[part]).await.map(|parts| parts.concat());
        (applied, self.fake.with(|inner| inner.began.clone()))
    }
}

fn known(id: &str) -> Applied {
    Applied::AlreadyApplied { same_origin: true, result: EventResult::logged(id) }
}

#[tokio::test]
async fn new_events_take_one_transaction_without_ledger_query() {
    let stage = WriterFixture::new();
    for ids in [["a", "b"], ["c", "d"]] {
        let (applied, began) = stage.apply("mux", &ids).await;
        assert_eq!(applied.unwrap(), ids.map(|id| Applied::Done(EventResult::logged(id))));
        assert_eq!(began, [LedgerCheck::AssumeNew]);
    }
    assert_eq!(stage.fake.with(|inner| inner.rolled_back), 0);
}

#[tokio::test]
async fn first_batch_of_duplicates_runs_twice_and_the_next_once() {
    let stage = WriterFixture::new();
    stage.apply("mux", &["a", "b", "c"]).await.0.unwrap();
    let (applied, began) = stage.apply("mux", &["a", "new"]).await;
    assert_eq!(applied.unwrap(), [known("a"), Applied::Done(EventResult::logged("new"))]);
    assert_eq!(
        (began, stage.fake.with(|inner| inner.rolled_back)),
        (vec![LedgerCheck::AssumeNew, LedgerCheck::Query], 1)
    );
    let (applied, began) = stage.apply("mux", &["b", "c"]).await;
    assert_eq!((applied.unwrap(), began), (vec![known("b"), known("c")], vec![LedgerCheck::Query]));
    let (applied, began) = stage.apply("generic", &["z"]).await;
    assert_eq!(
        (applied.unwrap().len(), began),
        (1, vec![LedgerCheck::AssumeNew]),
        "other platforms are not affected"
    );
}

#[tokio::test]
async fn lost_races_are_counted_once_the_ledger_is_queried() {
    let stage = WriterFixture::new();
    stage.fake.with(|inner| inner.hopeless = true);
    let (applied, began) = stage.apply("mux", &["a"]).await;
    assert!(
        matches!(applied, Err(StoreError::Outage(BackendError::Contended(MAX_RACES)))),
        "{applied:?}"
    );
    let read = usize::try_from(MAX_RACES).unwrap();
    assert_eq!(
        (began.len(), began[0], began.iter().filter(|one| **one == LedgerCheck::Query).count()),
        (1 + read, LedgerCheck::AssumeNew, read)
    );
}

#[tokio::test]
async fn another_database_is_an_outage_until_the_first_is_back() {
    let stage = WriterFixture::new();
    stage.writer.probe().await.unwrap();
    stage.fake.with(|inner| inner.database_id = "another".to_owned());
    let probed = stage.writer.probe().await;
    assert!(
        matches!(probed, Err(StoreError::Outage(BackendError::OtherDatabase { .. }))),
        "{probed:?}"
    );
    let trouble = stage.writer.wrong_database().unwrap();
    assert!(trouble.contains("another") && trouble.contains("--adopt-database"), "{trouble}");
    stage.fake.with(|inner| inner.database_id.clear());
    stage.writer.probe().await.unwrap();
    assert_eq!(stage.writer.wrong_database(), None);
}

/// PostgreSQL logs a warning for it, which each probe of an outage would repeat.
#[tokio::test]
async fn failed_probe_rolls_no_transaction_back() {
    let stage = WriterFixture::new();
    stage.fake.with(|inner| inner.database_id = "another".to_owned());
    assert!(stage.writer.probe().await.is_err());
    assert_eq!(stage.fake.with(|inner| inner.rolled_back), 0);
}
