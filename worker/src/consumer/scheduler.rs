//! Selects the batches that the consume loop works on next.
//!
//! # Guarantees
//! - Platforms take turns by their oldest waiting batch. No batch overtakes an earlier one of its
//!   platform, except suspects (`batch_never_overtakes_its_own_platform_when_full`).
//! - Announcements share with no other platform and are not overtaken
//!   (`announcements_run_alone_and_are_not_overtaken`).
//! - Suspects share with no other batch (`suspects_run_alone`).
//!
//! # Design
//! All batches of a platform that arrived during a transaction join the next one. So do other
//! platforms that may share it. Otherwise many platforms with a few entries each would slow a
//! worker down many times over.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use shared::platform::PlatformName;
use tokio::sync::mpsc;

use crate::context::{EntryBatch, PlatformQueue};
use crate::store::TransactionScope;

/// Most entries that share a transaction, unless a single read returned more.
const MAX_SHARED_ENTRIES: usize = 512;

/// Batches that the consume loop works on at once.
pub(super) enum ScheduledWork {
    /// One batch, whose entries run one by one.
    Suspects(EntryBatch),
    /// One batch of each platform, in order of their names. Never empty.
    Shared(Vec<EntryBatch>),
}

/// Batches that wait for the consume loop.
pub(super) struct BatchScheduler {
    arriving: mpsc::Receiver<EntryBatch>,
    waiting: VecDeque<EntryBatch>,
    transaction_scope: TransactionScope,
}

/// Waiting batches that are selected.
struct BatchSelection {
    /// One flag for each batch, from the front up to the last one considered.
    joins: Vec<bool>,
    /// No further batch could join.
    full: bool,
}

impl BatchScheduler {
    /// Schedules the batches of `arriving`. Platforms share as `transaction_scope` allows.
    pub(super) fn new(
        arriving: mpsc::Receiver<EntryBatch>,
        transaction_scope: TransactionScope,
    ) -> Self {
        Self { arriving, waiting: VecDeque::new(), transaction_scope }
    }

    /// Returns the oldest batch and all that may join it. Returns `None` once no more batches will
    /// arrive.
    pub(super) async fn next(&mut self) -> Option<ScheduledWork> {
        if self.waiting.is_empty() {
            self.waiting.push_back(self.arriving.recv().await?);
        }
        self.receive_waiting();
        if self.waiting.front().is_some_and(|first| first.suspect) {
            return self.waiting.pop_front().map(ScheduledWork::Suspects);
        }
        let next = self.select()?;
        Some(ScheduledWork::Shared(self.take_selected(next)))
    }

    /// Returns the next batches at once, if no further batch could join them. Never returns
    /// suspects.
    pub(super) fn take_full(&mut self) -> Option<Vec<EntryBatch>> {
        self.receive_waiting();
        let next = self.select()?;
        next.full.then(|| self.take_selected(next))
    }

    /// The in-flight set bounds what is received here.
    fn receive_waiting(&mut self) {
        while let Ok(batch) = self.arriving.try_recv() {
            self.waiting.push_back(batch);
        }
    }

    /// Selects the batches that join the first one. Returns `None` if no batch waits, or if a
    /// suspect is first.
    fn select(&self) -> Option<BatchSelection> {
        let first = self.waiting.front().filter(|first| !first.suspect)?;
        let first_may_share = self.transaction_scope.allows(&first.platform_queue.platform);
        let (mut joins, mut entries, mut full) = (vec![true], first.entries.len(), false);
        let mut platforms = HashSet::from([Arc::as_ptr(&first.platform_queue)]);
        for batch in self.waiting.iter().skip(1) {
            let is_same_platform = Arc::ptr_eq(&batch.platform_queue, &first.platform_queue);
            let may_join = !batch.suspect
                && (is_same_platform
                    || first_may_share
                        && self.transaction_scope.allows(&batch.platform_queue.platform));
            let adds_platform =
                may_join && !platforms.contains(&Arc::as_ptr(&batch.platform_queue));
            full |= may_join && entries + batch.entries.len() > MAX_SHARED_ENTRIES;
            full |= adds_platform && platforms.len() >= self.transaction_scope.max_parts();
            let would_overtake =
                !may_join && !batch.suspect && is_announcements(&batch.platform_queue);
            if full || would_overtake {
                break;
            }
            joins.push(may_join);
            if may_join {
                entries += batch.entries.len();
                platforms.insert(Arc::as_ptr(&batch.platform_queue));
            }
        }
        Some(BatchSelection { joins, full: full || entries >= MAX_SHARED_ENTRIES })
    }

