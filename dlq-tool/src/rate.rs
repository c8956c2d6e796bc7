//! Rate limit of a run.
//!
//! # Guarantees
//!
//! - At a rate of N, no interval of one second has more than N entries
//!   (`rate_limit_holds_in_every_second`).
//! - If nothing else delays the run, it reaches N per second, evenly spread
//!   (`rate_limit_is_reached`).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Entries per call without a rate: few enough that Ctrl-C takes effect at once.
pub(crate) const DEFAULT_BATCH: usize = 25;
/// Most delay that a late run makes up for.
const MAX_CATCH_UP: Duration = Duration::from_millis(250);
const SECOND: Duration = Duration::from_secs(1);

/// Rate limit, with the entries of the last second.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    rate: Option<u32>,
    next: Instant,
    done: VecDeque<(Instant, usize)>,
    recent: usize,
}

impl RateLimiter {
    /// Creates a limit of `rate` per second, or none.
    pub(crate) fn new(rate: Option<u32>) -> Self {
        Self { rate, next: Instant::now(), done: VecDeque::new(), recent: 0 }
    }

    /// Returns the number of entries of the next call: with a rate, those due in 50 ms.
    pub(crate) fn batch(&self) -> usize {
        self.rate.map_or(DEFAULT_BATCH, |rate| {
            usize::try_from(rate / 20).unwrap_or(DEFAULT_BATCH).clamp(1, 4 * DEFAULT_BATCH)
        })
    }

    /// Waits until `batch` entries are due. Returns false if the run is stopped.
    pub(crate) async fn wait(&mut self, batch: usize, stop: &CancellationToken) -> bool {
        if let Some(rate) = self.rate {
            let most = usize::try_from(rate).unwrap_or(usize::MAX).max(batch);
            let mut due = self.next;
            // Enough entries of the last second must have left the window first.
            let mut over = (self.recent + batch).saturating_sub(most);
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

    /// Records `count` entries after the server's reply, which is the latest time at which it did
    /// them.
    pub(crate) fn record_done(&mut self, count: usize) {
        if self.rate.is_none() || count == 0 {
            return;
        }
        let now = Instant::now();
        while let Some((_, count)) =
            self.done.pop_front_if(|(at, _)| now.duration_since(*at) > SECOND)
        {
            self.recent -= count;
        }
        self.done.push_back((now, count));
        self.recent += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs calls of `took(n)` ms each. Returns for each call when it was sent and answered, and
    /// its number of entries.
    async fn calls(
        rate: u32,
        seconds: u64,
        took: impl Fn(u64) -> u64,
    ) -> Vec<(Instant, Instant, usize)> {
        let (mut rate_limiter, stop, begun) =
            (RateLimiter::new(Some(rate)), CancellationToken::new(), Instant::now());
        let mut calls = Vec::new();
        while begun.elapsed() < Duration::from_secs(seconds) {
            let batch = rate_limiter.batch();
            assert!(rate_limiter.wait(batch, &stop).await);
            let sent = Instant::now();
            tokio::time::advance(Duration::from_millis(took(calls.len() as u64))).await;
            rate_limiter.record_done(batch);
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
        let (mut rate_limiter, stop) = (RateLimiter::new(Some(1)), CancellationToken::new());
        assert!(rate_limiter.wait(1, &stop).await);
        rate_limiter.record_done(1);
        stop.cancel();
        assert!(!rate_limiter.wait(1, &stop).await);
        assert!(!RateLimiter::new(None).wait(1, &stop).await);
    }
}
