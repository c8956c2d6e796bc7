//! Bodies that have begun to arrive and whose senders are waited for, in the order in which the wait began.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All of them; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct PendingBodies(Arc<Mutex<PendingBodiesInner>>);

#[derive(Debug, Default)]
struct PendingBodiesInner {
    next: u64,
    /// Those that were told to yield and have not done so yet.
    leaving: usize,
    /// Those that wait for room: see [`PendingBodies::register_waiter`].
    waiting: usize,
    bodies: BTreeMap<u64, PendingEntry>,
}

#[derive(Debug)]
struct PendingEntry {
    /// Bytes that it holds.
    bytes: usize,
    told: Arc<Notify>,
}

/// Somebody who waits for room, until dropped.
#[derive(Debug)]
pub(super) struct SpaceWaiter(PendingBodies);

/// One's place in the order, given up when it is dropped.
#[derive(Debug)]
pub(super) struct PendingBody {
    number: u64,
    told: Arc<Notify>,
    all: PendingBodies,
}

impl PendingBodies {
    /// Takes the last place.
    pub(super) fn register(&self) -> PendingBody {
        let told = Arc::new(Notify::new());
        let mut all = self.lock();
        let number = all.next;
        all.next += 1;
        all.bodies.insert(number, PendingEntry { bytes: 0, told: Arc::clone(&told) });
        PendingBody { number, told, all: self.clone() }
    }

    /// Tells as few as free `bytes` to yield, longest waited for first, but none behind `place`, and none if all of them would
    /// not do; `false`: there is nothing to wait for.
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
            // What was missing a moment ago may have been given back meanwhile, or is about to be.
            return bytes == 0 || all.leaving > 0 || all.waiting > 0;
        };
        let rest = all.bodies.split_off(&(last + 1));
        for one in std::mem::replace(&mut all.bodies, rest).into_values() {
            one.told.notify_one();
            all.leaving += 1;
        }
        true
    }

    /// Counts one who waits for room. What is given back goes to those who wait, piece by piece, and is no body's until one
    /// has all that it asked for; then that one is here and can be told to yield.
    pub(super) fn register_waiter(&self) -> SpaceWaiter {
        self.lock().waiting += 1;
        SpaceWaiter(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, PendingBodiesInner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingBody {
    /// Says how many bytes this body holds now.
    pub(super) fn set_held_bytes(&self, bytes: usize) {
        if let Some(one) = self.all.lock().bodies.get_mut(&self.number) {
            one.bytes = bytes;
        }
    }

    /// Waits until this body has to yield.
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
