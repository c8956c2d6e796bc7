//! Which batches are next.
//!
//! Guarantee: lanes take turns in the order of their oldest waiting batch, and no batch overtakes another one of its own
//! lane, suspects aside, nor an announcement. What was read for a lane while a transaction ran goes into its next one, and
//! so do the lanes behind it that may share a transaction: many lanes with a little each would otherwise keep a worker at a
//! fraction of its speed. Suspects and announcements share with nobody.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use shared::platform::PlatformName;
use tokio::sync::mpsc;

use crate::store::Sharing;
use crate::worker::{Batch, Lane};

/// Entries that are taken to their end together, unless a single read brought more.
const TOGETHER: usize = 512;

/// What is taken to its end at once.
pub(super) enum Turn {
    /// One batch, each of whose entries runs alone.
    Suspects(Batch),
    /// One batch of each lane, in order of their names; never none.
    Together(Vec<Batch>),
}

/// The batches that wait for the consume loop.
pub(super) struct Turns {
    arriving: mpsc::Receiver<Batch>,
    waiting: VecDeque<Batch>,
    sharing: Sharing,
}

/// Which of the waiting batches are the next turn.
struct Next {
    /// Of each from the front on, as far as it was looked.
    joins: Vec<bool>,
    /// Nothing more could join.
    full: bool,
}

impl Turns {
    /// Of `arriving`; lanes join as `sharing` allows.
    pub(super) fn new(arriving: mpsc::Receiver<Batch>, sharing: Sharing) -> Self {
        Self { arriving, waiting: VecDeque::new(), sharing }
    }

    /// The oldest batch with what can join it; `None`: there will be no more.
    pub(super) async fn next(&mut self) -> Option<Turn> {
        if self.waiting.is_empty() {
            self.waiting.push_back(self.arriving.recv().await?);
        }
        self.look();
        if self.waiting.front().is_some_and(|first| first.suspect) {
            return self.waiting.pop_front().map(Turn::Suspects);
        }
        let next = self.survey()?;
        Some(Turn::Together(self.gather(next)))
    }

    /// As [`Self::next`], but only what nothing more could join, and at once. No suspects.
    pub(super) fn full(&mut self) -> Option<Vec<Batch>> {
        self.look();
        let next = self.survey()?;
        next.full.then(|| self.gather(next))
    }

    /// Bounded by what a worker may hold.
    fn look(&mut self) {
        while let Ok(batch) = self.arriving.try_recv() {
            self.waiting.push_back(batch);
        }
    }

    /// What joins the first batch; `None`: nothing waits, or a suspect is first.
    fn survey(&self) -> Option<Next> {
        let first = self.waiting.front().filter(|first| !first.suspect)?;
        let shares = self.sharing.allows(&first.lane.platform);
        let (mut joins, mut entries, mut full) = (vec![true], first.entries.len(), false);
        let mut lanes = HashSet::from([Arc::as_ptr(&first.lane)]);
        for batch in self.waiting.iter().skip(1) {
            let same = Arc::ptr_eq(&batch.lane, &first.lane);
            let may = !batch.suspect && (same || shares && self.sharing.allows(&batch.lane.platform));
            let another = may && !lanes.contains(&Arc::as_ptr(&batch.lane));
            full |= may && entries + batch.entries.len() > TOGETHER;
            full |= another && lanes.len() >= self.sharing.most_parts();
            let overtakes = !may && !batch.suspect && announces(&batch.lane);
            if full || overtakes {
                break;
            }
            joins.push(may);
            if may {
                entries += batch.entries.len();
                lanes.insert(Arc::as_ptr(&batch.lane));
            }
        }
        Some(Next { joins, full: full || entries >= TOGETHER })
    }

    /// Takes those batches out of what waits, those of a lane as one.
    fn gather(&mut self, next: Next) -> Vec<Batch> {
        let mut turn: Vec<Batch> = Vec::new();
        let mut left = VecDeque::with_capacity(self.waiting.len());
        let mut joins = next.joins.into_iter();
        for batch in self.waiting.drain(..) {
            if !joins.next().unwrap_or(false) {
                left.push_back(batch);
                continue;
            }
            match turn.iter_mut().find(|one| Arc::ptr_eq(&one.lane, &batch.lane)) {
                Some(one) => one.entries.extend(batch.entries),
                None => turn.push(batch),
            }
        }
        self.waiting = left;
        // The order in which workers take locks; that of two definitions of one platform stays.
        turn.sort_by(|a, b| a.lane.name().cmp(b.lane.name()));
        turn
    }
}

