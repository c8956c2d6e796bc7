//! How fast a run may go.
//!
//! Guarantee: at a rate of N, no second, wherever it begins, sees more than N entries done, and where nothing else holds
//! the run up it does N per second, spread evenly.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Entries per call where no rate is given: few enough that Ctrl-C is obeyed at once.
pub(crate) const DEFAULT_BATCH: usize = 25;
/// How far a run that was held up may catch up.
const MAX_CATCH_UP: Duration = Duration::from_millis(250);
const SECOND: Duration = Duration::from_secs(1);

/// A rate, and what was done in the last second.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    rate: Option<u32>,
    next: Instant,
    done: VecDeque<(Instant, usize)>,
    lately: usize,
}

impl RateLimiter {
    /// As fast as it goes, or `rate` per second.
    pub(crate) fn new(rate: Option<u32>) -> Self {
        Self { rate, next: Instant::now(), done: VecDeque::new(), lately: 0 }
    }

    /// Entries of the next call: at a given rate, what is due in a twentieth of a second.
    pub(crate) fn batch(&self) -> usize {
        self.rate.map_or(DEFAULT_BATCH, |rate| {
            usize::try_from(rate / 20).unwrap_or(DEFAULT_BATCH).clamp(1, 4 * DEFAULT_BATCH)
        })
    }

    /// Waits until `batch` entries are due; `false`: the run is to stop.
    pub(crate) async fn wait(&mut self, batch: usize, stop: &CancellationToken) -> bool {
        if let Some(rate) = self.rate {
            let most = usize::try_from(rate).unwrap_or(usize::MAX).max(batch);
            let mut due = self.next;
            // What is older than a second does not count any more; what is in the way is waited for.
            let mut over = (self.lately + batch).saturating_sub(most);
            for (at, count) in &self.done {
                if over == 0 {
                    break;
                }
                due = due.max(*at + SECOND);
                over = over.saturating_sub(*count);
            }
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = stop.cancelled() => return false,
            }
            let span = Duration::from_secs_f64(batch as f64 / f64::from(rate));
            let now = Instant::now();
            self.next = self.next.max(now.checked_sub(MAX_CATCH_UP).unwrap_or(now)) + span;
        }
        !stop.is_cancelled()
    }

    /// Notes that `count` entries were done, once the server has said so: it did them no later than now.
    pub(crate) fn record_done(&mut self, count: usize) {
        if self.rate.is_none() || count == 0 {
            return;
        }
        let now = Instant::now();
        while let Some((_, count)) =
            self.done.pop_front_if(|(at, _)| now.duration_since(*at) > SECOND)
        {
            self.lately -= count;
        }
        self.done.push_back((now, count));
        self.lately += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls that take `took(n)`; when each was sent and answered, and how many it did.
    async fn calls(
        rate: u32,
        seconds: u64,
        took: impl Fn(u64) -> u64,
    ) -> Vec<(Instant, Instant, usize)> {
        let (mut pace, stop, begun) =
            (RateLimiter::new(Some(rate)), CancellationToken::new(), Instant::now());
        let mut calls = Vec::new();
        while begun.elapsed() < Duration::from_secs(seconds) {
            let batch = pace.batch();
            assert!(pace.wait(batch, &stop).await);
            let sent = Instant::now();
            tokio::time::advance(Duration::from_millis(took(calls.len() as u64))).await;
            pace.record_done(batch);
            calls.push((sent, Instant::now(), batch));
        }
        calls
    }

    #[tokio::test(start_paused = true)]
    async fn rate_limit_holds_in_every_second() {
        for (rate, took) in [(1, 3), (7, 0), (50, 1), (400, 2), (1000, 40), (100_000, 0)] {
            // Some calls are late, so that the run catches up.
            let calls = calls(rate, 5, |n| if n % 50 == 49 { 200 } else { took }).await;
            for (_, from, _) in &calls {
                let window =
                    calls.iter().filter(|(sent, ..)| sent >= from && *sent < *from + SECOND);
                let done: usize = window.map(|(.., count)| count).sum();
                assert!(done <= rate as usize, "{rate}: {done} within a second");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rate_limit_is_reached() {
        for rate in [1, 7, 50, 400, 2000] {
            let done: usize = calls(rate, 20, |_| 1).await.iter().map(|(.., count)| count).sum();
            let expected = rate as usize * 20;
            assert!(
                done * 100 >= expected * 97 && done <= expected + rate as usize,
                "{rate}: {done}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rate_limit_wait_ends_on_stop() {
        let (mut pace, stop) = (RateLimiter::new(Some(1)), CancellationToken::new());
        assert!(pace.wait(1, &stop).await);
        pace.record_done(1);
        stop.cancel();
        assert!(!pace.wait(1, &stop).await);
        assert!(!RateLimiter::new(None).wait(1, &stop).await);
    }
}
