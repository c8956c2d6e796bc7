//! Limits floods on one platform before they reach Redis.
//!
//! # Guarantees
//!
//! - The limiter never answers at a platform's limit. It admits ten times the limit and a burst per
//!   minute and process. (`local_limiter_admits_ten_times_the_limit_and_a_burst`)
//!
//! # Design
//!
//! The enqueue script decides exactly, for all replicas together.

use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::error::{Error, retry_after};

/// Factor between the platform's limit and this one.
const LIMIT_FACTOR: u32 = 10;

/// Flood limiter of one platform.
pub(crate) struct LocalRateLimiter {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

impl LocalRateLimiter {
    /// Creates a limiter for a platform with this limit and burst.
    pub(crate) fn new(per_minute: u32, burst: u32) -> Self {
        let rate =
            NonZeroU32::new(per_minute.saturating_mul(LIMIT_FACTOR)).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(rate).allow_burst(rate.saturating_add(burst));
        let clock = DefaultClock::default();
        Self { limiter: RateLimiter::direct_with_clock(quota, clock.clone()), clock }
    }

    /// Admits one more request to the script.
    ///
    /// # Errors
    /// [`Error::RateLimited`].
    pub(crate) fn admit(&self) -> Result<(), Error> {
        self.limiter.check().map_err(|until| Error::RateLimited {
            retry_after_s: retry_after(until.wait_time_from(self.clock.now())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_limiter_admits_ten_times_the_limit_and_a_burst() {
        let shield = LocalRateLimiter::new(6, 4);
        for n in 0..64 {
            assert!(shield.admit().is_ok(), "request {n}");
        }
        let Err(Error::RateLimited { retry_after_s }) = shield.admit() else {
            unreachable!("65th passed")
        };
        assert_eq!(retry_after_s, 1);
    }

    #[test]
    fn local_limiter_of_the_largest_limit_does_not_overflow() {
        assert!(LocalRateLimiter::new(u32::MAX, u32::MAX).admit().is_ok());
    }
}
