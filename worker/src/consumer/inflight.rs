//! Tracks the entries that this worker holds: read or claimed, and not settled yet.
//!
//! # Guarantees
//! - An entry stays here from its delivery until its transition script has answered. So one worker
//!   never runs an entry twice at a time, even if a claim and a read return it
//!   (`entry_is_held_once_and_its_size_is_released`).
//! - The number and the bytes of held entries are bounded
//!   (`wait_for_capacity_ends_when_entries_are_released`).

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use shared::event::StreamId;
use shared::platform::PlatformName;
use tokio::sync::Notify;

/// Held entries at which the reader waits. One read may exceed this by its own size.
pub const MAX_HELD_ENTRIES: usize = 4096;
/// Held bytes at which the reader waits. One read may exceed this by its own size.
pub const MAX_HELD_BYTES: usize = 32 * 1024 * 1024;

/// Estimate of an entry's bytes before the first entry was seen.
const INITIAL_ENTRY_BYTES: usize = 64 * 1024;
/// Number of smaller entries after which an estimate has come down.
const DECAY_ENTRIES: usize = 16;

/// The set of held entries.
#[derive(Debug, Default)]
pub struct InFlight {
    held: Mutex<HeldEntries>,
    released: Notify,
}

#[derive(Debug, Default)]
struct HeldEntries {
    ids: BTreeMap<PlatformName, HeldIds>,
    entries: usize,
    bytes: usize,
}

/// Entries of one platform, with their sizes in bytes.
type HeldIds = HashMap<StreamId, usize, BuildHasherDefault<StreamIdHasher>>;

/// Mixes the two numbers of an entry id. Redis chooses ids, so no sender can provoke collisions.
#[derive(Debug, Default)]
struct StreamIdHasher(u64);

impl Hasher for StreamIdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio, which spreads adjacent numbers.
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

impl InFlight {
    fn locked(&self) -> std::sync::MutexGuard<'_, HeldEntries> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn hold(&self, platform: &PlatformName, id: StreamId, bytes: usize) -> bool {
        let mut one = vec![(id, bytes)];
        self.hold_all(platform, &mut one, |(id, bytes)| (*id, *bytes));
        !one.is_empty()
    }

    /// Holds entries, and removes those from `entries` that are held already. `of` returns the id
    /// and the bytes of an entry.
    pub fn hold_all<E>(
        &self,
        platform: &PlatformName,
        entries: &mut Vec<E>,
        of: impl Fn(&E) -> (StreamId, usize),
    ) {
        if entries.is_empty() {
            return;
        }
        let mut held = self.locked();
        let (mut count, mut weight) = (0, 0);
        let ids = held.ids.entry(platform.clone()).or_default();
        entries.retain(|entry| {
            let (id, bytes) = of(entry);
            let Slot::Vacant(slot) = ids.entry(id) else { return false };
            slot.insert(bytes);
            count += 1;
            weight += bytes;
            true
        });
        held.entries += count;
        held.bytes += weight;
    }

    /// Releases entries whose transition is done or that another worker has claimed.
    pub fn release(&self, platform: &PlatformName, ids: impl IntoIterator<Item = StreamId>) {
        let mut held = self.locked();
        let (mut entries, mut bytes) = (0, 0);
        if let Some(mine) = held.ids.get_mut(platform) {
            for id in ids {
                if let Some(size) = mine.remove(&id) {
                    entries += 1;
                    bytes += size;
                }
            }
            if mine.is_empty() {
                held.ids.remove(platform);
            }
        }
        held.entries -= entries;
        held.bytes -= bytes;
        drop(held);
        self.released.notify_waiters();
    }

    /// Returns how many more entries and bytes may be read now.
    pub fn capacity_left(&self) -> (usize, usize) {
        let held = self.locked();
        (MAX_HELD_ENTRIES.saturating_sub(held.entries), MAX_HELD_BYTES.saturating_sub(held.bytes))
    }

    /// Waits until at least half of both bounds is free, so that reads stay large.
    pub async fn wait_for_capacity(&self) {
        loop {
            let released = self.released.notified();
            {
                let held = self.locked();
                if held.entries <= MAX_HELD_ENTRIES / 2 && held.bytes <= MAX_HELD_BYTES / 2 {
                    return;
                }
            }
            released.await;
        }
    }

    /// Returns all held entries by platform.
    pub fn all(&self) -> Vec<(PlatformName, Vec<StreamId>)> {
        self.locked().ids.iter().map(|(name, ids)| (name.clone(), in_order(ids))).collect()
    }

    /// Returns the held entries of one platform.
    pub fn of(&self, platform: &PlatformName) -> Vec<StreamId> {
        self.locked().ids.get(platform).map(in_order).unwrap_or_default()
    }
}

