//! Tracks incomplete bodies by age, and evicts the oldest.
//!
//! # Guarantees
//!
//! - A body is not refused while bytes are being released.
//!   (`eviction_waits_while_space_is_being_released`)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All pending bodies; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct PendingBodies(Arc<Mutex<PendingBodiesInner>>);

#[derive(Debug, Default)]
struct PendingBodiesInner {
    next: u64,
    /// Evicted bodies that have not released their bytes yet.
    leaving: usize,
    /// Bodies that wait for space; see [`PendingBodies::register_waiter`].
    waiting: usize,
    bodies: BTreeMap<u64, PendingEntry>,
}

#[derive(Debug)]
struct PendingEntry {
    /// Bytes that the body holds.
    bytes: usize,
    told: Arc<Notify>,
}

/// Counts as waiting for space until dropped.
#[derive(Debug)]
pub(super) struct SpaceWaiter(PendingBodies);

/// Registration of a pending body; removed when dropped.
#[derive(Debug)]
pub(super) struct PendingBody {
    number: u64,
    told: Arc<Notify>,
    all: PendingBodies,
}

impl PendingBodies {
    /// Registers a body as the youngest.
    pub(super) fn register(&self) -> PendingBody {
        let told = Arc::new(Notify::new());
        let mut all = self.lock();
        let number = all.next;
        all.next += 1;
        all.bodies.insert(number, PendingEntry { bytes: 0, told: Arc::clone(&told) });
        PendingBody { number, told, all: self.clone() }
    }

    /// Evicts the oldest bodies until `bytes` are free, but none younger than `place`. Evicts
    /// nothing and returns false if that cannot succeed. Also returns true if space is about to be
    /// released.
    pub(super) fn evict_for(&self, place: Option<&PendingBody>, bytes: usize) -> bool {
        let mut all = self.lock();
        let before = place.map_or(u64::MAX, |place| place.number);
        let (mut freed, mut last) = (0, None);
        for (number, one) in all.bodies.range(..before) {
            if freed >= bytes {
                break;
            }
            freed += one.bytes;
            last = Some(*number);
        }
        let Some(last) = last.filter(|_| freed >= bytes) else {
            // Missing bytes may have been released meanwhile, or are about to be.
            return bytes == 0 || all.leaving > 0 || all.waiting > 0;
        };
        let rest = all.bodies.split_off(&(last + 1));
        for one in std::mem::replace(&mut all.bodies, rest).into_values() {
            one.told.notify_one();
            all.leaving += 1;
        }
        true
    }

    /// Registers a body that waits for space. Released bytes go to waiters piece by piece. They
    /// belong to no registered body until a waiter has all its bytes.
    pub(super) fn register_waiter(&self) -> SpaceWaiter {
        self.lock().waiting += 1;
        SpaceWaiter(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, PendingBodiesInner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingBody {
    /// Sets the number of bytes that this body holds.
    pub(super) fn set_held_bytes(&self, bytes: usize) {
        if let Some(one) = self.all.lock().bodies.get_mut(&self.number) {
            one.bytes = bytes;
        }
    }

    /// Waits until this body is evicted.
    pub(super) async fn evicted(&self) {
        self.told.notified().await;
    }
}

impl Drop for SpaceWaiter {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl Drop for PendingBody {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if all.bodies.remove(&self.number).is_none() {
            all.leaving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_waits_while_space_is_being_released() {
        let all = PendingBodies::default();
        assert!(!all.evict_for(None, 1), "there is nothing to wait for");
        let waiting = all.register_waiter();
        assert!(all.evict_for(None, 1));
        drop(waiting);
        assert!(!all.evict_for(None, 1));
    }
}
