//! Which batch is next.
//!
//! Guarantee: lanes take turns in the order of their oldest waiting batch, and no batch overtakes another one of its own
//! lane, suspects aside. What was read for a lane while a transaction ran goes into its next one: under a steady load
//! reads are many and small, and one transaction each would keep a worker at a fraction of its speed.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::worker::Batch;

/// Entries that are taken to their end together, unless a single read brought more.
const TOGETHER: usize = 512;

/// The batches that wait for the consume loop.
pub(super) struct Turns {
    arriving: mpsc::Receiver<Batch>,
    waiting: VecDeque<Batch>,
}

impl Turns {
    pub(super) fn new(arriving: mpsc::Receiver<Batch>) -> Self {
        Self { arriving, waiting: VecDeque::new() }
    }

    /// The oldest batch with what can join it; `None`: there will be no more.
    pub(super) async fn next(&mut self) -> Option<Batch> {
        if self.waiting.is_empty() {
            self.waiting.push_back(self.arriving.recv().await?);
        }
        self.look();
        self.gather()
    }

    /// As [`Self::next`], but only a batch that nothing more could join, and at once.
    pub(super) fn full(&mut self) -> Option<Batch> {
        self.look();
        let first = self.waiting.front().filter(|first| !first.suspect && !first.lane.is_paused())?;
        let joins = |batch: &&Batch| !batch.suspect && Arc::ptr_eq(&batch.lane, &first.lane);
        let entries: usize = self.waiting.iter().filter(joins).map(|batch| batch.entries.len()).sum();
        if entries < TOGETHER { None } else { self.gather() }
    }

    /// Bounded by what a worker may hold.
    fn look(&mut self) {
        while let Ok(batch) = self.arriving.try_recv() {
            self.waiting.push_back(batch);
        }
    }

    fn gather(&mut self) -> Option<Batch> {
        let mut first = self.waiting.pop_front()?;
        if first.suspect {
            return Some(first);
        }
        let (mut left, mut full) = (VecDeque::with_capacity(self.waiting.len()), false);
        for batch in self.waiting.drain(..) {
            let joins = !batch.suspect && Arc::ptr_eq(&batch.lane, &first.lane);
            full |= joins && first.entries.len() + batch.entries.len() > TOGETHER;
            if joins && !full {
                first.entries.extend(batch.entries);
            } else {
                left.push_back(batch);
            }
        }
        self.waiting = left;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use secrecy::SecretString;
    use shared::event::StreamId;
    use shared::platform::registry::Registry;
    use shared::queue::{Entry, Layout, Queue, connect};

    use super::*;
    use crate::worker::Lane;

    fn lanes() -> (Arc<Lane>, Arc<Lane>) {
        let url = SecretString::from("redis://127.0.0.1:1".to_owned());
        let queue = Queue::new(Layout::Single, connect(&url, false).unwrap());
        let registry = Registry::load(None).unwrap();
        let lane = |name| Arc::new(Lane::new(Arc::clone(registry.get(name).unwrap()), &queue));
        (lane("mux"), lane("livekit"))
    }

    fn batch(lane: &Arc<Lane>, ids: std::ops::Range<u64>, suspect: bool) -> Batch {
        let entries = ids.map(|ms| Entry { id: StreamId { ms, seq: 0 }, fields: None }).collect();
        Batch { lane: Arc::clone(lane), entries, suspect, taken: Instant::now() }
    }

    async fn turns(batches: Vec<Batch>) -> Vec<(String, Vec<u64>)> {
        let (sender, receiver) = mpsc::channel(batches.len().max(1));
        for batch in batches {
            sender.send(batch).await.unwrap();
        }
        drop(sender);
        let mut turns = Turns::new(receiver);
        let mut seen = Vec::new();
        while let Some(batch) = turns.next().await {
            seen.push((batch.lane.name().to_string(), batch.entries.iter().map(|entry| entry.id.ms).collect()));
        }
        seen
    }

    #[tokio::test]
    async fn small_reads_of_a_lane_join_and_lanes_take_turns() {
        let (mux, livekit) = lanes();
        let seen =
            turns(vec![batch(&mux, 0..2, false), batch(&livekit, 5..6, false), batch(&mux, 2..3, false)]).await;
        assert_eq!(seen, [("mux".to_owned(), vec![0, 1, 2]), ("livekit".to_owned(), vec![5])]);
    }

    #[tokio::test]
    async fn nothing_overtakes_its_own_lane_when_a_turn_is_full() {
        let (mux, _) = lanes();
        let most = TOGETHER as u64;
        let seen = turns(vec![
            batch(&mux, 0..most - 1, false),
            batch(&mux, most - 1..most + 1, false),
            batch(&mux, most + 1..most + 2, false),
        ])
        .await;
        let sizes: Vec<usize> = seen.iter().map(|(_, ids)| ids.len()).collect();
        assert_eq!(sizes, [TOGETHER - 1, 3]);
        let all: Vec<u64> = seen.into_iter().flat_map(|(_, ids)| ids).collect();
        assert!(all.is_sorted(), "{all:?}");
    }

    #[tokio::test]
    async fn only_what_can_grow_no_more_is_taken_ahead() {
        let (mux, livekit) = lanes();
        let (sender, receiver) = mpsc::channel(8);
        let mut turns = Turns::new(receiver);
        let most = TOGETHER as u64;
        assert!(turns.full().is_none());
        sender.send(batch(&mux, 0..most - 1, false)).await.unwrap();
        sender.send(batch(&livekit, 0..most, false)).await.unwrap();
        assert!(turns.full().is_none(), "more may come for the one whose turn it is");
        sender.send(batch(&mux, most - 1..most, false)).await.unwrap();
        assert_eq!(turns.full().unwrap().entries.len(), TOGETHER);
        assert_eq!(turns.full().unwrap().lane.name().as_str(), "livekit");
        sender.send(batch(&mux, 0..most, true)).await.unwrap();
        assert!(turns.full().is_none(), "a suspect runs alone");
        assert!(turns.next().await.unwrap().suspect);
    }

    #[tokio::test]
    async fn suspects_join_nobody() {
        let (mux, _) = lanes();
        let seen = turns(vec![batch(&mux, 0..1, false), batch(&mux, 1..2, true), batch(&mux, 2..3, false)]).await;
        assert_eq!(seen.iter().map(|(_, ids)| ids.clone()).collect::<Vec<_>>(), [vec![0, 2], vec![1]]);
    }
}