fn announces(lane: &Lane) -> bool {
    lane.name().as_str() == PlatformName::SESSIONS
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

    /// mux and livekit share rooms, realcast and generic have sessions of their own; and announcements.
    fn lanes() -> [Arc<Lane>; 5] {
        let url = SecretString::from("redis://127.0.0.1:1".to_owned());
        let queue = Queue::new(Layout::Single, connect(&url, false).unwrap());
        let registry = Registry::load(None).unwrap();
        let lane = |name| Arc::new(Lane::new(Arc::clone(registry.get(name).unwrap()), &queue));
        let sessions = Arc::new(Lane::new(Arc::clone(registry.sessions()), &queue));
        [lane("mux"), lane("livekit"), lane("realcast"), lane("generic"), sessions]
    }

    fn batch(lane: &Arc<Lane>, ids: std::ops::Range<u64>, suspect: bool) -> Batch {
        let entries = ids.map(|ms| Entry { id: StreamId { ms, seq: 0 }, fields: None }).collect();
        Batch { lane: Arc::clone(lane), entries, suspect, taken: Instant::now() }
    }

    /// A turn: of each lane its name, and of its entries how many and the first.
    type Seen = Vec<(String, usize, u64)>;

    fn seen(batches: &[Batch]) -> Seen {
        let one = |batch: &Batch| {
            let ids: Vec<u64> = batch.entries.iter().map(|entry| entry.id.ms).collect();
            assert!(ids.is_sorted(), "overtaken: {ids:?}");
            (batch.lane.name().to_string(), ids.len(), ids[0])
        };
        batches.iter().map(one).collect()
    }

    fn shown(turns: &[&[(&str, usize, u64)]]) -> Vec<Seen> {
        let one = |(name, count, first): &(&str, usize, u64)| ((*name).to_owned(), *count, *first);
        turns.iter().map(|turn| turn.iter().map(one).collect()).collect()
    }

    /// A batch per element: whose, and the ids of its entries.
    async fn are_taken_as(
        sharing: Sharing,
        read: &[(&Arc<Lane>, std::ops::Range<u64>)],
        expected: &[&[(&str, usize, u64)]],
    ) {
        let batches = read.iter().map(|(lane, ids)| batch(lane, ids.clone(), false)).collect();
        assert_eq!(turns(sharing, batches).await, shown(expected));
    }

    async fn turns(sharing: Sharing, batches: Vec<Batch>) -> Vec<Seen> {
        let (sender, receiver) = mpsc::channel(batches.len().max(1));
        for batch in batches {
            sender.send(batch).await.unwrap();
        }
        drop(sender);
        let mut turns = Turns::new(receiver, sharing);
        let mut all = Vec::new();
        while let Some(turn) = turns.next().await {
            all.push(match turn {
                Turn::Together(batches) => {
                    assert!(batches.iter().all(|batch| !batch.suspect));
                    seen(&batches)
                }
                Turn::Suspects(batch) => {
                    assert!(batch.suspect);
                    seen(&[batch])
                }
            });
        }
        all
    }

    #[tokio::test]
    async fn small_reads_of_a_lane_join_and_lanes_share_a_turn_in_order_of_name() {
        let [mux, livekit, realcast, ..] = &lanes();
        let read = [(mux, 0..2), (realcast, 7..8), (livekit, 5..6), (mux, 2..3)];
        are_taken_as(Sharing::Any, &read, &[&[("livekit", 1, 5), ("mux", 3, 0), ("realcast", 1, 7)]]).await;
    }

    #[tokio::test]
    async fn where_rows_are_locked_only_lanes_with_sessions_of_their_own_share() {
        let [mux, livekit, realcast, generic, _] = &lanes();
        let read = [(mux, 0..2), (livekit, 5..6), (realcast, 0..1), (mux, 2..3), (generic, 0..1)];
        let expected: [&[_]; 3] =
            [&[("mux", 3, 0)], &[("livekit", 1, 5)], &[("generic", 1, 0), ("realcast", 1, 0)]];
        are_taken_as(Sharing::OwnSessions, &read, &expected).await;
    }

    #[tokio::test]
    async fn where_rows_are_locked_only_so_many_lanes_share() {
        // Each a definition of its own.
        let many: Vec<Arc<Lane>> = (0..60).map(|_| lanes()[3].clone()).collect();
        let sizes = async |sharing| {
            let all = turns(sharing, many.iter().map(|lane| batch(lane, 0..1, false)).collect()).await;
            all.iter().map(Vec::len).collect::<Vec<_>>()
        };
        let most = Sharing::OwnSessions.most_parts();
        assert_eq!(sizes(Sharing::OwnSessions).await, [most, most, 60 - 2 * most]);
        assert_eq!(sizes(Sharing::Any).await, [60]);
    }

    #[tokio::test]
    async fn nothing_overtakes_its_own_lane_when_a_turn_is_full() {
        let [mux, livekit, ..] = &lanes();
        let most = TOGETHER as u64;
        let read = [
            (mux, 0..most - 2),
            (livekit, 0..1),
            (mux, most - 2..most + 1),
            // These would fit.
            (mux, most + 1..most + 2),
            (livekit, 1..2),
        ];
        let expected: [&[_]; 2] =
            [&[("livekit", 1, 0), ("mux", TOGETHER - 2, 0)], &[("livekit", 1, 1), ("mux", 4, most - 2)]];
        are_taken_as(Sharing::Any, &read, &expected).await;
    }

    #[tokio::test]
    async fn many_lanes_with_a_little_each_fill_a_turn_and_no_more() {
        let [mux, livekit, realcast, generic, _] = &lanes();
        let (part, half) = (TOGETHER as u64 / 2, TOGETHER / 2);
        let read = [mux, livekit, realcast, generic].map(|lane| (lane, 0..part));
        let expected: [&[_]; 2] =
            [&[("livekit", half, 0), ("mux", half, 0)], &[("generic", half, 0), ("realcast", half, 0)]];
        are_taken_as(Sharing::Any, &read, &expected).await;
    }

    #[tokio::test]
    async fn announcements_share_with_nobody_and_are_not_overtaken() {
        let [mux, livekit, _, _, sessions] = &lanes();
        // The first turn takes all that have been read.
        let read =
            [(sessions, 0..1), (mux, 0..1), (sessions, 1..2), (mux, 1..2), (sessions, 2..3), (livekit, 0..1)];
        let expected: [&[_]; 2] = [&[("sessions", 3, 0)], &[("livekit", 1, 0), ("mux", 2, 0)]];
        are_taken_as(Sharing::Any, &read, &expected).await;
        let read = [(mux, 0..1), (sessions, 1..2), (mux, 1..2), (livekit, 0..1)];
        let expected: [&[_]; 3] = [&[("mux", 1, 0)], &[("sessions", 1, 1)], &[("livekit", 1, 0), ("mux", 1, 1)]];
        are_taken_as(Sharing::Any, &read, &expected).await;
    }

    #[tokio::test]
    async fn only_what_can_grow_no_more_is_taken_ahead() {
        let [mux, livekit, _, _, sessions] = lanes();
        let (sender, receiver) = mpsc::channel(8);
        let mut turns = Turns::new(receiver, Sharing::Any);
        let most = TOGETHER as u64;
        assert!(turns.full().is_none());
        sender.send(batch(&mux, 0..most - 2, false)).await.unwrap();
        assert!(turns.full().is_none());
        sender.send(batch(&livekit, 0..1, false)).await.unwrap();
        assert!(turns.full().is_none(), "there is room for one more");
        sender.send(batch(&sessions, 0..most, false)).await.unwrap();
        sender.send(batch(&mux, most - 2..most, false)).await.unwrap();
        assert!(turns.full().is_none(), "what waits behind announcements joins nobody before them");
        let Some(Turn::Together(first)) = turns.next().await else { unreachable!() };
        assert_eq!(seen(&first), [("livekit".to_owned(), 1, 0), ("mux".to_owned(), TOGETHER - 2, 0)]);
        assert_eq!(seen(&turns.full().unwrap()), [("sessions".to_owned(), TOGETHER, 0)]);
        sender.send(batch(&livekit, 1..most, false)).await.unwrap();
        assert_eq!(seen(&turns.full().unwrap()), [("mux".to_owned(), 2, most - 2)]);
        sender.send(batch(&mux, 0..most, true)).await.unwrap();
        sender.send(batch(&livekit, most..most + 1, false)).await.unwrap();
        assert_eq!(seen(&turns.full().unwrap()), [("livekit".to_owned(), TOGETHER, 1)], "suspects are passed by");
        assert!(turns.full().is_none(), "a suspect runs alone");
        assert!(matches!(turns.next().await, Some(Turn::Suspects(_))));
    }

    #[tokio::test]
    async fn suspects_join_nobody() {
        let [mux, livekit, ..] = lanes();
        let batches = vec![
            batch(&mux, 0..1, false),
            batch(&mux, 1..2, true),
            batch(&livekit, 0..1, true),
            batch(&mux, 2..3, false),
        ];
        let turns = turns(Sharing::Any, batches).await;
        let expected: [&[_]; 3] = [&[("mux", 2, 0)], &[("mux", 1, 1)], &[("livekit", 1, 0)]];
        assert_eq!(turns, shown(&expected));
    }
}