fn in_order(ids: &HeldIds) -> Vec<StreamId> {
    let mut ids: Vec<StreamId> = ids.keys().copied().collect();
    ids.sort_unstable();
    ids
}

/// Estimate of the bytes of a platform's entries, so that the size of a read is known before it.
/// The estimate follows larger entries at once and smaller ones slowly.
#[derive(Debug)]
pub struct EntrySizeEstimate(AtomicUsize);

impl Default for EntrySizeEstimate {
    fn default() -> Self {
        Self(AtomicUsize::new(INITIAL_ENTRY_BYTES))
    }
}

impl EntrySizeEstimate {
    /// Records an entry of `bytes`.
    pub fn note(&self, bytes: usize) {
        let known = self.0.load(Ordering::Relaxed);
        let next = if bytes >= known { bytes } else { known - (known - bytes) / DECAY_ENTRIES };
        self.0.store(next.max(1), Ordering::Relaxed);
    }

    /// Returns the estimated bytes of the next entry.
    pub fn estimate(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns how many entries fit into `bytes`, at least one.
    pub fn entries_in(&self, bytes: usize) -> usize {
        (bytes / self.estimate().max(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(ms: u64) -> StreamId {
        StreamId { ms, seq: 0 }
    }

    #[test]
    fn entry_is_held_once_and_its_size_is_released() {
        let inflight = InFlight::default();
        let mux = PlatformName::new("mux").unwrap();
        assert!(inflight.hold(&mux, id(1), MAX_HELD_BYTES));
        assert!(!inflight.hold(&mux, id(1), 10));
        assert_eq!(
            inflight.capacity_left(),
            (MAX_HELD_ENTRIES - 1, 0),
            "the byte bound is reached"
        );
        inflight.release(&mux, [id(1), id(2)]);
        assert_eq!(inflight.capacity_left(), (MAX_HELD_ENTRIES, MAX_HELD_BYTES));
        assert!(inflight.all().is_empty());
    }

    #[test]
    fn size_estimate_rises_at_once_and_falls_slowly() {
        let weight = EntrySizeEstimate::default();
        for _ in 0..1000 {
            weight.note(500);
        }
        assert!(weight.estimate() < 520, "{}", weight.estimate());
        weight.note(1_000_000);
        assert_eq!(weight.estimate(), 1_000_000);
        assert_eq!(weight.entries_in(10), 1);
        weight.note(500);
        assert!(weight.estimate() > 900_000);
    }

    #[tokio::test]
    async fn wait_for_capacity_ends_when_entries_are_released() {
        wakes_when_released(vec![1; MAX_HELD_ENTRIES]).await;
        wakes_when_released(vec![MAX_HELD_BYTES / 2 + 1]).await;
    }

    /// Holds entries of these sizes and releases them.
    async fn wakes_when_released(sizes: Vec<usize>) {
        let inflight = std::sync::Arc::new(InFlight::default());
        let mux = PlatformName::new("mux").unwrap();
        for (n, size) in (0..).zip(sizes) {
            assert!(inflight.hold(&mux, id(n), size));
        }
        let waiter = tokio::spawn({
            let inflight = inflight.clone();
            async move { inflight.wait_for_capacity().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        inflight.release(&mux, (0..MAX_HELD_ENTRIES as u64).map(id));
        tokio::time::timeout(std::time::Duration::from_secs(5), waiter).await.unwrap().unwrap();
    }
}
