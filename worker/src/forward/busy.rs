//! Keeps the busy state of a destination between two reads from Redis.
//!
//! # Design
//! All workers share this state through Redis, which decides about every send.

use std::time::Duration;

use shared::event::Millis;
use shared::outbound::pause::MAX_PAUSE;
use shared::queue::BusyPause;

use super::sender::DestinationSender;

impl DestinationSender {
    /// Records that the destination is busy.
    pub(super) fn note_busy(&self, held: BusyPause) {
        let now = self.worker.now();
        let ms = |span: Duration| Millis::try_from(span.as_millis()).unwrap_or(Millis::MAX);
        self.state.send_modify(|state| {
            let state = state.get_or_insert_default();
            state.busy_until = Some(now.saturating_add(ms(held.pause)));
            state.busy_since = Some(now.saturating_sub(ms(held.busy)));
        });
    }

    /// Records that the destination took a delivery, so that it is not busy.
    pub(super) async fn note_delivered(&self) {
        let was = self.state.send_if_modified(|state| {
            state.as_mut().is_some_and(|state| state.busy_since.take().is_some())
        });
        if was {
            // If Redis does not answer, the next success clears the state again.
            let _ = self.worker.queue.note_not_busy(&self.keys).await;
        }
    }

    /// Returns the time left of the destination's pause, or `None` if it is not busy.
    pub(super) fn busy_for(&self) -> Option<Duration> {
        let until = self.state.borrow().as_ref().and_then(|state| state.busy_until)?;
        let left =
            u64::try_from(until.saturating_sub(self.worker.now())).ok().filter(|left| *left > 0)?;
        // A longer pause was recorded before Redis's clock was set back.
        Some(Duration::from_millis(left)).filter(|left| *left <= MAX_PAUSE)
    }
}
