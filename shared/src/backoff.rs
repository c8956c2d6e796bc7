//! Computes the delay before a retry.
//!
//! # Guarantees
//!
//! - A delay never exceeds `max`, and its upper bound doubles with each attempt until then
//!   (`delays_keep_their_bounds`, `ceilings_double_up_to_max`).
//! - Jitter spreads the retries of clients that failed at the same time
//!   (`delay_differs_between_draws`).

use std::time::Duration;

use rand::{Rng, RngExt};

/// Exponential delays from `base` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
}

impl Backoff {
    /// Creates delays from `base` to `max`. A `base` above `max` counts as `max`.
    #[must_use]
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base: base.min(max), max }
    }

    /// Longest delay.
    #[must_use]
    pub const fn max(&self) -> Duration {
        self.max
    }

    /// Upper bound of the delay after failure number `attempt`: `base · 2^(attempt − 1)`, at most
    /// `max`. Attempts count from 1, and 0 counts as 1.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.max)
    }

    /// Draws a delay with equal jitter: between half of [`ceiling`](Self::ceiling) and all of it.
    /// Events use it, since their retries need a minimum delay.
    pub fn delay(&self, attempt: u32, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling(attempt);
        let half = ceiling / 2;
        half + uniform(ceiling - half, rng)
    }

    /// Draws a delay with full jitter: between zero and [`ceiling`](Self::ceiling). Reconnects use
    /// it, since they need spread alone.
    pub fn full_jitter(&self, attempt: u32, rng: &mut impl Rng) -> Duration {
        uniform(self.ceiling(attempt), rng)
    }
}

/// Draws a duration from 0 to `max`, both included.
fn uniform(max: Duration, rng: &mut impl Rng) -> Duration {
    let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.random_range(0..=nanos))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn ceilings_double_up_to_max() {
        let backoff = Backoff::new(SECOND, 30 * SECOND);
        let ceilings: Vec<u64> =
            (0..=8).map(|attempt| backoff.ceiling(attempt).as_secs()).collect();
        assert_eq!(ceilings, [1, 1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn base_above_max_counts_as_max() {
        assert_eq!(Backoff::new(10 * SECOND, SECOND).ceiling(1), SECOND);
    }

    #[test]
    fn delay_differs_between_draws() {
        let backoff = Backoff::new(SECOND, 30 * SECOND);
        let mut rng = StdRng::seed_from_u64(1);
        assert_ne!(backoff.delay(3, &mut rng), backoff.delay(3, &mut rng));
    }

    proptest! {
        #[test]
        fn delays_keep_their_bounds(
            base in 0_u64..1 << 40,
            max in 0_u64..1 << 40,
            attempt: u32,
            seed: u64,
        ) {
            let (base, max) = (Duration::from_micros(base), Duration::from_micros(max));
            let backoff = Backoff::new(base, max);
            let mut rng = StdRng::seed_from_u64(seed);
            let ceiling = backoff.ceiling(attempt);
            prop_assert!(ceiling <= max);
            prop_assert!(ceiling <= backoff.ceiling(attempt.saturating_add(1)));
            let delay = backoff.delay(attempt, &mut rng);
            prop_assert!(ceiling / 2 <= delay && delay <= ceiling);
            prop_assert!(backoff.full_jitter(attempt, &mut rng) <= ceiling);
        }
    }
}
