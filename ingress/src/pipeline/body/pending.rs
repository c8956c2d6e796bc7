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
    next_id: u64,
    /// Evicted bodies that have not released their bytes yet.
    evicting: usize,
    /// Bodies that wait for space; see [`PendingBodies::register_waiter`].
    waiters: usize,
    bodies: BTreeMap<u64, PendingEntry>,
}

#[derive(Debug)]
struct PendingEntry {
    /// Bytes that the body holds.
    bytes: usize,
    eviction: Arc<Notify>,
}

/// Counts as waiting for space until dropped.
#[derive(Debug)]
pub(super) struct SpaceWaiter(PendingBodies);

/// Registration of a pending body; removed when dropped.
#[derive(Debug)]
pub(super) struct PendingBody {
    id: u64,
    eviction: Arc<Notify>,
    pending: PendingBodies,
}

impl PendingBodies {
    /// Registers a body as the youngest.
    pub(super) fn register(&self) -> PendingBody {
        let eviction = Arc::new(Notify::new());
        let mut pending = self.lock();
        let id = pending.next_id;
        pending.next_id += 1;
        pending.bodies.insert(id, PendingEntry { bytes: 0, eviction: Arc::clone(&eviction) });
        PendingBody { id, eviction, pending: self.clone() }
    }

    /// Evicts the oldest bodies until `bytes` are free, but none younger than `body`. If that
    /// cannot succeed, evicts nothing, and returns true only if space is about to be released.
    pub(super) fn evict_for(&self, body: Option<&PendingBody>, bytes: usize) -> bool {
        let mut pending = self.lock();
        let before = body.map_or(u64::MAX, |body| body.id);
        let (mut freed, mut last) = (0, None);
        for (id, entry) in pending.bodies.range(..before) {
            if freed >= bytes {
                break;
            }
            freed += entry.bytes;
            last = Some(*id);
        }
        let Some(last) = last.filter(|_| freed >= bytes) else {
            // Missing bytes may have been released meanwhile, or are about to be.
            return bytes == 0 || pending.evicting > 0 || pending.waiters > 0;
        };
        let rest = pending.bodies.split_off(&(last + 1));
        for entry in std::mem::replace(&mut pending.bodies, rest).into_values() {
            entry.eviction.notify_one();
            pending.evicting += 1;
        }
        true
    }

    /// Registers a body that waits for space. Released bytes go to waiters piece by piece. They
    /// belong to no registered body until a waiter has all its bytes.
    pub(super) fn register_waiter(&self) -> SpaceWaiter {
        self.lock().waiters += 1;
        SpaceWaiter(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, PendingBodiesInner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingBody {
    /// Sets the number of bytes that this body holds.
    pub(super) fn set_held_bytes(&self, bytes: usize) {
        if let Some(entry) = self.pending.lock().bodies.get_mut(&self.id) {
            entry.bytes = bytes;
        }
    }

    /// Waits until this body is evicted.
    pub(super) async fn evicted(&self) {
        self.eviction.notified().await;
    }
}

impl Drop for SpaceWaiter {
    fn drop(&mut self) {
        self.0.lock().waiters -= 1;
    }
}

impl Drop for PendingBody {
    fn drop(&mut self) {
        let mut pending = self.pending.lock();
        if pending.bodies.remove(&self.id).is_none() {
            pending.evicting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_waits_while_space_is_being_released() {
        let pending = PendingBodies::default();
        assert!(!pending.evict_for(None, 1), "there is nothing to wait for");
        let waiters = pending.register_waiter();
        assert!(pending.evict_for(None, 1));
        drop(waiters);
        assert!(!pending.evict_for(None, 1));
    }
}
