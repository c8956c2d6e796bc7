#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use shared::event::{Millis, OrderKey};
use shared::platform::registry::Registry;

use super::*;
use crate::effects::{Change, EventResult, Planned};
use crate::store::batch::{Changes, LedgerRow, Loaded, Wanted};

/// A ledger and nothing else, which remembers how each transaction began.
#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    known: HashSet<String>,
    began: Vec<Ledger>,
    rolled_back: usize,
    /// Another worker is always faster.
    hopeless: bool,
    database_id: String,
}

impl Fake {
    fn with<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    fn loaded(&self, wanted: &Wanted<'_>) -> Loaded {
        let row = |id: &&str| LedgerRow {
            event_id: (*id).to_owned(),
            origin: OrderKey::default().origin.to_string(),
            result: EventResult::logged(id).to_json(),
        };
        let ledger =
            self.with(|inner| wanted.ids.iter().filter(|id| inner.known.contains(**id)).map(row).collect());
        Loaded { ledger, ..Loaded::default() }
    }
}

impl Backend for Fake {
    type Connection = Self;
    const SHARING: Sharing = Sharing::Any;

    async fn connect(&self) -> Result<Self, Cause> {
        Ok(self.clone())
    }
}

impl Transact for Fake {
    async fn is_alive(&mut self) -> bool {
        true
    }

    async fn begin(&mut self, first: &Wanted<'_>) -> Result<Loaded, Cause> {
        let ledger = if first.ids.is_empty() { Ledger::Unread } else { Ledger::Read };
        self.with(|inner| inner.began.push(ledger));
        Ok(self.loaded(first))
    }

    async fn go_on(&mut self, _: &Changes<'_>, next: &Wanted<'_>) -> Result<Option<Loaded>, Cause> {
        Ok(Some(self.loaded(next)))
    }

    async fn commit(&mut self, changes: &Changes<'_>) -> Result<bool, Cause> {
        let ids = || changes.ledger.iter().map(|(event, _)| event.event_id.clone());
        Ok(self.with(|inner| {
            let won = !inner.hopeless && !ids().any(|id| inner.known.contains(&id));
            if won {
                inner.known.extend(ids());
            }
            won
        }))
    }

    async fn rollback(&mut self, begun: bool) -> Result<(), Cause> {
        self.with(|inner| inner.rolled_back += usize::from(begun));
        Ok(())
    }

    async fn probe(&mut self, _: Millis) -> Result<(), Cause> {
        Ok(())
    }

    async fn close(self) {}

    async fn look(&mut self) -> Result<String, Cause> {
        Ok(self.with(|inner| inner.database_id.clone()))
    }
}

fn event(id: &str) -> Planned {
    Planned {
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
        change: Change::Log,
        warnings: Vec::new(),
    }
}

struct Stage {
    fake: Fake,
    writer: Writer<Fake>,
    registry: Registry,
}

impl Stage {
    fn new() -> Self {
        let fake = Fake::default();
        let writer = Writer::new(fake.clone(), fake.clone(), "", Duration::from_secs(5));
        Self { fake, writer, registry: Registry::load(None).unwrap() }
    }

    /// What became of the events, and how the transactions began that it took.
    async fn apply(&self, platform: &str, ids: &[&str]) -> (Result<Vec<Applied>, StoreError>, Vec<Ledger>) {
        self.fake.with(|inner| inner.began.clear());
        let events: Vec<Planned> = ids.iter().map(|id| event(id)).collect();
        let part = Part { platform: self.registry.get(platform).unwrap(), events: &events };
        let applied = self.writer.apply(&[part]).await.map(|parts| parts.concat());
        (applied, self.fake.with(|inner| inner.began.clone()))
    }
}

fn known(id: &str) -> Applied {
    Applied::Known { same_origin: true, result: EventResult::logged(id) }
}

#[tokio::test]
async fn new_events_take_one_transaction_that_does_not_ask_the_ledger() {
    let stage = Stage::new();
    for ids in [["a", "b"], ["c", "d"]] {
        let (applied, began) = stage.apply("mux", &ids).await;
        assert_eq!(applied.unwrap(), ids.map(|id| Applied::Done(EventResult::logged(id))));
        assert_eq!(began, [Ledger::Unread]);
    }
    assert_eq!(stage.fake.with(|inner| inner.rolled_back), 0);
}

#[tokio::test]
async fn the_first_batch_of_a_crowd_is_worked_on_twice_and_the_next_ones_once() {
    let stage = Stage::new();
    stage.apply("mux", &["a", "b", "c"]).await.0.unwrap();
    let (applied, began) = stage.apply("mux", &["a", "new"]).await;
    assert_eq!(applied.unwrap(), [known("a"), Applied::Done(EventResult::logged("new"))]);
    assert_eq!((began, stage.fake.with(|inner| inner.rolled_back)), (vec![Ledger::Unread, Ledger::Read], 1));
    let (applied, began) = stage.apply("mux", &["b", "c"]).await;
    assert_eq!((applied.unwrap(), began), (vec![known("b"), known("c")], vec![Ledger::Read]));
    let (applied, began) = stage.apply("generic", &["z"]).await;
    assert_eq!((applied.unwrap().len(), began), (1, vec![Ledger::Unread]), "another platform's are not doubted");
}

#[tokio::test]
async fn races_are_counted_from_where_the_ledger_is_read() {
    let stage = Stage::new();
    stage.fake.with(|inner| inner.hopeless = true);
    let (applied, began) = stage.apply("mux", &["a"]).await;
    assert!(matches!(applied, Err(StoreError::Outage(Cause::Contended(MAX_RACES)))), "{applied:?}");
    let read = usize::try_from(MAX_RACES).unwrap();
    assert_eq!(
        (began.len(), began[0], began.iter().filter(|one| **one == Ledger::Read).count()),
        (1 + read, Ledger::Unread, read)
    );
}

#[tokio::test]
async fn another_database_is_an_outage_until_the_former_is_back() {
    let stage = Stage::new();
    stage.writer.probe().await.unwrap();
    stage.fake.with(|inner| inner.database_id = "another".to_owned());
    let probed = stage.writer.probe().await;
    assert!(matches!(probed, Err(StoreError::Outage(Cause::Foreign { .. }))), "{probed:?}");
    let trouble = stage.writer.trouble().unwrap();
    assert!(trouble.contains("another") && trouble.contains("--adopt-database"), "{trouble}");
    stage.fake.with(|inner| inner.database_id.clear());
    stage.writer.probe().await.unwrap();
    assert_eq!(stage.writer.trouble(), None);
}

/// PostgreSQL warns of it, in every probe of an outage.
#[tokio::test]
async fn failed_probe_rolls_no_transaction_back() {
    let stage = Stage::new();
    stage.fake.with(|inner| inner.database_id = "another".to_owned());
    assert!(stage.writer.probe().await.is_err());
    assert_eq!(stage.fake.with(|inner| inner.rolled_back), 0);
}