    /// Removes the selected batches from the queue. Batches of one platform become one.
    fn take_selected(&mut self, next: BatchSelection) -> Vec<EntryBatch> {
        let mut selected: Vec<EntryBatch> = Vec::new();
        let mut remaining = VecDeque::with_capacity(self.waiting.len());
        let mut joins = next.joins.into_iter();
        for batch in self.waiting.drain(..) {
            if !joins.next().unwrap_or(false) {
                remaining.push_back(batch);
                continue;
            }
            match selected
                .iter_mut()
                .find(|one| Arc::ptr_eq(&one.platform_queue, &batch.platform_queue))
            {
                Some(one) => one.entries.extend(batch.entries),
                None => selected.push(batch),
            }
        }
        self.waiting = remaining;
        // Workers lock rows in this order. The stable sort keeps the order of two definitions of a
        // platform.
        selected.sort_by(|a, b| a.platform_queue.name().cmp(b.platform_queue.name()));
        selected
    }
}

fn is_announcements(platform_queue: &PlatformQueue) -> bool {
    platform_queue.name().as_str() == PlatformName::SESSIONS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use secrecy::SecretString;
    use shared::event::StreamId;
    use shared::platform::registry::Registry;
    use shared::queue::{KeyLayout, Queue, StreamEntry, connect};

    use super::*;

    /// Returns mux and livekit, which share rooms, realcast and generic, which own their sessions,
    /// and the announcements.
    fn platforms() -> [Arc<PlatformQueue>; 5] {
        let url = SecretString::from("redis://127.0.0.1:1".to_owned());
        let queue = Queue::new(KeyLayout::Single, connect(&url, false).unwrap());
        let registry = Registry::load(None).unwrap();
        let platform_queue =
            |name| Arc::new(PlatformQueue::new(Arc::clone(registry.get(name).unwrap()), &queue));
        let sessions = Arc::new(PlatformQueue::new(Arc::clone(registry.sessions()), &queue));
        [
            platform_queue("mux"),
            platform_queue("livekit"),
            platform_queue("realcast"),
            platform_queue("generic"),
            sessions,
        ]
    }

    fn batch(
        platform_queue: &Arc<PlatformQueue>,
        ids: std::ops::Range<u64>,
        suspect: bool,
    ) -> EntryBatch {
        let entries =
            ids.map(|ms| StreamEntry { id: StreamId { ms, seq: 0 }, fields: None }).collect();
        EntryBatch {
            platform_queue: Arc::clone(platform_queue),
            entries,
            suspect,
            taken_at: Instant::now(),
        }
    }

    /// Name, number of entries and first id of each batch.
    type SeenBatches = Vec<(String, usize, u64)>;

    fn seen(batches: &[EntryBatch]) -> SeenBatches {
        let one = |batch: &EntryBatch| {
            let ids: Vec<u64> = batch.entries.iter().map(|entry| entry.id.ms).collect();
            assert!(ids.is_sorted(), "overtaken: {ids:?}");
            (batch.platform_queue.name().to_string(), ids.len(), ids[0])
        };
        batches.iter().map(one).collect()
    }

    fn shown(scheduler: &[&[(&str, usize, u64)]]) -> Vec<SeenBatches> {
        let one = |(name, count, first): &(&str, usize, u64)| ((*name).to_owned(), *count, *first);
        scheduler.iter().map(|selected| selected.iter().map(one).collect()).collect()
    }

    /// Schedules one batch per element of `read`: its platform and the ids of its entries.
    async fn are_taken_as(
        transaction_scope: TransactionScope,
        read: &[(&Arc<PlatformQueue>, std::ops::Range<u64>)],
        expected: &[&[(&str, usize, u64)]],
    ) {
        let batches = read
            .iter()
            .map(|(platform_queue, ids)| batch(platform_queue, ids.clone(), false))
            .collect();
        assert_eq!(scheduled(transaction_scope, batches).await, shown(expected));
    }

    async fn scheduled(
        transaction_scope: TransactionScope,
        batches: Vec<EntryBatch>,
    ) -> Vec<SeenBatches> {
        let (sender, receiver) = mpsc::channel(batches.len().max(1));
        for batch in batches {
            sender.send(batch).await.unwrap();
        }
        drop(sender);
        let mut scheduler = BatchScheduler::new(receiver, transaction_scope);
        let mut all = Vec::new();
        while let Some(selected) = scheduler.next().await {
            all.push(match selected {
                ScheduledWork::Shared(batches) => {
                    assert!(batches.iter().all(|batch| !batch.suspect));
                    seen(&batches)
                }
                ScheduledWork::Suspects(batch) => {
                    assert!(batch.suspect);
                    seen(&[batch])
                }
            });
        }
        all
    }

    #[tokio::test]
    async fn small_reads_join_and_platforms_share_in_order_of_name() {
        let [mux, livekit, realcast, ..] = &platforms();
        let read = [(mux, 0..2), (realcast, 7..8), (livekit, 5..6), (mux, 2..3)];
        are_taken_as(
            TransactionScope::Any,
            &read,
            &[&[("livekit", 1, 5), ("mux", 3, 0), ("realcast", 1, 7)]],
        )
        .await;
    }

    #[tokio::test]
    async fn only_platforms_with_own_sessions_share_on_row_locks() {
        let [mux, livekit, realcast, generic, _] = &platforms();
        let read = [(mux, 0..2), (livekit, 5..6), (realcast, 0..1), (mux, 2..3), (generic, 0..1)];
        let expected: [&[_]; 3] =
            [&[("mux", 3, 0)], &[("livekit", 1, 5)], &[("generic", 1, 0), ("realcast", 1, 0)]];
        are_taken_as(TransactionScope::OwnSessions, &read, &expected).await;
    }

    #[tokio::test]
    async fn shared_platforms_are_bounded_on_row_locks() {
        // Each has a definition of its own.
        let many: Vec<Arc<PlatformQueue>> = (0..60).map(|_| platforms()[3].clone()).collect();
        let sizes = async |transaction_scope| {
            let all = scheduled(
                transaction_scope,
                many.iter().map(|platform_queue| batch(platform_queue, 0..1, false)).collect(),
            )
            .await;
            all.iter().map(Vec::len).collect::<Vec<_>>()
        };
        let max = TransactionScope::OwnSessions.max_parts();
        assert_eq!(sizes(TransactionScope::OwnSessions).await, [max, max, 60 - 2 * max]);
        assert_eq!(sizes(TransactionScope::Any).await, [60]);
    }

    #[tokio::test]
    async fn batch_never_overtakes_its_own_platform_when_full() {
        let [mux, livekit, ..] = &platforms();
        let max = MAX_SHARED_ENTRIES as u64;
        let read = [
            (mux, 0..max - 2),
            (livekit, 0..1),
            (mux, max - 2..max + 1),
            // These two would fit.
            (mux, max + 1..max + 2),
            (livekit, 1..2),
        ];
        let expected: [&[_]; 2] = [
            &[("livekit", 1, 0), ("mux", MAX_SHARED_ENTRIES - 2, 0)],
            &[("livekit", 1, 1), ("mux", 4, max - 2)],
        ];
        are_taken_as(TransactionScope::Any, &read, &expected).await;
    }

    #[tokio::test]
    async fn small_batches_share_work_up_to_its_bound() {
        let [mux, livekit, realcast, generic, _] = &platforms();
        let (part, half) = (MAX_SHARED_ENTRIES as u64 / 2, MAX_SHARED_ENTRIES / 2);
        let read =
            [mux, livekit, realcast, generic].map(|platform_queue| (platform_queue, 0..part));
        let expected: [&[_]; 2] = [
            &[("livekit", half, 0), ("mux", half, 0)],
            &[("generic", half, 0), ("realcast", half, 0)],
        ];
        are_taken_as(TransactionScope::Any, &read, &expected).await;
    }

    #[tokio::test]
    async fn announcements_run_alone_and_are_not_overtaken() {
        let [mux, livekit, _, _, sessions] = &platforms();
        // The first selection takes all announcements that were read.
        let read = [
            (sessions, 0..1),
            (mux, 0..1),
            (sessions, 1..2),
            (mux, 1..2),
            (sessions, 2..3),
            (livekit, 0..1),
        ];
        let expected: [&[_]; 2] = [&[("sessions", 3, 0)], &[("livekit", 1, 0), ("mux", 2, 0)]];
        are_taken_as(TransactionScope::Any, &read, &expected).await;
        let read = [(mux, 0..1), (sessions, 1..2), (mux, 1..2), (livekit, 0..1)];
        let expected: [&[_]; 3] =
            [&[("mux", 1, 0)], &[("sessions", 1, 1)], &[("livekit", 1, 0), ("mux", 1, 1)]];
        are_taken_as(TransactionScope::Any, &read, &expected).await;
    }

    #[tokio::test]
    async fn take_full_returns_only_work_that_cannot_grow() {
        let [mux, livekit, _, _, sessions] = platforms();
        let (sender, receiver) = mpsc::channel(8);
        let mut scheduler = BatchScheduler::new(receiver, TransactionScope::Any);
        let max = MAX_SHARED_ENTRIES as u64;
        assert!(scheduler.take_full().is_none());
        sender.send(batch(&mux, 0..max - 2, false)).await.unwrap();
        assert!(scheduler.take_full().is_none());
        sender.send(batch(&livekit, 0..1, false)).await.unwrap();
        assert!(scheduler.take_full().is_none(), "one more entry fits");
        sender.send(batch(&sessions, 0..max, false)).await.unwrap();
        sender.send(batch(&mux, max - 2..max, false)).await.unwrap();
        assert!(
            scheduler.take_full().is_none(),
            "batches behind announcements join none before them"
        );
        let Some(ScheduledWork::Shared(first)) = scheduler.next().await else { unreachable!() };
        assert_eq!(
            seen(&first),
            [("livekit".to_owned(), 1, 0), ("mux".to_owned(), MAX_SHARED_ENTRIES - 2, 0)]
        );
        assert_eq!(
            seen(&scheduler.take_full().unwrap()),
            [("sessions".to_owned(), MAX_SHARED_ENTRIES, 0)]
        );
        sender.send(batch(&livekit, 1..max, false)).await.unwrap();
        assert_eq!(seen(&scheduler.take_full().unwrap()), [("mux".to_owned(), 2, max - 2)]);
        sender.send(batch(&mux, 0..max, true)).await.unwrap();
        sender.send(batch(&livekit, max..max + 1, false)).await.unwrap();
        assert_eq!(
            seen(&scheduler.take_full().unwrap()),
            [("livekit".to_owned(), MAX_SHARED_ENTRIES, 1)],
            "suspects are skipped"
        );
        assert!(scheduler.take_full().is_none(), "a suspect runs alone");
        assert!(matches!(scheduler.next().await, Some(ScheduledWork::Suspects(_))));
    }

    #[tokio::test]
    async fn suspects_run_alone() {
        let [mux, livekit, ..] = platforms();
        let batches = vec![
            batch(&mux, 0..1, false),
            batch(&mux, 1..2, true),
            batch(&livekit, 0..1, true),
            batch(&mux, 2..3, false),
        ];
        let scheduler = scheduled(TransactionScope::Any, batches).await;
        let expected: [&[_]; 3] = [&[("mux", 2, 0)], &[("mux", 1, 1)], &[("livekit", 1, 0)]];
        assert_eq!(scheduler, shown(&expected));
    }
}
