//! Verifies the signature of a request.
//!
//! # Guarantees
//!
//! - A wrong clock of this host never causes a final refusal. While it differs too much from
//!   Redis's clock, an otherwise correct request gets 503 instead of 401.
//!   (`expired_signature_is_503_while_the_clock_is_in_doubt`)

use actix_web::http::header::HeaderMap;
use shared::event::Millis;
use shared::signature::{Headers, Keys, Scheme, Verified, verify};

use crate::error::Error;
use crate::redis_gate::RedisGate;

/// Headers of a request, as verifiers read them.
pub(crate) struct RequestHeaders<'a>(pub(crate) &'a HeaderMap);

impl Headers for RequestHeaders<'_> {
    // A request has few headers. Comparing them all is cheaper than building a key for the look-up.
    fn each<'h>(&'h self, name: &str, visit: &mut dyn FnMut(&'h [u8])) {
        self.0
            .iter()
            .filter(|(one, _)| one.as_str() == name)
            .for_each(|(_, value)| visit(value.as_bytes()));
    }
}

/// Verifies the signature over `body` at the time `now`.
///
/// # Errors
/// [`Error::Signature`], or [`Error::ClockInDoubt`] if the clock may be the cause.
pub(crate) fn verify_request<'a>(
    scheme: &'a Scheme,
    keys: &Keys,
    headers: &'a RequestHeaders<'_>,
    body: &'a [u8],
    now: Millis,
    gate: &RedisGate,
) -> Result<Verified<'a>, Error> {
    verify(scheme, keys, headers, body, now).map_err(|refusal| match gate.clock_in_doubt() {
        Some(doubt) if refusal.is_valid_except_time() => Error::ClockInDoubt(doubt),
        _ => Error::Signature(refusal),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use actix_web::http::header::{HeaderName, HeaderValue};
    use shared::clock::now_ms;
    use shared::queue::RedisHealth;
    use tokio::sync::watch;

    use super::*;
    use crate::testing::{sign, targets};

    /// Verifies a request that was signed `age_s` ago, correctly or not, while Redis's clock is
    /// `skew_ms` ahead.
    fn verified(skew_ms: Option<i64>, age_s: i64, correctly: bool) -> Result<(), Error> {
        let (now, body) = (now_ms(), b"{}");
        let at = now / 1000 - age_s;
        let signed = format!("{at}.{}", if correctly { "{}" } else { "{ }" });
        let value =
            HeaderValue::from_str(&format!("t={at},v1={}", sign(signed.as_bytes()))).unwrap();
        let headers: HeaderMap =
            [(HeaderName::from_static("mux-signature"), value)].into_iter().collect();
        let health = RedisHealth { up: true, skew_ms, ..RedisHealth::default() };
        let gate = RedisGate::layout_checked(watch::channel(health).1, false);
        let mux = targets().find("mux").expect("mux");
        let keys = mux.keys.clone().expect("its secret");
        verify_request(&mux.platform.scheme, &keys, &RequestHeaders(&headers), body, now, &gate)
            .map(|_| ())
    }

    #[test]
    fn expired_signature_is_503_while_the_clock_is_in_doubt() {
        let hour = 3600;
        assert!(verified(Some(0), 0, true).is_ok());
        let expired = verified(Some(0), hour, true);
        assert!(matches!(expired, Err(Error::Signature(refusal)) if refusal.is_expiry()));
        for skew in [Some(5_001), Some(-5_001), None] {
            for age in [hour, -hour] {
                assert!(
                    matches!(verified(skew, age, true), Err(Error::ClockInDoubt(_))),
                    "{skew:?} {age}"
                );
                assert!(
                    matches!(verified(skew, age, false), Err(Error::Signature(_))),
                    "{skew:?} {age}"
                );
            }
            assert!(verified(skew, 0, true).is_ok(), "the request is valid by both clocks");
        }
    }
}
